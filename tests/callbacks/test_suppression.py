"""PANPenalty and PANMask on Trainers: the gradient is that of an explicit loss, the mask is where it should be."""

from __future__ import annotations

import copy
import itertools
import warnings
from types import MappingProxyType

import lightning.pytorch as other_pl
import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins import MixedPrecision
from pytorch_lightning.strategies import DDPStrategy
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader

from pan_callbacks import PaddingBiasPenalty, PANError, PANMask, PANMonitor, PANPenalty, masked, scan
from pan_callbacks.measurement.hooks import replaced_channels
from tests.support.lightning_models import SmallModule, dataset, in_namespace, loaders, trainer
from tests.support.processes import results_of_two

WEIGHT = 0.3
THRESHOLD = 0.3  # so low that the small network has something to find before it is trained
OPTIONS = {"weight": WEIGHT, "every_n_steps": 1}


class Module(SmallModule):
    """A SmallModule that can add the penalty itself: what the callback is compared with."""

    explicit = None  # the penalty
    checkpointed = None  # use_reentrant, where the first layers run under a checkpoint
    calls = 1

    def network(self, x):
        if self.checkpointed is not None:
            x = checkpoint(self.net[:5], x.requires_grad_(), use_reentrant=self.checkpointed)
            return self.net[5:](x)
        for _ in range(self.calls - 1):
            self.net(x.flip(-1))
        return self.net(x)

    def with_penalty(self, loss):
        return loss if self.explicit is None else loss + WEIGHT * self.explicit()

    def training_step(self, batch, batch_idx):
        loss = F.cross_entropy(self.network(batch[0]), batch[1])
        self.log("train_loss", loss.detach(), on_epoch=True, on_step=False)
        return self.with_penalty(loss)


class ReturnsDict(Module):
    def training_step(self, batch, batch_idx):
        return {"loss": super().training_step(batch, batch_idx), "more": 1}


class ReturnsWhatCannotBeChanged(Module):
    def training_step(self, batch, batch_idx):
        return MappingProxyType({"loss": super().training_step(batch, batch_idx), "more": 1})


class Manual(Module):
    automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.with_penalty(F.cross_entropy(self.network(batch[0]), batch[1])))
        optimizer.step()


class TwoOptimizers(Module):
    """Two losses after one another, each with the penalty of its own forward."""

    automatic_optimization = False

    def training_step(self, batch, batch_idx):
        for optimizer, x in zip(self.optimizers(), (batch[0], batch[0].flip(-1)), strict=True):
            optimizer.zero_grad()
            self.manual_backward(self.with_penalty(F.cross_entropy(self.network(x), batch[1])))
            optimizer.step()

    def configure_optimizers(self):
        return [torch.optim.SGD(self.net[:2].parameters(), 0.1), torch.optim.SGD(self.net[2:].parameters(), 0.05)]


def channels_replaced(model: nn.Module) -> dict[str, list[int]]:
    """Layer name to the channels that are masked now."""
    found = {name: replaced_channels(module) for name, module in model.named_modules()}
    return {name: channels.tolist() for name, channels in found.items() if channels is not None}


def fit(tmp_path, module, callbacks=(), epochs=2, **kwargs):
    pl.seed_everything(5, verbose=False)
    run = trainer(tmp_path, list(callbacks), epochs, num_sanity_val_steps=0, **kwargs)
    run.fit(module, *loaders())
    return module, run


def build(kind=Module, explicit=False, **attributes):
    pl.seed_everything(3, verbose=False)
    module = kind()
    for name, value in attributes.items():
        setattr(module, name, value)
    if explicit:
        module.explicit = None
        object.__setattr__(module, "explicit", PaddingBiasPenalty(module))
    return module


def assert_same_weights(one, two):
    for (name, a), b in zip(one.state_dict().items(), two.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def assert_same_parameters(one, two):
    for (name, a), b in zip(one.named_parameters(), two.parameters(), strict=True):
        assert torch.equal(a, b), name


def scaler():
    """float16 with loss scaling, as on a GPU."""
    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=64.0))


