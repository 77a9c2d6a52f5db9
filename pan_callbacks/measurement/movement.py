"""How far answers moved, collected image by image, and what follows for all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pan_callbacks._runtime import moved_to
from pan_callbacks.measurement.answers import distance_of, exact, moved
from pan_callbacks.reports.estimate import share_of
from pan_callbacks.reports.pans import GROUPS, quantiles
from pan_callbacks.reports.reliance import CLASSES, RELATIVE, Reliance

_ROUNDING = 1e-12  # of a sum of squares in 64 bits
#: What is between 0 and 1 is added up in multiples of this, in whole numbers, whose sum has no order; enough for eight
#: million images.
_UNIT = 2.0**-40
_SHAPES = "the answers to some images have another shape than those to others"


class Movement:
    """Collects how far the answers to images move, summed over the images of each group.

    Attributes:
        why_not: Why nothing can be said of all images; empty if something can.

    Example:
        >>> moves = Movement()
        >>> before, after = torch.tensor([[0.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [9.0, 0.0]])
        >>> moves.add(before, after, torch.zeros(2, 3, 8, 8), torch.arange(2))
        >>> found, why = reliance_of([moves.state()], independent=2)
        >>> round(found.value, 3), found.flips
        (0.25, 0.0)
    """

    def __init__(self) -> None:
        self.why_not = ""
        self._kind: list[Any] = []  # how answers are compared, and the shape of those that are no class scores
        self._sums: Tensor | None = None  # groups × what is summed, of which the first are images
        self._total: Tensor | None = None  # of the answers that are no class scores

    @property
    def begun(self) -> bool:
        """Whether there were images, or something that failed with them."""
        return self._sums is not None or bool(self.why_not)

    def add(self, before: Tensor, after: Tensor, images: Tensor, groups: Tensor, features: bool = False) -> None:
        """Add the answers to some images.

        Args:
            before: As the network is (images, ...).
            after: With another one, likewise.
            images: What was answered to (images, channels, height, width).
            groups: Group that each is in, below :data:`~pan_callbacks.reports.pans.GROUPS` (images,).
            features: Whether the answer is known to be none of a classifier.
        """
        distance = distance_of(before, images, features)
        kind = [distance, *(before.shape[1:] if distance == RELATIVE else ())]
        if self._sums is not None and kind != self._kind:
            self.why_not = self.why_not or _SHAPES
            return
        self._kind = kind
        values = moved(before, after, distance)
        finite = values.isfinite()
        finite = finite.all(1) if distance == RELATIVE else finite[:, 0] & finite[:, 2:4].all(1)
        values = torch.cat([torch.ones_like(values[:, :1]), ~finite[:, None], values], 1)
        if distance != RELATIVE:
            values = (values.nan_to_num(0.0, 0.0, 0.0) / _UNIT).round().long()
        of = torch.arange(GROUPS)[:, None] == groups
        sums = (moved_to(of, values.device)[:, :, None] * values).sum(1)
        self._sums = sums if self._sums is None else self._sums + sums
        if distance == RELATIVE:
            total = exact(before).sum(0)
            self._total = total if self._total is None else self._total + total

    def state(self) -> dict[str, Any]:
        """Return what another process has to know for :func:`reliance_of`."""
        sums, total = (None if one is None else one.cpu() for one in (self._sums, self._total))
        return {"why_not": self.why_not, "kind": self._kind, "sums": sums, "total": total}


def reliance_of(states: Sequence[dict[str, Any]], independent: int) -> tuple[Reliance | None, str]:
    """Return what answers rely on padding for, of what one or several processes collected.

    Args:
        states: Of the :class:`Movement` of each.
        independent: How many of the images say something that others do not: clusters, or different images.

    Returns:
        The reliance, and an empty text; or None, and why it is not known (empty if there was no image).
    """
    why_not = [state["why_not"] for state in states if state["why_not"]]
    states = [state for state in states if state["sums"] is not None]
    if why_not or not states:
        return None, (why_not or [""])[0]
    if any(state["kind"] != states[0]["kind"] for state in states):
        return None, _SHAPES
    sums, distance = sum(state["sums"] for state in states), states[0]["kind"][0]
    unit = 1.0 if distance == RELATIVE else _UNIT
    images, broken, *values = (sums.double() * unit).unbind(1)
    if bool(broken.any()):
        return None, "the network answers with NaN or infinity to some images"
    count = int(images.sum())
    if distance == RELATIVE:
        moves, squares = values
        return _relative(images, moves, squares, sum(state["total"].double() for state in states))
    as_logits, as_they_are, flips, looks = values
    moved_by = Mean(as_they_are if bool((looks == images).all()) else as_logits, images)
    flipped = Mean(flips, images)
    interval = flipped.interval(1.0)
    if distance == CLASSES and interval is not None:
        interval = flipped.interval_of_share(independent)
    return Reliance(distance, moved_by.value, moved_by.interval(1.0), flipped.value, interval, count), ""


def _relative(images: Tensor, moves: Tensor, squares: Tensor, total: Tensor) -> tuple[Reliance | None, str]:
    count = float(images.sum())
    square = float(squares.sum()) / count
    spread = square - float((total / count).square().sum())
    if spread <= _ROUNDING * square:
        if bool((moves > 0).any()):
            return None, "the network gives all images one and the same answer, with which a change cannot be compared"
        spread = 1.0
    found = Mean(moves / math.sqrt(spread), images)
    interval = found.interval()
    # as exact as answers are: sums of several processes differ in the last of their 64 bits
    ends = None if interval is None else (_single(interval[0]), _single(interval[1]))
    return Reliance(RELATIVE, _single(found.value), ends, None, None, int(count)), ""


def _single(value: float) -> float:
    return float(torch.tensor(value, dtype=torch.float32))


class Mean:
    """A mean over images, and how sure it is.

    Args:
        sums: Sum over the images of each group (groups,).
        images: Number of images of each (groups,).

    Example:
        >>> found = Mean(torch.tensor([1.0, 0.0, 1.0, 1.0]), torch.ones(4))
        >>> found.value, [round(end, 2) for end in found.interval(most=1.0)]
        (0.75, [0.0, 1.0])
    """

    def __init__(self, sums: Tensor, images: Tensor) -> None:
        self.count = float(images.sum())
        self.value = float(sums.sum()) / self.count
        pulls = (sums - images * self.value) / self.count
        self._groups = int((images > 0).sum())
        self.error = math.nan
        if self._groups > 1:
            self.error = math.sqrt(float(pulls.square().sum()) * self._groups / (self._groups - 1))

    def interval(self, most: float = math.inf) -> tuple[float, float] | None:
        """Return its 95 % interval, by Student's t over groups of images; None for one group.

        Args:
            most: Its largest value; the smallest is 0.
        """
        if self._groups < 2:
            return None
        reach = float(quantiles([self._groups])) * self.error
        return max(0.0, self.value - reach), min(most, self.value + reach)

    def interval_of_share(self, independent: int) -> tuple[float, float]:
        """Return its 95 % interval if it is a share of images, which is never without a width (Wilson 1927).

        Of images that belong together it is that of as many as would have its error (Korn and Graubard 1998).

        Args:
            independent: How many images say something that others do not.
        """
        share, n = self.value, self.count
        if independent < n:
            n = min(n, share * (1 - share) / self.error**2) if self.error > 0 else float(independent)
        wilson = share_of(share, n)
        return wilson.low, wilson.high
