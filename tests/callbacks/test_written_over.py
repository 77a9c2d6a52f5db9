"""PANPenalty where a network writes over what a gradient of the penalty would need, and its own does not."""

from __future__ import annotations

import warnings

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import nn

from pan_callbacks import PaddingBiasPenalty, PANPenalty
from tests.support.lightning_models import SmallModule, loaders, trainer


class Writing(SmallModule):
    """``side`` teaches nobody, as its output is detached; then something is written over under no_grad."""

    over, since = "nothing", 0

    def __init__(self):
        super().__init__()
        self.net = nn.Identity()
        self.stem, self.side, self.head = (nn.Conv2d(n, 4, 3, padding=1) for n in (1, 4, 4))
        self.last = nn.Linear(4, 3)
        self.seen = []

    def training_step(self, batch, batch_idx):
        x = self.stem(batch[0])
        out = self.side(x)
        features = self.head(F.relu(out.detach().clone()))
        if batch_idx < self.since:
            return F.cross_entropy(self.last(features.mean((2, 3))), batch[1])
        with torch.no_grad():
            {"input": x, "output": out, "nothing": torch.ones(1)}[self.over].zero_()
        return F.cross_entropy(self.last(features.mean((2, 3))), batch[1])

    def on_after_backward(self):
        self.seen.append([None if p.grad is None else p.grad.clone() for p in self.parameters()])


def fit(tmp_path, module, **kwargs):
    pl.seed_everything(5, verbose=False)  # of the loader
    run = trainer(tmp_path, [PANPenalty(every_n_steps=1, **kwargs)], 1, limit_val_batches=0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run.fit(module, loaders()[0])
    return [str(warning.message) for warning in caught if "PANPenalty has no penalty" in str(warning.message)]


def built(over):
    pl.seed_everything(3, verbose=False)
    module = Writing()
    module.over = over
    return module


def assert_same_gradients(one, other):
    for step, expected in zip(one.seen, other.seen, strict=True):
        for a, b in zip(step, expected, strict=True):
            assert (a is None) == (b is None)
            assert a is None or torch.equal(a, b)


def test_a_layer_whose_input_is_written_over_is_left_out_alone_and_named(tmp_path):
    written, expected = built("input"), built("nothing")
    told = fit(tmp_path, written)
    assert told == [
        "PANPenalty has no penalty for 1 layers (side: the loss is not computed from it, and what a gradient of its "
        "own needs was written over in place)"
    ]
    assert fit(tmp_path, expected, layers=["stem", "head"]) == []
    assert_same_gradients(written, expected)
    assert written.stem.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("kind", ["both", "effect", "moments"])
def test_what_is_written_into_an_output_after_the_hook_changes_nothing(tmp_path, kind):
    written, expected = built("output"), built("nothing")
    assert fit(tmp_path, written, kind=kind) == fit(tmp_path, expected, kind=kind) == []
    assert_same_gradients(written, expected)
    assert written.side.weight.grad.abs().sum() > 0


def test_a_layer_that_is_left_out_from_some_step_on_is_named_then_and_once(tmp_path):
    module = built("input")
    module.since = 1
    (told,) = fit(tmp_path, module)
    assert "for 1 layers (side: " in told


def test_a_penalty_of_a_loss_is_that_of_the_calls_that_it_was_computed_from():
    torch.manual_seed(0)
    one, other = (nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(inplace=True)) for _ in range(2))
    model, x = nn.ModuleList([one, other]), torch.randn(4, 1, 12, 12)
    penalty = PaddingBiasPenalty(model)
    loss = one(x).sum()
    other(x)
    value = penalty(loss)
    one(x), other(x)
    both = penalty()
    penalty.detach()
    alone = PaddingBiasPenalty(model, layers="0.0")
    one(x)
    assert value == alone()
    assert value < both


def test_a_call_on_one_image_is_found_again_although_its_output_is_written_into():
    torch.manual_seed(0)
    model, image = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(inplace=True)), torch.randn(1, 12, 12)
    penalty = PaddingBiasPenalty(model)
    taken = penalty.take(model(image).sum())
    assert taken is not None
    model(image)
    assert taken == penalty()