CASES = {
    "plain": (Module, {}, {}),
    "accumulate": (Module, {}, {"accumulate_grad_batches": 2}),
    "bf16": (Module, {}, {"precision": "bf16-mixed"}),
    "scaler": (Module, {}, {"plugins": scaler}),
    "a dict returned": (ReturnsDict, {}, {}),
    "a mapping returned that cannot be changed": (ReturnsWhatCannotBeChanged, {}, {}),
    "manual": (Manual, {}, {}),
    "two optimizers": (TwoOptimizers, {}, {}),
    "checkpoint": (Module, {"checkpointed": False}, {}),
    "called twice": (Module, {"calls": 2}, {}),
    "clipped": (Module, {}, {"gradient_clip_val": 0.1}),
}


@pytest.mark.parametrize("case", CASES)
def test_gradients_equal_those_of_an_explicit_loss(tmp_path, case):
    kind, attributes, options = CASES[case]
    options = {key: value() if callable(value) else value for key, value in options.items()}
    explicit, _ = fit(tmp_path, build(kind, True, **attributes), **options)
    options = {key: scaler() if key == "plugins" else value for key, value in options.items()}
    added, _ = fit(tmp_path, build(kind, **attributes), [PANPenalty(**OPTIONS)], **options)
    options = {key: scaler() if key == "plugins" else value for key, value in options.items()}
    without, _ = fit(tmp_path, build(kind, **attributes), **options)
    assert_same_weights(explicit, added)
    assert not torch.equal(without.net[0].weight, added.net[0].weight)


