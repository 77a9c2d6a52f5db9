"""What the monitor of a Trainer found, for the callbacks that act on it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pan_callbacks.callbacks.monitor import find_monitor
from pan_callbacks.errors import PANError
from pan_callbacks.layers import named
from pan_callbacks.reports.pan_report import PANReport

if TYPE_CHECKING:
    from pytorch_lightning import Trainer


def last_findings(trainer: Trainer) -> PANReport | None:
    """Return the report behind the last entry of the first monitor's history, None if there is none yet.

    It is in the checkpoint, so that a resumed run acts on the same one; and a ``validate`` in between, on whatever
    images, does not change it.
    """
    monitor = find_monitor(trainer)
    return None if monitor is None else monitor._history.report


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
