"""PANMask(which="all"): all padding neutral, from the start, from an epoch on, or step by step."""

from __future__ import annotations

import warnings

import lightning.pytorch as other_pl
import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader

from pan_callbacks import PaddingDropout, PANError, PANMask, PANMonitor, PANPenalty
from pan_callbacks.suppression.neutral_hooks import ShareHook
from tests.callbacks.test_lost_suppression import LOSSES, losing
from tests.callbacks.test_suppression import Module, assert_same_weights, build, channels_replaced, first_report, fit
from tests.support.lightning_models import SmallModule, dataset, in_namespace, loaders, trainer

ALL = {"net.0": list(range(6)), "net.3": list(range(6)), "net.6": list(range(6))}


def on_lightning_2_4(what: str) -> pytest.MarkDecorator:
    """Skips a test with the oldest Lightning, for what that does."""
    return pytest.mark.skipif(pl.__version__.startswith("2.4."), reason=f"Lightning 2.4 {what}")


def reflected(kind=Module):
    module = build(kind)
    for conv in (module.net[0], module.net[3], module.net[6]):
        conv.padding_mode = "reflect"
    return module


def assert_close(one, two, **kwargs):
    for (name, a), b in zip(one.named_parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(a, b, **{"rtol": 1e-3, "atol": 1e-5, **kwargs}, msg=name)


def fed(pads=nn.ZeroPad2d):
    """The same network, whose second convolution is fed by a pad module and whose third by a call."""

    class Calls(nn.Conv2d):
        def forward(self, x):
            return super().forward(F.pad(x, (1, 1, 1, 1), mode="reflect" if pads is nn.ReflectionPad2d else "constant"))

    module = build()
    module.net[3] = nn.Sequential(pads(1), nn.Conv2d(6, 6, 3, stride=2))
    module.net[6] = Calls(6, 6, 3)
    if pads is nn.ReflectionPad2d:
        module.net[0].padding_mode = "reflect"
    return module


class PadsWithMeans(nn.Conv2d):
    """Pads each channel with its mean over the image."""

    def forward(self, x):
        mean = x.mean((2, 3), keepdim=True)
        around = 1 - F.pad(torch.ones_like(x[:1, :1]), [1] * 4)
        return F.conv2d(F.pad(x, [1] * 4) + around * mean, self.weight, self.bias, self.stride)


def padded_with_means():
    module = build()
    for conv in (module.net[0], module.net[3], module.net[6]):
        conv.__class__ = PadsWithMeans
    return module


class Shares(pl.Callback):
    """The share of neutral padding that the network has in each step and each validation, seen in what it gives."""

    def __init__(self):
        self.training, self.validation = [], []

    @staticmethod
    def of(module):
        x = dataset(16)[:][0]
        layer = module.net[0]
        with torch.no_grad():
            own, found = layer.forward(x), layer(x)
            neutral = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), layer.weight, layer.bias)
        return round(float(((found - own) * (neutral - own)).sum() / (neutral - own).square().sum()), 5)

    def on_train_batch_end(self, run, module, *args):
        self.training.append(self.of(module))

    def on_validation_end(self, run, module):
        self.validation.append(self.of(module))


@pytest.mark.parametrize("make", [reflected, lambda: fed(nn.ReflectionPad2d)], ids=["own padding", "fed"])
def test_training_with_it_is_training_with_reflected_padding(tmp_path, make):
    mask = PANMask(which="all")
    masked, run = fit(tmp_path, build() if make is reflected else fed(), [mask])
    expected, plain_run = fit(tmp_path, make())
    assert_close(masked, expected)
    for name, value in plain_run.callback_metrics.items():
        assert float(run.callback_metrics[name]) == pytest.approx(float(value), rel=1e-3)
    assert (sum(map(len, mask.channels.values())), float(run.callback_metrics["pan_mask/channels"])) == (18, 18)
    assert float(run.callback_metrics["pan_mask/share"]) == 1
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in masked.modules())


