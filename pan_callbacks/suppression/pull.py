"""The gradient of a price on a kernel, kept in its factors until that of the task arrives.

Kept whole from the loss until then, those of all kernels would be as much memory as the network; and the length of
each neuron's is known from the factors, without a pass over the kernel.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass
class Pull:
    """Draws each neuron of a kernel along what padding adds by tap, on its worst side.

    Args:
        by_tap: What padding adds to the input that each tap reads (sides, groups, taps).
        side: The side of each neuron (channels,).
        back: How far it is drawn (channels,).
        lengths: Length of the gradient of each neuron (channels,).
        beyond: How far it is beyond its margin, in margins (channels,).
    """

    by_tap: Tensor
    side: Tensor
    back: Tensor
    lengths: Tensor
    beyond: Tensor

    def times(self, factor: Tensor) -> Pull:
        """Return it times a scalar."""
        return replace(self, back=self.back * factor, lengths=self.lengths * factor.abs())

    def gradient(self, like: Tensor) -> Tensor:
        """Return the gradient, in shape and kind of a kernel (out channels, in channels / groups, rows, columns).

        Example:
            >>> by_tap = torch.tensor([[[1.0, 2.0]], [[3.0, 4.0]]])  # two sides
            >>> side, back = torch.tensor([1, 0]), torch.tensor([1.0, -1.0])
            >>> pull = Pull(by_tap, side, back, lengths=torch.tensor([5.0, 5.0**0.5]), beyond=torch.zeros(2))
            >>> pull.gradient(torch.zeros(2, 1, 1, 2)).flatten(1)
            tensor([[ 3.,  4.],
                    [-1., -2.]])
        """
        return self._rows(self.back).reshape(like.shape).to(like.dtype)

    def added_to(self, gradient: Tensor, share: Tensor) -> Tensor:
        """Return a gradient with a share of this one added to each neuron (channels,), in one copy."""
        ours = self._rows(self.back * share).reshape(gradient.shape).to(gradient.dtype)
        return ours.add_(gradient)

    def _rows(self, back: Tensor) -> Tensor:
        groups, channels = self.by_tap.shape[1], len(self.side)
        group = torch.arange(channels, device=self.side.device) // (channels // groups)
        return self.by_tap.flatten(0, 1).index_select(0, self.side * groups + group).mul_(back[:, None])


@dataclass
class Whole:
    """A gradient without factors: on what a kernel is computed from, or of several calls.

    Args:
        value: The gradient.
        beyond: How far each row of it (neuron) is beyond its margin, in margins; of one element: all of it.
    """

    value: Tensor
    beyond: Tensor

    def times(self, factor: Tensor) -> Whole:
        """Return it times a scalar."""
        return replace(self, value=(self.value * factor).to(self.value.dtype))

    @property
    def lengths(self) -> Tensor:
        """Length of each row."""
        return lengths(self.value, len(self.beyond))

    def gradient(self, like: Tensor) -> Tensor:
        """Return the gradient."""
        return self.value.to(like.dtype)

    def added_to(self, gradient: Tensor, share: Tensor) -> Tensor:
        """Return a gradient with a share of this one added to each row."""
        each = share.reshape(share.shape[: gradient.dim()] + (1,) * (gradient.dim() - 1))
        return gradient + each.to(self.value.dtype) * self.value


def lengths(gradient: Tensor, rows: int) -> Tensor:
    """Return the length of each row of a gradient, in 32 bits at least."""
    kind = torch.promote_types(gradient.dtype, torch.float32)
    found: Tensor = torch.linalg.vector_norm(gradient.reshape(rows, -1), dim=1, dtype=kind)
    return found
