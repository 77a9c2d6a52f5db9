"""PaddingDropout on Trainers: the same as the context around the loop, resumed exactly, lost never in silence."""

from __future__ import annotations

import copy
import itertools
import pickle
import warnings

import lightning.pytorch as other_pl
import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader

from pan_callbacks import PaddingDropout, PANError, PANMask, PANMonitor, PANPenalty, padding_dropout
from pan_callbacks.suppression.dropout import DropoutHook
from tests.callbacks.test_lost_suppression import LOSSES, losing, swapped
from tests.callbacks.test_suppression import Manual, Module, assert_same_weights, build, first_report, fit
from tests.support.lightning_models import SmallModule, dataset, loaders, trainer


def hooks_of(module):
    hooks = (hook for m in module.modules() for hook in m._forward_hooks.values())
    return [hook for hook in hooks if isinstance(hook, DropoutHook)]


def test_training_with_it_equals_training_in_the_context_and_differs_from_training_without(tmp_path):
    by_callback, run = fit(tmp_path, build(), [PaddingDropout()])
    module, without = build(), fit(tmp_path, build())[0]
    with padding_dropout(module):
        fit(tmp_path, module)
    assert_same_weights(by_callback, module)
    assert not torch.equal(by_callback.net[0].weight, without.net[0].weight)
    assert float(run.callback_metrics["pan_dropout/p"]) == 0.5
    assert not hooks_of(by_callback) and list(module.state_dict()) == list(build().state_dict())


def test_always_neutral_equals_training_with_reflected_padding(tmp_path):
    dropped, _ = fit(tmp_path, build(), [PaddingDropout(1.0)], epochs=1)
    reflected = build()
    for conv in (reflected.net[0], reflected.net[3], reflected.net[6]):
        conv.padding_mode = "reflect"
    fit(tmp_path, reflected, epochs=1)
    for one, two in zip(dropped.parameters(), reflected.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("library", [pl, other_pl])
def test_both_namespaces_train_with_it_and_evaluate_without(tmp_path, library):
    class Ours(library.LightningModule):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.Flatten(), nn.Linear(768, 3))

        def training_step(self, batch, batch_idx):
            assert not torch.equal(self.net[0](batch[0]), self.net[0].forward(batch[0]))
            return F.cross_entropy(self.net(batch[0]), batch[1])

        def validation_step(self, batch, batch_idx):
            assert torch.equal(self.net[0](batch[0]), self.net[0].forward(batch[0]))

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.01)

    run = trainer(tmp_path, [PaddingDropout(layers="net.*")], 1, library)
    run.fit(Ours(), *loaders())
    assert run.state.finished


def test_it_begins_with_its_epoch_and_is_logged_until_then_as_zero(tmp_path):
    seen, logged = [], []

    class Looks(pl.Callback):
        def on_train_batch_end(self, run, module, *args):
            seen.append(hooks_of(module)[0].chance.on)

        def on_train_epoch_end(self, run, module):
            logged.append(float(run.callback_metrics.get("pan_dropout/p", -1)))

    late, run = fit(tmp_path, build(), [PaddingDropout(start_epoch=1), Looks()], epochs=3)
    assert seen == [False] * 3 + [True] * 6
    assert float(run.callback_metrics["pan_dropout/p"]) == 0.5
    never, run = fit(tmp_path, build(), [PaddingDropout(start_epoch=9)], epochs=1)
    assert_same_weights(never, fit(tmp_path, build(), epochs=1)[0])
    assert float(run.callback_metrics["pan_dropout/p"]) == 0


def test_a_resumed_run_leaves_the_weights_of_one_in_one_go(tmp_path):
    class Seeded(Module):
        """Draws of a step are those of its number, whatever was drawn before."""

        def on_train_batch_start(self, *args):
            torch.manual_seed(self.global_step)

    def trained(callbacks, epochs, **kwargs):
        module = build(Seeded)
        run = trainer(tmp_path, callbacks, epochs, num_sanity_val_steps=0, enable_checkpointing=True)
        run.fit(module, DataLoader(dataset(48), batch_size=16), **kwargs)
        return module

    whole = trained([PaddingDropout(start_epoch=1)], 4)
    trained([PaddingDropout(start_epoch=1), ModelCheckpoint(tmp_path, save_last=True)], 2)
    resumed = trained([PaddingDropout(start_epoch=1), ModelCheckpoint()], 4, ckpt_path=tmp_path / "last.ckpt")
    assert_same_weights(whole, resumed)
    assert not torch.equal(whole.net[0].weight, trained([], 4).net[0].weight)


def test_monitor_mask_penalty_and_dropout_do_the_same_in_any_order(tmp_path):
    report, outcomes = first_report(build()), []
    for order in itertools.permutations(range(4)):
        if order not in {(0, 1, 2, 3), (3, 2, 1, 0), (1, 3, 0, 2), (2, 0, 3, 1)}:
            continue
        monitor = PANMonitor(threshold=0.3, figures=False)
        callbacks = [monitor, PANMask(report=report), PANPenalty(every_n_steps=1), PaddingDropout()]
        module, _ = fit(tmp_path, build(), [callbacks[i] for i in order], epochs=1)
        outcomes.append((module, monitor.history))
    for module, history in outcomes[1:]:
        for one, two in zip(outcomes[0][0].parameters(), module.parameters(), strict=True):
            torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)
        for entry, other in zip(history, outcomes[0][1], strict=True):
            assert (entry["count"], entry["layers"]) == (other["count"], other["layers"])


