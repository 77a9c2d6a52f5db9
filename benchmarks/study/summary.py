"""From runs to cells: means over seeds and their standard errors."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

BySeed = Mapping[int, float]


class Results:
    """The runs of the study.

    Args:
        rows: Dicts with ``experiment``, ``arm``, ``seed``, ``seconds`` and ``numbers``.
    """

    def __init__(self, rows: Sequence[dict]) -> None:
        self.rows = rows

    def experiments(self) -> list[str]:
        """Experiments of which there is a run."""
        return list(dict.fromkeys(row["experiment"] for row in self.rows))

    def arms(self, experiment: str) -> list[str]:
        """Arms of which there is a run, in the order in which they are first found."""
        return list(dict.fromkeys(row["arm"] for row in self.rows if row["experiment"] == experiment))

    def get(self, experiment: str, arm: str, path: str) -> dict[int, float]:
        """A number by seed; without the seeds that do not have it."""
        return {
            row["seed"]: row["numbers"][path]
            for row in self.rows
            if row["experiment"] == experiment and row["arm"] == arm and path in row["numbers"]
        }

    def minutes(self, experiment: str) -> float:
        """Minutes of one core that an experiment took."""
        return sum(row["seconds"] for row in self.rows if row["experiment"] == experiment) / 60


def less(values: BySeed, others: BySeed) -> dict[int, float]:
    """Differences within a seed."""
    return {seed: value - others[seed] for seed, value in values.items() if seed in others}


def mean(values: BySeed) -> float:
    """Mean over seeds, NaN of nothing."""
    return statistics.fmean(values.values()) if values else math.nan


def error(values: BySeed) -> float:
    """Standard error of the mean, NaN below two seeds."""
    return statistics.stdev(values.values()) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def cell(values: BySeed, scale: float = 1, digits: int = 1, sign: str = "") -> str:
    """Mean ± standard error, for a table.

    Example:
        >>> cell({0: 0.5, 1: 0.7}, scale=100)
        '60.0 ± 10.0'
    """
    if not values:
        return "–"
    middle, spread = scale * mean(values), scale * error(values)
    return f"{middle:{sign}.{digits}f}" + ("" if math.isnan(spread) else f" ± {spread:.{digits}f}")


def table(head: Sequence[str], rows: Iterable[Sequence[str]], text: bool = False) -> str:
    """A Markdown table, numbers to the right; or all to the left, where cells hold sentences."""
    rules = ["---"] + ["---" if text else "---:"] * (len(head) - 1)
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rules, *rows))


def listed(words: Sequence[str]) -> str:
    """Words in a row, the last after "and".

    Example:
        >>> listed(["a", "b", "c"])
        'a, b and c'
    """
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words) or "none"
