"""A number, and the 95 % interval around it."""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass
from typing import Any

from pan_callbacks.reports._fields import maybe, number, wrong


@dataclass(frozen=True)
class Estimate:
    """A number that images gave, and what others may give.

    Args:
        value: The number.
        low: Lower end of its 95 % interval, NaN if nobody knows.
        high: Upper end, likewise.

    Example:
        >>> share = Estimate(0.02, 0.005, 0.07)
        >>> share.at_most(0.10), share.at_most(0.03), share.at_most(0.001)
        (True, None, False)
    """

    value: float
    low: float = math.nan
    high: float = math.nan

    def at_most(self, limit: float) -> bool | None:
        """Whether the number is at most a limit: True or False if all of the interval says so, None if it does not."""
        return True if self.high <= limit else False if self.low > limit else None

    def at_least(self, limit: float) -> bool | None:
        """Whether the number is at least a limit, likewise."""
        return True if self.low >= limit else False if self.high < limit else None

    def images_to_decide(self, limit: float, images: int, share: bool = False) -> float:
        """Return how many images it takes, roughly, until the interval no longer holds a limit.

        A width falls with the root of the number of images, and the number is taken to stay what it is. Wilson's
        interval of a share falls faster near 0 and 1: its ends are shares from which this one is as far off as chance
        may take it, by a spread that is their own.

        Args:
            limit: The limit.
            images: Images that this interval is of.
            share: Whether the interval is Wilson's, of a share.

        Returns:
            Their number; infinite if the number is the limit, or if there is no interval.

        Example:
            >>> Estimate(0.02, 0.0, 0.04).images_to_decide(0.01, 100)
            400.0
            >>> round(share_of(0.0, 100).images_to_decide(0.01, 100, share=True))
            380
        """
        end = self.high if limit > self.value else self.low
        if limit == self.value or not math.isfinite(end):
            return math.inf
        spread = limit * (1 - limit) / (end * (1 - end)) if share and 0 < end < 1 else 1.0
        return images * spread * ((end - self.value) / (limit - self.value)) ** 2

    def widened(self, factor: float) -> Estimate:
        """Return the change of a share with an interval so many times as wide, within -1 and 1."""
        low, high = (self.value + factor * (end - self.value) for end in (self.low, self.high))
        return Estimate(self.value, max(-1.0, low), min(1.0, high))

    def to_list(self) -> list[float | None]:
        """Return number and ends, None for NaN."""
        return [value if math.isfinite(value) else None for value in astuple(self)]


#: 97.5 % quantile of the normal distribution.
NORMAL_QUANTILE = 1.959963984540054


def share_of(share: float, images: float) -> Estimate:
    """Put Wilson's interval (1927) around a share of images, which is never without a width.

    Args:
        share: The share, from 0 to 1.
        images: How many images it is of, one at least; those that belong together may count as a fraction of one.

    Example:
        >>> f"{share_of(0.0, 100).high:.3f}"
        '0.037'
    """
    square = NORMAL_QUANTILE**2 / images
    middle = share + square / 2
    reach = NORMAL_QUANTILE * math.sqrt(share * (1 - share) / images + square / (4 * images))
    low, high = (middle - reach) / (1 + square), (middle + reach) / (1 + square)
    return Estimate(share, max(0.0, low) if share > 0 else 0.0, min(1.0, high) if share < 1 else 1.0)


_ROUNDING = 1e-6  # of ends in float32
_NUMBER = maybe(number(), math.nan)


def estimate(value: Any, where: str) -> Estimate:
    """Read an estimate as :meth:`Estimate.to_list` wrote it; a field of a saved report.

    Example:
        >>> estimate([0.5, None, None], "flips")
        Estimate(value=0.5, low=nan, high=nan)
    """
    if not isinstance(value, (list, tuple)) or len(value) != 3:
        raise wrong(where, value, "a list of three: a number and the ends of its interval")
    read = Estimate(*(_NUMBER(item, f"{where}[{i}]") for i, item in enumerate(value)))
    if not (math.isnan(read.low) or read.low - _ROUNDING <= read.value <= read.high + _ROUNDING):
        raise wrong(where, value, "a number between the ends of its interval")
    return read
