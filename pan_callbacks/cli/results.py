"""What a command found, as JSON on standard output."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pan_callbacks.reports._json import finite
from pan_callbacks.reports.pans import PAN

if TYPE_CHECKING:
    from pan_callbacks.cli.compare import Entry
    from pan_callbacks.cli.survey import Survey

Tell = Callable[[Mapping[str, Any]], None]


@contextmanager
def alone(asked: bool) -> Iterator[Tell | None]:
    """Keep standard output for the result: what else is printed, by a model of the user's too, goes to standard error.

    Args:
        asked: Whether the result is asked for as JSON.

    Yields:
        What to call with the result; None if it is not asked for.
    """
    if not asked:
        yield None
        return
    stream = sys.stdout
    with redirect_stdout(sys.stderr):
        yield lambda result: print(json.dumps(finite(result), allow_nan=False), file=stream, flush=True)


def of_survey(survey: Survey, folder: Path) -> dict[str, Any]:
    """Return the result of ``scan`` or ``impact``; ``pans.json`` in the folder has every neuron.

    Args:
        survey: The survey.
        folder: Where the rest of it lies.
    """
    report = survey.report
    return {
        "schema": "pan_callbacks.survey",
        "version": 1,
        "out": str(folder),
        "about": dict(survey.about),
        "count": report.count,
        "interval": report.interval,
        "neurons": report.neurons,
        "fraction": report.fraction,
        "threshold": report.threshold,
        "reference": report.reference,
        "reads_padding": report.readers,
        "reliance": None if report.reliance is None else report.reliance.to_dict(),
        "by": {what: report.count_by(what) for what in ("layer", "side", "origin", "sign")},
        "pans": [_pan(pan) for pan in report.strongest()],
        "floor": None if survey.floor is None else survey.floor.to_dict()["counts"],
        "impact": None if survey.impact is None else survey.impact.to_dict(),
        "left_out": {"layers": dict(report.skipped), "images": dict(survey.skipped)},
        "notes": [*report.notes, *survey.notes],
    }


def _pan(pan: PAN) -> dict[str, Any]:
    side = pan.strongest
    return {
        "layer": pan.layer,
        "channel": pan.channel,
        "sides": sorted(pan.sides),
        "strongest": side,
        "contrast": pan.strongest_contrast,
        "interval": pan.interval.get(side),
        "origin": pan.origin,
        "certain": pan.certain,
        "visible": pan.visible,
        "reads_padding": pan.reads_padding,
    }


def of_comparison(entries: Sequence[Entry]) -> dict[str, Any]:
    """Return the result of ``compare``: a row for each report, and how each later one differs from the first."""
    from pan_callbacks.cli import compare

    found = compare.table(entries)
    return {
        "schema": "pan_callbacks.comparison",
        "version": 1,
        "reports": [dict(zip(found.head, row, strict=True)) for row in found.rows],
        "changes": [{"report": name, **changes.to_dict()} for name, changes in compare.differences(entries)],
        "notes": compare.notes(entries),
    }
