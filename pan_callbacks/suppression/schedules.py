"""How the weight of a penalty grows while a network trains."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pan_callbacks.reports.words import SHAPES, Shape


@dataclass(frozen=True)
class Schedule:
    """A weight that is 0 at first, rises, and stays: plain data, which a YAML file can hold.

    Until ``start`` it is 0, from ``until`` on it is ``weight``. In between ``"linear"`` rises in a straight line, and
    ``"cosine"`` along half a wave, slowly at both ends. ``"constant"`` does not rise: it is ``weight`` from ``start``.

    Args:
        weight: The last weight, from 0 on.
        shape: ``"constant"``, ``"linear"`` or ``"cosine"``.
        until: Progress from which on the weight stays, from 0, the start of training, to 1, its end. Half by default:
            the other half trains, and is judged, at the last weight. ``"constant"`` does not look at it.
        start: Progress before which the weight is 0.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> [Schedule(0.1, until=0.5)(progress) for progress in (0.0, 0.25, 0.5, 1.0)]
        [0.0, 0.05, 0.1, 0.1]
        >>> round(Schedule(0.1, "cosine", until=0.8, start=0.2)(0.35), 5)  # a quarter of the way: (1 - cos(45°)) / 2
        0.01464
    """

    weight: float = 0.1
    shape: Shape = "linear"
    until: float = 0.5
    start: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.weight < math.inf:
            raise ValueError(f"weight={self.weight!r} is negative or not finite; 0 switches the penalty off")
        if self.shape not in SHAPES:
            raise ValueError(f"shape={self.shape!r} is unknown; choose one of {', '.join(SHAPES)}")
        for name, value in (("start", self.start), ("until", self.until)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name}={value!r} is no share of the training; give a number from 0 to 1")
        if self.start > self.end:
            raise ValueError(
                f"start={self.start!r} is after until={self.until!r}; the weight rises from one to the other"
            )

    @property
    def end(self) -> float:
        """Progress from which on the weight is the last one."""
        return self.start if self.shape == "constant" else self.until

    def __call__(self, progress: float) -> float:
        """Return the weight at a progress of training from 0 to 1."""
        if progress >= self.end:
            return self.weight
        if progress <= self.start:
            return 0.0
        share = (progress - self.start) / (self.end - self.start)
        return self.weight * (share if self.shape == "linear" else (1 - math.cos(math.pi * share)) / 2)
