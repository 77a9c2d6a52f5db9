"""How far answers moved, collected image by image, and what follows for all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pan_callbacks.measurement.answers import distance_of, exact, moved
from pan_callbacks.reports.estimate import share_of
from pan_callbacks.reports.pans import GROUPS, quantiles
from pan_callbacks.reports.reliance import CLASSES, RELATIVE, Reliance

_ROUNDING = 1e-12  # of a sum of squares in 64 bits


class Movement:
    """Collects how far the answers to images move.

    Attributes:
        why_not: Why nothing can be said of all images; empty if something can.

    Example:
        >>> moves = Movement()
        >>> before, after = torch.tensor([[0.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [9.0, 0.0]])
        >>> moves.add(before, after, torch.zeros(2, 3, 8, 8), torch.arange(2), torch.arange(2))
        >>> found, why = reliance_of([moves.state()], independent=2)
        >>> round(found.value, 3), found.flips
        (0.25, 0.0)
    """

    def __init__(self) -> None:
        self.why_not = ""
        self._distance = ""
        self._shape: tuple[int, ...] = ()  # of an answer that is no class scores
        self._values: list[Tensor] = []
        self._numbers: list[Tensor] = []
        self._groups: list[Tensor] = []
        self._total: Tensor | None = None  # of the answers that are no class scores

    def add(
        self, before: Tensor, after: Tensor, images: Tensor, numbers: Tensor, groups: Tensor, features: bool = False
    ) -> None:
        """Add the answers to some images.

        Args:
            before: As the network is (images, ...).
            after: With another one, likewise.
            images: What was answered to (images, channels, height, width).
            numbers: Number of each image among those of all processes (images,).
            groups: Group that each is in, below :data:`~pan_callbacks.reports.pans.GROUPS` (images,).
            features: Whether the answer is known to be none of a classifier.
        """
        distance = distance_of(before, images, features)
        shape = tuple(before.shape[1:]) if distance == RELATIVE else ()
        if self._values and (distance, shape) != (self._distance, self._shape):
            self.why_not = self.why_not or "the answers to some images have another shape than those to others"
            return
        self._distance, self._shape = distance, shape
        self._values.append(moved(before, after, distance))
        self._numbers.append(numbers)
        self._groups.append(groups)
        if distance == RELATIVE:
            total = exact(before).sum(0)
            self._total = total if self._total is None else self._total + total

    def state(self) -> dict[str, Any]:
        """Return what another process has to know for :func:`reliance_of`."""
        state: dict[str, Any] = {"why_not": self.why_not, "distance": self._distance, "shape": list(self._shape)}
        for name, parts in (("values", self._values), ("numbers", self._numbers), ("groups", self._groups)):
            state[name] = torch.cat(parts).cpu() if parts else None
        return {**state, "total": None if self._total is None else self._total.cpu()}


def reliance_of(states: Sequence[dict[str, Any]], independent: int) -> tuple[Reliance | None, str]:
    """Return what answers rely on padding for, of what one or several processes collected.

    Args:
        states: Of the :class:`Movement` of each.
        independent: How many of the images say something that others do not: clusters, or different images.

    Returns:
        The reliance, and an empty text; or None, and why it is not known (empty if there was no image).
    """
    why_not = [state["why_not"] for state in states if state["why_not"]]
    states = [state for state in states if state["values"] is not None]
    if why_not or not states:
        return None, (why_not or [""])[0]
    if any((state["distance"], state["shape"]) != (states[0]["distance"], states[0]["shape"]) for state in states):
        return None, "the answers to some images have another shape than those to others"
    numbers, values, groups = (torch.cat([state[name] for state in states]) for name in ("numbers", "values", "groups"))
    order = numbers.argsort(stable=True)  # of any number of processes the same
    values, groups, distance = values[order].double(), groups[order], states[0]["distance"]
    if distance == RELATIVE:
        return _relative(values, groups, sum(state["total"].double() for state in states))
    moves = values[:, 1] if bool(values[:, 3].all()) else values[:, 0]
    if not bool(moves.isfinite().all()):
        return None, _NOT_FINITE
    flips, interval = values[:, 2], _interval(values[:, 2], groups, 1.0)
    if distance == CLASSES and interval is not None:
        interval = _of_share(flips, interval, groups, independent)
    value = moves.mean().clamp(0, 1)
    return Reliance(
        distance, float(value), _interval(moves, groups, 1.0), float(flips.mean()), interval, len(moves)
    ), ""


_NOT_FINITE = "the network answers with NaN or infinity to some images"


def _relative(values: Tensor, groups: Tensor, total: Tensor) -> tuple[Reliance | None, str]:
    moves, squares = values.unbind(1)
    if not bool(values.isfinite().all()):
        return None, _NOT_FINITE
    square = float(squares.mean())
    spread = square - float((total / len(moves)).square().sum())
    if spread <= _ROUNDING * square:
        if bool((moves > 0).any()):
            return None, "the network gives all images one and the same answer, with which a change cannot be compared"
        spread = 1.0
    # as exact as answers are: sums of several processes differ in the last of their 64 bits
    moves = moves / float(torch.tensor(math.sqrt(spread), dtype=torch.float32))
    return Reliance(RELATIVE, float(moves.mean()), _interval(moves, groups), None, None, len(moves)), ""


def _interval(values: Tensor, groups: Tensor, most: float = math.inf) -> tuple[float, float] | None:
    """Return the 95 % interval of a mean, by Student's t over groups of images; None for one group."""
    error, present = _error(values, groups)
    if present < 2:
        return None
    mean, reach = float(values.mean()), float(quantiles([present])) * error
    return max(0.0, mean - reach), min(most, mean + reach)


def _error(values: Tensor, groups: Tensor) -> tuple[float, int]:
    """Return the standard error of a mean, from how far each group pulls it, and the number of groups."""
    pulls = torch.zeros(GROUPS, dtype=values.dtype)
    pulls.index_add_(0, groups, (values - values.mean()) / len(values))
    present = int((torch.bincount(groups, minlength=GROUPS) > 0).sum())
    return float((pulls.square().sum() * present / max(1, present - 1)).sqrt()), present


def _of_share(flips: Tensor, interval: tuple[float, float], groups: Tensor, independent: int) -> tuple[float, float]:
    """Return the 95 % interval of a share of images, which is never without a width (Wilson 1927).

    Of images that belong together the share is that of as many as would have its error (Korn and Graubard 1998).
    """
    share, n = float(flips.mean()), float(len(flips))
    if independent < n:
        error, _ = _error(flips, groups)
        n = min(n, share * (1 - share) / error**2) if error > 0 else float(independent)
    wilson = share_of(share, n)
    return wilson.low, wilson.high
