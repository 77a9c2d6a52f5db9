"""The arithmetic of the tables: means over seeds, differences within a seed, and their intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks.runs import Row
from benchmarks.study.effects import Effect, of_seeds
from benchmarks.study.summary import BySeed, less, mean, table
from benchmarks.suppression.arms import ARMS
from benchmarks.suppression.tasks import TASKS

DRAWS = 10_000
PLAIN = "none"
NOTHING = "–"


class Runs:
    """Runs of every task and arm, by seed.

    Args:
        rows: What the file of runs holds; of two runs of the same seed the later one counts.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = {(row["task"], row["arm"], row["seed"]): row for row in rows}

    def arms(self, task: str) -> list[str]:
        """Arms of a task of which there is a run."""
        return [arm for arm in ARMS if self.of(task, arm)]

    def of(self, task: str, arm: str) -> dict[int, Row]:
        """Seed to run."""
        return {seed: row for (t, a, seed), row in sorted(self._rows.items()) if (t, a) == (task, arm)}

    def get(self, task: str, arm: str, *path: str) -> dict[int, float]:
        """Seed to the number at a path of keys; without the seeds that do not have it."""
        found = {}
        for seed, value in self.of(task, arm).items():
            for key in path:
                value = value.get(key) if value is not None else None
            if value is not None:
                found[seed] = value
        return found

    def labels(self, task: str, what: str = "accuracy") -> list[str]:
        """Labels of a task, or the tests that stand for them."""
        rows = (row for arm in self.arms(task) for row in self.of(task, arm).values())
        return list(next(rows, {what: {}})[what])

    def gap(self, task: str, arm: str) -> dict[int, float]:
        """Accuracy where position is as in training, less that where it is exchanged."""
        return less(self.get(task, arm, "accuracy", "similar"), self.get(task, arm, "accuracy", "swapped"))


def fewer(own: BySeed, plain: BySeed) -> Effect | None:
    """Tells how many percent fewer there are: by the ratio of the means over the seeds that both have.

    The interval is that of a bootstrap over seeds, always with the same draws.

    Args:
        own: Seed to number of PANs.
        plain: The same without anything done.

    Returns:
        None if there is no common seed, or none to begin with. One seed has no interval.
    """
    seeds = [seed for seed in own if seed in plain]
    ours, theirs = (np.array([values[seed] for seed in seeds], float) for values in (own, plain))
    if not seeds or theirs.sum() == 0:
        return None
    middle = 100 * (1 - ours.mean() / theirs.mean())
    if len(seeds) == 1:
        return Effect(middle)
    drawn = np.random.default_rng(0).integers(0, len(seeds), (DRAWS, len(seeds)))
    before = theirs[drawn].sum(1)
    ratios = ours[drawn].sum(1)[before > 0] / before[before > 0]
    low, high = 100 * (1 - np.quantile(ratios, (0.975, 0.025)))
    return Effect(float(middle), float(low), float(high), len(seeds))


def change(runs: Runs, task: str, arm: str, label: str) -> Effect | None:
    """Averages the change of accuracy within a seed, in points, with Student's interval."""
    own, plain = (runs.get(task, one, "accuracy", label) for one in (arm, PLAIN))
    return of_seeds(less(own, plain), 100)


def ratio(own: BySeed, plain: BySeed) -> float:
    """Averages the ratio within a seed; NaN of nothing."""
    return mean({seed: value / plain[seed] for seed, value in own.items() if plain.get(seed)})


def written(effect: Effect | None, digits: int = 1, sign: str = "") -> str:
    """A mean and its interval, as a cell of a table; ends are never drawn in by rounding.

    Example:
        >>> written(Effect(-0.2, -0.523, 0.123, 5), 2, "+")
        '-0.20 [-0.53, +0.13]'
    """
    if effect is None:
        return NOTHING
    middle = f"{_rounded(effect.middle, digits):{sign}.{digits}f}"
    if not effect.has_interval:
        return middle
    scale = 10**digits  # 1e-6 of a digit is an error of floating point
    low = _rounded(math.floor(effect.low * scale + 1e-6) / scale, digits)
    high = _rounded(math.ceil(effect.high * scale - 1e-6) / scale, digits)
    return f"{middle} [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"


def _rounded(value: float, digits: int) -> float:
    """Rounds, without a zero that has a minus."""
    return round(value, digits) + 0.0


def lines(runs: Runs) -> str:
    """The table of everything that was run, as Markdown."""
    head = ["task", "arm", "seeds", "PANs (interval) of neurons", "% fewer", "accuracy in %", "change in points"]
    head += ["reliance × 100, flips in %", "largest kernel"]
    rows = [_line(runs, task, arm) for task in TASKS for arm in runs.arms(task)]
    return table(head, rows)


def _line(runs: Runs, task: str, arm: str) -> list[str]:
    found, labels, plain = runs.of(task, arm), runs.labels(task), arm == PLAIN
    pans = runs.get(task, arm, "pans")
    accuracy = {label: 100 * mean(runs.get(task, arm, "accuracy", label)) for label in labels}
    changes = {label: written(change(runs, task, arm, label), 2, "+") for label in labels}
    rests = {}
    for label in runs.labels(task, "reliance"):
        value, flips = (mean(runs.get(task, arm, "reliance", label, what)) for what in ("value", "flips"))
        rests[label] = f"{100 * value:.1f}, {100 * flips:.1f}"
    kernel = ratio(*(runs.get(task, one, "kernel") for one in (arm, PLAIN)))
    return [
        task,
        arm,
        str(len(found)),
        f"{mean(pans):.1f}{_ends(found)} of {next(iter(found.values()))['neurons']}",
        "" if plain else written(fewer(pans, runs.get(task, PLAIN, "pans"))),
        _by_label({label: f"{value:.2f}" for label, value in accuracy.items()}),
        "" if plain else _by_label(changes),
        _by_label(rests),
        "" if plain else NOTHING if math.isnan(kernel) else f"× {kernel:.2f}",
    ]


def _ends(found: Mapping[int, Row]) -> str:
    """Mean ends of the intervals of the counts, where every seed has one."""
    ends = [row["interval"] for row in found.values()]
    if None in ends:
        return ""
    low, high = (mean(dict(enumerate(values))) for values in zip(*ends, strict=True))
    return f" ({low:.1f}–{high:.1f})"


def _by_label(cells: Mapping[str, str]) -> str:
    """Cells with their labels before them, unless there is one only."""
    if len(cells) == 1:
        return next(iter(cells.values()))
    return "; ".join(f"{label} {cell}" for label, cell in cells.items())
