"""How strongly each neuron of a layer is drawn back: as strongly as it takes, and no more.

What it takes differs by orders of magnitude: the same gradient that plain gradient descent with momentum turns into an
overshoot is lost beside the task's under Adam. So the strength is found while training goes on, neuron by neuron. It
grows while padding moves a neuron further than the margin, and fades when it no longer does: the ascent of a multiplier
in an augmented Lagrangian (Hestenes 1969, Powell 1969). It falls at once if the neuron is found beyond the margin on
the other side, which only an overshoot can do (as step sizes do in Jacobs 1988).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pan_callbacks._runtime import moved_to
from pan_callbacks.padding import ALL_SIDES

#: Growth in a step that finds a neuron beyond the margin: tenfold in 6 of them.
GROWTH = 1.5
#: Decay in one that does not.
DECAY = 0.8
#: What an overshoot leaves.
OVERSHOT = 0.2
#: Smallest and largest strength, so that neither is out of reach of the other for long.
LEAST, MOST = 1e-3, 30.0


class Strength:
    """Strengths of the neurons of one layer, from 1 on."""

    def __init__(self) -> None:
        self._value: Tensor | None = None  # (channels,)
        self._signs: Tensor | None = None  # (all sides, channels), of the last effect beyond the margin

    def update(self, signs: Tensor, sides: tuple[str, ...]) -> Tensor:
        """Return the strengths (channels,) that hold in this step, and learn from what it found for the next one.

        Args:
            signs: 1 or -1 if padding moves a neuron beyond the margin, up or down, 0 if it does not (sides, channels).
            sides: Names of these sides.

        Example:
            >>> strength, up, down = Strength(), torch.tensor([[1.0, 0.0, 1.0]]), torch.tensor([[1.0, 0.0, -1.0]])
            >>> for signs in (up, down, down):
            ...     print(strength.update(signs, ("top",)))
            tensor([1., 1., 1.])
            tensor([1.5000, 0.8000, 1.5000])
            tensor([2.2500, 0.6400, 0.3000])
        """
        value, known = self._value, self._signs
        if value is None or known is None or len(value) != signs.shape[1]:
            value, known = torch.ones_like(signs[0]), signs.new_zeros(len(ALL_SIDES), signs.shape[1])
        value, known = moved_to(value, signs.device), moved_to(known, signs.device)
        where = [ALL_SIDES.index(side) for side in sides]
        overshot = (signs * known[where] < 0).any(0)
        found = torch.where(signs.any(0), GROWTH, DECAY)
        self._value = (value * torch.where(overshot, OVERSHOT, found)).clamp(LEAST, MOST)
        last = torch.where(signs == 0, known[where], signs)
        self._signs = known.index_copy(0, torch.tensor(where, device=signs.device), last)
        return value

    def state(self) -> dict[str, Any]:
        """Return the strengths for a checkpoint."""
        return {"value": self._value, "signs": self._signs}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on with what :meth:`state` returned."""
        self._value, self._signs = state["value"], state["signs"]