def test_the_monitor_sees_the_plain_network(tmp_path):
    """With a step size of nothing the network stays as it was, and so do its PANs."""

    class Rests(Module):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.0)

    monitors = [PANMonitor(threshold=0.3, figures=False) for _ in range(2)]
    for monitor, others in zip(monitors, ([], [PaddingDropout(1.0)]), strict=True):
        module = build(Rests)
        module.net[1] = nn.Identity()  # batch norm would follow what it sees in training
        fit(tmp_path, module, [monitor, *others], epochs=1)
    one, two = (monitor.report.contrast("net.0") for monitor in monitors)
    assert torch.equal(one.nan_to_num(9), two.nan_to_num(9)) and monitors[0].history == monitors[1].history


@pytest.mark.parametrize("lose", LOSSES)
def test_a_layer_that_loses_its_hooks_stops_the_run(tmp_path, lose):
    module = build(losing(lose, "on_train_epoch_start"))
    with pytest.raises(PANError, match=r"PaddingDropout has lost layer net\.0: .*before fit"):
        fit(tmp_path, module, [PaddingDropout()], epochs=3)
    assert not hooks_of(module)


def test_layers_that_came_before_it_begins_are_taken_up(tmp_path):
    swaps, seen = losing(swapped, "on_train_epoch_start"), []

    class Looks(pl.Callback):
        def on_train_batch_end(self, run, module, *args):
            if run.current_epoch == 2:
                x = dataset(16)[:][0]
                seen.append(not torch.equal(module.net[0](x), module.net[0].forward(x)))

    fit(tmp_path, build(swaps), [PaddingDropout(1.0, start_epoch=2), Looks()], epochs=3)
    assert seen == [True] * 3


def test_it_holds_in_manual_optimization_and_comes_off_after_an_exception(tmp_path):
    assert not torch.equal(
        fit(tmp_path, build(Manual), [PaddingDropout()])[0].net[0].weight, fit(tmp_path, build(Manual))[0].net[0].weight
    )

    class Fails(Module):
        def on_train_batch_end(self, *args):
            assert hooks_of(self)
            raise KeyError("theirs")

    module = build(Fails)
    with pytest.raises(KeyError):
        fit(tmp_path, module, [PaddingDropout()])
    assert not any(m._forward_hooks for m in module.modules())


def test_a_model_compiled_and_run_before_fit_is_compiled_anew_or_refused(tmp_path):
    torch.compiler.reset()
    module = build()
    module.net.compile(backend="eager")
    module.net(dataset(16)[:][0])
    fit(tmp_path, module, [PaddingDropout(1.0)], epochs=1)
    plain, _ = fit(tmp_path, build(), [PaddingDropout(1.0)], epochs=1)
    for one, two in zip(module.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)

    torch.compiler.reset()
    module = build(type("Compiled", (Module,), {}))
    net = module.net
    network = torch.compile(lambda x: net(x), backend="eager")
    type(module).network = lambda self, x: network(x)
    for _ in range(2):
        network(dataset(16)[:][0])
    with pytest.raises(PANError, match=r"gradients reach layer net\.\d, whose hook of PaddingDropout did not run"):
        fit(tmp_path, module, [PaddingDropout()], epochs=1)
    torch.compiler.reset()


@pytest.mark.parametrize("fed", [False, True])
def test_a_model_without_padding_trains_on_and_is_told_once(tmp_path, fed):
    def made():
        module = SmallModule("reflect")
        if fed:  # a pad that feeds no convolution
            module.net[4] = nn.Sequential(nn.ZeroPad2d(1), nn.MaxPool2d(3, 1))
            module.net[6] = nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(6, 6, 3))
        return module

    plain, _ = fit(tmp_path, build(made))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        module, _ = fit(tmp_path, build(made), [PaddingDropout()])
    assert_same_weights(plain, module)
    assert sum("PaddingDropout has nothing to do" in str(w.message) for w in caught) == 1


def test_bad_arguments_are_named(tmp_path):
    for arguments, match in (({"p": 2}, "p=2"), ({"start_epoch": -1}, "start_epoch=-1"), ({"per": "x"}, "per='x'")):
        with pytest.raises(ValueError, match=match):
            PaddingDropout(**arguments)
    with pytest.raises(PANError, match="layers='stem' matches none"):
        fit(tmp_path, build(), [PaddingDropout(layers="stem")])


def test_two_log_apart_and_all_are_pickled_and_copied(tmp_path):
    callbacks = [PaddingDropout(0.25, "net.0"), PaddingDropout(0.75, "net.3")]
    with pytest.warns(UserWarning, match="2 callbacks PaddingDropout"):
        _, run = fit(tmp_path, build(), callbacks, epochs=1)
    logged = {name: float(value) for name, value in run.callback_metrics.items() if "dropout" in name}
    assert logged == {"pan_dropout/p": 0.25, "pan_dropout2/p": 0.75}
    for twins in (pickle.loads(pickle.dumps(callbacks)), copy.deepcopy(callbacks)):
        module, _ = fit(tmp_path, build(), twins[:1], epochs=1)
        assert not hooks_of(module) and twins[0].p == 0.25