@pytest.mark.parametrize("what", [pytest.param("module", marks=pytest.mark.slow), "submodule"])
def test_gradients_equal_those_of_an_explicit_loss_when_compiled(tmp_path, what):
    def made(explicit):
        torch.compiler.reset()
        module = build(explicit=explicit)
        if what == "module":
            return torch.compile(module, backend="eager")
        module.net = torch.compile(module.net, backend="eager")
        return module

    plain, _ = fit(tmp_path, build(explicit=True), limit_val_batches=0)  # which would be compiled too, and has no loss
    added, _ = fit(tmp_path, made(False), [PANPenalty(**OPTIONS)], limit_val_batches=0)
    for (name, a), b in zip(plain.state_dict().items(), added.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("library", [pl, other_pl])
def test_both_namespaces_train_with_it(tmp_path, library):
    pl.seed_everything(3, verbose=False)  # of some networks no neuron is beyond its margin
    run = trainer(tmp_path, [PANMask(), PANPenalty(), PANMonitor(threshold=THRESHOLD, figures=False)], 1, library)
    run.fit(in_namespace(library), *loaders())
    assert float(run.callback_metrics["pan_penalty/loss"]) > 0


def test_the_users_own_loss_is_logged_as_it_is_and_the_penalty_beside_it(tmp_path):
    metrics = []
    for callbacks in ([PANPenalty(weight=0.0)], [PANPenalty(weight=1e-12, every_n_steps=1)]):
        _, run = fit(tmp_path, build(), callbacks, epochs=1)
        metrics.append(run.callback_metrics)
    assert float(metrics[0]["train_loss"]) == pytest.approx(float(metrics[1]["train_loss"]), abs=1e-6)
    assert float(metrics[0]["pan_penalty/loss"]) == float(metrics[0]["pan_penalty/weight"]) == 0  # the key is there
    assert float(metrics[1]["pan_penalty/loss"]) > 0.1
    assert float(metrics[1]["pan_penalty/weight"]) == pytest.approx(1e-12)


def test_weight_zero_changes_nothing_bit_for_bit(tmp_path):
    assert_same_weights(fit(tmp_path, build())[0], fit(tmp_path, build(), [PANPenalty(weight=0.0)])[0])


def test_every_n_steps_are_those_of_the_trainer_also_after_resuming(tmp_path):
    whole, _ = fit(tmp_path, build(), [PANPenalty(every_n_steps=2)], epochs=4)  # 3 batches an epoch
    module, run = fit(tmp_path, build(), [PANPenalty(every_n_steps=2)], epochs=2)
    run.save_checkpoint(tmp_path / "half.ckpt")
    without, _ = fit(tmp_path, build(), [PANPenalty(every_n_steps=1000)], epochs=4)
    assert not torch.equal(whole.net[0].weight, without.net[0].weight)
    seen = []

    class Spy(PANPenalty):
        def _added(self, pl_module, loss, take):
            seen.append((pl_module.trainer.fit_loop.total_batch_idx, not self._penalty.idle))
            return super()._added(pl_module, loss, take)

    resumed = trainer(tmp_path, [Spy(every_n_steps=2)], 4, num_sanity_val_steps=0)
    resumed.fit(build(), *loaders(), ckpt_path=tmp_path / "half.ckpt")
    assert seen == [(step, step % 2 == 0) for step in range(6, 12)]


def test_every_n_steps_add_the_penalty_in_those_steps_alone(tmp_path):
    class EverySecond(Module):
        def training_step(self, batch, batch_idx):
            loss = F.cross_entropy(self.network(batch[0]), batch[1])
            if self.trainer.fit_loop.total_batch_idx % 2 == 0:
                return loss + WEIGHT * self.explicit()
            self.explicit.begin(0)  # forgets this forward
            return loss

    explicit, _ = fit(tmp_path, build(EverySecond, True))
    added, _ = fit(tmp_path, build(), [PANPenalty(**{**OPTIONS, "every_n_steps": 2})])
    for a, b in zip(explicit.parameters(), added.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_start_and_warmup_schedule_the_weight(tmp_path):
    seen = []

    class Spy(PANPenalty):
        def _added(self, pl_module, loss, take):
            total = super()._added(pl_module, loss, lambda: torch.ones(()))
            seen.append(float(total - loss))
            return total

    fit(tmp_path, build(), [Spy(weight=0.6, start_epoch=1, warmup_epochs=2, every_n_steps=1)], epochs=4)
    assert seen == pytest.approx([0] * 3 + [0, 0.1, 0.2, 0.3, 0.4, 0.5] + [0.6] * 3, abs=1e-6)


def test_only_pans_penalises_just_what_the_monitor_found(tmp_path):
    monitor = PANMonitor(threshold=THRESHOLD, figures=False)
    seen = []

    class Spy(PANPenalty):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            found = {name: tap.channels.tolist() for name, tap in self._penalty._taps.items() if len(tap.channels)}
            seen.append(found == ({} if monitor.report is None else monitor.report.neurons_by_layer()))

    fit(tmp_path, build(), [Spy(only_pans=True), monitor])
    assert monitor.history[0]["count"] > 0
    assert seen == [True] * 6
    with pytest.raises(PANError, match="needs a PANMonitor"):
        fit(tmp_path, build(), [PANPenalty(only_pans=True)])


def test_a_monitor_that_finds_nothing_leaves_the_training_as_it_is_and_is_told_once(tmp_path):
    plain, _ = fit(tmp_path, build())
    monitor = PANMonitor(threshold=0.999, figures=False, reference="centre")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        module, _ = fit(tmp_path, build(), [monitor, PANPenalty(only_pans=True), PANMask()], epochs=2)
    assert [entry["count"] for entry in monitor.history] == [0, 0, 0]
    assert_same_weights(plain, module)
    told = [str(w.message) for w in caught if "no PAN was found" in str(w.message)]
    assert sorted(text.split(" ")[0] for text in told) == ["PANMask", "PANPenalty(only_pans=True)"]


def test_the_module_gets_its_own_methods_back_after_fit_and_after_an_exception(tmp_path):
    module, _ = fit(tmp_path, build(), [PANPenalty()], epochs=1)
    assert "training_step" not in module.__dict__ and "manual_backward" not in module.__dict__

    own = module.training_step
    module.training_step = own  # already on the instance
    fit(tmp_path, module, [PANPenalty()], epochs=1)
    assert module.__dict__.pop("training_step") is own

    class Fails(Module):
        def on_train_batch_end(self, *args):
            raise KeyError("theirs")

    module = build(Fails)
    with pytest.raises(KeyError):
        fit(tmp_path, module, [PANPenalty(), PANMonitor(threshold=THRESHOLD, figures=False), PANMask()])
    assert "training_step" not in module.__dict__
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())


def test_a_copy_of_the_module_made_in_fit_has_its_own_training_step(tmp_path):
    copies = []

    class Copies(Module):
        def on_train_batch_end(self, *args):
            copies.append(copy.deepcopy(self))

    module, _ = fit(tmp_path, build(Copies), [PANPenalty()], epochs=1)
    step = copies[0].training_step
    assert step.__self__ is copies[0] and step.__func__ is Module.training_step


class Reentrant(Module):
    checkpointed = True


def test_a_reentrant_checkpoint_is_refused(tmp_path):
    with pytest.raises(PANError, match=r"layer net.0 runs under a reentrant .* use_reentrant=False"):
        fit(tmp_path, build(Reentrant), [PANPenalty()])
    fit(tmp_path, build(Reentrant), [PANPenalty(layers="net.6")])  # the way out


def test_a_forward_without_gradients_beside_a_checkpoint_is_no_reentrant_one(tmp_path):
    class Distils(Module):
        checkpointed = False

        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            with torch.no_grad():
                self.net(batch[0])
            return loss

    added, _ = fit(tmp_path, build(Distils), [PANPenalty(**OPTIONS)])
    assert_same_weights(added, fit(tmp_path, build(Distils, True))[0])
    assert not torch.equal(added.net[0].weight, fit(tmp_path, build(Distils))[0].net[0].weight)


def test_a_reentrant_checkpoint_around_everything_is_refused(tmp_path):
    class Everything(Module):
        def network(self, x):
            return checkpoint(self.net, x.requires_grad_(), use_reentrant=True)

    module = build(Everything)
    before = [parameter.clone() for parameter in module.parameters()]
    with pytest.raises(PANError, match=r"layer net.0 runs under a reentrant .* use_reentrant=False"):
        fit(tmp_path, module, [PANPenalty()])
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))


