"""Turns the maps of one layer into readings, and the readings into a line of the report."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypedDict

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from pan_callbacks._runtime import Shard
from pan_callbacks.layers import PaddedLayer, Reason, Skip
from pan_callbacks.measurement.calls import LayerCall
from pan_callbacks.measurement.contrast import thin
from pan_callbacks.measurement.effect import padding_effect
from pan_callbacks.measurement.hooks import replaced_channels
from pan_callbacks.measurement.metrics import BorderBias, PaddingAwareness, PaddingEffect
from pan_callbacks.measurement.plans import Position, SitePlan
from pan_callbacks.measurement.readings import evenly
from pan_callbacks.measurement.views import Role, View
from pan_callbacks.padding import SIDES, Geometry
from pan_callbacks.reports.layer_report import LayerReport

#: Images on which the padding effect is measured: it is a mean, which settles sooner than a distribution.
EFFECT_IMAGES = 64
_GROUPS = (*SIDES, "interior")
#: Samples kept of each neuron: border and reference of every side and of the interior.
SAMPLES = 2 * len(_GROUPS)
#: Memory for the readings of all neurons together; docs/statistics.md says what it buys.
MEMORY = 64 * 2**20
#: Readings kept of each side: enough for a contrast within 0.01 of the exact one, and no more than is of use.
MIN_CAPACITY, MAX_CAPACITY = 512, 2**16


def capacity_of(neurons: int) -> int:
    """Return how many readings of a sample are kept, if this many neurons share the memory."""
    return min(max(MEMORY // (4 * SAMPLES * max(1, neurons)), MIN_CAPACITY), MAX_CAPACITY)


@dataclass(frozen=True)
class HowMeasured:
    """How a layer is measured, as far as this process knows.

    Args:
        site: How its first measured call is, None if none is.
        geometry: Its geometry in the model's own forward, if it is a padded layer.
        skipped: Why it is not measured.
        pad: Name of the pad module that feeds it, None if it pads itself.
    """

    site: SitePlan | None = None
    geometry: Geometry | None = None
    skipped: Reason | None = None
    pad: str | None = None


class _Figures(TypedDict, total=False):
    """The fields of a line of the report that a layer has if it was measured."""

    reference: str | None
    reason: str | None
    images: int
    border_bias: float
    drift: float
    contrast: Tensor
    effect: Tensor
    mean: Tensor


class LayerCollector:
    """What accumulates for one layer while images pass; all of it reduces over ranks.

    Args:
        conv: The convolution.
        capacity: Readings of one side kept at most, see :class:`~pan_callbacks.measurement.metrics.PaddingAwareness`.
        shard: This process's part of the work. If it says how many images there are, what is kept of a batch depends
            on its number and not on the batches before it.
    """

    def __init__(self, conv: nn.Conv2d, capacity: int, shard: Shard) -> None:
        self.conv, self._capacity, self._total = conv, capacity, shard.images
        options: dict[str, Any] = {"sync_on_compute": shard.shared}
        # with a known total each batch keeps its part, and the metric, which thins as readings come, need not
        most = capacity if self._total is None else 8 * capacity
        self.awareness = PaddingAwareness(conv.out_channels, _GROUPS, most, **options)
        self.bias = BorderBias(conv.out_channels, **options)
        self.effect = PaddingEffect(conv.out_channels, **options)
        self.seen = _Seen(**options)
        device = next(conv.parameters()).device  # not of the weight, which a parametrisation computes when it is read
        for metric in (self.awareness, self.bias, self.effect, self.seen):
            metric.to(device)
        self._shared = shard.shared
        self._effect_images: Counter[str] = Counter()  # on each side, which a view need not read in one forward

    def readings(self, side: str, sync: bool = False) -> tuple[Tensor, Tensor]:
        """Return border and reference readings of a side, (n, channels) and (m, channels).

        Args:
            side: One of the eight sides, or ``"interior"``.
            sync: Whether all processes call this, for the readings of all.
        """
        with self.awareness.sync_context(should_sync=sync):
            border, reference = self.awareness.samples(side)
            return border.clone(), reference.clone()

    def add(self, role: Role, site: SitePlan, call: LayerCall, number: int, first_call: bool = True) -> None:
        """Add what a call of the layer gives.

        Args:
            role: Whether its map gives the border or the reference readings.
            site: How the site is measured.
            call: The call, on the images that are measured alone.
            number: Number of the batch among those of all processes.
            first_call: Whether this is the first time that these images pass the layer; else they do not count.
        """
        if role == "reference":
            self._add_reference(site, call.output, number)
        else:
            self._add_border(site, call, number, first_call)

    def _add_reference(self, site: SitePlan, output: Tensor, number: int) -> None:
        if site.shared is not None:
            values = _at(output, site.shared)
            self.awareness.update({}, self._part(values, site.view, len(output), number))
            self.bias.update({}, values)
            self.effect.update({}, values)
            self.seen.update(0, [values])
            return
        readings = {side: _at(output, where) for side, where in site.reference.items()}
        parts = {side: self._part(values, site.view, len(output), number) for side, values in readings.items()}
        self.awareness.update({}, parts)
        self.bias.update({}, _of_sides(readings))
        self.effect.update({}, _of_sides(readings))
        self.seen.update(0, readings.values())

    def _add_border(self, site: SitePlan, call: LayerCall, number: int, first_call: bool) -> None:
        images = len(call.output)
        readings = {side: _at(call.output, where) for side, where in site.border.items()}
        parts = {side: self._part(values, site.view, images, number) for side, values in readings.items()}
        self.awareness.update(parts, {})
        self.bias.update(_of_sides(readings), {})
        self.seen.update(images if first_call else 0, readings.values())
        if self._total is None:
            x = call.x[: max(0, EFFECT_IMAGES - max(self._effect_images[side] for side in readings))]
        else:
            x = call.x[: -(-images * EFFECT_IMAGES // self._images(self._total, site.view))]
        if len(x):
            self._effect_images.update(dict.fromkeys(readings, len(x)))
            self.effect.update(_padding_effects(replace(site.layer, module=call.conv), site, x), {})

    @staticmethod
    def _images(total: int, view: View) -> int:
        """How many images a view will see of a known total."""
        return -(-total // view.every)

    def _part(self, values: Tensor, view: View, images: int, number: int) -> Tensor:
        """Return a batch's part of the readings that are kept in all, if the number of images is known; else all."""
        if self._total is None:
            return values
        step = -(-len(values) * self._images(self._total, view) // (images * self._capacity))
        return values if step == 1 else thin(values, step, start=int(step * evenly(number, 0.5)))

    def line(self, how: HowMeasured) -> LayerReport:
        """Return the layer's line of the report; every rank calls it, for every layer, in one order.

        Args:
            how: How the layer was measured, as far as this rank knows.
        """
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r"The ``compute`` method of metric")  # of one that saw nothing
            contrast, effect, seen = self.awareness.compute().cpu(), self.effect.compute().cpu(), self.seen.compute()
        with self.bias.sync_context(should_sync=self._shared):
            bias, mean = float(self.bias.of_layer()), self.bias.reference_mean().cpu()
        images, broken = (int(n) for n in seen.tolist())
        skipped: Reason | None = None
        if broken:
            skipped = Skip.NOT_FINITE.because()
        elif not images:
            skipped = how.skipped or Skip.NEVER_CALLED.because()
        elif bool(contrast[:-1].isnan().all()):
            skipped = Skip.TOO_FEW_READINGS.because(images=f"{images} image{'s' * (images != 1)}")
        if skipped:
            return line_of(self.conv, how, skipped)
        interior = contrast[-1].abs()
        figures = _Figures(
            reference=None if how.site is None else how.site.view.name,
            reason=None if how.site is None else how.site.reason,
            images=images,
            border_bias=bias,
            drift=math.nan if bool(interior.isnan().all()) else float(interior.nan_to_num(-math.inf).max()),
            contrast=contrast[:-1].clone(),
            effect=effect,
            mean=mean,
        )
        return line_of(self.conv, how, None, figures)


