"""How strongly each neuron of a layer is drawn back: as strongly as it takes, and no more.

What it takes differs by orders of magnitude: the gradient that plain gradient descent with momentum turns into an
overshoot is lost beside the task's under Adam. So the strength is found while training goes on, neuron by neuron. It
grows while padding moves a neuron further than the margin and that gets no better, and fades when it does not: the
ascent of a multiplier in an augmented Lagrangian (Hestenes 1969, Powell 1969). It falls at once if the neuron is found
beyond the margin on the other side, which only an overshoot can do (as step sizes do in Jacobs 1988).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pan_callbacks._runtime import moved_to
from pan_callbacks.padding import ALL_SIDES

#: Growth in a step that finds a neuron beyond the margin, and no nearer than before: tenfold in 9 of them.
GROWTH = 1.3
#: What is left of a distance that is nearer than before.
NEARER = 0.9
#: Decay in a step that finds it within the margin.
DECAY = 0.9
#: What an overshoot leaves.
OVERSHOT = 0.3
#: Smallest and largest strength, so that neither is out of reach of the other for long.
LEAST, MOST = 1e-2, 1e2


class Strength:
    """Strengths of the neurons of one layer, from 1 on."""

    def __init__(self) -> None:
        self._value: Tensor | None = None  # (channels,)
        self._away: Tensor | None = None  # (channels,), at the last look
        self._signs: Tensor | None = None  # (all sides, channels), of the last effect beyond the margin
        self._held: Tensor | None = None
        self._learned = False

    def hold(self) -> None:
        """Let the strengths of now be those of all calls until this is called again, and learn from the first of them.

        A layer may be called on two inputs that padding moves in opposite directions, which is no overshoot.
        """
        self._held, self._learned = self._value, False

    def update(self, distance: Tensor, sides: tuple[str, ...]) -> Tensor:
        """Return the strengths (channels,) that hold in this step, and learn from what it found for the next one.

        Args:
            distance: From each kernel to the nearest within the margin of each side, negative if padding moves the
                neuron down; 0 within (sides, channels).
            sides: Names of these sides.

        Example:
            >>> strength, up, down = Strength(), torch.tensor([[1.0, 0.0, 1.0]]), torch.tensor([[1.0, 0.0, -1.0]])
            >>> for distance in (up, up, down):
            ...     strength.hold()
            ...     print(strength.update(distance, ("top",)))
            tensor([1., 1., 1.])
            tensor([1.3000, 0.9000, 1.3000])
            tensor([1.6900, 0.8100, 1.6900])
            >>> strength.hold()
            >>> strength.update(0.5 * up, ("top",))  # one got nearer, one overshot twice
            tensor([2.1970, 0.7290, 0.5070])
        """
        if self._learned and self._held is not None:
            return moved_to(self._held, distance.device)
        value, before, known = self._value, self._away, self._signs
        if value is None or before is None or known is None or len(value) != distance.shape[1]:
            value, before = torch.ones_like(distance[0]), torch.zeros_like(distance[0])
            known = distance.new_zeros(len(ALL_SIDES), distance.shape[1])
        value, before, known = (moved_to(one, distance.device) for one in (value, before, known))
        where, signs, away = [ALL_SIDES.index(side) for side in sides], distance.sign(), distance.abs().amax(0)
        change = torch.where(away < NEARER * before, 1.0, GROWTH)
        change = torch.where(away > 0, change, DECAY)
        change = torch.where((signs * known[where] < 0).any(0), OVERSHOT, change)
        self._value, self._away = (value * change.to(value.dtype)).clamp(LEAST, MOST), away
        last = torch.where(signs == 0, known[where], signs)
        self._signs = known.index_copy(0, torch.tensor(where, device=distance.device), last)
        if self._held is None or len(self._held) != len(value):
            self._held = value
        self._learned = True
        return moved_to(self._held, distance.device)

    def state(self) -> dict[str, Any]:
        """Return the strengths for a checkpoint."""
        return {"value": self._value, "away": self._away, "signs": self._signs}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on with what :meth:`state` returned."""
        self._value, self._away, self._signs = state["value"], state["away"], state["signs"]