def test_training_with_it_is_training_with_padding_of_means(tmp_path):
    mask = PANMask("neutral-mean", which="all")
    masked, _ = fit(tmp_path, build(), [mask])
    expected, _ = fit(tmp_path, padded_with_means())
    assert_close(masked, expected)
    images = dataset(40)[:][0]
    with torch.no_grad():
        found = mask.permanent(masked).eval().net(images)
        torch.testing.assert_close(found, expected.eval().net(images), rtol=1e-3, atol=1e-4)
        assert not torch.allclose(found, masked.eval().net(images), atol=1e-3)


@on_lightning_2_4("gives callbacks no state in test(ckpt_path=...)")
def test_a_checkpoint_says_what_neutral_padding_is(tmp_path):
    module, run = fit(tmp_path, build(), [PANMask("neutral-mean", which="all")], epochs=1)
    run.save_checkpoint(tmp_path / "one.ckpt")
    mask = PANMask(which="all")
    with pytest.warns(UserWarning, match="mode='neutral-mean', not 'neutral'"):
        tested = trainer(tmp_path, [mask]).test(build(), loaders()[1], ckpt_path=tmp_path / "one.ckpt", verbose=False)
    same = trainer(tmp_path, [PANMask("neutral-mean", which="all")]).test(module, loaders()[1], verbose=False)
    other = trainer(tmp_path, [PANMask(which="all")]).test(module, loaders()[1], verbose=False)
    assert mask.mode == "neutral-mean" and tested == same != other


@pytest.mark.parametrize(
    ("arguments", "training", "validation"),
    [
        ({}, [1] * 9, [1] * 4),
        ({"start_epoch": 1}, [0] * 3 + [1] * 6, [0, 0, 1, 1]),
        ({"ramp_epochs": 1}, [1 / 3, 2 / 3] + [1] * 7, [0, 1, 1, 1]),
        ({"start_epoch": 1, "ramp_epochs": 2}, [0] * 3 + [i / 6 for i in range(1, 7)], [0, 0, 0.5, 1]),
    ],
)
def test_the_share_follows_its_schedule_and_holds_in_validation(tmp_path, arguments, training, validation):
    shares = Shares()
    pl.seed_everything(5, verbose=False)
    run = trainer(tmp_path, [shares, PANMask(which="all", **arguments)], 3)
    run.fit(build(), *loaders())
    assert shares.training == pytest.approx(training, abs=1e-4)
    assert shares.validation == pytest.approx(validation, abs=1e-4)
    assert float(run.callback_metrics["pan_mask/share"]) == pytest.approx(validation[-1])


@on_lightning_2_4("takes the last batch again where it resumes within an epoch")
def test_a_resumed_ramp_leaves_the_weights_of_one_in_one_go_and_tests_with_what_it_has(tmp_path):
    def trained(epochs, folder, ckpt_path=None, **options):
        module, shares, mask = SmallModule(), Shares(), PANMask(which="all", ramp_epochs=3)
        module.net[5] = nn.Identity()  # draws nothing
        torch.manual_seed(0)
        for layer in (module.net[0], module.net[3], module.net[6], module.net[8]):
            layer.reset_parameters()
        saves = ModelCheckpoint(tmp_path / folder, save_last=True, every_n_train_steps=1)
        callbacks = [mask, shares, saves]
        run = trainer(tmp_path, callbacks, epochs, num_sanity_val_steps=0, enable_checkpointing=True, **options)
        same = ConcatDataset([dataset(16)] * 3)  # in each step, for no loader goes on within an epoch
        run.fit(module, DataLoader(same, batch_size=16), ckpt_path=ckpt_path)
        return module, shares

    whole, shares = trained(4, "whole")
    trained(2, "half", max_steps=4)  # in the middle of an epoch
    half = tmp_path / "half" / "last.ckpt"
    resumed, rest = trained(4, "rest", half)
    assert rest.training == shares.training[4:] and rest.training[0] == pytest.approx(5 / 9, abs=1e-4)
    assert_same_weights(whole, resumed)

    mask, shares = PANMask(which="all", ramp_epochs=3), Shares()
    shares.on_test_end = shares.on_validation_end
    trainer(tmp_path, [shares, mask]).test(build(), loaders()[1], ckpt_path=half, verbose=False)
    assert shares.validation == pytest.approx([4 / 9], abs=1e-4) and mask.channels == ALL


