"""How many neurons are padding aware, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Collection

import torch

from pan_callbacks.reports.layer_report import LayerReport
from pan_callbacks.reports.pans import T_QUANTILES, margin


def interval(layers: Collection[LayerReport], threshold: float) -> tuple[float, float]:
    """Return a 95 % interval of the number of PANs in some layers: what other images may give.

    Each layer has the number of PANs in some draws of other images, in which its contrasts moved as their errors let
    one expect; in one draw the same images moved all layers. The standard deviation of the sums is that of the count.
    Chance makes more PANs out of neurons below the threshold than it takes from those above, for the former are more:
    the draws have more PANs than the images that they came from, and by as much these may have more than there are. So
    the interval reaches further down by that excess; not less far up, for thresholds that were chosen on half of the
    images lose some.

    Args:
        layers: Those that were measured.
        threshold: Absolute contrast from which a neuron is a PAN.

    Returns:
        Its ends, whole numbers that hold the count between them; (NaN, NaN) if a layer has no draws.

    Example:
        >>> one = torch.full((8, 8), torch.nan)
        >>> one[0] = 1.0
        >>> interval([LayerReport(8, (3, 3), contrast=one, groups=(16,) * 8, draws=(7, 9, 8, 8))], 0.8)
        (6.0, 8.0)
    """
    measured = [line for line in layers if line.contrast is not None and line.channels]
    if not measured:
        return 0.0, 0.0
    groups = [max(line.groups, default=0) for line in measured]
    if min(groups) < 2 or any(not line.draws for line in measured) or len({len(line.draws) for line in measured}) > 1:
        return math.nan, math.nan
    count = sum(int((line.margin(threshold) >= 0).sum()) for line in measured)
    draws = torch.tensor([line.draws for line in measured], dtype=torch.float64).sum(0)
    excess, deviation = float(draws.mean()) - count, float(draws.std(correction=0))
    reach = T_QUANTILES[min(groups) - 2] * deviation
    neurons = sum(line.channels for line in measured)
    low, high = math.floor(count - max(excess, 0.0) - reach), math.ceil(count + reach)
    return float(min(count, max(low, 0))), float(max(count, min(high, neurons)))


def readers(layers: Collection[LayerReport], threshold: float) -> float:
    """Return how many neurons read the padding: it pushes them the same way at nearly all pixels of a side.

    That is another question than whether they recognise the border: what the padding does may be small against what
    the content does, and still be there at every pixel. Corners count as they do for the contrast.

    Args:
        layers: Those that were measured.
        threshold: Absolute consistency from which a neuron counts; at 0.8 it is the same sign at 90 % of the pixels.

    Returns:
        The number, NaN if no pixels were paired in any layer.
    """
    known = [(line.consistency, line.shift) for line in layers if line.consistency is not None]
    found = (margin(consistency, threshold, shift) >= 0 for consistency, shift in known)
    return float(sum(int(one.sum()) for one in found)) if known else math.nan
