"""Runs a case in one arm and records all of it; compares two records and says what differs."""

from __future__ import annotations

import gc
import logging
import random
import re
import signal
import tempfile
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as other_pl
import numpy as np
import pytorch_lightning as pl
import torch
from torch import nn

from pan_callbacks import PANError
from tests.attack.case import NOTHING, WATCHING, Arm, Case, Run
from tests.attack.fingerprint import fingerprint
from tests.attack.promises import Promise

SEED = 11
OURS = ("pan/", "pan_", "padding/", "border_bias/")
HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)
for _name in ("pytorch_lightning", "lightning.pytorch", "lightning.fabric"):
    logging.getLogger(_name).setLevel(logging.ERROR)
OUR_MODULES = "pan_callbacks."
#: Suppression says at the start, also where it is not due yet, that a model has no layer for it.
NOTHING_TO_DO = "no padded convolution to penalise"
#: Attributes that torch and Lightning keep themselves; hooks, weights and modes are looked at one by one.
INTERNAL = {*vars(nn.Module()), *vars(pl.LightningModule()), "trainer", "_trainer", "_current_fx_name"}


@dataclass
class Outcome:
    """All of a run that could be another one.

    Args:
        facts: Name to fingerprint: weights, buffers, optimizers, metrics, random states, modes, hooks, attributes.
        events: What happened in order: batches that the steps received, what they returned, with random states.
        error: The exception that ended the run.
        run: The run itself.
        left: What of ours is still on the module.
    """

    facts: dict[str, str]
    events: list[str]
    error: BaseException | None
    run: Run
    left: list[str] = field(default_factory=list)


def random_states() -> dict[str, str]:
    return {
        "random state of python": fingerprint(random._inst),
        "random state of numpy": fingerprint(np.random.mtrand._rand),
        "random state of torch": fingerprint(torch.default_generator),
    }


def not_ours(metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in metrics.items() if not key.startswith(OURS)}


class MemoryLogger(pl.loggers.Logger, other_pl.loggers.Logger):
    """Keeps what is logged, ours left out."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.all: list[tuple[dict[str, Any], int | None]] = []

    name, version = "memory", 0

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.all.append((dict(metrics), step))
        kept = not_ours(metrics)
        if set(kept) - {"epoch"}:
            self.lines.append(f"step {step}: {fingerprint(kept)}")

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        self.lines.append(f"hyperparameters {fingerprint(args)}")


class Recorder(pl.Callback, other_pl.Callback):
    """Writes down what steps get and return, with the random states before each."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.logger = MemoryLogger()

    def _before(self, what: str, batch: Any, index: int, loader: int = 0) -> None:
        states = " ".join(random_states().values())
        self.events.append(f"{what} batch {index} of loader {loader}: {fingerprint(batch)}, random states {states}")

    def _after(self, what: str, output: Any, index: int) -> None:
        self.events.append(f"{what} step {index} returned {fingerprint(output)}")

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self._before("training", batch, batch_idx)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self._after("training", outputs, batch_idx)

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        self._before("sanity" if trainer.sanity_checking else "validation", batch, batch_idx, dataloader_idx)

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        self._after("sanity" if trainer.sanity_checking else "validation", outputs, batch_idx)

    def on_test_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        self._before("test", batch, batch_idx, dataloader_idx)

    def on_test_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        self._after("test", outputs, batch_idx)

    def on_predict_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        self._after("predict", outputs, batch_idx)

    def on_train_epoch_end(self, trainer, pl_module):
        states = " ".join(random_states().values())
        self.events.append(f"epoch {trainer.current_epoch} ended, random states {states}")

    def on_validation_end(self, trainer, pl_module):
        metrics = not_ours(trainer.callback_metrics)
        self.events.append(f"validation ended at step {trainer.global_step}: {fingerprint(metrics)}")


