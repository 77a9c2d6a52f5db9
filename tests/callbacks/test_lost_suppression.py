"""Suppression that is not there stops the run, whatever took it away; and what takes nothing away does not."""

from __future__ import annotations

import copy
import itertools
import pickle
import re
import warnings

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning import callbacks as lightning_callbacks
from pytorch_lightning.callbacks import BackboneFinetuning, ModelCheckpoint, StochasticWeightAveraging
from torch import nn
from torch.ao.quantization import get_default_qat_qconfig, prepare_qat

from pan_callbacks import PANError, PANMask, PANMonitor, PANPenalty
from pan_callbacks.suppression.masks import MaskHook
from pan_callbacks.suppression.taps import Tap
from tests.callbacks.test_suppression import (
    OPTIONS,
    THRESHOLD,
    Manual,
    Module,
    assert_same_parameters,
    assert_same_weights,
    build,
    channels_replaced,
    first_report,
)
from tests.support.lightning_models import SmallModule, dataset, loaders, trainer
from tests.support.sampling import sampled


def monitor(**kwargs):
    return PANMonitor(threshold=THRESHOLD, figures=False, **kwargs)


def fit(tmp_path, module, callbacks=(), epochs=2, **kwargs):
    """With a sanity check, so that there is a report before the first epoch."""
    pl.seed_everything(5, verbose=False)
    run = trainer(tmp_path, list(callbacks), epochs, **kwargs)
    run.fit(module, *loaders())
    return module, run


SUPPRESSIONS = {
    "mask of a report": lambda: [PANMask(report=first_report(build()))],
    "mask": lambda: [monitor(), PANMask()],
    "mask once": lambda: [monitor(), PANMask("zero", refresh="once")],
    "penalty": lambda: [PANPenalty()],
    "penalty of one layer": lambda: [PANPenalty(layers="net.0", every_n_steps=1)],
    "only pans": lambda: [PANMonitor(threshold=0.15, figures=False), PANPenalty(only_pans=True)],
}

# ---- what takes it away


def swapped(module):
    module.net[0] = nn.Conv2d(1, 6, 3, padding=1)


class Adapter(nn.Module):
    """What tools for low-rank adaptation put in the place of a layer."""

    def __init__(self, base):
        super().__init__()
        self.base_layer, self.down, self.up = base, nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 6, 1)

    def forward(self, x):
        return self.base_layer(x) + self.up(self.down(x))


def adapted(module):
    module.net[0] = Adapter(module.net[0])


def rebuilt(module):
    module.net = SmallModule().net


def unhooked(module):
    module.net[0]._forward_hooks.clear()


def without_a_dict(module):
    module.net[0]._forward_hooks = type(module.net[0]._forward_hooks)()


def quantised(module):
    training = module.training
    module.net.train()
    module.net[0].qconfig = get_default_qat_qconfig("fbgemm")
    prepare_qat(module.net, inplace=True)
    module.train(training)


def dropped(module):
    module.net[0] = nn.Identity()
    module.net[3] = nn.Conv2d(1, 6, 3, 2, 1)
    module.net[1] = nn.Identity()


LOSSES = {
    swapped: "it was replaced during training (by a Conv2d)",
    adapted: "it was replaced during training (by a Adapter)",
    rebuilt: "it was replaced during training (by a Conv2d)",
    unhooked: "its forward hooks were removed",
    without_a_dict: "its forward hooks were removed",
    quantised: "it was replaced during training (by a Conv2d)",
    dropped: "it was replaced during training (by a Identity)",
}
HOOKS = [
    "on_train_epoch_start",
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_train_batch_end",
    "on_validation_epoch_start",
    "on_validation_end",
    "on_train_epoch_end",
]


def losing(lose, hook, epoch=1):
    """A module that loses its suppression in a hook of its own."""

    def loses(self, *args):
        if self.current_epoch == epoch and not self.trainer.sanity_checking and not getattr(self, "lost", False):
            self.lost = True
            lose(self)

    return type("Loses", (Module,), {hook: loses})


