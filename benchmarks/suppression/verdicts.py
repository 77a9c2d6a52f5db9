"""What is asked of suppression, and whether the runs say that it is reached."""

from __future__ import annotations

import math
from dataclasses import dataclass

from benchmarks.study.effects import Effect, of_seeds
from benchmarks.study.summary import mean, table
from benchmarks.suppression.arms import ARMS
from benchmarks.suppression.table import PLAIN, Runs, change, fewer, written

REACHED, BY_MEAN, NOT_REACHED, NOT_RUN = "reached", "the mean, not the interval", "not reached", "not run"


@dataclass(frozen=True)
class Bound:
    """What is asked of ``PANPenalty()`` in a task.

    Args:
        fewer: Percent fewer PANs, at least.
        change: Mean change of accuracy in points of each label, at least.
        within: How far from zero the ends of the interval of the change may lie, in points; None asks of the lower end
            what is asked of the mean.
    """

    fewer: float
    change: float
    within: float | None = None

    def words(self) -> str:
        """What is asked, as a cell of a table."""
        interval = "" if self.within is None else f", interval within ±{self.within:g}"
        return f"≥ {self.fewer:g} % fewer, accuracy ≥ {self.change:+g}{interval}".replace("+-", "-")


BOUNDS = {
    "digit": Bound(95, -0.3, within=0.5),
    "digit and place": Bound(85, -0.5),
    "mnist": Bound(95, -0.3),
    "digit, SGD": Bound(90, -0.5),
    "digit and place, SGD": Bound(90, -0.5),
    "mnist, SGD": Bound(90, -0.5),
    "digit, no batch norm": Bound(90, -0.5),
    "fine-tune": Bound(90, -0.5),
}
ARM = "penalty"
RED_GREEN, CIRCULAR = "red-green", "circular"
HALVED = 0.5  # of the gap above that of circular padding


def verdict(bound: Bound, gone: Effect | None, changes: list[Effect | None]) -> str:
    """Says whether a bound is reached, by the means alone or by the intervals, too.

    Args:
        bound: What is asked.
        gone: Percent fewer PANs.
        changes: Change of accuracy of each label.
    """
    if gone is None or not changes or None in changes:
        return NOT_RUN
    if gone.middle < bound.fewer or any(one.middle < bound.change for one in changes):
        return NOT_REACHED
    known = all(one.has_interval for one in (gone, *changes))
    sure = known and gone.low >= bound.fewer and all(_holds(bound, one) for one in changes)
    return REACHED if sure else BY_MEAN


def _holds(bound: Bound, found: Effect) -> bool:
    if bound.within is None:
        return found.low >= bound.change
    return -bound.within <= found.low and found.high <= bound.within


def above_circular(runs: Runs, arm: str) -> dict[int, float]:
    """Gap of an arm less that of circular padding, in points, by seed."""
    circular = runs.gap(RED_GREEN, CIRCULAR)
    return {seed: 100 * (gap - circular[seed]) for seed, gap in runs.gap(RED_GREEN, arm).items() if seed in circular}


def best_way(runs: Runs) -> str | None:
    """The arm that leaves the smallest mean gap above circular padding's; None if none was run beside it."""
    ways = [arm for arm in ARMS if arm not in (PLAIN, CIRCULAR)]
    left = {arm: mean(above_circular(runs, arm)) for arm in ways if above_circular(runs, arm)}
    return min(left, key=left.__getitem__) if left else None


def red_green(runs: Runs) -> tuple[str, str]:
    """What the best way reaches in red and green, and the verdict."""
    way, plain = best_way(runs), above_circular(runs, PLAIN)
    if way is None:
        return "", NOT_RUN
    own = above_circular(runs, way)
    room = of_seeds({seed: HALVED * plain[seed] - value for seed, value in own.items() if seed in plain})
    if room is None or math.isnan(room.middle):
        return "", NOT_RUN
    gaps = (written(of_seeds(values), 1, "+") for values in (own, plain))
    words = "best: {}, gap above circular padding's {} points, with none {}".format(way, *gaps)
    if room.middle < 0:
        return words, NOT_REACHED
    return words, REACHED if room.has_interval and room.low >= 0 else BY_MEAN


def lines(runs: Runs) -> str:
    """The table of what is asked and what is reached, as Markdown."""
    rows = []
    for task, bound in BOUNDS.items():
        gone = fewer(*(runs.get(task, arm, "pans") for arm in (ARM, PLAIN)))
        changes = {label: change(runs, task, ARM, label) for label in runs.labels(task)}
        words = "; ".join(f"{label} {written(found, 2, '+')}" for label, found in changes.items())
        said = verdict(bound, gone, list(changes.values()))
        rows.append([task, bound.words(), "" if said == NOT_RUN else f"{written(gone)} % fewer; {words}", said])
    asked = f"of the gap above circular padding's, at most {HALVED:.0%} is left".replace("%", " %")
    rows.append([RED_GREEN, asked, *red_green(runs)])
    return table(["task", "asked", "found", "verdict"], rows, text=True)
