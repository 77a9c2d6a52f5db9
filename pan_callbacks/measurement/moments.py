"""Mean and spread of what is kept of a layer, and what follows from them: bias, effect and shift."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pan_callbacks.measurement.contrast import AT_ONCE, RESOLUTION


def mean_and_spread(readings: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation (of the population) of each row, 0 for one that is constant but for rounding.

    Sums are taken in 64 bits, where they are to be had, so that the order of the readings does not show.

    Args:
        readings: (channels, n), float32.

    Returns:
        Two tensors (channels,); NaN if n is 0.
    """
    found, exact = [], torch.float64 if readings.device.type != "mps" else torch.float32
    for part in torch.split(readings, max(1, AT_ONCE // max(1, readings.shape[1]))):
        mean = part.sum(1, dtype=exact) / part.shape[1]
        rounded = mean.float()
        variance = (part - rounded[:, None]).square_().sum(1, dtype=exact) / part.shape[1] - (mean - rounded).square()
        variance = torch.where(variance <= (RESOLUTION * mean).square(), 0.0, variance)
        found.append((rounded, variance.sqrt().float()))
    means, spreads = zip(*found, strict=True)
    return torch.cat(means), torch.cat(spreads)


class Moments(NamedTuple):
    """Means of border and reference readings, and the spread of the latter.

    Args:
        border: Mean of the border readings (sides, channels), NaN if there are none.
        reference: Mean of the reference readings, likewise.
        spread: Their standard deviation, 0 for a constant.
        positions: Positions of the reference behind each side (sides,).
    """

    border: Tensor
    reference: Tensor
    spread: Tensor
    positions: Tensor

    def bias(self) -> float:
        """Return how far border readings lie from the reference, in its spreads, over a layer; NaN without any spread.

        As :class:`~pan_callbacks.measurement.metrics.BorderBias` has it.
        """
        bias = (self.border - self.reference) / self.spread
        return float(bias[self.spread > 0].abs().nanmean())

    def shift(self, inside: Tensor) -> Tensor:
        """Return the mean difference of border and reference (sides, channels), in a typical spread.

        Args:
            inside: The spread; NaN if nothing varies, and there is no scale.
        """
        return (self.border - self.reference) / inside

    def in_spreads(self, effect: Tensor) -> Tensor:
        """Return a padding effect (sides, channels) in spreads of the reference; of a constant one, in its rounding."""
        rounding = RESOLUTION * torch.maximum(self.reference.abs(), effect.abs())
        of_constant = torch.where(effect.abs() > rounding, effect / rounding, torch.nan)
        return torch.where(self.spread > 0, effect / self.spread, of_constant)

    def overall(self) -> Tensor:
        """Return the mean reference reading of each channel over all positions of all sides (channels,)."""
        weights = torch.where(self.reference.isnan(), 0.0, self.positions[:, None])
        return (self.reference.nan_to_num(0.0) * weights).sum(0) / weights.sum(0)