def line_of(conv: nn.Conv2d, how: HowMeasured, skipped: Reason | None, figures: _Figures | None = None) -> LayerReport:
    """Return a line of the report: what a layer is, and what was found in it or why it was left out.

    Args:
        conv: The convolution.
        how: How it was measured.
        skipped: Why it was left out, None if it was measured.
        figures: What was found.
    """
    geometry = how.geometry
    return LayerReport(
        channels=conv.out_channels,
        kernel_size=(conv.kernel_size[0], conv.kernel_size[1]),
        stride=(conv.stride[0], conv.stride[1]),
        skipped=skipped,
        output_size=None if geometry is None else geometry.output_size,
        leftover=None if geometry is None else (geometry.rows.leftover, geometry.cols.leftover),
        pad=how.pad,
        **(figures or _Figures()),
    )


def _at(output: Tensor, where: Position) -> Tensor:
    """Return a map's values at some rows and columns, (images * positions, channels)."""
    return output[:, :, where[0], where[1]].permute(0, 2, 3, 1).flatten(0, 2)


def _of_sides(readings: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without those of the interior, which are a control."""
    return {side: values for side, values in readings.items() if side in SIDES}


def _padding_effects(layer: PaddedLayer, site: SitePlan, x: Tensor) -> dict[str, Tensor]:
    """Return what the layer's own padding adds at the border, by side (images * positions, channels)."""
    weight, masked = layer.weight(x), replaced_channels(layer.module)
    x = layer.unpadded(x).to(weight.dtype)
    options: dict[str, Any] = {"mode": layer.mode, "value": layer.value, "groups": layer.module.groups}
    effects = {}
    for side in (side for side in site.border if side in SIDES):
        difference = padding_effect(x, weight, site.geometry, side, **options)
        if difference is not None:
            if masked is not None:  # what a mask has cut off has no effect any more
                difference[:, masked.to(difference.device)] = 0
            effects[side] = difference.permute(0, 2, 3, 1).flatten(0, 2)
    return effects


class _Seen(Metric):
    """Number of images, and of samples that held a reading which is not finite."""

    full_state_update = False
    counts: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("counts", default=torch.zeros(2, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, images: int, readings: Iterable[Tensor]) -> None:
        """Add a batch."""
        self.counts[0] += images
        for values in readings:
            self.counts[1] += ~values.isfinite().all()

    def compute(self) -> Tensor:
        """Return both numbers."""
        return self.counts.clone()
