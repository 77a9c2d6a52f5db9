"""What was collected of one layer -> its line of the report."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from pan_callbacks.layers import Reason, Skip
from pan_callbacks.measurement.collector import LayerCollector
from pan_callbacks.measurement.contrast import contrast
from pan_callbacks.measurement.crossfit import Estimate, Sample, crossfit
from pan_callbacks.measurement.finite import MOST
from pan_callbacks.measurement.lines import Figures, HowMeasured, line_of
from pan_callbacks.measurement.moments import Moments, mean_and_spread
from pan_callbacks.measurement.positions import INTERIOR, SHARED
from pan_callbacks.measurement.rows import alike
from pan_callbacks.measurement.tail import Tail
from pan_callbacks.reports.layer_report import LayerReport
from pan_callbacks.reports.pans import GROUPS, T_QUANTILES, margin

#: Readings that a side needs; with fewer, chance alone reaches a high contrast.
MIN_READINGS = 8


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

    Args:
        collector: What was collected, by all processes.
        how: How the layer was measured, as far as this process knows.
        threshold: Absolute contrast from which a neuron is a PAN.
        images: The images behind the report.
    """
    count, passed, broken = collector.seen.tolist()
    skipped: Reason | None = None
    if broken > MOST * passed:
        skipped, broken = Skip.NOT_FINITE.because(), 0
    elif not count:
        skipped = how.skipped or Skip.NEVER_CALLED.because()
    left_out = -(-broken * count // passed) if passed else 0  # an image may pass a layer several times
    count -= left_out
    if skipped is None:
        sides = _Sides.of(collector)
        if bool(sides.contrast.isnan().all()):
            skipped = Skip.TOO_FEW_READINGS.because(images=f"{count} image{'s' * (count != 1)}")
    if skipped:
        return line_of(collector.conv, how, skipped), left_out
    moments = sides.moments
    drift, shift = _drift(collector), moments.shift(_inside(collector))
    pans = margin(sides.contrast, threshold, shift) >= 0
    figures = _uncertainty(sides.estimates, images, count)
    figures |= Figures(
        reference=None if how.site is None else how.site.view.name,
        reason=None if how.site is None else how.site.reason,
        images=count,
        border_bias=moments.bias(),
        drift=math.nan if bool(drift.isnan().all()) else float(drift.nan_to_num(-math.inf).max()),
        contrast=sides.contrast.cpu(),
        effect=moments.in_spreads(collector.mean_effect()).cpu(),
        mean=moments.overall().cpu(),
        shift=shift.cpu(),
        consistency=(collector.pushed[0] / collector.pushed[1]).cpu() if bool(collector.pushed[1].any()) else None,
        own=sides.remaining("own", pans).cpu(),
        earlier=sides.remaining("earlier", pans).cpu(),
        after=_after(sides, how, pans),
        follows=how.tail.names if how.tail is not None else (),
        until=how.tail.ends if how.tail is not None else "",
        draws=_draws(sides.contrast, sides.deviations, shift, threshold),
    )
    return line_of(collector.conv, how, None, figures), left_out


class _Group(NamedTuple):
    """Sides of which equally many readings were taken, and which are therefore estimated at once.

    Args:
        rows: Where they are among the sides of the layer.
        names: Their names.
        border: Border readings (n, sides * channels).
        reference: Reference readings, likewise.
        estimate: Of all channels of all of them; None if there are too few readings.
    """

    rows: list[int]
    names: tuple[str, ...]
    border: Sample
    reference: Sample
    estimate: Estimate | None


class _Sides:
    """What was found on every side of a layer.

    Args:
        collector: What was collected.
        groups: The sides, by group.

    Attributes:
        contrast: Contrast (sides, channels), NaN if a side has too few readings.
        moments: Mean and spread of border and reference.
        estimates: Of each side, None if it has too few readings.
    """

    def __init__(self, collector: LayerCollector, groups: list[_Group]) -> None:
        self._collector, self.groups = collector, groups
        self._shape = len(collector.sides), collector.conv.out_channels
        nothing = torch.full(self._shape, torch.nan, device=collector.seen.device)
        self.contrast = nothing.clone()
        self.estimates: list[Estimate | None] = [None] * len(collector.sides)
        border, reference, spread = nothing.clone(), nothing.clone(), nothing.clone()
        for group in groups:
            means, (inside, spreads) = (mean_and_spread(one.readings.T) for one in (group.border, group.reference))
            parts = [(border, means[0]), (reference, inside), (spread, spreads)]
            if group.estimate is not None:
                parts.append((self.contrast, group.estimate.contrast))
                for i, one in zip(group.rows, group.estimate.split(len(group.rows)), strict=True):
                    self.estimates[i] = one
            for of_sides, values in parts:
                for i, row in zip(group.rows, values.view(len(group.rows), -1), strict=True):
                    of_sides[i] = row
        weights = torch.tensor([collector.reference.positions(side) for side in collector.sides])
        self.moments = Moments(border, reference, spread, weights.to(reference))

    @property
    def deviations(self) -> Tensor:
        """What each group of images adds to the error (sides, groups, channels); NaN if nobody knows."""
        unknown = torch.full((GROUPS, self._shape[1]), torch.nan, device=self.contrast.device)
        return torch.stack([unknown if one is None else one.deviations for one in self.estimates])

    @classmethod
    def of(cls, collector: LayerCollector) -> _Sides:
        """Estimate the contrast on every side."""
        groups = []
        for names in alike(collector.sides, (collector.border, collector.reference, *collector.remaining.values())):
            border, reference = collector.border.sample(names), collector.reference.sample(names)
            if not len(reference.groups):
                shared = collector.reference.sample([SHARED])
                reference = Sample(shared.readings.T.repeat(len(names), 1).T, shared.groups)
            enough = min(len(border.groups), len(reference.groups)) >= MIN_READINGS
            rows = [collector.sides.index(side) for side in names]
            groups.append(_Group(rows, names, border, reference, crossfit(border, reference) if enough else None))
        return cls(collector, groups)

    def remaining(self, cause: str, pans: Tensor) -> Tensor:
        """Return the contrast of the PANs that remains with some padding neutral (sides, channels), else NaN.

        It is cut at the thresholds that the border was recognised by. A largest difference would be looked for anew,
        and be found in the spread, which neutral padding changes as well: half of the reference lies on either side of
        a border that has become constant.

        Args:
            cause: What is made neutral.
            pans: Which channels are PANs (channels,).
        """
        found = torch.full(self._shape, torch.nan, device=pans.device)
        chosen = pans.nonzero().flatten()
        for group in self.groups if len(chosen) else ():
            border = self._collector.remaining[cause].sample(group.names)
            if group.estimate is not None and group.estimate.cuts is not None and len(border.groups):
                columns = _columns(chosen, len(group.rows), self._shape[1])
                samples = (_of_columns(one, columns) for one in (border, group.reference))
                remains = group.estimate.cuts.of(columns).contrast(*samples).view(len(group.rows), -1)
                for i, row in enumerate(group.rows):
                    found[row, chosen] = remains[i]
        return found


def _columns(channels: Tensor, sides: int, of: int) -> Tensor:
    """Return where some of so many channels are on each of several sides that stand side by side."""
    return (torch.arange(sides, device=channels.device)[:, None] * of + channels).flatten()


def _of_columns(sample: Sample, columns: Tensor) -> Sample:
    return Sample(sample.readings.T[columns].T, sample.groups)


def _uncertainty(estimates: list[Estimate | None], images: Images, count: int) -> Figures:
    """Return the standard errors; NaN if all images are one and the same, or belong together."""
    known = next(one for one in estimates if one is not None)
    unknown = torch.full_like(known.error, math.nan)
    error = torch.stack([unknown if one is None else one.error for one in estimates])
    groups = tuple(0 if one is None else one.groups for one in estimates)
    clusters = min(count, images.distinct or count, count if images.clusters is None else images.clusters)
    if clusters < 2:
        error, groups = torch.full_like(error, math.nan), tuple(min(n, 1) for n in groups)
    # where not all groups have readings, each is one cluster: there are not enough to go round
    present = [0 if one is None else one.present for one in estimates]
    of_sides = tuple(clusters if n == GROUPS else min(n, clusters) for n in present)
    return Figures(error=error.cpu(), groups=groups, clusters=of_sides)


def _inside(collector: LayerCollector) -> Tensor:
    """Return the typical spread of the layer: the median over channels that vary of the spread inside the map."""
    inside = collector.reference.sample([INTERIOR])
    inside = inside if len(inside.groups) else collector.reference.sample([SHARED])
    spread = mean_and_spread(inside.readings.T)[1]
    varying = spread[spread > 0]
    return varying.median() if len(varying) else torch.tensor(torch.nan, device=spread.device)


def _drift(collector: LayerCollector) -> Tensor:
    """Return the contrast of the control, where padding is not read by most layers (channels,)."""
    border, reference = (rows.sample([INTERIOR]) for rows in (collector.border, collector.reference))
    if min(len(border.groups), len(reference.groups)) < MIN_READINGS:
        return torch.full((collector.conv.out_channels,), torch.nan, device=collector.seen.device)
    return contrast(border.readings, reference.readings).abs()


def _after(sides: _Sides, how: HowMeasured, pans: Tensor) -> Tensor | None:
    """Return the contrast of the PANs after what follows elementwise (sides, channels); None if that is not known."""
    if how.tail is None or not how.tail.known:
        return None
    if not how.tail.steps:
        return torch.where(pans, sides.contrast, torch.nan).cpu()
    found, chosen = torch.full_like(sides.contrast, torch.nan), pans.nonzero().flatten()
    for group in sides.groups if len(chosen) else ():
        if group.estimate is not None:
            border, reference = (
                _through(how.tail, one, len(group.rows), chosen) for one in (group.border, group.reference)
            )
            contrasts = crossfit(border, reference).contrast.view(len(group.rows), -1)
            for i, row in enumerate(group.rows):
                found[row, chosen] = contrasts[i]
    return found.cpu()


def _through(tail: Tail, sample: Sample, sides: int, channels: Tensor) -> Sample:
    """Return what a tail makes of readings (n, sides * channels), of some channels alone."""
    n = len(sample.groups)
    after = tail.on_maps(sample.readings.T.view(sides, -1, n))[:, channels]
    return Sample(after.reshape(-1, n).T, sample.groups)


@cache
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
        shift: Mean difference of border and reference (sides, channels).
        threshold: Absolute contrast from which a neuron is a PAN.
    """
    deviations = deviations.nan_to_num(0.0)
    reach = T_QUANTILES[1] * deviations.abs().sum(1)
    near = (contrast.abs().nan_to_num(0.0) + reach).amax(0) >= threshold  # all others are none in any draw
    moved = torch.einsum("rg,sgc->src", _signs().to(contrast), deviations[:, :, near])
    size = (contrast.abs()[:, None, near] + moved).clamp_min(0.0)
    of_draws = shift[:, None, near].expand_as(moved)
    found = margin(size.flatten(1), threshold, of_draws.flatten(1)).view(moved.shape[1:]) >= 0
    return tuple(found.sum(1).tolist())