class BothForwardsFirst(Module):
    """Two forwards, then two backward passes, as adversarial networks are trained."""

    automatic_optimization = False

    def training_step(self, batch, batch_idx):
        if self.explicit is not None:  # a penalty of each forward by itself
            losses = []
            for x in (batch[0], batch[0].flip(-1)):
                losses.append(self.with_penalty(F.cross_entropy(self.net(x), batch[1])))
        else:
            losses = [F.cross_entropy(self.net(x), batch[1]) for x in (batch[0], batch[0].flip(-1))]
        self.optimizers().zero_grad()
        for loss in losses:
            self.manual_backward(loss)
        self.optimizers().step()


def test_each_backward_pass_has_the_penalty_of_its_own_forward(tmp_path):
    explicit, _ = fit(tmp_path, build(BothForwardsFirst, True))
    added, _ = fit(tmp_path, build(BothForwardsFirst), [PANPenalty(**OPTIONS)])
    without, _ = fit(tmp_path, build(BothForwardsFirst))
    assert_same_weights(explicit, added)
    assert not torch.equal(without.net[0].weight, added.net[0].weight)


def test_a_manual_step_that_skips_its_batch_is_no_offence(tmp_path):
    class Skips(Manual):
        def training_step(self, batch, batch_idx):
            if batch_idx == 1:
                self.optimizers().zero_grad()
                self.network(batch[0])
                return
            super().training_step(batch, batch_idx)

    penalised, run = fit(tmp_path, build(Skips), [PANPenalty(**OPTIONS)])
    without, _ = fit(tmp_path, build(Skips))
    assert run.global_step == 4  # of 3 batches an epoch the second is skipped
    assert not torch.equal(penalised.net[0].weight, without.net[0].weight)