def assert_refused(tmp_path, module, callbacks, message, epochs=4, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(PANError, match=message):
            fit(tmp_path, module, callbacks, epochs=epochs, **kwargs)
    hooks = [hook for m in module.modules() for hook in m._forward_hooks.values()]
    assert not any(isinstance(hook, (MaskHook, Tap)) for hook in hooks), "hooks are left behind"
    assert "training_step" not in module.__dict__


LOST = [*itertools.product(SUPPRESSIONS, LOSSES)]


@pytest.mark.parametrize("what, lose", sampled(LOST, LOST[::3]))  # each loss twice, each suppression twice or more
def test_a_layer_that_loses_its_suppression_stops_the_run(tmp_path, what, lose):
    message = rf"of layer net\.0 is gone: {re.escape(LOSSES[lose])}.*before fit"
    assert_refused(tmp_path, build(losing(lose, "on_train_epoch_start")), SUPPRESSIONS[what](), message)


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("what", ["mask", "penalty"])
def test_it_stops_whenever_it_is_lost(tmp_path, what, hook):
    module = build(losing(swapped, hook))
    assert_refused(tmp_path, module, SUPPRESSIONS[what](), r"of layer net\.0 is gone: it was replaced")
    lost_after = ("on_train_batch_start", "on_before_zero_grad", "on_train_epoch_start")
    assert module.current_epoch == 1 or hook not in lost_after


@pytest.mark.parametrize("what", ["mask", "penalty", "only pans"])
def test_a_callback_that_takes_it_away_is_found_out_wherever_it_stands(tmp_path, what):
    class Rebuilds(pl.Callback):
        def on_train_epoch_start(self, run, pl_module):
            if run.current_epoch == 1:
                pl_module.net[6] = nn.Conv2d(6, 6, 3, padding=1)

    for order in (1, -1):
        callbacks = [Rebuilds(), *SUPPRESSIONS[what]()][::order]
        assert_refused(tmp_path, build(), callbacks, r"of layer net\.6 is gone: it was replaced")


def test_it_stops_also_in_a_training_step_and_in_manual_optimization(tmp_path):
    class InStep(Manual):
        def training_step(self, batch, batch_idx):
            super().training_step(batch, batch_idx)
            if self.global_step == 2:
                swapped(self)

    for what in ("mask", "penalty"):
        module = build(InStep)
        assert_refused(tmp_path, module, SUPPRESSIONS[what](), r"of layer net\.0 is gone: it was replaced")
        assert module.global_step == 2


def test_a_head_that_grew_or_is_not_suppressed_is_no_offence(tmp_path):
    class Grows(Module):
        def on_train_epoch_start(self):
            if self.current_epoch == 1:
                self.net[3] = nn.Conv2d(6, 6, 3, stride=2, padding=1)
                self.more = nn.Conv2d(6, 6, 3, padding=1)

    for callbacks in ([PANPenalty(layers=["net.0", "mo*", "net.6"][::2])], [monitor(layers="net.0"), PANMask()]):
        module, _ = fit(tmp_path, build(Grows), callbacks, epochs=3)
        assert not any(m._forward_hooks for m in module.modules())


def test_a_layer_that_the_model_grew_is_penalised_from_its_first_step_on(tmp_path):
    seen = []

    class Grows(Module):
        def network(self, x):
            x = self.net[:5](x)
            return self.net[5:](self.more(x) if hasattr(self, "more") else x)

        def on_train_epoch_start(self):
            if self.current_epoch == 1:
                self.more = nn.Conv2d(6, 6, 3, padding=1)

    class Spy(PANPenalty):
        def _added(self, pl_module, loss, take):
            seen.append(sorted(name for name in self._penalty.layers if self._penalty.holds(name)))
            return super()._added(pl_module, loss, take)

    fit(tmp_path, build(Grows), [Spy(**OPTIONS)], epochs=2)
    assert seen == [["net.0", "net.3", "net.6"]] * 3 + [["more", "net.0", "net.3", "net.6"]] * 3


@pytest.mark.parametrize("what", ["mask", "only pans"])
@pytest.mark.parametrize("hook", ["on_train_epoch_start", "on_train_batch_end"])
def test_pans_of_a_layer_that_was_replaced_before_it_was_measured_are_suppressed(tmp_path, what, hook):
    class NothingAtFirst(losing(swapped, hook, epoch=0)):
        def __init__(self):
            super().__init__()
            nn.init.zeros_(self.net[0].weight)

    callbacks = SUPPRESSIONS[what]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit(tmp_path, build(NothingAtFirst), callbacks, epochs=2)
    assert callbacks[0].history[0]["layers"]["net.0"] == 0 < callbacks[0].history[1]["layers"]["net.0"]
    suppressed = callbacks[1].channels if what == "mask" else callbacks[1]._neurons
    assert suppressed["net.0"]


@pytest.mark.parametrize("what", ["mask", "penalty"])
def test_what_is_replaced_before_anything_is_suppressed_is_taken_as_it_is(tmp_path, what):
    callbacks = [PANPenalty(**OPTIONS, start_epoch=2)] if what == "penalty" else [monitor(), PANMask(start_epoch=2)]
    seen = []

    class Looks(losing(swapped, "on_train_epoch_start")):
        def on_train_batch_end(self, *args):
            if self.current_epoch == 2:
                seen.append(channels_replaced(self) if what == "mask" else callbacks[0]._penalty.layers)

    module, _ = fit(tmp_path, build(Looks), callbacks, epochs=3)
    if what == "penalty":
        assert seen == [("net.0", "net.3", "net.6")] * 3
        without, _ = fit(tmp_path, build(losing(swapped, "on_train_epoch_start")), epochs=3)
        assert not torch.equal(module.net[3].weight, without.net[3].weight)
    else:
        assert seen == [callbacks[1].channels] * 3


def test_pans_that_were_found_in_a_layer_as_it_was_are_not_suppressed_in_another(tmp_path):
    class Late(PANMask):
        """Takes what was found only after the layer was replaced."""

    module = build(losing(swapped, "on_train_epoch_end", epoch=0))
    assert_refused(tmp_path, module, [monitor(), Late(start_epoch=1)], r"mask of layer net\.0 is gone: it was replaced")
    module = build(losing(swapped, "on_train_epoch_end", epoch=0))
    callbacks = [monitor(), PANPenalty(only_pans=True, start_epoch=1)]
    assert_refused(tmp_path, module, callbacks, r"PANs that were found in layer net\.0: it was replaced")


def test_channels_that_were_pruned_away_stop_a_mask_and_a_penalty_of_neurons(tmp_path):
    def pruned(module):
        """Takes away the first channel, the layer after it reads zeros in its place."""
        conv = module.net[0]
        conv.weight, conv.bias = (nn.Parameter(p.detach()[1:]) for p in (conv.weight, conv.bias))
        conv.out_channels = 5
        module.net[1] = nn.Sequential(Widens(), module.net[1])

    class Widens(nn.Module):
        def forward(self, x):
            return F.pad(x, (0, 0, 0, 0, 1, 0))

    for what in ("mask", "mask of a report", "only pans"):
        module = build(losing(pruned, "on_train_epoch_start"))
        message = r"of layer net\.0 is gone: it has 5 channels now and had 6"
        assert_refused(tmp_path, module, SUPPRESSIONS[what](), message)


def test_a_report_of_channels_that_are_not_there_is_refused_at_the_start(tmp_path):
    callbacks = [PANMask(report=first_report(build()), start_epoch=1)]
    module = build()
    module.net[0], module.net[3] = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 6, 3, 2, 1)
    module.net[1] = nn.BatchNorm2d(3)
    assert_refused(tmp_path, module, callbacks, "channel . of layer 'net.0', which has 3 channels here")


