"""The gradient of a price on a kernel, kept in its factors until it arrives.

Kept whole from the loss to the arrival of the task's gradient, those of all kernels would be as much memory as the
network.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Pull:
    """Draws each neuron of a kernel along what padding adds by tap, on its worst side.

    Args:
        by_tap: What padding adds to the input that each tap reads (sides, groups, taps).
        side: The side of each neuron (channels,).
        back: How far it is drawn (channels,).
        beyond: How far it is beyond its margin, in margins (channels,).
    """

    by_tap: Tensor
    side: Tensor
    back: Tensor
    beyond: Tensor

    def gradient(self, kernel: Tensor) -> Tensor:
        """Return the gradient, in shape and kind of a kernel (out channels, in channels / groups, rows, columns).

        Example:
            >>> by_tap = torch.tensor([[[1.0, 2.0]], [[3.0, 4.0]]])  # two sides
            >>> pull = Pull(by_tap, torch.tensor([1, 0]), torch.tensor([1.0, -1.0]), torch.zeros(2))
            >>> pull.gradient(torch.zeros(2, 1, 1, 2)).flatten(1)
            tensor([[ 3.,  4.],
                    [-1., -2.]])
        """
        groups = self.by_tap.shape[1]
        group = torch.arange(groups, device=self.side.device).repeat_interleave(len(self.side) // groups)
        return (self.by_tap[self.side, group] * self.back[:, None]).reshape(kernel.shape).to(kernel.dtype)
