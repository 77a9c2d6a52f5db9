"""The contrast of new images, and how sure it is: thresholds chosen on some images and evaluated on others.

The largest difference of two distribution functions is larger by chance the fewer the readings, since it is looked for
in the very readings that it is taken from. So the images are dealt out to two halves: what separates border and
reference best in the one half is evaluated in the other, and the other way round (cross-fitting). What comes out is a
mean over images, and has a standard error as any mean has. Readings of one image belong together, and images may: the
error is that of means of *groups* of images (random groups; Wolter, *Introduction to Variance Estimation*, 2007,
chapter 2), or of clusters where there are no more of these than groups.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pan_callbacks.measurement.contrast import AT_ONCE, RESOLUTION, separated
from pan_callbacks.reports.pans import GROUPS

#: The thresholds themselves are uncertain by this share of what they lose from the half that they were chosen in to the
#: other. Chosen by simulation, so that 95 % intervals hold what they say: docs/statistics.md has the table.
CHOICE = 0.4


class Sample(NamedTuple):
    """Readings, and the group of each.

    Args:
        readings: (n, channels), float32; quickest if it is the transpose of what lies in memory, by half of the groups.
        groups: Number of the group that the image of each reading is in, below ``GROUPS`` (n,), on the CPU.
    """

    readings: Tensor
    groups: Tensor


class Estimate(NamedTuple):
    """A contrast and how sure it is.

    Args:
        contrast: Signed contrast (channels,).
        deviations: What each group's images add to its error (``GROUPS``, channels): the squares add up to that of
            the standard error, and with signs before them they make as good an estimate from other images.
        groups: Groups that have readings in both samples, as many as they are worth: the error has one degree of
            freedom less.
        present: As many as there are.
        cuts: Where each half was cut; None with one group alone.
    """

    contrast: Tensor
    deviations: Tensor
    groups: int
    present: int
    cuts: Cuts | None = None

    @property
    def error(self) -> Tensor:
        """Standard error (channels,); NaN if there is one group alone, which tells nothing about others."""
        return self.deviations.square().sum(0).sqrt()

    def split(self, parts: int) -> list[Estimate]:
        """Return the estimates of so many parts of the channels, without where they were cut."""
        pairs = zip(self.contrast.chunk(parts), self.deviations.chunk(parts, 1), strict=True)
        return [Estimate(contrast, deviations, self.groups, self.present) for contrast, deviations in pairs]


class Cuts(NamedTuple):
    """Thresholds that separate border and reference, each chosen on one half of the groups, to cut the other with.

    Args:
        half: Half that each group is in, -1 for neither (``GROUPS``,).
        thresholds: Threshold for each half (2, channels).
        signs: Sign of the contrast that it is for (2, channels).
        sign: Sign of the contrast in all (channels,).
    """

    half: Tensor
    thresholds: tuple[Tensor, Tensor]
    signs: tuple[Tensor, Tensor]
    sign: Tensor

    def of(self, channels: Tensor) -> Cuts:
        """Return those of some channels alone (numbers of them)."""
        one, other = ((t[channels], s[channels]) for t, s in zip(self.thresholds, self.signs, strict=True))
        return Cuts(self.half, (one[0], other[0]), (one[1], other[1]), self.sign[channels])

    def by_group(self, border: Sample, reference: Sample) -> tuple[Tensor, Tensor]:
        """Return the contrast of each group (``GROUPS``, channels), and the border readings behind it (groups,)."""
        device = border.readings.device
        exact = torch.float64 if device.type != "mps" else torch.float32
        groups = torch.zeros(GROUPS, border.readings.shape[1], device=device, dtype=exact)
        weights = torch.zeros(GROUPS, device=device, dtype=exact)
        for which, (threshold, sign) in enumerate(zip(self.thresholds, self.signs, strict=True)):
            b, r = (_part(sample, self.half[sample.groups] == which) for sample in (border, reference))
            groups += ((_below(r, threshold) - _below(b, threshold)).to(exact) * sign).nan_to_num(0.0)
            weights += torch.bincount(b.groups, minlength=GROUPS).to(weights)
        return groups, weights

    def contrast(self, border: Sample, reference: Sample) -> Tensor:
        """Return the contrast of other readings, cut at these thresholds (channels,); NaN if there are none.

        Args:
            border: Readings at the border, of some of the images.
            reference: Readings of the reference, of these and others.
        """
        groups, weights = self.by_group(border, reference)
        return (self.sign * (weights @ groups / weights.sum())).float()


def crossfit(border: Sample, reference: Sample, choice: float = CHOICE) -> Estimate:
    """Return the contrast with thresholds that were chosen on other images, and its standard error.

    With t the threshold and s the sign of the largest difference in the groups of the other half, a group g of images
    has ``d_g = s (F_reference,g(t) - F_border,g(t))``. The contrast is the mean of these, weighted with the readings w
    at the border (0 if it is negative: what separates one half does not separate the other). Its squared standard error
    is that of the jackknife, ``(G - 1) / G · Σ (w_g (d_g - mean) / (1 - w_g))²`` with G groups and weights that add up
    to 1, and for the choice of the thresholds the square of ``choice`` times what the contrast of a half loses in the
    other. Groups of very different sizes are worth as few as ``1 / Σ w_g²`` of equal ones.

    Args:
        border: Readings at the border.
        reference: Readings of the reference, of the same images.
        choice: By how much of what it loses the choice of thresholds is uncertain.

    Returns:
        The estimate. With readings of one group alone there is no other half: then the contrast is that of the images
        that it was looked for in, and its error is NaN.

    Example:
        >>> values, groups = torch.arange(32.0)[:, None], torch.arange(32) % 16
        >>> found = crossfit(Sample(values + 100, groups), Sample(values, groups))
        >>> found.contrast, found.error, found.groups
        (tensor([1.]), tensor([0.]), 16)
    """
    counts = [torch.bincount(sample.groups, minlength=GROUPS) for sample in (border, reference)]
    both = (torch.minimum(*counts) > 0).nonzero().flatten().tolist()
    if len(both) < 2:
        nothing = torch.full((GROUPS, border.readings.shape[1]), torch.nan, device=border.readings.device)
        return Estimate(_separated(border, reference)[0], nothing, len(both), len(both))
    half = torch.full((GROUPS,), -1)
    half[both] = torch.arange(len(both)) % 2
    (one, cut_one), (other, cut_other) = (
        _separated(*(_part(sample, half[sample.groups] == which) for sample in (border, reference))) for which in (0, 1)
    )
    unknown = 0 * (one + other)  # NaN if a reading is not finite
    sign = torch.where(one.abs() >= other.abs(), one, other).sign() + unknown
    cuts = Cuts(half, (cut_other, cut_one), (other.sign(), one.sign()), sign)
    groups, weights = cuts.by_group(border, reference)
    mean = weights @ groups / weights.sum()
    share = (weights / weights.sum())[:, None]
    deviations = share * (groups - mean) / (1 - share) * ((len(both) - 1) / len(both)) ** 0.5
    deviations = torch.where(deviations.abs() > RESOLUTION**2, deviations, 0.0)  # the others are rounding
    lost = ((one.abs() + other.abs()) / 2 - mean).clamp_min(0.0)
    between = deviations.square().sum(0)
    alike = (half.double() * 2 - 1).to(deviations)[:, None] / len(both) ** 0.5  # if no two groups differ
    alike[half < 0] = 0.0
    directions = torch.where(between > 0, deviations / between.clamp_min(1e-30).sqrt(), alike)
    deviations = directions * (between + (choice * lost).square()).sqrt()
    worth = max(2, int(1 / float(share.square().sum()) + 1e-6))  # two are two, however unlike
    return Estimate((sign * mean.clamp_min(0.0)).float(), (deviations + unknown).float(), worth, len(both), cuts)


def _separated(border: Sample, reference: Sample) -> tuple[Tensor, Tensor]:
    return separated(border.readings.T.float(), reference.readings.T.float())


def _part(sample: Sample, which: Tensor) -> Sample:
    """Return some of the readings: a view of them if they follow upon each other."""
    rows = which.nonzero().flatten()
    if len(rows) and int(rows[-1] - rows[0]) + 1 == len(rows):
        part = slice(int(rows[0]), int(rows[-1]) + 1)
        return Sample(sample.readings[part], sample.groups[part])
    return Sample(sample.readings[rows.to(sample.readings.device)], sample.groups[rows])


def _below(sample: Sample, threshold: Tensor) -> Tensor:
    """Return the share of each group's readings that are not above a threshold (``GROUPS``, channels)."""
    of_groups = F.one_hot(sample.groups, GROUPS).to(sample.readings.device).float()
    some = max(1, AT_ONCE // max(1, len(of_groups)))
    parts = zip(torch.split(sample.readings.T, some), torch.split(threshold[:, None], some), strict=True)
    below = torch.cat([(readings <= cut).float() @ of_groups for readings, cut in parts])
    return (below / of_groups.sum(0).clamp_min(1)).T
