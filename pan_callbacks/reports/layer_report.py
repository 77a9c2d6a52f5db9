"""How one layer was measured, and what was found in it: plain data."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from pan_callbacks.layers import Reason, Skip
from pan_callbacks.padding import ALL_SIDES, SIDES
from pan_callbacks.reports._fields import few, maybe, number, one_of, record, row, several, shown, text, whole
from pan_callbacks.reports._json import finite
from pan_callbacks.reports.pans import PAN, by_side, counted, half_width, margin, origin_of, origins_of, quantiles
from pan_callbacks.reports.words import ENLARGED, REFERENCES, Reference

#: Channels beyond which a file is no report, so that one of a few bytes cannot ask for all memory.
MOST_CHANNELS = 2**20
#: A line of a saved report.
_LINE = record(
    {
        "name": text,
        "channels": whole(0, MOST_CHANNELS),
        "kernel_size": few(whole(1)),
        "stride": few(whole(1)),
        "reference": maybe(one_of(*REFERENCES)),
        "reason": maybe(text),
        "skipped": maybe(text),
        "output_size": maybe(few(whole())),
        "leftover": maybe(few(whole())),
        "images": whole(),
        "border_bias": maybe(number(0), math.nan),
        "drift": maybe(number(0, 1), math.nan),
        "contrast": maybe(several(row(-1, 1))),
        "effect": maybe(several(row())),
        "mean": maybe(row()),
        "pad": maybe(text),
        "error": maybe(several(row(0))),
        "groups": several(whole()),
        "clusters": several(whole()),
        "draws": several(whole()),
        "consistency": maybe(several(row(-1, 1))),
        "shift": maybe(several(row())),
        "own": maybe(several(row(-1, 1))),
        "earlier": maybe(several(row(-1, 1))),
        "after": maybe(several(row(-1, 1))),
        "follows": several(text),
        "until": text,
    },
    # not in reports of early releases
    later={"mean": None, "pad": None, "groups": (), "clusters": (), "draws": (), "follows": (), "until": ""}
    | dict.fromkeys(("error", "consistency", "shift", "own", "earlier", "after")),
)
#: Fields of numbers for each side and channel.
_BY_SIDE = ("contrast", "effect", "error", "consistency", "shift", "own", "earlier", "after")


def sides_in(dimensions: int) -> tuple[str, ...]:
    """Return the names of the sides of a layer in so many dimensions, those that one in two has at least."""
    return ALL_SIDES if dimensions == 3 else SIDES


@dataclass(frozen=True, eq=False)
class LayerReport:
    """What was measured in one convolution layer.

    A layer in one dimension has columns alone and the sides left and right; one in three has depth before the rows, and
    the sides front and back after the eight.

    Args:
        channels: Number of output channels, the neurons.
        kernel_size: Rows and columns of the kernel.
        stride: Stride along rows and columns.
        reference: The reference used: ``"crop"``, ``"zoom"``, ``"windows"``, ``"mirror"`` or ``"centre"``; None if
            skipped.
        reason: Why this reference and not the one that was asked for; None if it is the one.
        skipped: Why the layer was left out; None if it was measured.
        output_size: Height and width of the output map at the probed image size.
        leftover: Leftover padding along rows and columns at that size.
        images: Number of images behind the figures.
        border_bias: Mean over channels and sides of ``|mean(border) - mean(reference)| / std(reference)``.
        drift: Largest absolute contrast of interior positions, the control: what the view alone changes.
        contrast: Signed contrast (8 sides, channels), NaN if a side has no border.
        effect: Padding effect (8 sides, channels) in standard deviations of the reference, NaN likewise.
        mean: Mean reference activation (channels,).
        pad: Name of the pad module that feeds the layer, or the call of ``F.pad``; None if it pads itself.
        error: Standard error of the contrast (8 sides, channels): how far that of other images may be. NaN if all
            images belong together, which tells nothing about others; None in reports of early releases.
        groups: Groups of images behind the error on each side, as many as they are worth; it has one degree of freedom
            less. Empty in reports of early releases.
        clusters: Images, or of those that belong together the clusters, behind the contrast on each side.
        draws: PANs in each of some draws of other images, as the error lets one expect them.
        consistency: How consistently padding changes the answer to the same pixels (8 sides, channels), -1 to 1; None
            if none were paired.
        shift: Mean difference of border and reference (8 sides, channels), in the layer's typical spread: the median
            over channels of the standard deviation inside the map.
        own: Contrast of the PANs that remains where the layer's own padding is neutral (8 sides, channels); NaN of
            other neurons.
        earlier: The same where the padding of all earlier layers is neutral.
        after: Contrast of the PANs after the normalisation and activation that follow, likewise.
        follows: What these are.
        until: What comes then: a convolution, a residual addition (which would add more than this neuron's answer).
    """

    channels: int
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...] = (1, 1)
    reference: Reference | None = None
    reason: str | None = None
    skipped: str | None = None
    output_size: tuple[int, ...] | None = None
    leftover: tuple[int, ...] | None = None
    images: int = 0
    border_bias: float = math.nan
    drift: float = math.nan
    contrast: Tensor | None = field(default=None, repr=False)
    effect: Tensor | None = field(default=None, repr=False)
    mean: Tensor | None = field(default=None, repr=False)
    pad: str | None = None
    error: Tensor | None = field(default=None, repr=False)
    groups: tuple[int, ...] = ()
    clusters: tuple[int, ...] = ()
    draws: tuple[int, ...] = field(default=(), repr=False)
    consistency: Tensor | None = field(default=None, repr=False)
    shift: Tensor | None = field(default=None, repr=False)
    own: Tensor | None = field(default=None, repr=False)
    earlier: Tensor | None = field(default=None, repr=False)
    after: Tensor | None = field(default=None, repr=False)
    follows: tuple[str, ...] = ()
    until: str = ""

    @property
    def deciding(self) -> Tensor | None:
        """The contrast as it counts, see :func:`~pan_callbacks.reports.pans.counted`."""
        return None if self.contrast is None else counted(self.contrast, self.shift)

    @property
    def sampling(self) -> Tensor | None:
        """Half the width of the 95 % interval of each contrast (sides, channels) by its standard error, or NaN."""
        if self.error is None or not self.groups:
            return None if self.contrast is None else torch.full_like(self.contrast, math.nan)
        return quantiles(self.groups)[:, None] * self.error

    @property
    def half_width(self) -> Tensor | None:
        """Half the width of the 95 % interval of each contrast (sides, channels), NaN if nobody knows.

        It is :attr:`sampling`, made a little wider for images that were not seen: :func:`~.pans.half_width`.
        """
        if self.contrast is None or self.error is None or not self.groups or not self.clusters:
            return self.sampling
        return half_width(self.contrast, self.error, self.groups, self.clusters)

    def margins(self, threshold: float, width: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return by how much each neuron is beyond what makes a PAN at both ends of an interval, (channels,) each.

        Args:
            threshold: Absolute contrast from which a neuron is a PAN.
            width: Half the width of the interval (sides, channels), NaN for all that there may be.
        """
        assert self.contrast is not None, "the layer was not measured"
        size = self.contrast.abs()
        width = torch.zeros_like(size) if width is None else width.nan_to_num(1.0)
        low, high = (size - width).clamp_min(0.0), (size + width).clamp_max(1.0)
        return margin(low, threshold, self.shift, edges=high), margin(high, threshold, self.shift, edges=low)

    def margin(self, threshold: float) -> Tensor:
        """Return by how much each neuron is beyond what makes a PAN (channels,), see :func:`~.pans.margin`."""
        assert self.contrast is not None, "the layer was not measured"
        return margin(self.contrast, threshold, self.shift)

    def pans(self, name: str, threshold: float) -> list[PAN]:
        """Return the PANs of the layer, by channel.

        Args:
            name: Name of the layer.
            threshold: In (0, 1).
        """
        if self.contrast is None:
            return []
        chosen = (self.margin(threshold) >= 0).nonzero().flatten()
        width = self.half_width
        certain = (self.margins(threshold, width)[0] >= 0)[chosen].tolist()

        # of all neurons at once: to look at one number of a tensor takes as long as to look at hundreds
        def of(values: Tensor | None) -> Tensor | None:
            return None if values is None else values[:, chosen]

        def named(values: Tensor | None) -> list[dict[str, float]]:
            return [{} for _ in chosen] if values is None else by_side(values[:, chosen])

        over = counted(self.contrast, self.shift).abs() >= threshold  # NaN compares false: no border, no PAN
        origins = origins_of(self.contrast[:, chosen], of(self.own), of(self.earlier), of(self.effect))
        low = named(None if width is None else (self.contrast - width).clamp_min(-1.0))
        high = named(None if width is None else (self.contrast + width).clamp_max(1.0))
        sides, contrast = named(self.contrast.where(over, math.nan)), named(self.contrast)
        effect, shift, consistency, after = map(named, (self.effect, self.shift, self.consistency, self.after))
        return [
            PAN(
                name,
                channel,
                frozenset(sides[i]),
                contrast[i],
                effect[i],
                origin_of(origin for origin, is_pan in zip(origins[i], reached, strict=True) if is_pan),
                interval={side: (low[i][side], high[i][side]) for side in low[i]},
                certain=certain[i],
                consistency=consistency[i],
                shift=shift[i],
                after=after[i],
                threshold=threshold,
            )
            for i, (channel, reached) in enumerate(zip(chosen.tolist(), over[:, chosen].T.tolist(), strict=True))
        ]

    @property
    def enlarged(self) -> bool:
        """Whether it was measured on enlarged images, and not on what the network sees otherwise."""
        return self.reference in ENLARGED

    def drifts(self, threshold: float) -> bool:
        """Whether the control is high: in the middle of the map, half of what makes a PAN is there without a border.

        Half, as for everything that a contrast may be due to: the padding of one layer (:func:`~.pans.origins_of`), or
        the edges that meet in a corner (:func:`~.pans.margin`).

        Args:
            threshold: Absolute contrast from which a neuron is a PAN.
        """
        return self.drift >= threshold / 2  # NaN compares false: there was no control

    @property
    def skip(self) -> Skip | None:
        """Kind of the reason in ``skipped``; None also in a report from a file, which holds the sentence alone."""
        return self.skipped.skip if isinstance(self.skipped, Reason) else None

    @property
    def sides(self) -> tuple[str, ...]:
        """Names of the rows of ``contrast`` and ``effect``."""
        return sides_in(len(self.kernel_size))

    def to_dict(self) -> dict[str, Any]:
        """Return the line as a dict of lists, numbers and strings only."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        plain = {key: _short(value) if isinstance(value, Tensor) else value for key, value in values.items()}
        return {key: finite(value) for key, value in plain.items()}

    @classmethod
    def from_dict(cls, data: dict[str, Any], where: str = "the line") -> LayerReport:
        """Make the line that :meth:`to_dict` described.

        Args:
            data: The description, with the layer's name.
            where: What to call it in errors.

        Raises:
            ValueError: If a field is missing or not what it should be, with its name and value.
        """
        values = _LINE(data, where)
        name, channels = values.pop("name"), values["channels"]
        if (values["contrast"] is None) != (values["skipped"] is not None):
            raise ValueError(
                f"{where}: layer {shown(name)} has to have either a contrast or, in 'skipped', a reason for none"
            )
        sizes = {len(values[key]) for key in ("kernel_size", "stride", "output_size", "leftover") if values[key]}
        if len(sizes) > 1:
            by_axis = "kernel_size, stride, output_size and leftover"
            raise ValueError(f"{where}: {by_axis} of {shown(name)} have not as many numbers each, one for each axis")
        sides = len(sides_in(*sizes))
        for key in _BY_SIDE:
            rows = values[key]
            if rows is not None:
                if len(rows) != sides or any(len(one) != channels for one in rows):
                    raise ValueError(
                        f"{where}: {key} of {shown(name)} is not ({sides} sides, channels), which are {channels}"
                    )
                values[key] = torch.tensor(rows, dtype=torch.float32)
        if values["mean"] is not None:
            if len(values["mean"]) != channels:
                raise ValueError(f"{where}: mean of {shown(name)} is not (channels,), which are {channels}")
            values["mean"] = torch.tensor(values["mean"], dtype=torch.float32)
        return cls(**values)


def _short(values: Tensor) -> list[Any]:
    """Return numbers in as many digits as float32 has, which are half of those that Python would write."""
    rows = values.tolist()
    if values.ndim > 1:
        return [[float(f"{value:.9g}") for value in row] for row in rows]
    return [float(f"{value:.9g}") for value in rows]