def _of_modules(root: nn.Module) -> Iterator[tuple[str, str]]:
    for path, module in root.named_modules():
        at = path or "the module"
        yield f"mode of {at}", f"training={module.training}"
        counts = {name.strip("_"): len(getattr(module, name, ())) for name in HOOKS}
        yield f"hooks of {at}", str({name: count for name, count in counts.items() if count})
        yield f"class of {at}", type(module).__name__
        for name, value in vars(module).items():
            if name not in INTERNAL and not name.startswith(("_jit_", "_fabric", "_compile", "_torchdynamo")):
                yield f"attribute {name} of {at}", fingerprint(value)
        if type(module).__module__.startswith("tests."):
            for name, value in vars(type(module)).items():
                if not name.startswith("_") and not callable(value):
                    yield f"class attribute {name} of {at}", fingerprint(value)
    for name, parameter in root.named_parameters(remove_duplicate=False):
        hooks = len(getattr(parameter, "_post_accumulate_grad_hooks", None) or ())
        yield f"weights {name}", f"{fingerprint(parameter)} learns={parameter.requires_grad} hooks={hooks}"
        yield f"gradient of {name}", fingerprint(parameter.grad)
    for name, buffer in root.named_buffers(remove_duplicate=False):
        yield f"buffer {name}", fingerprint(buffer)
    same: dict[int, list[str]] = {}
    for name, parameter in root.named_parameters(remove_duplicate=False):
        same.setdefault(id(parameter), []).append(name)
    yield "tied weights", str([names for names in same.values() if len(names) > 1])


def _of_trainer(trainer: Any) -> Iterator[tuple[str, str]]:
    yield "step", str(trainer.global_step)
    yield "epoch", str(trainer.current_epoch)
    yield "callback metrics", fingerprint(not_ours(trainer.callback_metrics))
    yield "logged metrics", fingerprint(not_ours(trainer.logged_metrics))
    yield "should stop", str(trainer.should_stop)
    for index, optimizer in enumerate(getattr(trainer.strategy, "_optimizers", ())):
        yield f"optimizer {index}", fingerprint(optimizer.state_dict())
    for index, config in enumerate(getattr(trainer.strategy, "_lightning_optimizers", ())):
        yield f"steps of optimizer {index}", type(config).__name__
    for index, scheduler in enumerate(trainer.lr_scheduler_configs):
        yield f"schedule {index}", fingerprint(scheduler.scheduler.state_dict())
    for callback in trainer.checkpoint_callbacks:
        path = Path(getattr(callback, "best_model_path", "")).name
        yield "best checkpoint", f"{path} {fingerprint(getattr(callback, 'best_model_score', None))}"


def _of_process() -> Iterator[tuple[str, str]]:
    yield from random_states().items()
    yield "gradients are on", str(torch.is_grad_enabled())
    yield "inference mode is on", str(torch.is_inference_mode_enabled())
    yield "autocast is on", str(torch.is_autocast_enabled("cpu"))
    yield "algorithms are deterministic", str(torch.are_deterministic_algorithms_enabled())
    yield "default dtype", str(torch.get_default_dtype())
    yield "modes of functions", str(torch._C._len_torch_function_stack())
    yield "threads", str(sorted(t.name for t in threading.enumerate() if not t.daemon))


def _ours_on(root: nn.Module) -> list[str]:
    """What of ours is on a module: hooks, wrapped methods, attributes."""
    found = []
    for path, module in root.named_modules():
        at = path or "the module"
        for name in HOOKS:
            for hook in getattr(module, name, {}).values():
                owner = hook if not hasattr(hook, "__self__") else hook.__self__
                if str(getattr(hook, "__module__", "")).startswith(OUR_MODULES) or type(owner).__module__.startswith(
                    OUR_MODULES
                ):
                    found.append(f"a {name.strip('_')[:-1]} of ours is left on {at}: {owner!r:.80}")
        for name, value in vars(module).items():
            if type(value).__module__.startswith(OUR_MODULES):
                found.append(f"{name} of {at} is still ours: {value!r:.80}")
    return found


@contextmanager
def _as_it_was() -> Iterator[None]:
    """What a hostile case may leave behind is taken back: signals, switches of torch, hooks on all modules."""
    handler, deterministic = signal.getsignal(signal.SIGINT), torch.are_deterministic_algorithms_enabled()
    benchmark, dtype = torch.backends.cudnn.benchmark, torch.get_default_dtype()
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        torch.use_deterministic_algorithms(deterministic)
        torch.backends.cudnn.benchmark = benchmark
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(True)