# ---- what takes nothing away

MOVING = [StochasticWeightAveraging, BackboneFinetuning]
if hasattr(lightning_callbacks, "EMAWeightAveraging"):  # since Lightning 2.6
    MOVING.insert(1, lightning_callbacks.EMAWeightAveraging)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "what, kind",
    sampled(itertools.product(SUPPRESSIONS, MOVING), zip(SUPPRESSIONS, itertools.cycle(MOVING), strict=False)),
)
def test_callbacks_that_copy_swap_or_freeze_weights_take_nothing_away(tmp_path, what, kind):
    class HasBackbone(Module):
        @property
        def backbone(self):
            return self.net[:5]

        def configure_optimizers(self):
            return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], 0.01)

    arguments = {"swa_lrs": 0.01, "swa_epoch_start": 1} if kind is StochasticWeightAveraging else {}
    other = kind(unfreeze_backbone_at_epoch=1) if kind is BackboneFinetuning else kind(**arguments)
    seen = []

    class Looks(pl.Callback):
        def on_train_batch_end(self, run, pl_module, *args):
            mask = next((c for c in callbacks if isinstance(c, PANMask)), None)
            seen.append(mask is None or channels_replaced(pl_module) == mask.channels != {})

    callbacks = SUPPRESSIONS[what]()
    _, run = fit(tmp_path, build(HasBackbone), [*callbacks, other, Looks()], epochs=3)
    assert len(seen) >= 9 and all(seen)
    if not any(isinstance(c, PANMask) for c in callbacks):
        assert float(run.callback_metrics["pan_penalty/weight"]) == pytest.approx(0.1)


def test_layers_that_are_unfrozen_later_are_penalised_then_and_told_until_then(tmp_path):
    class Thaws(Module):
        def on_fit_start(self):
            self.net[0].requires_grad_(False)

        def on_train_epoch_start(self):
            if self.current_epoch == 1:
                self.net[0].requires_grad_(True)

    with pytest.warns(UserWarning, match=r"no penalty for 1 layers \(net\.0: frozen"):
        thawed, _ = fit(tmp_path, build(Thaws), [PANPenalty(**OPTIONS)], epochs=2)
    explicit, _ = fit(tmp_path, build(Thaws, True), epochs=2)
    assert_same_weights(thawed, explicit)