def test_two_penalties_add_up_and_leave_nothing_behind(tmp_path):
    two = [PANPenalty(**OPTIONS, layers="net.0"), PANPenalty(**OPTIONS, layers=["net.3", "net.6"])]
    one, _ = fit(tmp_path, build(), [PANPenalty(**OPTIONS)])
    module, _ = fit(tmp_path, build(), two)
    for a, b in zip(one.parameters(), module.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert "training_step" not in module.__dict__ and "manual_backward" not in module.__dict__


def test_layers_without_an_interior_are_named_and_small_or_empty_batches_train_on(tmp_path):
    class Small(Module):
        def network(self, x):
            x = F.avg_pool2d(x, 4)[:, :, :, :3]
            return self.net[6](self.net[3](self.net[:3](x))).mean((2, 3))[:, :3]

    with pytest.warns(UserWarning, match=r"no penalty for \d layers? .*no interior to compare with in its map of"):
        fit(tmp_path, build(Small), [PANPenalty(every_n_steps=1)])

    class Empty(Module):
        def network(self, x):
            return self.net(x[:0]) if self.trainer.global_step == 1 else self.net(x)

        def training_step(self, batch, batch_idx):
            return self.network(batch[0]).sum()

        def validation_step(self, batch, batch_idx):
            self.net(batch[0])

    fit(tmp_path, build(Empty, net=nn.Sequential(nn.Conv2d(1, 2, 3, padding=1))), [PANPenalty(every_n_steps=1)])


def test_a_validation_step_may_call_the_training_step(tmp_path):
    class Calls(Module):
        def validation_step(self, batch, batch_idx):
            F.cross_entropy(self.net(batch[0]), batch[1])
            return Module.training_step(self, batch, batch_idx) if self.trainer.training else self.plain(batch)

        def plain(self, batch):
            return self.training_step(batch, 0)

        def training_step(self, batch, batch_idx):
            return F.cross_entropy(self.net(batch[0]), batch[1])

    called, _ = fit(tmp_path, build(Calls), [PANPenalty(**OPTIONS)])
    assert_same_parameters(called, fit(tmp_path, build(), [PANPenalty(**OPTIONS)])[0])


def test_a_loader_without_length_warms_up_by_epochs_and_says_so(tmp_path):
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(dataset(48))

    run = trainer(tmp_path, [PANPenalty(warmup_epochs=1, every_n_steps=1)], 2, num_sanity_val_steps=0)
    with pytest.warns(UserWarning, match="no length"):
        run.fit(build(), torch.utils.data.DataLoader(Stream(), batch_size=16), loaders()[1])
    assert float(run.callback_metrics["pan_penalty/weight"]) == pytest.approx(0.1)


def test_only_pans_penalises_nothing_before_the_first_report_and_goes_on_after_resuming(tmp_path):
    weights = []
    for callbacks in ([], [PANMonitor(threshold=THRESHOLD, figures=False), PANPenalty(only_pans=True)]):
        pl.seed_everything(5, verbose=False)
        run, module = trainer(tmp_path, callbacks, 1, num_sanity_val_steps=0), build()
        run.fit(module, *loaders())
        weights.append(module.net[0].weight)
    assert torch.equal(*weights)

    first, monitor = PANPenalty(only_pans=True), PANMonitor(threshold=THRESHOLD, figures=False)
    _, run = fit(tmp_path, build(), [monitor, first], epochs=2)
    run.save_checkpoint(tmp_path / "one.ckpt")
    second = PANPenalty(only_pans=True)
    seen = []

    class Looks(pl.Callback):
        def on_train_batch_start(self, *args):
            seen.append({n: t.channels.tolist() for n, t in second._penalty._taps.items() if len(t.channels)})

    resumed = trainer(tmp_path, [PANMonitor(threshold=THRESHOLD, figures=False), second, Looks()], 3)
    resumed.fit(build(), *loaders(), ckpt_path=tmp_path / "one.ckpt")
    assert first._neurons and seen[0] == monitor.report.neurons_by_layer() != first._neurons


class RawBackward(Manual):
    raw_optimizer = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers(use_pl_optimizer=not self.raw_optimizer)
        optimizer.zero_grad()
        F.cross_entropy(self.network(batch[0]), batch[1]).backward()
        optimizer.step()


@pytest.mark.parametrize("raw_optimizer", [False, True])
def test_manual_optimization_past_manual_backward_is_refused(tmp_path, raw_optimizer):
    with pytest.raises(PANError, match=r"gradients reach layer .* call self.manual_backward\(loss\) instead"):
        fit(tmp_path, build(RawBackward, raw_optimizer=raw_optimizer), [PANPenalty()])


def test_a_model_compiled_and_run_before_fit_is_refused(tmp_path):
    torch.compiler.reset()
    module = build()
    module.net = torch.compile(module.net, backend="eager")
    module.net.train()
    module.net(dataset(16)[:][0])  # a batch like those of the training
    with pytest.raises(PANError, match="compiler.reset"):
        fit(tmp_path, module, [PANPenalty()])


def test_a_backbone_that_runs_without_gradients_is_refused_and_layers_are_the_way_out(tmp_path):
    class Frozen(Module):
        def network(self, x):
            with torch.no_grad():
                x = self.net[:5](x)
            return self.net[5:](x)

    with pytest.raises(PANError, match="saw no padded convolution run with gradients"):
        fit(tmp_path, build(Frozen), [PANPenalty(layers=["net.0", "net.3"])])
    fit(tmp_path, build(Frozen), [PANPenalty(layers="net.6")])


def test_a_training_step_may_skip_a_batch(tmp_path):
    class Skips(Module):
        def training_step(self, batch, batch_idx):
            if batch_idx > 0:
                return super().training_step(batch, batch_idx)
            self.network(batch[0])
            if self.explicit is not None:
                self.explicit.begin(0)  # forgets this forward
            return None

    added, _ = fit(tmp_path, build(Skips), [PANPenalty(**OPTIONS)])
    assert_same_weights(added, fit(tmp_path, build(Skips, True))[0])
    assert not torch.equal(added.net[0].weight, fit(tmp_path, build(Skips))[0].net[0].weight)


def test_bad_arguments_are_named(tmp_path):
    for kind, kwargs, match in (
        (PANPenalty, {"weight": -0.1}, "weight=-0.1 is negative"),
        (PANPenalty, {"weight": float("nan")}, "weight=nan"),
        (PANPenalty, {"start_epoch": -1}, "start_epoch=-1"),
        (PANPenalty, {"warmup_epochs": -2}, "warmup_epochs=-2"),
        (PANPenalty, {"every_n_steps": 0}, "every_n_steps=0"),
        (PANMask, {"mode": "off"}, "mode='off' is unknown"),
        (PANMask, {"refresh": "always"}, "refresh='always' is unknown"),
        (PANMask, {"start_epoch": -1}, "start_epoch=-1"),
    ):
        with pytest.raises(ValueError, match=match):
            kind(**kwargs)
    with pytest.raises(PANError, match="no padded convolution to penalise"):
        fit(tmp_path, build(net=nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(392, 3))), [PANPenalty()])
    with pytest.raises(PANError, match="PANMask has no PANs to mask"):
        fit(tmp_path, build(), [PANMask()])
    other = first_report(SmallModule(width=9))
    with pytest.raises(PANError, match="made for another model: channel"):
        fit(tmp_path, build(), [PANMask(report=other)])


