"""What was collected of one layer -> its line of the report."""

from __future__ import annotations

import math
import warnings
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor

from pan_callbacks.layers import Reason, Skip
from pan_callbacks.measurement.collector import LayerCollector
from pan_callbacks.measurement.crossfit import Estimate, Sample, crossfit
from pan_callbacks.measurement.finite import MOST
from pan_callbacks.measurement.lines import Figures, HowMeasured, line_of
from pan_callbacks.measurement.metrics import PaddingAwareness
from pan_callbacks.reports.layer_report import LayerReport
from pan_callbacks.reports.pans import GROUPS, T_QUANTILES, margin


@dataclass(frozen=True)
class Images:
    """What is known of the images behind a report.

    Args:
        passed: How many there were.
        distinct: How many of these are different.
        clusters: Of how many clusters they are, None if each is its own.
    """

    passed: int = 0
    distinct: int = 0
    clusters: int | None = None


def finding_of(
    collector: LayerCollector, how: HowMeasured, threshold: float, images: Images
) -> tuple[LayerReport, int]:
    """Return a layer's line of the report, and how many images were left out of it since they are not finite there.

    Every rank calls it, for every layer, in one order.

    Args:
        collector: What was collected.
        how: How the layer was measured, as far as this rank knows.
        threshold: Absolute contrast from which a neuron is a PAN.
        images: The images behind the report.
    """
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", message=r"The ``compute`` method of metric")  # of one that saw nothing
        for metric in collector.metrics:
            stack.enter_context(metric.sync_context(should_sync=collector.shared))
        return _finding(collector, how, threshold, images)


