"""Position-information pattern from padding, after Lin et al. 2022 (arXiv 2206.01202).

The difference between the features of an image with the padding in use and its features with the pixels that really
surround it; the pattern is what of that is common to all images, their mean. It is computed here in the outermost rows
and columns, on the views of the report. The two numbers that sum it up, one of the kind of a mean absolute error and
one of a signal-to-noise ratio, are defined below. The paper has metrics of its own; ours are not claimed to be these.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pan_callbacks.analysis.paired_maps import Line, PairedLines
from pan_callbacks.measurement.contrast import RESOLUTION, mean_and_std, moments


@dataclass(frozen=True, eq=False)
class PaddingPattern:
    """The pattern that padding adds to a layer, and what sums it up for each neuron.

    Args:
        pattern: Outermost line of each edge to the mean over images of border less reference (positions, channels), in
            units of the activation.
        size: Mean over positions of its absolute value, in standard deviations of the reference (channels,); NaN for a
            neuron that is constant inside.
        snr: Mean over positions of its square, less what chance adds to that, over the mean over positions of the
            variance of the difference over images (channels,); 0 where there is no difference, inf where it is the same
            in all images, NaN if there is one image alone.
    """

    pattern: Mapping[Line, Tensor] = field(repr=False)
    size: Tensor
    snr: Tensor


def padding_pattern(lines: PairedLines) -> PaddingPattern:
    """Return the pattern of a layer.

    Args:
        lines: What was read.

    Example:
        >>> reference = torch.randn(64, 8, 1, generator=torch.Generator().manual_seed(0))
        >>> found = padding_pattern(PairedLines({("top", 0): reference - 3}, {("top", 0): reference}))
        >>> found.pattern["top", 0].mean().round(), found.size.round(), found.snr > 1e6
        (tensor(-3.), tensor([3.]), tensor([True]))
    """
    border, reference = lines.outermost
    images = len(border)
    largest = torch.maximum(border.abs().amax((0, 1)), reference.abs().amax((0, 1)))
    difference = (border - reference).double()
    difference = torch.where(difference.abs() <= 2 * RESOLUTION * largest, 0.0, difference)  # rounding
    pattern = difference.mean(0)  # (positions, channels)
    _, scale = mean_and_std(moments(reference.flatten(0, 1)))
    size = torch.where(scale > 0, pattern.abs().mean(0) / scale, torch.nan)
    variance = difference.var(0).mean(0) if images > 1 else torch.full_like(size, torch.nan)
    signal = (pattern.square().mean(0) - variance / images).clamp(min=0)
    snr = torch.where((signal == 0) & (variance == 0), 0.0, signal / variance)
    parts = torch.split(pattern.float(), [lines.border[edge, 0].shape[1] for edge in lines.edges])
    return PaddingPattern(
        {(edge, 0): part for edge, part in zip(lines.edges, parts, strict=True)}, size.float(), snr.float()
    )