# --- masks ------------------------------------------------


def first_report(module):
    return scan(module, loaders()[1], threshold=THRESHOLD, progress=False)


@pytest.mark.parametrize("mode", ["neutral", "zero", "mean"])
def test_the_mask_is_on_in_training_and_validation_and_off_afterwards(tmp_path, mode):
    report = first_report(build())
    seen = []

    class Looks(Module):
        def training_step(self, batch, batch_idx):
            seen.append(channels_replaced(self))
            return super().training_step(batch, batch_idx)

        def validation_step(self, batch, batch_idx):
            with torch.no_grad():
                seen.append(channels_replaced(self))

    mask = PANMask(mode, report=report)
    module, run = fit(tmp_path, build(Looks), [mask], epochs=1)
    assert report.count > 0
    assert seen and all(found == report.neurons_by_layer() == mask.channels for found in seen)
    assert float(run.callback_metrics["pan_mask/channels"]) == report.count
    assert not any(m._forward_hooks for m in module.modules())
    assert list(module.state_dict()) == list(build().state_dict())


def test_training_under_a_mask_equals_training_in_the_context(tmp_path):
    report = first_report(build())
    by_callback, _ = fit(tmp_path, build(), [PANMask(report=report)])
    module, without = build(), fit(tmp_path, build())[0]
    with masked(module, report):
        fit(tmp_path, module)
    assert_same_weights(by_callback, module)
    assert not torch.equal(by_callback.net[0].weight, without.net[0].weight)


