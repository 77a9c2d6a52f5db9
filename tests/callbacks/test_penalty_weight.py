"""The weight of the penalty: where it stands at each batch, when it has settled, and when it is too much."""

from __future__ import annotations

import math
import re
import warnings
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.cli import LightningCLI
from torch.utils.data import DataLoader, IterableDataset

from pan_callbacks import PANError, PANPenalty, Schedule
from pan_callbacks.callbacks._outweighed import Outweighed
from tests.callbacks.test_suppression import Manual, Module, TwoOptimizers, assert_same_weights, build, fit
from tests.support.lightning_models import SmallModule, dataset, loaders, trainer

BATCHES = 3  # in an epoch of fit
TOO_MUCH = "outweighs the task"


class Spy(PANPenalty):
    """Keeps the weight of each batch, and whether it had settled."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **{"every_n_steps": 1, **kwargs})
        self.weights, self.were_settled = [], []

    def on_train_batch_end(self, *args):
        super().on_train_batch_end(*args)
        self.weights.append(self._weight_now)
        self.were_settled.append(self.settled)


class Stream(IterableDataset):
    """A loader of this has no length."""

    def __iter__(self):
        return iter(dataset(16 * BATCHES))


def spied(tmp_path, spy, kind=Module, **options):
    fit(tmp_path, build(kind), [spy], **options)
    return spy


def said(caught, words=TOO_MUCH):
    return [str(w.message) for w in caught if words in str(w.message)]


# --- schedules ------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Schedule(0.4, "constant"), {0: 0.4, 0.3: 0.4, 1: 0.4}),
        (Schedule(0.4, "constant", start=0.75), {0: 0, 0.74: 0, 0.75: 0.4, 1: 0.4}),
        (Schedule(0.4, "linear"), {0: 0, 0.125: 0.1, 0.25: 0.2, 0.5: 0.4, 0.9: 0.4}),
        (Schedule(0.4, "linear", 0.6, 0.2), {0.1: 0, 0.2: 0, 0.3: 0.1, 0.5: 0.3, 0.6: 0.4, 1: 0.4}),
        (Schedule(0.4, "cosine", 1.0), {0: 0, 1 / 3: 0.1, 0.5: 0.2, 2 / 3: 0.3, 1: 0.4}),
        (Schedule(0.4, "linear", 0.5, 0.5), {0.49: 0, 0.5: 0.4}),
        (Schedule(0.4, "cosine", 0.0), {0: 0.4, 1: 0.4}),
        (Schedule(0.0), {0: 0, 1: 0}),
    ],
)
def test_a_schedule_gives_the_weights_that_its_shape_says(schedule, expected):
    for progress, weight in expected.items():
        assert schedule(progress) == pytest.approx(weight, abs=1e-12)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"weight": -1.0}, "weight=-1.0"),
        ({"weight": math.inf}, "weight=inf"),
        ({"shape": "step"}, "shape='step' is unknown; choose one of constant, linear, cosine"),
        ({"until": 1.5}, "until=1.5"),
        ({"start": -0.1}, "start=-0.1"),
        ({"until": math.nan}, "until=nan"),
        ({"start": 0.6}, "start=0.6 is after until=0.5"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        Schedule(**arguments)


@pytest.mark.parametrize("weight", ["0.1", None, [0.1], -0.1, math.inf])
def test_a_weight_that_is_neither_number_nor_function_is_refused(weight):
    with pytest.raises(ValueError, match=re.escape(f"weight={weight!r}")):
        PANPenalty(weight=weight)


# --- the weight at each batch ------------------------------------------------


def test_progress_goes_by_batches_of_all_epochs(tmp_path):
    spy = spied(tmp_path, Spy(Schedule(0.6)), epochs=4)
    assert spy.weights == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5] + [0.6] * 6)
    assert spy.were_settled == [False] * 6 + [True] * 6


def test_accumulation_changes_nothing_where_epochs_end_the_training(tmp_path):
    spy = spied(tmp_path, Spy(Schedule(0.6)), epochs=4, accumulate_grad_batches=2)
    assert spy.weights == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5] + [0.6] * 6)


def test_steps_of_the_optimizer_count_where_max_steps_ends_the_training(tmp_path):
    spy = spied(tmp_path, Spy(lambda p: 6 * p), epochs=None, max_steps=6, accumulate_grad_batches=2)
    assert spy.weights == pytest.approx([0, 0, 1, 2, 2, 3, 4, 4, 5])  # the third batch of an epoch is a step alone


@pytest.mark.parametrize(("max_steps", "all_batches"), [(4, 4), (12, 6)])
def test_of_epochs_and_steps_the_one_that_ends_the_training_counts(tmp_path, max_steps, all_batches):
    spy = spied(tmp_path, Spy(lambda p: p), epochs=2, max_steps=max_steps)
    assert spy.weights == pytest.approx([batch / all_batches for batch in range(all_batches)])


def test_limits_of_batches_shorten_the_training(tmp_path):
    assert spied(tmp_path, Spy(lambda p: p), epochs=2, limit_train_batches=2).weights == [0, 0.25, 0.5, 0.75]


def test_manual_optimization_has_the_steps_of_all_its_optimizers(tmp_path):
    spy = spied(tmp_path, Spy(lambda p: 12 * p), TwoOptimizers, epochs=None, max_steps=12)
    assert spy.weights == pytest.approx([0, 2, 4, 6, 8, 10])


def test_a_loader_without_length_goes_by_whole_epochs_and_says_so_or_by_max_steps(tmp_path):
    seen = {}
    for name, limits in {"epochs": {"epochs": 4}, "steps": {"epochs": None, "max_steps": 6}}.items():
        spy = Spy(Schedule(0.6))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            trainer(tmp_path, [spy], num_sanity_val_steps=0, **limits).fit(build(), DataLoader(Stream(), batch_size=16))
        seen[name] = spy.weights
        told = said(caught, "no length, so PANPenalty's schedule goes in steps of whole epochs")
        assert len(told) == (name == "epochs")
    assert seen["epochs"] == pytest.approx([0] * 3 + [0.3] * 3 + [0.6] * 6)
    assert seen["steps"] == pytest.approx([0, 0.2, 0.4, 0.6, 0.6, 0.6])


def test_a_schedule_a_start_and_a_warmup_multiply(tmp_path):
    spy = spied(tmp_path, Spy(Schedule(0.9, "constant", start=0.5), start_epoch=1, warmup_epochs=3), epochs=4)
    assert spy.weights == pytest.approx([0] * 6 + [0.3, 0.4, 0.5, 0.6, 0.7, 0.8])
    assert not any(spy.were_settled)


class Scheduled(Module):
    """Adds the penalty itself, with the weight of ``Schedule(0.6)`` in four epochs of three batches."""

    def with_penalty(self, loss):
        weight = min(0.6, 0.1 * self.trainer.fit_loop.total_batch_idx)
        if self.explicit is not None and weight == 0:
            self.explicit.begin(0)  # forgets this forward
        return loss if self.explicit is None or weight == 0 else loss + weight * self.explicit()


class ScheduledManual(Scheduled, Manual):
    pass


class ScheduledTwo(Scheduled, TwoOptimizers):
    pass


@pytest.mark.parametrize(
    ("kind", "options"),
    [(Scheduled, {"accumulate_grad_batches": 2}), (ScheduledManual, {}), (ScheduledTwo, {})],
)
def test_gradients_are_those_of_an_explicit_loss_with_the_weight_of_the_schedule(tmp_path, kind, options):
    explicit, _ = fit(tmp_path, build(kind, True), epochs=4, **options)
    added, _ = fit(tmp_path, build(kind), [PANPenalty(Schedule(0.6), every_n_steps=1)], 4, **options)
    without, _ = fit(tmp_path, build(kind), epochs=4, **options)
    for (name, a), b in zip(explicit.state_dict().items(), added.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7, msg=name)  # weights differ in the last bit of a double
    assert not torch.allclose(without.net[0].weight, added.net[0].weight, rtol=1e-2)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("spy", "limits"),
    [
        (lambda: Spy(Schedule(0.6)), {"epochs": 4}),
        (lambda: Spy(Schedule(0.6, until=0.7)), {"epochs": None, "max_steps": 7, "accumulate_grad_batches": 2}),
        (lambda: Spy(lambda p: p**2), {"epochs": 3, "max_steps": 11}),
        (lambda: Spy(0.3, start_epoch=1, warmup_epochs=2), {"epochs": 4}),
    ],
)
def test_a_resumed_run_has_the_weights_of_the_run_in_one_go(tmp_path, spy, limits):
    whole = spy()
    saves = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, every_n_train_steps=1)
    run = trainer(tmp_path, [whole, saves], num_sanity_val_steps=0, enable_checkpointing=True, **limits)
    run.fit(build(), loaders()[0])
    files = sorted(tmp_path.glob("*.ckpt"), key=lambda file: file.stat().st_mtime_ns)
    assert len(files) >= 5
    for file in files[:-1]:
        passed = torch.load(file, weights_only=True)["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["ready"]
        resumed = spy()
        again = trainer(tmp_path, [resumed], num_sanity_val_steps=0, **limits)
        again.fit(build(), loaders()[0], ckpt_path=file, weights_only=True)
        assert resumed.weights == whole.weights[passed:] and resumed.were_settled == whole.were_settled[passed:]


def test_a_checkpoint_says_whether_the_weight_has_settled_before_the_next_step(tmp_path):
    first, second = PANPenalty(Schedule(0.1)), PANPenalty(Schedule(0.1))
    _, run = fit(tmp_path, build(), [first], epochs=2)
    run.save_checkpoint(tmp_path / "end.ckpt")
    assert not second.settled
    again = trainer(tmp_path, [second], 2, num_sanity_val_steps=0)
    again.fit(build(), *loaders(), ckpt_path=tmp_path / "end.ckpt", weights_only=True)  # nothing is left to train
    assert second.settled


# --- what is no weight ------------------------------------------------


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -0.25, None, "0.1", torch.ones(2)])
@pytest.mark.parametrize("at", [0.0, 0.5, 1.0])
def test_a_schedule_that_gives_no_weight_is_refused_before_training(tmp_path, wrong, at):
    module, penalty = build(), PANPenalty(lambda p: wrong if p == at else 0.1)
    words = re.escape(f"gave {wrong!r} at progress {at:.4g}")
    with pytest.raises(PANError, match=words):
        fit(tmp_path, module, [penalty])
    assert_same_weights(module, build())


def test_a_schedule_that_gives_no_weight_later_is_refused_there(tmp_path):
    seen = Spy(lambda p: -1 if 0.3 < p < 0.4 else p)
    module = build()
    with pytest.raises(PANError, match=r"gave -1 at progress 0.3333; a weight is a finite number from 0 on"):
        fit(tmp_path, module, [seen])
    assert seen.weights == pytest.approx([0, 1 / 6]) and "training_step" not in module.__dict__


@pytest.mark.parametrize("kind", [np.float32, torch.tensor, int])
def test_numbers_of_other_kinds_are_weights(tmp_path, kind):
    assert spied(tmp_path, Spy(lambda p: kind(2)), epochs=1).weights == [2.0] * BATCHES


@pytest.mark.parametrize("limits", [{"max_epochs": -1}, {"epochs": None, "max_time": timedelta(seconds=1)}])
def test_a_training_without_an_end_has_no_progress(tmp_path, limits):
    def run(weight):
        options = {"epochs": 2, "num_sanity_val_steps": 0, **limits}
        spy, stop = Spy(weight), StopsAfter(4)
        trainer(tmp_path, [spy, stop], **options).fit(build(), loaders()[0])
        return spy.weights

    for weight in (Schedule(), lambda p: 0.1):
        with pytest.raises(PANError, match="does not say where it ends: give it max_epochs or max_steps"):
            run(weight)
    assert set(run(0.2)) == {0.2}


class StopsAfter(pl.Callback):
    def __init__(self, batches):
        self.batches = batches

    def on_train_batch_end(self, trainer, *args):
        trainer.should_stop = trainer.fit_loop.total_batch_idx + 1 >= self.batches


# --- when the weight has settled ------------------------------------------------


@pytest.mark.parametrize(
    ("penalty", "options", "unsettled"),
    [
        (lambda: Spy(0.1), {"epochs": 2}, 0),
        (lambda: Spy(0.1, start_epoch=1), {"epochs": 2}, 3),
        (lambda: Spy(0.1, start_epoch=1, warmup_epochs=1), {"epochs": 3}, 6),
        (lambda: Spy(Schedule(until=0.5)), {"epochs": 2}, 3),
        (lambda: Spy(Schedule(shape="constant", start=0.25)), {"epochs": 4}, 3),
        (lambda: Spy(lambda p: 0.1), {"epochs": 3}, 6),
        (lambda: Spy(lambda p: 0.1), {"epochs": None, "max_steps": 9}, 6),
        (lambda: Spy(lambda p: 0.1), {"epochs": None, "max_steps": 8}, 5),  # the last validation is that of epoch 1
        (lambda: Spy(lambda p: 0.1), {"epochs": None, "max_steps": 6, "accumulate_grad_batches": 2}, 6),
    ],
)
def test_a_weight_settles_where_it_is_the_last_one(tmp_path, penalty, options, unsettled):
    were = spied(tmp_path, penalty(), **options).were_settled
    assert were == [False] * unsettled + [True] * (len(were) - unsettled) and any(were)


def test_whether_it_has_settled_is_logged_at_the_end_of_each_epoch(tmp_path):
    logged = []

    class Looks(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            logged.append(float(trainer.callback_metrics["pan_penalty/settled"]))

    fit(tmp_path, build(), [PANPenalty(Schedule(until=0.5)), Looks()], epochs=4)
    assert logged == [0, 0, 1, 1]


def test_the_callbacks_of_the_page_judge_no_network_before(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "suppression.md").read_text(encoding="utf-8")
    code = next(code for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "class OnceSettled" in code)
    names: dict = {}
    exec(code, names)

    class GetsWorse(Module):
        def validation_step(self, batch, batch_idx):
            self.log("val_loss", float(self.current_epoch))

    def run(checkpoint, stopping):
        saves = checkpoint(tmp_path, monitor="val_loss", filename="{epoch}")
        callbacks = [PANPenalty(Schedule(until=0.5)), stopping("val_loss", patience=1), saves]
        _, run = fit(tmp_path, build(GetsWorse), callbacks, epochs=6, enable_checkpointing=True)
        return Path(saves.best_model_path).stem.split("-")[0], run.current_epoch

    assert run(ModelCheckpoint, EarlyStopping) == ("epoch=0", 2)
    assert run(names["SettledCheckpoint"], names["SettledStopping"]) == ("epoch=3", 5)


# --- a penalty that outweighs the task ------------------------------------------------


def warned(tmp_path, weight, kind=Module, epochs=2, **options):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(tmp_path, build(kind), [PANPenalty(weight, **{"every_n_steps": 1, **options})], epochs)
    return said(caught)


@pytest.mark.parametrize("kind", [Module, Manual, TwoOptimizers])
@pytest.mark.parametrize("every", [1, 2])
def test_a_penalty_ten_times_the_loss_is_said_once_with_a_weight_that_is_not(tmp_path, kind, every):
    told = warned(tmp_path, 1e4, kind, epochs=3, every_n_steps=every)
    assert len(told) == 1
    weight = float(re.search(r"PANPenalty\(weight=([\d.e+-]+)\)", told[0])[1])
    assert 0 < weight < 1e3
    assert warned(tmp_path, weight, kind, every_n_steps=every) == []


def test_the_default_weight_is_not_said_to_be_too_much(tmp_path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(tmp_path, build(), [PANPenalty()], 4)
    assert said(caught) == []


@pytest.mark.parametrize("factor", [0.0, math.nan, math.inf])
def test_losses_that_say_nothing_of_the_ratio_are_no_reason_to_warn(tmp_path, factor):
    class Odd(Module):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) * factor

    assert warned(tmp_path, 1e4, Odd, 1) == []


def test_a_negative_loss_counts_by_its_size(tmp_path):
    class Negative(Module):
        def training_step(self, batch, batch_idx):
            return -1e6 + super().training_step(batch, batch_idx)

    assert warned(tmp_path, 1e4, Negative, 1) == []


def told_after(values, epoch_ends=()):
    """At which steps something was said, and what, of (loss, penalty, weight) in each step."""
    outweighed, found = Outweighed(), []
    for step, backward in enumerate(values, 1):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for loss, penalty, weight in backward:
                outweighed.add(torch.tensor(loss), None if penalty is None else torch.tensor(penalty), weight)
            outweighed.end_step(True)
            if step in epoch_ends:
                outweighed.end_epoch(True)
        found += [(step, str(w.message)) for w in caught]
    return found


def test_both_numbers_and_the_weight_of_a_tenth_are_named():
    steps = [[(2.0, 30.0, 1.0)], [(-4.0, 50.0, 1.0)]]  # 3 and 40 on average: 0.1 * 3 = 0.0075 * 40
    ((step, message),) = told_after(steps, [2])
    assert step == 2 and "was 40 on average over 2 steps" in message
    assert "own loss 3. " in message and "PANPenalty(weight=0.0075)" in message


def test_ten_times_the_loss_is_no_offence_and_more_is():
    assert told_after([[(2.0, 40.0, 0.5)]] * 3, [3]) == []
    assert len(told_after([[(2.0, 40.5, 0.5)]] * 3, [3])) == 1


def test_a_long_epoch_is_looked_at_after_twenty_steps_with_a_penalty():
    due, between = [(1.0, 20.0, 1.0)], [(1.0, None, 1.0)]
    assert [step for step, _ in told_after([due, between] * 60, [120])] == [39]


def test_an_average_hides_single_steps_and_a_later_epoch_is_its_own():
    light, heavy = [(1.0, 1.0, 1.0)], [(1.0, 50.0, 1.0)]
    assert told_after([light] * 19 + [heavy], [20]) == []
    assert [step for step, _ in told_after([light] * 30 + [heavy] * 30, [30, 60])] == [60]


def test_a_loss_that_runs_away_hides_no_penalty():
    steps = [[(1.0, 50.0, 10.0)], [(1e9, 50.0, 10.0)], [(1e9, 50.0, 10.0)]]
    ((_, message),) = told_after(steps, [3])
    assert "own loss 7. " in message  # 1, 10 and 10
    assert told_after([[(1.0, 5.0, 1.0)], [(9.0, 50.0, 1.0)]], [2]) == []


def test_all_losses_of_a_step_count_and_steps_that_are_not_finite_do_not():
    assert told_after([[(1.0, 15.0, 1.0), (1.0, None, 1.0)]] * 4, [4]) == []
    heavy = [(1.0, 20.0, 1.0)]
    for odd in ((math.nan, 5.0, 1.0), (math.inf, 5.0, 1.0), (1.0, math.nan, 1.0)):
        for steps in ([[odd], heavy, heavy], [heavy, [odd], heavy]):
            ((_, message),) = told_after(steps, [3])
            assert "PANPenalty(weight=0.005)" in message


def test_nothing_is_read_from_the_device_but_at_the_looks(monkeypatch):
    reads = []
    for name in ("__float__", "item", "tolist", "__bool__"):
        own = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda self, *a, own=own: (reads.append(1), own(self, *a))[1])
    outweighed, counts = Outweighed(), []
    for step in range(60):
        outweighed.add(torch.ones(()), torch.ones(()), 1.0)
        outweighed.end_step(True)
        if step == 50:
            outweighed.end_epoch(True)
        counts.append(len(reads))
    assert [step for step in range(1, 60) if counts[step] > counts[step - 1]] == [19, 50] and counts[0] == 0


# --- YAML ------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.3", 0.3),
        (
            "{class_path: pan_callbacks.suppression.schedules.Schedule, init_args: {weight: 0.2, shape: cosine}}",
            Schedule(0.2, "cosine"),
        ),
        (
            "{class_path: pan_callbacks.Schedule, init_args: {until: 0.25, start: 0.125}}",
            Schedule(until=0.25, start=0.125),
        ),
        ("math.cos", math.cos),
    ],
)
def test_a_yaml_file_gives_a_number_or_a_schedule(tmp_path, text, expected):
    config = tmp_path / "config.yaml"
    config.write_text(
        "trainer:\n  accelerator: cpu\n  logger: false\n  callbacks:\n"
        f"  - class_path: pan_callbacks.PANPenalty\n    init_args:\n      weight: {text}\n"
    )
    cli = LightningCLI(SmallModule, run=False, args=["--config", str(config)], save_config_callback=None)
    (penalty,) = (callback for callback in cli.trainer.callbacks if isinstance(callback, PANPenalty))
    assert penalty.weight == expected
