"""Borders that a neuron answers with another spread, and not with another level."""

from __future__ import annotations

from math import log

import torch
from torch import Tensor

from pan_callbacks.analysis.paired_maps import PairedLines
from pan_callbacks.measurement.contrast import mean_and_std, moments

#: A neuron is *constant at the border* if its spread on an edge is no more than this part of that inside, in each of
#: two halves of the images: a neuron that seldom fires may do so in one half alone.
CONSTANT = 0.1
#: A neuron *changes its spread* if that on an edge is at least so many times what it is inside, or at most that part of
#: it, in each half of the images.
CHANGED = 2.0


def log_spread(lines: PairedLines) -> Tensor:
    """Return how the spread of every neuron in the outermost line compares with that of the same pixels inside.

    Args:
        lines: What was read.

    Returns:
        Natural logarithm of the ratio of the standard deviations over images and positions (edges, channels), in the
        order of ``lines.edges``: below 0 the border varies less. -inf where it does not vary at all (by less than
        rounding), inf where only the border does, NaN where nothing does.

    Example:
        >>> values = torch.randn(8, 8, 1, generator=torch.Generator().manual_seed(0))
        >>> log_spread(PairedLines({("top", 0): values / 2, ("left", 0): 0 * values}, dict.fromkeys(
        ...     [("top", 0), ("left", 0)], values)))
        tensor([[-0.6931],
                [   -inf]])
    """
    found = []
    for edge in lines.edges:
        both = [of[edge, 0].flatten(0, 1) for of in (lines.border, lines.reference)]
        (_, border), (_, reference) = (mean_and_std(moments(readings)) for readings in both)
        found.append(border.log() - reference.log())  # of 0, -inf; of both, NaN
    return torch.stack(found).float()


def in_halves(lines: PairedLines) -> Tensor:
    """Return :func:`log_spread` of every other image, and of the others (2, edges, channels).

    Args:
        lines: What was read, of two images at least.
    """
    return torch.stack([log_spread(lines.of(slice(start, None, 2))) for start in (0, 1)])


def is_constant(halves: Tensor) -> Tensor:
    """Whether each neuron is constant at the border on some edge, by :data:`CONSTANT` (channels,).

    Args:
        halves: What :func:`in_halves` gave.

    Example:
        >>> is_constant(torch.tensor([[[-4.0, -4.0]], [[-3.0, 0.1]]]))  # two halves, one edge, two neurons
        tensor([ True, False])
    """
    return (halves <= log(CONSTANT)).all(0).any(0)


def is_changed(halves: Tensor) -> Tensor:
    """Whether each neuron changes its spread on some edge, by :data:`CHANGED` (channels,).

    Args:
        halves: What :func:`in_halves` gave.

    Example:
        >>> is_changed(torch.tensor([[[0.8, -0.8, 0.8]], [[0.7, -0.7, -0.7]]]))
        tensor([ True,  True, False])
    """
    return ((halves >= log(CHANGED)).all(0) | (halves <= -log(CHANGED)).all(0)).any(0)
