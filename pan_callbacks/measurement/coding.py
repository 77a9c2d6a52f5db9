"""Readings in 16 bits, where memory is short."""

from __future__ import annotations

import torch
from torch import Tensor

#: In spreads of a channel nothing lies as far out; the largest number that 16 bits hold is 65,504.
_FARTHEST = 60_000.0


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
        if self._centre is None or self._scale is None:
            self._centre, self._scale = _mean_and_spread(rows)
        return ((rows - self._centre) / self._scale).clamp(-_FARTHEST, _FARTHEST).to(dtype)

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


def _mean_and_spread(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and spread of each channel, the latter not 0, without what is not finite."""
    values = rows.flatten(0, 1)
    known = values.isfinite()
    count, values = known.sum(0).clamp_min(1), torch.where(known, values, 0.0)
    centre = values.sum(0) / count
    spread = (torch.where(known, values - centre, 0.0).square().sum(0) / count).sqrt()
    return centre, torch.where(spread > 0, spread, centre.abs().clamp_min(1.0))