def _finding(collector: LayerCollector, how: HowMeasured, threshold: float, images: Images) -> tuple[LayerReport, int]:
    count, passed, broken = (int(n) for n in collector.seen.counts.tolist())
    skipped: Reason | None = None
    if broken > MOST * passed:
        skipped, broken = Skip.NOT_FINITE.because(), 0
    elif not count:
        skipped = how.skipped or Skip.NEVER_CALLED.because()
    left_out = -(-broken * count // passed) if passed else 0  # an image may pass a layer several times
    count -= left_out
    if skipped is None:
        estimates = [collector.awareness.estimate(side) for side in collector.awareness.sides[:-1]]
        contrast = torch.stack([one.contrast for one in estimates])
        if bool(contrast.isnan().all()):
            skipped = Skip.TOO_FEW_READINGS.because(images=f"{count} image{'s' * (count != 1)}")
    if skipped:
        return line_of(collector.conv, how, skipped), left_out
    drift = collector.awareness.contrast_of("interior").abs()
    shift, figures = _shift(collector), _uncertainty(estimates, images, count)
    pans = margin(contrast, threshold, shift) >= 0
    figures |= Figures(
        reference=None if how.site is None else how.site.view.name,
        reason=None if how.site is None else how.site.reason,
        images=count,
        border_bias=float(collector.bias.of_layer()),
        drift=math.nan if bool(drift.isnan().all()) else float(drift.nan_to_num(-math.inf).max()),
        contrast=contrast.cpu(),
        effect=collector.effect.by_side().cpu(),
        mean=collector.bias.reference_mean().cpu(),
        shift=shift.cpu(),
        consistency=None if not bool(collector.paired.pairs.any()) else collector.paired.consistency().cpu(),
        own=_remaining(collector, "own", estimates, pans).cpu(),
        earlier=_remaining(collector, "earlier", estimates, pans).cpu(),
        after=_after(collector, how, contrast, pans),
        follows=how.tail.names if how.tail is not None else (),
        until=how.tail.ends if how.tail is not None else "",
        draws=_draws(contrast, torch.stack([one.deviations for one in estimates]), shift, threshold),
    )
    return line_of(collector.conv, how, None, figures), left_out


def _uncertainty(estimates: list[Estimate], images: Images, count: int) -> Figures:
    """Return the standard errors; NaN if all images are one and the same, or belong together."""
    error = torch.stack([one.error for one in estimates])
    groups = tuple(one.groups for one in estimates)
    clusters = min(count, images.distinct or count, count if images.clusters is None else images.clusters)
    if clusters < 2:
        error, groups = torch.full_like(error, math.nan), tuple(min(n, 1) for n in groups)
    # where not all groups have readings, each is one cluster: there are not enough to go round
    of_sides = tuple(clusters if one.present == GROUPS else min(one.present, clusters) for one in estimates)
    return Figures(error=error.cpu(), groups=groups, clusters=of_sides)


def _shift(collector: LayerCollector) -> Tensor:
    """Return the mean difference of border and reference (sides, channels), in the layer's typical spread.

    NaN if nothing varies inside the map of any channel: then there is no scale.
    """
    difference = collector.bias.border_mean() - collector.bias.reference_mean_and_std()[0]
    return (difference / collector.inside.of_layer()).float()


def _remaining(collector: LayerCollector, cause: str, estimates: list[Estimate], pans: Tensor) -> Tensor:
    """Return the contrast of the PANs that remains with some padding neutral (sides, channels); NaN of other neurons.

    It is cut at the thresholds that the border was recognised by. A largest difference would be looked for anew, and be
    found in the spread, which neutral padding changes as well: half of the reference lies on either side of a border
    that has become constant.
    """
    metric: PaddingAwareness = collector.remaining[cause]
    found = torch.full((len(metric.sides), metric.channels), math.nan, device=pans.device)
    for i, (side, estimate) in enumerate(zip(metric.sides, estimates, strict=True)):
        border = metric.grouped(side)[0]
        if estimate.cuts is not None and len(border.readings) and bool(pans.any()):
            found[i] = estimate.cuts.contrast(border, collector.awareness.grouped(side)[1])
    return torch.where(pans, found, torch.nan)


def _after(collector: LayerCollector, how: HowMeasured, contrast: Tensor, pans: Tensor) -> Tensor | None:
    """Return the contrast of the PANs after what follows elementwise (sides, channels); None if that is not known."""
    if how.tail is None or not how.tail.known:
        return None
    if not how.tail.steps:
        return torch.where(pans, contrast, torch.nan).cpu()
    metric = collector.awareness
    found = torch.full((len(metric.sides) - 1, metric.channels), math.nan, device=pans.device)
    for i, side in enumerate(metric.sides[:-1]) if bool(pans.any()) else ():
        samples = metric.grouped(side)
        if min(len(one.readings) for one in samples) >= metric.min_readings:
            border, reference = (Sample(how.tail(one.readings)[:, pans], one.groups) for one in samples)
            found[i, pans] = crossfit(border, reference).contrast
    return found.cpu()


def _signs() -> Tensor:
    """Return 32 rows of signs (32, groups), in which each group has as many + as - and no two go together.

    Rows of a Hadamard matrix, and the same with all signs turned (balanced repeated replication: Wolter 2007, chapter
    3).
    """
    rows = torch.ones(1, 1)
    while len(rows) < GROUPS:
        rows = torch.cat([torch.cat([rows, rows], 1), torch.cat([rows, -rows], 1)])
    return torch.cat([rows, -rows])


def _draws(contrast: Tensor, deviations: Tensor, shift: Tensor, threshold: float) -> tuple[int, ...]:
    """Return the number of PANs in draws of other images, see :func:`pan_callbacks.reports.counts.interval`.

    Args:
        contrast: (sides, channels).
        deviations: What each group of images adds to its error (sides, groups, channels).
        shift: (sides, channels).
        threshold: Absolute contrast from which a neuron is a PAN.
    """
    deviations = deviations.nan_to_num(0.0)
    reach = T_QUANTILES[1] * deviations.abs().sum(1)
    near = (contrast.abs().nan_to_num(0.0) + reach).amax(0) >= threshold  # all others are none in any draw
    size, signs = contrast[:, near].abs(), _signs().to(contrast)
    moved = torch.einsum("rg,sgc->rsc", signs, deviations[:, :, near])
    found = (margin((size + one).clamp_min(0.0), threshold, shift[:, near]) >= 0 for one in moved)
    return tuple(int(one.sum()) for one in found)
