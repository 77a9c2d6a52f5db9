"""The weight that a penalty has at each step of a training."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from pan_callbacks.callbacks._progress import epochs_passed, has_an_end, in_last_epoch, no_length, progress
from pan_callbacks.errors import PANError
from pan_callbacks.suppression.schedules import Schedule

if TYPE_CHECKING:
    from pytorch_lightning import Trainer

#: A number, or a function of the progress of training from 0 to 1.
Weight: TypeAlias = float | Callable[[float], float]


def check(weight: Weight, start_epoch: int, warmup_epochs: int) -> None:
    """Raise ValueError for an argument out of range, naming it."""
    if not callable(weight) and not 0 <= _number(weight) < math.inf:
        raise ValueError(
            f"weight={weight!r} is negative or not finite, or no number; 0 switches the penalty off, a Schedule or "
            "another function of the progress from 0 to 1 lets it grow"
        )
    for name, value in (("start_epoch", start_epoch), ("warmup_epochs", warmup_epochs)):
        if value < 0:
            raise ValueError(f"{name}={value!r} is negative")


def check_schedule(trainer: Trainer, weight: Weight) -> None:
    """Ask a schedule for some of its weights before training begins.

    Raises:
        PANError: If one is no weight, or the training has no end that its progress could be told from.
    """
    if not callable(weight):
        return
    if not has_an_end(trainer):
        raise PANError(
            "PANPenalty's weight is a schedule of the progress of training, and this Trainer does not say where it "
            "ends: give it max_epochs or max_steps; or let a number grow with PANPenalty(weight=0.1, warmup_epochs=N)"
        )
    for share in (0.0, 0.5, 1.0):
        _asked(weight, share)


def warn_if_endless(trainer: Trainer, weight: Weight, warmup_epochs: int) -> None:
    """Warn of what a training loader without a length makes of a weight that grows."""
    what = "warmup" if warmup_epochs else "schedule"
    by_epochs = warmup_epochs or callable(weight) and trainer.fit_loop.max_steps == -1
    if by_epochs and trainer.num_training_batches == float("inf"):
        first = "has no penalty" if warmup_epochs else "has the weight of progress 0"
        warnings.warn(no_length(f"PANPenalty's {what}", first), stacklevel=3)


def varies(weight: Weight, start_epoch: int, warmup_epochs: int) -> bool:
    """Return whether the weight may not be the last one from the start."""
    return bool(callable(weight) or start_epoch or warmup_epochs)


def at(trainer: Trainer, weight: Weight, start_epoch: int, warmup_epochs: int) -> tuple[float, bool]:
    """Return the weight of this batch, and whether it has reached its last value.

    Raises:
        PANError: If a schedule gives no weight.
    """
    value, settled = float(weight) if not callable(weight) else 0.0, True
    if callable(weight):
        share = progress(trainer)
        value = _asked(weight, share)
        settled = share >= weight.end if isinstance(weight, Schedule) else in_last_epoch(trainer)
    if trainer.current_epoch < start_epoch:
        return 0.0, False
    if not warmup_epochs:
        return value, settled
    warmth = min(1.0, (epochs_passed(trainer) - start_epoch) / warmup_epochs)
    return value * warmth, settled and warmth == 1.0


def _asked(schedule: Callable[[float], float], share: float) -> float:
    """Return what a schedule says, if that is a weight."""
    value = schedule(share)
    weight = _number(value)
    if not 0 <= weight < math.inf:
        raise PANError(
            f"the schedule of PANPenalty's weight gave {value!r} at progress {share:.4g}; a weight is a finite number "
            "from 0 on, at every progress from 0 to 1"
        )
    return weight


def _number(value: object) -> float:
    """Return one real number of Python, of numpy, or in a tensor; NaN for anything else."""
    if isinstance(value, (str, bytes)):
        return math.nan
    try:
        return float(value)  # type: ignore[arg-type]  # that is the question
    except (TypeError, ValueError, RuntimeError):
        return math.nan