def test_monitor_mask_and_penalty_do_the_same_in_any_order(tmp_path):
    outcomes = []
    for order in itertools.permutations(range(3)):
        callbacks = PANMonitor(threshold=THRESHOLD, figures=False), PANMask(), PANPenalty(every_n_steps=1)
        monitor, mask, _ = callbacks
        module, _ = fit(tmp_path, build(), [callbacks[i] for i in order])
        assert monitor.history[0]["count"] > 0
        outcomes.append((module, monitor.history, mask.channels, monitor.report.contrast("net.6")))
    module, history, channels, contrast = outcomes[0]
    for other, other_history, other_channels, other_contrast in outcomes[1:]:
        assert_same_weights(module, other)
        assert (history, channels) == (other_history, other_channels)
        assert torch.equal(contrast.nan_to_num(9), other_contrast.nan_to_num(9))


@pytest.mark.parametrize("first", ["monitor", "mask"])
def test_the_monitor_sees_the_network_under_the_mask(tmp_path, first):
    monitor, mask = PANMonitor(threshold=THRESHOLD, figures=False), PANMask("zero", start_epoch=1, refresh="once")
    order = [monitor, mask] if first == "monitor" else [mask, monitor]
    fit(tmp_path, build(), order, epochs=2)
    assert mask.channels
    for name, channels in mask.channels.items():
        assert monitor.report.contrast(name)[:, channels].nan_to_num(0).abs().max() == 0  # silent everywhere


def test_refresh_and_start_epoch_say_when_neurons_are_taken(tmp_path):
    class Looks(PANMask):
        def on_train_epoch_start(self, trainer, pl_module):
            super().on_train_epoch_start(trainer, pl_module)
            seen.append(copy.deepcopy(self.channels))

    monitors = {}
    for refresh in ("once", "epoch"):
        seen: list = []
        monitors[refresh] = PANMonitor(threshold=THRESHOLD, figures=False)
        fit(tmp_path, build(), [monitors[refresh], Looks(start_epoch=1, refresh=refresh)], epochs=4)
        assert seen[0] == {} and seen[1] != {}
        if refresh == "once":
            assert seen[1] == seen[2] == seen[3]
        else:
            for earlier, later in zip(seen[1:], seen[2:], strict=False):
                assert all(set(earlier[name]) <= set(later[name]) for name in earlier)


