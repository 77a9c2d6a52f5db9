"""How far into the map a border is felt: the contrast in the outermost row or column, and in the next ones."""

from __future__ import annotations

import torch
from torch import Tensor

from pan_callbacks.analysis.paired_maps import DISTANCES, PairedLines
from pan_callbacks.measurement.contrast import contrast


def contrast_by_distance(lines: PairedLines) -> Tensor:
    """Return the contrast of every neuron at each distance from each edge.

    It is the statistic of the report (:func:`pan_callbacks.measurement.contrast.contrast`) between what the layer says
    in a row or column of the border's input and what it says of the same pixels inside, on the readings given: fewer
    than a report has, so that chance adds more to it.

    Args:
        lines: What was read.

    Returns:
        (edges, distances, channels) in the order of ``lines.edges``; NaN where the map is too small for a line.

    Example:
        >>> noise = torch.rand(8, 8, 1, generator=torch.Generator().manual_seed(0))
        >>> border, inside = {("top", 0): noise + 2, ("top", 1): noise}, {("top", 0): noise, ("top", 1): noise}
        >>> contrast_by_distance(PairedLines(border, inside))[0, :, 0]
        tensor([1., 0., nan, nan])
    """
    channels = next(iter(lines.border.values())).shape[-1]
    found = torch.full((len(lines.edges), DISTANCES, channels), torch.nan)
    for (edge, distance), border in lines.border.items():
        reference = lines.reference[edge, distance]
        found[lines.edges.index(edge), distance] = contrast(border.flatten(0, 1), reference.flatten(0, 1))
    return found


def inwards(contrasts: Tensor) -> Tensor:
    """Return the absolute contrast along the edge where the outermost line has the most of it (distances, channels).

    Args:
        contrasts: What :func:`contrast_by_distance` gave.

    Example:
        >>> inwards(torch.tensor([[[0.1], [0.3]], [[-0.9], [0.2]]]))  # two edges, two distances, one neuron
        tensor([[0.9000],
                [0.2000]])
    """
    size = contrasts.abs()
    strongest = size[:, 0].nan_to_num(-1.0).argmax(0)  # (channels,)
    return size[strongest, :, torch.arange(size.shape[2])].T
