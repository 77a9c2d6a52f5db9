"""Whether a neuron reads the padding: the same pixels, with padding beside them and with what is really there."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from pan_callbacks.measurement.contrast import RESOLUTION
from pan_callbacks.measurement.metrics import Readings, SideMoments
from pan_callbacks.padding import SIDES


def pushes(border: Tensor, reference: Tensor) -> Tensor:
    """Return in which direction the border moves each reading: 1, -1, or 0 for a difference below rounding and NaN."""
    difference = border - reference
    rounding = RESOLUTION * torch.maximum(border.abs(), reference.abs())
    return torch.where(difference.abs() > rounding, difference.sign(), 0.0)


class PairedSign(Metric):
    """How consistently the border changes the answer to the same pixels, and in which direction.

    ``P(d > 0) - P(d < 0)`` with d the border reading less the reference reading of the same pixel of the same image, as
    Lin et al. (2206.01202) compare a patch with padding to the same patch with its real surroundings. 1 or -1 if
    padding always pushes the neuron to one side, however little; 0 if it does nothing or pushes either way. Differences
    below rounding are none.

    Input to ``update``: readings that are paired, side name to a tensor (images * positions, channels) each. Output of
    ``compute``: (sides, channels), NaN without pairs.

    Args:
        channels: Number of neurons.
        sides: Names of the sides.
        kwargs: For :class:`torchmetrics.Metric`.

    Example:
        >>> metric = PairedSign(channels=2, sides=("left",))
        >>> inside = torch.tensor([[0.0, 0.0], [5.0, 5.0]])
        >>> metric.update({"left": inside + torch.tensor([0.1, 0.0])}, {"left": inside})
        >>> metric.compute()
        tensor([[1., 0.]])
    """

    full_state_update = False
    higher_is_better = False
    signs: Tensor
    pairs: Tensor

    def __init__(self, channels: int, sides: tuple[str, ...] = SIDES, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.sides = tuple(sides)
        self.add_state("signs", default=torch.zeros(len(self.sides), channels), dist_reduce_fx="sum")
        self.add_state("pairs", default=torch.zeros(len(self.sides), 1), dist_reduce_fx="sum")

    def update(self, border: Readings, reference: Readings) -> None:
        """Add the pairs of a batch."""
        for side in border.keys() & reference.keys():
            one, other, i = border[side].float(), reference[side].float(), self.sides.index(side)
            self.signs[i] += pushes(one, other).sum(0)
            self.pairs[i] += (~(one - other).isnan().all(1)).sum()

    def compute(self) -> Tensor:
        """Return the consistency (sides, channels)."""
        return self.consistency()

    def consistency(self) -> Tensor:
        """Return the consistency (sides, channels) of what was reduced so far."""
        return self.signs / self.pairs


class TypicalSpread(SideMoments):
    """Typical spread of a layer: the median over channels of the standard deviation of readings inside the map.

    Channels that are constant there have none. Input to ``update``: no border, and readings inside (readings,
    channels). Output of ``compute``: a scalar, NaN if no channel varies.

    Args:
        channels: Number of neurons.
        kwargs: For :class:`torchmetrics.Metric`.
    """

    def __init__(self, channels: int, **kwargs: Any) -> None:
        super().__init__(channels, ("inside",), **kwargs)

    def compute(self) -> Tensor:
        """Return the typical spread, a scalar."""
        return self.of_layer()

    def of_layer(self) -> Tensor:
        """Return the typical spread of what was reduced so far, a scalar."""
        spread = self.reference_mean_and_std()[1][0]
        varying = spread[spread > 0]
        return varying.median() if len(varying) else spread.new_tensor(torch.nan)