def test_the_mask_is_in_the_checkpoint_for_resume_and_test(tmp_path):
    mask = PANMask("mean", refresh="once")
    saves = ModelCheckpoint(tmp_path, save_last=True)
    module, run = fit(
        tmp_path,
        build(),
        [PANMonitor(threshold=THRESHOLD, figures=False), mask, saves],
        epochs=2,
        enable_checkpointing=True,
    )
    assert mask.channels
    outputs = []

    class Tested(Module):
        def test_step(self, batch, batch_idx):
            outputs.append(self.net(batch[0]))

    for callbacks in ([PANMask("mean")], []):
        tester = trainer(tmp_path, callbacks)
        tester.test(build(Tested), loaders()[1], ckpt_path=tmp_path / "last.ckpt", verbose=False)
    half = len(outputs) // 2
    under_mask, without = torch.cat(outputs[:half]), torch.cat(outputs[half:])
    images = dataset(40)[:][0]
    trained = build()
    trained.load_state_dict(torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"])
    trained.eval()
    with torch.no_grad():
        torch.testing.assert_close(trained.net(images), without)
        torch.testing.assert_close(mask.permanent(trained).net(images), under_mask)
    assert not torch.allclose(without, under_mask)

    resumed = PANMask("mean", refresh="once")
    again = trainer(tmp_path, [PANMonitor(threshold=THRESHOLD, figures=False), resumed], 3)
    again.fit(build(), *loaders(), ckpt_path=tmp_path / "last.ckpt")
    assert resumed.channels == mask.channels


def test_a_mask_from_a_report_holds_in_validation_without_fit_and_can_be_built_in(tmp_path):
    module = build()
    mask, outputs = PANMask(report=first_report(module)), []
    module.validation_step = lambda batch, batch_idx: outputs.append(module.net(batch[0]))
    trainer(tmp_path, [mask]).validate(module, loaders()[1], verbose=False)
    del module.validation_step
    images = dataset(40)[:][0]
    with torch.no_grad():
        own, built_in = module.eval().net(images), mask.permanent(module).eval().net(images)
    assert not torch.equal(torch.cat(outputs), own)
    torch.testing.assert_close(torch.cat(outputs), built_in)


def test_looking_at_a_validation_first_does_not_start_the_mask_early(tmp_path):
    module, seen = build(), []

    class Looks(PANMask):
        def on_train_batch_start(self, *args):
            seen.append(bool(self.channels))

    mask = Looks(report=first_report(module), start_epoch=1)
    run = trainer(tmp_path, [mask], 2, num_sanity_val_steps=0)
    run.validate(module, loaders()[1], verbose=False)
    run.fit(module, *loaders())
    assert seen == [False] * 3 + [True] * 3


def test_a_callback_used_for_a_second_model_forgets_the_masks_of_the_first(tmp_path):
    mask, seen = PANMask(start_epoch=1), []

    class Looks(pl.Callback):
        def on_train_batch_start(self, *args):
            seen.append(bool(mask.channels))

    for _ in range(2):
        fit(tmp_path, build(), [PANMonitor(threshold=THRESHOLD, figures=False), mask, Looks()])
    assert seen == 2 * ([False] * 3 + [True] * 3)


def test_masks_hold_on_networks_that_were_compiled_and_run_before_and_come_off_again():
    torch.compiler.reset()
    module = build().eval()
    images, report = dataset(16)[:][0], first_report(module)
    own = module.net(images)
    with masked(module, report, "zero"):
        expected = module.net(images)
    module.net = torch.compile(module.net, backend="eager")
    module.net(images)
    with masked(module, report, "zero"):
        found = module.net(images)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(module.net(images), own)
    assert not torch.allclose(expected, own)


def test_a_report_may_be_given_as_a_file(tmp_path):
    report = first_report(build())
    report.save(tmp_path / "pans.json")
    mask = PANMask(report=str(tmp_path / "pans.json"))
    fit(tmp_path, build(), [mask], epochs=1)
    assert mask.channels == report.neurons_by_layer()


# --- two processes ------------------------------------------------


def of_two_processes(rank: int, folder: str) -> dict[str, object]:
    """What each of two processes has after trainings: sums of its weights, or the channels that are masked."""
    told: dict[str, object] = {}
    for how in ("explicit", "added", "unused", "mask"):
        module = build(explicit=how == "explicit")
        callbacks = {
            "explicit": [],
            "mask": [PANMask(), PANMonitor(threshold=THRESHOLD, figures=False, max_images=40)],
        }.get(how, [PANPenalty(**OPTIONS)])
        strategy = DDPStrategy(process_group_backend="gloo", find_unused_parameters=how == "unused")
        run = trainer(folder, callbacks, 2, devices=2, strategy=strategy, num_sanity_val_steps=0)
        run.fit(module, DataLoader(dataset(48), batch_size=8), DataLoader(dataset(40), batch_size=8))
        sums = [parameter.double().sum().item() for parameter in module.state_dict().values()]
        told[how] = callbacks[0].channels if how == "mask" else sums
    return told


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict[str, object]]:
    """Results of two processes."""
    return results_of_two(of_two_processes, tmp_path_factory.mktemp("ranks"))


def test_gradients_equal_those_of_an_explicit_loss_in_two_processes(ranks):
    first, second = ranks
    assert first["explicit"][0] == second["explicit"][0]
    for how in ("added", "unused"):
        assert [rank[how] for rank in ranks] == [rank["explicit"] for rank in ranks]


def test_the_same_neurons_are_masked_on_every_rank(ranks):
    one, two = (rank["mask"] for rank in ranks)
    assert one == two != {}
