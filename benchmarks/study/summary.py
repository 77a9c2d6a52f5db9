"""From runs to cells and sentences: means over seeds, their standard errors, and words that follow from both."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

#: 97.5 % quantile of Student's t distribution, by degrees of freedom.
_T = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26}

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


def direction(values: BySeed) -> int:
    """1 where the mean is above zero, -1 where it is below, 0 where the 95 % interval does not tell.

    The interval is Student's; one seed tells nothing.
    """
    middle, spread = mean(values), error(values)
    if math.isnan(spread):
        return 0
    if abs(middle) <= _T.get(len(values) - 1, 2.0) * spread or middle == 0:
        return 0
    return 1 if middle > 0 else -1


def change(values: BySeed, scale: float = 100, unit: str = " points", digits: int = 1) -> str:
    """What became of something, in words.

    Example:
        >>> change({0: 0.10, 1: 0.11, 2: 0.12})
        'rises by 11.0 ± 0.6 points'
        >>> change({0: 0.10, 1: -0.11})
        'does not change clearly (-0.5 ± 10.5 points)'
    """
    if not values:
        return "was not measured"
    way = direction(values)
    if not way:
        signs = {(value > 0) - (value < 0) for value in values.values()}
        alike = f", though {'up' if signs == {1} else 'down'} in every seed" if signs in ({1}, {-1}) else ""
        return f"does not change clearly{alike if len(values) > 1 else ''} ({cell(values, scale, digits, '+')}{unit})"
    size = cell({seed: way * value for seed, value in values.items()}, scale, digits)
    return f"{'rises' if way > 0 else 'falls'} by {size}{unit}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, numbers to the right."""
    rules = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rules, *rows))


def listed(words: Sequence[str]) -> str:
    """Words in a row, the last after "and".

    Example:
        >>> listed(["a", "b", "c"])
        'a, b and c'
    """
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words) or "none"