def test_a_backward_pass_past_the_penalty_is_seen_also_of_layers_that_were_unfrozen_later(tmp_path):
    class Thaws(Manual):
        def on_train_batch_start(self, batch, batch_idx):
            self.requires_grad_(batch_idx > 0)

        def training_step(self, batch, batch_idx):
            loss = F.cross_entropy(self.network(batch[0].requires_grad_()), batch[1])
            if batch_idx == 0:
                return
            loss.backward()

    assert_refused(tmp_path, build(Thaws), [PANPenalty(**OPTIONS)], r"call self.manual_backward\(loss\) instead")


# ---- compiled before


def by_submodule(module):
    module.net = torch.compile(module.net, backend="eager")
    return module.net


def by_method(module):
    object.__setattr__(module, "fast", torch.compile(module.net.forward, backend="eager"))
    type(module).network = lambda self, x: self.fast(x)
    return module.fast


def in_place(module):
    module.net.compile(backend="eager")
    return module.net


def by_function(module):
    """Held nowhere in the model."""
    network = torch.compile(lambda x: net(x), backend="eager")
    net = module.net
    type(module).network = lambda self, x: network(x)
    return network


@pytest.mark.parametrize("compiled", [by_submodule, by_method, in_place, by_function])
def test_a_mask_on_a_model_that_was_compiled_and_run_before_holds_or_stops_the_run(tmp_path, compiled):
    def made():
        return build(type("Compiled", (Module,), {}))

    report = first_report(build())
    expected, _ = fit(tmp_path, made(), [PANMask(report=report)], epochs=1)
    torch.compiler.reset()
    module = made()
    module.train()
    state = copy.deepcopy(module.state_dict())
    network = compiled(module)
    for rows in (16, 16):
        network(dataset(16)[:][0][:rows])
    module.load_state_dict(
        {
            (key if key in module.state_dict() else key.replace("net.", "net._orig_mod.")): value
            for key, value in state.items()
        }
    )
    if compiled is by_function:
        with pytest.raises(PANError, match=r"gradients reach layer net\.\d without its mask.*compiler.reset"):
            fit(tmp_path, module, [PANMask(report=report)], epochs=1)
        torch.compiler.reset()
    fit(tmp_path, module, [PANMask(report=report)], epochs=1)
    for one, two in zip(expected.parameters(), module.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)


# ---- fits one after another, and evaluations


def test_a_second_fit_goes_on_with_the_masks_of_the_first(tmp_path):
    callbacks = [monitor(), PANMask(refresh="once")]
    module, _ = fit(tmp_path, build(), callbacks, epochs=1)
    first, seen = callbacks[1].channels, []

    class Looks(pl.Callback):
        def on_train_batch_end(self, run, pl_module, *args):
            seen.append(channels_replaced(pl_module))

    fit(tmp_path, module, [*callbacks, Looks()], epochs=1)
    assert seen == [first] * 3 and first


def test_a_second_fit_forgets_the_masks_of_layers_that_were_replaced_and_says_so(tmp_path):
    callbacks = [monitor(), PANMask(refresh="once")]
    module, _ = fit(tmp_path, build(), callbacks, epochs=1)
    kept = {name: channels for name, channels in callbacks[1].channels.items() if name != "net.0"}
    assert "net.0" in callbacks[1].channels and kept
    swapped(module)
    with pytest.warns(UserWarning, match=r"forgets the masks of layers that were replaced: 'net\.0'"):
        fit(tmp_path, module, [callbacks[1], monitor()], epochs=1)
    assert callbacks[1].channels == kept


@pytest.mark.parametrize("refresh", ["once", "epoch"])
def test_a_model_that_is_configured_anew_for_every_fit_has_masks_in_every_fit(tmp_path, refresh):
    class Configured(Module):
        def configure_model(self):
            torch.manual_seed(len(masked))
            self.net = SmallModule().net

        def on_train_batch_end(self, *args):
            masked[-1].append(channels_replaced(self))

    report = first_report(build())
    for make in (lambda: [PANMask(report=report, refresh=refresh)], lambda: [PANMask(refresh=refresh)]):
        masked: list = []
        module, callbacks = build(Configured), make()
        for _ in range(2):
            masked.append([])
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                fit(tmp_path, module, [*callbacks, monitor()], epochs=1)
            assert len(masked[-1]) == 3 and all(found == callbacks[0].channels != {} for found in masked[-1])
        assert masked[0] == masked[1] or callbacks[0].report is None


