"""Effects with their 95 % intervals, and the verdict that an interval allows."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.study.summary import BySeed, Results, error, mean

#: 97.5 % quantile of Student's t distribution, by degrees of freedom.
T = {1: 12.7062, 2: 4.3027, 3: 3.1824, 4: 2.7764, 5: 2.5706, 6: 2.4469, 7: 2.3646, 8: 2.3060, 9: 2.2622}
#: The same of the normal distribution.
Z = 1.95996
VERDICTS = ("helps", "hurts", "unknown")


@dataclass(frozen=True)
class Effect:
    """A mean and its 95 % interval.

    Args:
        middle: The mean.
        low: Lower end of the interval, NaN where there is none.
        high: Upper end, NaN where there is none.
        count: How many seeds, networks or images it is the mean of.
    """

    middle: float
    low: float = math.nan
    high: float = math.nan
    count: int = 1

    @property
    def has_interval(self) -> bool:
        """Whether chance could be estimated."""
        return not (math.isnan(self.low) or math.isnan(self.high))

    def verdict(self, good: int) -> str:
        """Say what the interval alone says: ``"helps"``, ``"hurts"`` or ``"unknown"``.

        Args:
            good: 1 where a rise is good for the user, -1 where a fall is.
        """
        if not self.has_interval or self.low <= 0 <= self.high:
            return "unknown"
        return "helps" if (self.low > 0) == (good > 0) else "hurts"

    def interval(self) -> str:
        """Write the ends in brackets."""
        # an end that rounds to zero does not show on which side of zero it lies
        digits = 2 if min(abs(self.low), abs(self.high)) < 0.05 else 1
        return f"[{self.low:+.{digits}f}, {self.high:+.{digits}f}]"


def student(middle: float, standard_error: float, count: int) -> Effect:
    """Put Student's interval around a mean; one value has none.

    Example:
        >>> student(-22.7, 10.0, 3).interval()
        '[-65.7, +20.3]'
    """
    # beyond the table its last entry makes the interval a little too wide
    half = T.get(count - 1, T[max(T)]) * standard_error if count > 1 else math.nan
    return Effect(middle, middle - half, middle + half, count)


def of_seeds(values: BySeed, scale: float = 1) -> Effect | None:
    """Average over seeds, with Student's interval; None of nothing."""
    return student(scale * mean(values), scale * error(values), len(values)) if values else None


def share(part: float, count: int) -> Effect:
    """Put Wilson's interval around a share of images, in %: each image is one draw.

    Args:
        part: The share, in 0 ... 1.
        count: How many images.
    """
    middle = (part + Z**2 / (2 * count)) / (1 + Z**2 / count)
    half = Z * math.sqrt(part * (1 - part) / count + Z**2 / (4 * count**2)) / (1 + Z**2 / count)
    return Effect(100 * part, 100 * (middle - half), 100 * (middle + half), count)


#: An effect from the runs, None where they do not have it.
Measure = Callable[[Results], Effect | None]


@dataclass(frozen=True)
class Question:
    """A row of the answer.

    Args:
        text: The question.
        unit: What the effect is counted in.
        good: 1 where a rise is good for the user, -1 where a fall is.
        units: What is sampled, ``"seeds"`` for example.
        measure: The effect from the runs, None where they do not have it.
        helps: At most two plain sentences for that verdict; so are the next two.
        hurts: For the opposite verdict.
        unknown: Where the interval contains zero, or there is none.
    """

    text: str
    unit: str
    good: int
    units: str
    measure: Measure
    helps: str
    hurts: str
    unknown: str

    def words(self, effect: Effect) -> str:
        """Choose the sentences that belong to the verdict."""
        return str(getattr(self, effect.verdict(self.good)))
