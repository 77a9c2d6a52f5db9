"""PANPenalty and PANMask on Trainers, of networks that pad by a call of F.pad."""

from __future__ import annotations

import warnings

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import nn

from pan_callbacks import PANError, PANMask, PANMonitor, PANPenalty
from tests.support.lightning_models import SmallModule, loaders, trainer

SIDES = (1, 1, 1, 1)


class Module(SmallModule):
    """The first convolution is padded by a module; a second one pads itself."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 3, padding=1))
        self.frame = nn.ZeroPad2d(1)

    def logits(self, x):
        return self.net(self.frame(x)).mean((2, 3))

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.logits(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", F.cross_entropy(self.logits(batch[0]), batch[1]))


class InAMethod(Module):
    def __init__(self):
        super().__init__()
        del self.frame

    def logits(self, x):
        return self.net(F.pad(x, SIDES)).mean((2, 3))


class InTheStep(InAMethod):
    def logits(self, x):
        return self.net(x).mean((2, 3))

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.logits(F.pad(batch[0], SIDES)), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", F.cross_entropy(self.logits(F.pad(batch[0], SIDES)), batch[1]))


class Padded(nn.Sequential):
    def forward(self, x):
        return super().forward(F.pad(x, SIDES))


class InTheNetwork(Module):
    def __init__(self):
        super().__init__()
        self.net, self.frame = Padded(*self.net), nn.Identity()

    def logits(self, x):
        return self(x).mean((2, 3))


class Nowhere(InAMethod):
    """Calls F.pad, and feeds no convolution with it."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3))

    def logits(self, x):
        return F.pad(self.net(x), SIDES).mean((2, 3))


def fit(tmp_path, kind, callbacks, epochs=2, **kwargs):
    pl.seed_everything(3, verbose=False)
    module = kind()
    pl.seed_everything(5, verbose=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer(tmp_path, callbacks, epochs, num_sanity_val_steps=0, **kwargs).fit(module, *loaders())
    return module, [str(w.message) for w in caught if str(w.message).startswith("PAN")]


@pytest.mark.parametrize("kind", [InAMethod, InTheStep, InTheNetwork])
@pytest.mark.parametrize("only_pans", [False, True])
def test_the_penalty_of_a_layer_padded_by_a_call_is_that_after_a_module(tmp_path, kind, only_pans):
    def callbacks():
        penalty = PANPenalty(0.3, every_n_steps=1, only_pans=only_pans)
        return [PANMonitor(threshold=0.2), penalty] if only_pans else [penalty]

    called, told = fit(tmp_path, kind, callbacks())
    expected, _ = fit(tmp_path, Module, callbacks())
    plain, _ = fit(tmp_path, Module, [])
    assert told == []
    for one, other in zip(called.parameters(), expected.parameters(), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(called.net[0].weight, plain.net[0].weight)
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in called.modules())


def test_a_model_whose_f_pad_feeds_no_convolution_has_none_to_penalise(tmp_path):
    with pytest.raises(PANError, match="no padded convolution to penalise: this model has none"):
        fit(tmp_path, Nowhere, [PANPenalty()])


CALLS = {"it": F.pad}


class Hidden(nn.Sequential):
    def forward(self, x):
        return super().forward(CALLS["it"](x, SIDES))


class Hiding(Module):
    """Pads by a call that nobody finds by reading the code."""

    def __init__(self):
        super().__init__()
        self.net, self.frame = Hidden(*self.net), nn.Identity()


def test_found_pans_in_a_layer_whose_padding_the_penalty_does_not_see_stop_the_run(tmp_path):
    with pytest.raises(PANError, match=r"layer 'net\.0' has no padding.* use nn\.ZeroPad2d"):
        fit(tmp_path, Hiding, [PANMonitor(threshold=0.1), PANPenalty(only_pans=True, every_n_steps=1)])


def test_or_are_named_if_the_layer_could_have_been_fed_by_something_else(tmp_path):
    class WithOther(Hiding):
        def __init__(self):
            super().__init__()
            self.frame = nn.ZeroPad2d(1)

    _, told = fit(tmp_path, WithOther, [PANMonitor(threshold=0.1), PANPenalty(only_pans=True, every_n_steps=1)])
    (words,) = told
    assert words.startswith("PANPenalty has no penalty for 1 layers (net.0: ")
    assert "net.0: behind a pad that is not understood" in words


@pytest.mark.parametrize("mode", ["neutral", "zero", "mean"])
@pytest.mark.parametrize("kind", [InAMethod, InTheNetwork])
def test_masks_of_a_layer_padded_by_a_call_are_those_after_a_module(tmp_path, kind, mode):
    called, _ = fit(tmp_path, kind, [PANMonitor(threshold=0.2), mask := PANMask(mode)], 3)
    expected, _ = fit(tmp_path, Module, [PANMonitor(threshold=0.2), other := PANMask(mode)], 3)
    assert mask.channels == other.channels != {}
    assert "net.0" in mask.channels
    for one, two in zip(called.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-7)