def test_callbacks_are_pickled_and_copied_after_a_fit(tmp_path):
    callbacks = [PANMask(), PANPenalty()]
    module, _ = fit(tmp_path, build(), [monitor(), *callbacks], epochs=1)
    for twin in (pickle.loads(pickle.dumps(callbacks)), copy.deepcopy(callbacks)):
        assert twin[0].channels == callbacks[0].channels != {}
        _, run = fit(tmp_path, module, [monitor(), *twin], epochs=1)
        assert float(run.callback_metrics["pan_mask/channels"]) > 0


def test_only_pans_of_another_model_are_forgotten_in_a_second_fit(tmp_path):
    penalty = PANPenalty(only_pans=True)
    fit(tmp_path, build(), [monitor(), penalty], epochs=1)
    assert "net.0" in penalty._neurons

    class Other(Module):
        def __init__(self):
            super().__init__()
            self.body = self.net
            del self.net

        def network(self, x):
            return self.body(x)

        def validation_step(self, batch, batch_idx):
            self.body(batch[0])

    fit(tmp_path, build(Other), [monitor(), penalty], epochs=1)
    assert penalty._neurons and all(name.startswith("body.") for name in penalty._neurons)


def test_an_evaluation_of_a_changed_model_is_refused(tmp_path):
    mask = PANMask()
    module, _ = fit(tmp_path, build(), [monitor(), mask], epochs=1)
    swapped(module)
    with pytest.raises(PANError, match=r"masks of layers that were replaced \('net\.0'\)"):
        trainer(tmp_path, [mask]).validate(module, loaders()[1], verbose=False)


def test_an_evaluation_that_runs_another_network_is_refused(tmp_path):
    class HasAverage(Module):
        def test_step(self, batch, batch_idx):
            self.average(batch[0])

        def predict_step(self, batch, batch_idx):
            return self.average(batch[0])

    module = build(HasAverage)
    module.average = copy.deepcopy(module.net)
    mask = PANMask(report=first_report(build()))
    with pytest.raises(PANError, match="PANMask masks 'net.0', .*none of these layers ran"):
        trainer(tmp_path, [mask]).test(module, loaders()[1], verbose=False)
    with pytest.raises(PANError, match="the figures are those of a model without masks"):
        trainer(tmp_path, [mask]).predict(module, loaders()[1])
    trainer(tmp_path, [mask]).validate(module, loaders()[1], verbose=False)
    trainer(tmp_path, [PANMask(report=first_report(build())), monitor()]).validate(module, loaders()[1], verbose=False)


# ---- only_pans with a glob


def test_pans_outside_the_glob_are_told(tmp_path):
    watched = monitor()
    with pytest.warns(UserWarning, match=r"nothing to penalise: no PAN was found in layers='net\.6', but in 'net\.0'"):
        fit(tmp_path, build(NoPansIn6), [watched, PANPenalty(only_pans=True, layers="net.6")], epochs=1)


class NoPansIn6(Module):
    """Its last convolution answers the same everywhere."""

    def __init__(self):
        super().__init__()
        nn.init.zeros_(self.net[6].weight)


def test_a_glob_of_layers_that_the_monitor_does_not_measure_is_refused(tmp_path):
    callbacks = [monitor(layers="net.0"), PANPenalty(only_pans=True, layers="net.6")]
    assert_refused(tmp_path, build(), callbacks, r"layers='net\.6', of which the PANMonitor measures none.*'net\.0'")


def test_a_glob_takes_its_part_of_the_pans(tmp_path):
    penalty = PANPenalty(only_pans=True, layers="net.0", every_n_steps=1)
    seen = []

    class Looks(Module):
        def on_train_batch_start(self, *args):
            seen.append([name for name, tap in penalty._penalty._taps.items() if tap.wanted])

    fit(tmp_path, build(Looks), [monitor(), penalty], epochs=1)
    assert seen == [["net.0"]] * 3


@pytest.mark.filterwarnings("ignore")
def test_a_run_with_all_of_them_leaves_the_same_weights_as_one_that_is_watched(tmp_path):
    """What looks whether suppression is there changes nothing."""
    saves = ModelCheckpoint(tmp_path, monitor="pan_mask/channels", mode="min")
    report = first_report(build())
    one, _ = fit(tmp_path, build(), [PANMask(report=report), PANPenalty(weight=0.0)])
    two, _ = fit(tmp_path, build(), [PANMask(report=report), saves], enable_checkpointing=True)
    assert_same_weights(one, two)
    assert_same_parameters(one, two)
