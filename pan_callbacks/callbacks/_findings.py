"""What the monitor of a Trainer found, for the callbacks that act on it."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING

from pan_callbacks.callbacks.monitor import PANMonitor
from pan_callbacks.errors import PANError
from pan_callbacks.layers import named
from pan_callbacks.reports.pan_report import PANReport

if TYPE_CHECKING:
    from pytorch_lightning import Trainer


def find_monitor(trainer: Trainer) -> PANMonitor | None:
    """Return the first monitor among a Trainer's callbacks."""
    callbacks = getattr(trainer, "callbacks", ())  # an attribute that Lightning does not declare
    return next((callback for callback in callbacks if isinstance(callback, PANMonitor)), None)


def last_findings(trainer: Trainer) -> PANReport | None:
    """Return the report behind the last entry of the first monitor's history, None if there is none yet.

    It is in the checkpoint, so that a resumed run acts on the same one; and a ``validate`` in between, on whatever
    images, does not change it. Before the first entry it is what the sanity check showed.
    """
    monitor = find_monitor(trainer)
    if monitor is None:
        return None
    return monitor._curve.history.report if monitor.history else monitor.report


def warn_if_behind(trainer: Trainer, who: str) -> None:
    """Warn if a resumed run goes on with older findings than the run that was interrupted would have.

    Lightning does not make up for a validation that came right after a checkpoint at the end of an epoch.

    Args:
        trainer: The Trainer, at the start of training.
        who: Who acts on the findings.
    """
    monitor = find_monitor(trainer)
    if monitor is None or not monitor.history:
        return
    every = monitor.every_n_epochs, (trainer.check_val_every_n_epoch or 1) if trainer.enable_validation else 1
    measured = [epoch for epoch in range(trainer.current_epoch) if not any((epoch + 1) % n for n in every)]
    last = monitor.history[-1]["epoch"]
    if measured and last < measured[-1]:
        found = "before the first step" if last < 0 else f"in epoch {last}"
        warnings.warn(
            f"this checkpoint was written before the validation of epoch {measured[-1]}, which Lightning does not make "
            f"up for: {who} goes on with what was found {found}. A checkpoint written after the validation resumes the "
            "same run",
            stacklevel=3,
        )


def nothing_found(report: PANReport, penalised: Iterable[str], layers: str | list[str] | None) -> str | None:
    """Return why a penalty on the PANs of a report penalises nothing, None if it does penalise something.

    Args:
        report: The report.
        penalised: Layers that can be penalised.
        layers: Globs that selected them.

    Raises:
        PANError: If the monitor measures none of them, so that it will never find anything there.
    """
    looked_at, found = set(penalised), report.neurons_by_layer()
    if not looked_at & set(report.layers):
        raise PANError(
            f"PANPenalty(only_pans=True) penalises layers={layers!r}, of which the PANMonitor measures none: it has "
            f"{named(list(report.layers))}"
        )
    if looked_at & set(found):
        return None
    where = f" in layers={layers!r}, but in {named(list(found))}" if found else ""
    return f"PANPenalty(only_pans=True) has nothing to penalise: no PAN was found{where}"