def test_it_holds_without_fit_in_validation_test_and_prediction(tmp_path):
    shares = Shares()
    shares.on_test_end = shares.on_predict_end = shares.on_validation_end
    run, module = trainer(tmp_path, [shares, PANMask(which="all", start_epoch=3)]), build()
    run.validate(module, loaders()[1], verbose=False)
    run.test(module, loaders()[1], verbose=False)
    module.predict_step = lambda batch, batch_idx: module.net(batch[0])
    run.predict(module, loaders()[1])
    assert shares.validation == pytest.approx([1, 1, 1], abs=1e-4)
    assert not any(m._forward_hooks for m in module.modules())


@pytest.mark.parametrize("epochs", [1, 2])
def test_permanent_answers_as_the_trained_network_does_under_its_mask(tmp_path, epochs):
    mask, answers = PANMask(which="all", ramp_epochs=2), []
    module, _ = fit(tmp_path, fed(), [mask], epochs=epochs)
    run = trainer(tmp_path, [mask])
    module.predict_step = lambda batch, batch_idx: module.net(batch[0])
    answers = torch.cat(run.predict(module, loaders()[1]))
    del module.predict_step
    images = dataset(40)[:][0]
    with torch.no_grad():
        torch.testing.assert_close(mask.permanent(module).eval().net(images), answers)
        assert not torch.allclose(module.eval().net(images), answers)


def test_permanent_without_a_run_says_what_is_missing(tmp_path):
    images = dataset(40)[:][0]
    with torch.no_grad():
        found = PANMask(which="all").permanent(build()).eval().net(images)
        torch.testing.assert_close(found, reflected().eval().net(images))
    with pytest.raises(PANError, match=r"run fit or validate with this PANMask first, or take neutralise"):
        PANMask(which="all").permanent(fed())


def test_the_monitor_finds_no_padding_and_the_penalty_goes_with_it(tmp_path):
    monitor = PANMonitor(threshold=0.3, figures=False)
    for callbacks in ([monitor, PANMask(which="all"), PANPenalty()], [PaddingDropout(), PANMask(which="all"), monitor]):
        module, run = fit(tmp_path, fed(), callbacks, epochs=1)
        report = monitor.report
        assert list(report.layers) == ["net.0", "net.3.1", "net.6"]
        assert all(report.effect(name).abs().nan_to_num(0).max() == 0 for name in report.layers)
        assert monitor.history[0]["epoch"] == -1 and monitor.history[0]["nascent"] == 0


def test_in_a_ramp_the_monitor_finds_what_is_left_of_the_padding(tmp_path):
    class Rests(Module):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.0)

    effects = []
    for others in ([], [PANMask(which="all", ramp_epochs=4)]):
        monitor, module = PANMonitor(threshold=0.3, figures=False, reference="centre"), build(Rests)
        module.net[1] = nn.Identity()
        fit(tmp_path, module, [monitor, *others], epochs=1)
        effects.append(monitor.report.effect("net.0"))
    torch.testing.assert_close(effects[1], 0.75 * effects[0], rtol=0.05, atol=1e-3, equal_nan=True)


def test_nobody_measures_more_in_the_sanity_check_for_it():
    assert (PANMask(which="all").asks_monitor, PANMask().asks_monitor) == (False, True)


@pytest.mark.parametrize("lose", LOSSES)
def test_a_layer_that_loses_its_mask_stops_the_run(tmp_path, lose):
    module = build(losing(lose, "on_train_epoch_start"))
    with pytest.raises(PANError, match=r"PANMask\(which='all'\) has lost layer net\.0: .*before fit"):
        fit(tmp_path, module, [PANMask(which="all")], epochs=3)
    assert not any(isinstance(hook, ShareHook) for m in module.modules() for hook in m._forward_hooks.values())


def test_layers_that_the_model_grew_are_masked_too(tmp_path):
    seen = []

    class Grows(Module):
        def network(self, x):
            x = self.net[:5](x)
            return self.net[5:](self.more(x) if hasattr(self, "more") else x)

        def on_train_epoch_end(self):
            self.more = nn.Conv2d(6, 6, 3, padding=1)

        def on_train_batch_end(self, *args):
            seen.append(sorted(channels_replaced(self)))

    fit(tmp_path, build(Grows), [PANMask(which="all")], epochs=2)
    assert seen == [["net.0", "net.3", "net.6"]] * 3 + [["more", "net.0", "net.3", "net.6"]] * 3


