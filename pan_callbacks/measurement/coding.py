"""Readings in 16 bits, where memory is short."""

from __future__ import annotations

import torch
from torch import Tensor

from pan_callbacks.measurement.contrast import RESOLUTION

#: In spreads of a channel nothing lies as far out; the largest number that 16 bits hold is 65,504.
_FARTHEST = 60_000.0
#: As far as what the spread was taken from may lie, so that what comes later has room beyond.
_USUAL = 100.0


class Code:
    """Readings in 16 bits: in spreads of their channel, from its mean.

    A reading is rounded to 2⁻¹¹ of how far it lies from the mean, so that a share of readings below a threshold moves
    by what lies within that. Equal readings stay equal, since there is one mean and one spread for all: those of what
    is coded first.
    """

    def __init__(self) -> None:
        self._centre: Tensor | None = None
        self._scale: Tensor | None = None

    def coded(self, rows: Tensor, dtype: torch.dtype) -> Tensor:
        """Return rows (images, positions, channels) as they are kept.

        Args:
            rows: The rows.
            dtype: Type that they are kept in; in float32 they stay what they are.
        """
        if dtype is torch.float32:
            return rows
        self.suit([rows])
        if self._centre is None or self._scale is None:
            return rows.to(dtype)  # of no image anything is finite
        return ((rows - self._centre) / self._scale).clamp(-_FARTHEST, _FARTHEST).to(dtype)

    def suit(self, rows: list[Tensor]) -> None:
        """Take mean and spread of each channel of some rows (images, positions, channels), if none are known yet.

        They are those of border and reference together: what neutral padding leaves of a border may be constant.
        """
        if self._centre is not None:
            return
        values = torch.cat([one.flatten(0, 1) for one in rows])
        if values.device.type != "cpu" or bool(values.isfinite().any()):
            self._centre, self._scale = _mean_and_spread(values)

    def decoded(self, readings: Tensor) -> Tensor:
        """Return what was kept (..., channels, readings), as near as 16 bits have it."""
        if readings.dtype is torch.float32 or self._centre is None or self._scale is None:
            return readings
        return readings.float().mul_(self._scale[:, None]).add_(self._centre[:, None])

    def is_like(self, other: Code) -> bool:
        """Whether another one does the same."""
        if self._centre is None or self._scale is None or other._centre is None or other._scale is None:
            return self._centre is other._centre
        return torch.equal(self._centre, other._centre) and torch.equal(self._scale, other._scale)

    def state(self) -> list[Tensor]:
        """Return what :meth:`of` makes one like it of."""
        return [] if self._centre is None or self._scale is None else [self._centre, self._scale]

    @classmethod
    def of(cls, state: list[Tensor], device: torch.device) -> Code:
        """Return a code that does what another one does."""
        code = cls()
        if state:
            code._centre, code._scale = (one.to(device) for one in state)
        return code


def _mean_and_spread(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and spread of each channel (n, channels), without what is not finite.

    The spread is not 0, and not so small that the farthest value, or rounding, would be out of reach.
    """
    values = values.double() if values.device.type != "mps" else values
    known = values.isfinite()
    count, values = known.sum(0).clamp_min(1), torch.where(known, values, 0.0)
    centre = values.sum(0) / count
    distance = torch.where(known, values - centre, 0.0).abs()
    spread = (distance.square().sum(0) / count).sqrt()
    scale = torch.stack([spread, distance.amax(0) / _USUAL, RESOLUTION * centre.abs()]).amax(0).float()
    return centre.float(), torch.where(scale > 0, scale, torch.ones_like(scale))