def outcome(case: Case, arm: Arm = NOTHING) -> Outcome:
    """Run a case in one of its arms."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), _as_it_was():
        warnings.simplefilter("ignore")
        pl.seed_everything(SEED, verbose=False)
        setup = case.build(Path(folder))
        recorder = Recorder()
        pl.seed_everything(SEED + 1, verbose=False)
        run = Run(setup, arm.make, recorder, Path(folder))
        error: BaseException | None = None
        try:
            (setup.act or Run.fit)(run)
        except BaseException as raised:  # Lightning ends the process at Ctrl-C
            error = raised
        facts = dict(_of_process())
        facts |= dict(_of_modules(setup.module))
        facts |= dict(_of_trainer(run.trainer))
        facts |= {f"state of {name}": fingerprint(_state_of(thing)) for name, thing in setup.watched.items()}
        facts["exception"] = f"{type(error).__name__}: {error}" if error is not None else "none"
        events = [*recorder.events, *recorder.logger.lines]
        facts = {name: _without_places(value, folder) for name, value in facts.items()}
        return Outcome(facts, [_without_places(event, folder) for event in events], error, run, _ours_on(setup.module))


def _without_places(text: str, folder: str) -> str:
    """Take out what differs from run to run by nature: the folder, addresses in memory."""
    return re.sub(r"0x[0-9a-f]{6,}", "0x…", text.replace(folder, "FOLDER"))


def _state_of(thing: Any) -> Any:
    """Attributes of an object that is neither data nor a generator."""
    if isinstance(thing, nn.Module):
        return thing.state_dict()
    known = (torch.Generator, torch.Tensor, np.ndarray, np.random.Generator, np.random.RandomState, random.Random)
    if isinstance(thing, (*known, int, float, str, list, tuple, dict, set)) or not hasattr(thing, "__dict__"):
        return thing
    return {name: value for name, value in vars(thing).items() if not name.startswith("__")}


def differences(plain: Outcome, watched: Outcome, most: int = 6) -> list[str]:
    """What differs between a run without us and the same run with us: how it ended, then the first things first."""
    found = []
    if plain.facts["exception"] != watched.facts["exception"]:
        found.append(f"exception is {watched.facts['exception']:.600}, without us {plain.facts['exception']:.600}")
    for index, (one, other) in enumerate(zip(plain.events, watched.events, strict=False)):
        if one != other:
            found.append(f"event {index} is\n      {other:.600}\n    without us\n      {one:.600}")
            break
    if len(plain.events) != len(watched.events):
        found.append(f"{len(watched.events)} events, without us {len(plain.events)}")
    for name in [*plain.facts, *(name for name in watched.facts if name not in plain.facts)]:
        one, other = plain.facts.get(name, "not there"), watched.facts.get(name, "not there")
        if one != other and name != "exception":
            found.append(f"{name} is {other:.400}, without us {one:.400}")
    rest = len(found) - most
    return found[:most] + ([f"and {rest} differences more"] if rest > 0 else [])


@dataclass
class Verdict:
    """What came of a case: the arms it was run in, what is wrong in each, and what was refused.

    Args:
        arms: Names of the arms.
        problems: What is wrong, each with the arm before it.
        refused: Arm and message of every stop by an error of ours.
    """

    arms: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)


def judge(case: Case) -> Verdict:
    """Run a case without us and in all its arms, and say what is wrong."""
    verdict = Verdict()
    if case.promise is Promise.FAMILY:
        gc.collect()  # networks of the last case that hold each other; too slow to do between small ones
    plain = outcome(case)
    again = differences(plain, outcome(case)) if case.repeats else []
    assert not again, f"the case itself does not repeat: {again}"
    for arm in case.arms:
        if not arm.due(plain.run.setup):
            continue
        verdict.arms.append(arm.name)
        found = outcome(case, arm)
        refused = isinstance(found.error, PANError)
        if arm.acts or (refused and NOTHING_TO_DO in str(found.error) and arm not in WATCHING):
            problems = _of_acting(plain, found)
        else:
            problems = [f"refused: {found.error}"] if refused else differences(plain, found)
        if not arm.acts and not problems and case.check is not None and arm in WATCHING:
            problems = [told] if (told := case.check(found.run)) else []
        if refused and not problems:
            verdict.refused.append((arm.name, str(found.error)))
        verdict.problems += [f"{arm.name}: {problem}" for problem in (*problems, *found.left)]
        found.run.clear()
    return verdict


def _of_acting(plain: Outcome, found: Outcome) -> list[str]:
    """What is wrong with a run that ours were to change: it must end, or stop with an error of ours, clean."""
    stopped = isinstance(found.error, PANError)
    if found.error is not None and not stopped and found.facts["exception"] != plain.facts["exception"]:
        return [f"ended with {found.facts['exception']:.400}, without us {plain.facts['exception']:.400}"]
    kinds = ("hooks of ",) if stopped else ("hooks of ", "mode of ", "class of ")
    of_modules = {name for name in plain.facts if name.startswith(kinds)}
    return [
        f"{name} is {found.facts.get(name)}, without us {plain.facts[name]}"
        for name in sorted(of_modules)
        if found.facts.get(name) != plain.facts[name]
    ]
