"""What the neurons of a layer say together: a linear read-out of border or interior."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pan_callbacks.analysis.paired_maps import PairedLines

FOLDS = 4
#: Share of a channel's variance that is added to it: fixed, and not tuned to any layer.
RIDGE = 1e-2


def population_accuracy(lines: PairedLines) -> float:
    """Return how well a linear classifier tells border from interior by all channels at a single position.

    The two classes are the outermost lines of all edges, and the same pixels seen inside, so that content tells
    nothing. Of :data:`FOLDS` parts of the images each is judged by a classifier that was fitted to the others:
    regression of +1 and -1 on the standardised channels with a ridge, in closed form.

    Args:
        lines: What was read.

    Returns:
        Share of positions on held-out images that are told right; 0.5 is chance, NaN if there is one image alone.

    Example:
        >>> noise = torch.randn(8, 8, 2, generator=torch.Generator().manual_seed(0))
        >>> population_accuracy(PairedLines({("top", 0): noise + 9}, {("top", 0): noise}))
        1.0
    """
    border, reference = lines.outermost
    if lines.images < 2:
        return math.nan
    part = torch.arange(lines.images) % min(FOLDS, lines.images)
    right = total = 0
    for fold in range(min(FOLDS, lines.images)):
        held = part == fold
        answers = predict(border[~held], reference[~held], border[held], reference[held])
        right += int((answers[0] > 0).sum()) + int((answers[1] <= 0).sum())
        total += sum(map(len, answers))
    return right / total


def predict(border: Tensor, reference: Tensor, *judged: Tensor) -> list[Tensor]:
    """Fit a classifier to two classes, and return what it says of others.

    Args:
        border: Readings that are to give +1 (images, positions, channels).
        reference: Readings that are to give -1, as many.
        judged: Readings to judge, any number of tensors (images, positions, channels).

    Returns:
        For each, what is above 0 for a border (images * positions,), float64.
    """
    x = torch.cat([border.flatten(0, 1), reference.flatten(0, 1)]).double()
    wanted = torch.ones(len(x), dtype=x.dtype)
    wanted[len(x) // 2 :] = -1
    mean, scale = x.mean(0), x.std(0, correction=0)
    scale = torch.where(scale > 1e-6 * mean.abs(), scale, torch.inf)  # a constant channel has no say
    x = (x - mean) / scale
    wide = x.shape[1] > len(x)  # then the same classifier follows from as many equations as there are readings
    normal = x @ x.T if wide else x.T @ x
    normal.diagonal().add_(RIDGE * len(x))
    weight: Tensor = torch.linalg.solve(normal, wanted if wide else x.T @ wanted)
    by_channel = x.T @ weight if wide else weight
    return [(readings.flatten(0, 1).double() - mean) / scale @ by_channel for readings in judged]