@pytest.mark.skipif(torch.__version__.startswith("2.4."), reason="torch 2.4 compiles anew for each number of a module")
def test_a_ramp_does_not_have_a_compiled_network_compiled_anew_for_each_step(tmp_path):
    compiled = []

    def backend(graph, example):
        compiled.append(graph)
        return graph.forward

    def module():
        made = build()
        made.net[5] = nn.Identity()
        return made

    torch.compiler.reset()
    one = module()
    one.net.compile(backend=backend)
    fit(tmp_path, one, [PANMask(which="all", ramp_epochs=4)], epochs=5)
    two, _ = fit(tmp_path, module(), [PANMask(which="all", ramp_epochs=4)], epochs=5)
    assert_close(one, two, atol=1e-4)
    assert 0 < len(compiled) <= 8  # training and validation, own, partly and all neutral, and sizes of batches
    torch.compiler.reset()


@pytest.mark.parametrize("library", [pl, other_pl])
def test_both_namespaces_train_with_it(tmp_path, library):
    run = trainer(tmp_path, [PANMask(which="all")], 1, library)
    run.fit(in_namespace(library), loaders()[0])
    assert float(run.callback_metrics["pan_mask/channels"]) == 18


def test_a_model_without_padding_trains_on_and_is_told_once(tmp_path):
    plain, _ = fit(tmp_path, reflected())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        module, _ = fit(tmp_path, reflected(), [PANMask(which="all")])
    assert_same_weights(plain, module)
    assert sum("has nothing to do" in str(w.message) for w in caught) == 1


def test_a_layer_that_cannot_be_neutral_is_named(tmp_path):
    class Misfit(nn.Conv2d):
        def forward(self, x):
            return super().forward(x)[:, :, :-1]

    module = build()
    module.net[0] = nn.Sequential(Misfit(1, 6, 3, padding=1), nn.ConstantPad2d((0, 0, 0, 1), 0.0))
    with pytest.warns(UserWarning, match=r"leaves the padding of 1 layers as it is \(net\.0\.0: its output of 15×16"):
        fit(tmp_path, module, [PANMask(which="all")], epochs=1)


def test_a_loader_without_length_ramps_by_epochs_and_says_so(tmp_path):
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(dataset(48))

    shares = Shares()
    run = trainer(tmp_path, [shares, PANMask(which="all", ramp_epochs=2)], 3, num_sanity_val_steps=0)
    with pytest.warns(UserWarning, match="no length"):
        run.fit(build(), torch.utils.data.DataLoader(Stream(), batch_size=16))
    assert shares.training == pytest.approx([0] * 3 + [0.5] * 3 + [1] * 3, abs=1e-4)


def test_a_second_fit_goes_on_and_another_model_begins_anew(tmp_path):
    mask, shares = PANMask(which="all", ramp_epochs=1), Shares()
    module, _ = fit(tmp_path, build(), [mask], epochs=1)
    fit(tmp_path, module, [mask, shares], epochs=1)
    assert shares.training == pytest.approx([1] * 3, abs=1e-4)
    fit(tmp_path, build(), [mask, shares], epochs=1)
    assert shares.training[3:] == pytest.approx([1 / 3, 2 / 3, 1], abs=1e-4)


def test_a_checkpoint_of_the_other_kind_is_left_out_and_that_is_said():
    for here, there in ((PANMask(which="all"), PANMask()), (PANMask(), PANMask(which="all"))):
        with pytest.warns(UserWarning, match=rf"which='{there.which}', not '{here.which}': left out"):
            here.load_state_dict(there.state_dict())
        assert here.channels == {}


def test_bad_arguments_are_named():
    report = first_report(build())
    for arguments, match in (
        ({"which": "some"}, "which='some' is unknown; choose 'pans' or 'all'"),
        ({"which": "all", "mode": "zero"}, "mode='zero' needs which='pans'"),
        ({"which": "all", "report": report}, "needs no report"),
        ({"which": "all", "ramp_epochs": -1}, "ramp_epochs=-1 is negative"),
        ({"ramp_epochs": 2}, "ramp_epochs=2 is for which='all'"),
    ):
        with pytest.raises(ValueError, match=match):
            PANMask(**arguments)
