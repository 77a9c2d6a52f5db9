"""Turns the maps of one layer into readings, and the readings into a line of the report."""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from pan_callbacks.measurement.contrast import thin
from pan_callbacks.measurement.metrics import GOLDEN, BorderBias, PaddingAwareness, PaddingEffect
from pan_callbacks.measurement.reference import ZOOM_SHARE, Position, SitePlan
from pan_callbacks.padding import SIDES, Geometry, padding_effect
from pan_callbacks.reports.layer_report import LayerReport
from pan_callbacks.suppression.masks import mask_of

#: Images on which the padding effect is measured: it is a mean, which settles sooner than a distribution.
EFFECT_IMAGES = 64
_GROUPS = (*SIDES, "interior")
#: Samples kept of each neuron: border and reference of every side and of the interior.
SAMPLES = 2 * len(_GROUPS)


class LayerStatistics:
    """What accumulates for one layer while images pass; all of it reduces over ranks.

    Args:
        conv: The convolution.
        capacity: Readings of one side kept at most, see :class:`~pan_callbacks.measurement.metrics.PaddingAwareness`.
        sync: Whether results are reduced over ranks.
        total: Number of images there will be, where it is known; what is kept of a batch then depends on its number
            and not on the batches before it.
    """

    def __init__(self, conv: nn.Conv2d, capacity: int, sync: bool, total: int | None = None) -> None:
        self.conv, self._capacity, self._total = conv, capacity, total
        options = {"sync_on_compute": sync}
        # with a known total each batch keeps its share, and the metric, which thins as readings come, need not
        most = capacity if total is None else 8 * capacity
        self.awareness = PaddingAwareness(conv.out_channels, _GROUPS, most, **options)
        self.bias = BorderBias(conv.out_channels, **options)
        self.effect = PaddingEffect(conv.out_channels, **options)
        self.tally = _Tally(**options)
        device = next(conv.parameters()).device  # not of the weight, which a parametrisation computes when it is read
        for metric in self._metrics:
            metric.to(device)
        self._effect_images = 0

    @property
    def _metrics(self) -> tuple[Metric, ...]:
        return self.awareness, self.bias, self.effect, self.tally

    def samples(self, side: str, sync: bool = False) -> tuple[Tensor, Tensor]:
        """Border and reference readings of a side, (n, channels) and (m, channels); with ``sync`` of all processes."""
        with self.awareness.sync_context(should_sync=sync):
            border, reference = self.awareness.samples(side)
            return border.clone(), reference.clone()

    def add_reference(self, site: SitePlan, output: Tensor, number: int = 0) -> None:
        """Adds the reference readings of a map (images, channels, rows, columns).

        Args:
            site: How the site is measured.
            output: The map.
            number: Number of the batch among all batches.
        """
        readings = {side: _readings(output, where) for side, where in site.reference.items()}
        shared = readings.get(None)
        kept = self._thinned(site, readings, len(output), number)
        self.awareness.update({}, kept if shared is None else kept[None])
        of_sides = {side: r for side, r in readings.items() if side in SIDES} if shared is None else shared
        self.bias.update({}, of_sides)
        self.effect.update({}, of_sides)
        self.tally.update(0, readings.values())

    def add_border(self, site: SitePlan, x: Tensor, output: Tensor, counts: bool = True, number: int = 0) -> None:
        """Adds the border readings of a map, and the padding effect on some of its images.

        Args:
            site: How the site is measured.
            x: What the convolution received (images, in channels, height, width).
            output: What it returned (images, channels, rows, columns).
            counts: Whether the images count; not where a layer is called with them a second time.
            number: Number of the batch among all batches.
        """
        readings = {side: _readings(output, where) for side, where in site.border.items()}
        self.awareness.update(self._thinned(site, readings, len(output), number), {})
        self.bias.update({side: r for side, r in readings.items() if side in SIDES}, {})
        self.tally.update(len(output) if counts else 0, readings.values())
        if self._total is None:
            x = x[: max(0, EFFECT_IMAGES - self._effect_images)]
        else:
            x = x[: -(-len(x) * EFFECT_IMAGES // self._images(site))]
        if len(x):
            self._effect_images += len(x)
            self.effect.update(_padding_effects(site, x), {})

    def _images(self, site: SitePlan) -> int:
        """How many images a site will see, of a known total."""
        return -(-self._total // ZOOM_SHARE) if site.view == "zoom" else self._total

    def _thinned(self, site: SitePlan, readings: dict, images: int, number: int) -> dict:
        """A batch's part of the readings that are kept in all, where the number of images is known."""
        if self._total is None:
            return readings
        kept = {}
        for side, values in readings.items():
            step = -(-len(values) * self._images(site) // (images * self._capacity))
            start = int(step * ((number * GOLDEN + 0.5) % 1))  # of a single batch the middle of each step
            kept[side] = values if step == 1 else thin(values, step, start)
        return kept

    def report(self, site: SitePlan | None, geometry: Geometry | None, skipped: str | None) -> LayerReport:
        """The layer's line of the report; every rank calls it, for every layer, in one order.

        Args:
            site: How the layer was measured, None where it was not.
            geometry: The layer's geometry in the model's own forward, where it is known.
            skipped: Why the layer was not measured, as far as this rank knows.
        """
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", message=r"The ``compute`` method of metric"
            )  # a layer that was not called
            contrast = self.awareness.compute().cpu()
            bias, effect, tally = self.bias.compute(), self.effect.compute().cpu(), self.tally.compute()
        with self.bias.sync_context(should_sync=self.bias.sync_on_compute):
            mean = self.bias.reference_mean().cpu()
        images, broken = (int(n) for n in tally.tolist())
        if broken:
            skipped = "NaN or infinite activations"
        elif images and bool(contrast[:-1].isnan().all()):
            skipped = f"too few readings: {images} image{'s' * (images != 1)} on so small a map"
        elif images:
            skipped = None
        line = describe(self.conv, skipped or (None if images else "never called"), geometry)
        if line.skipped is not None:
            return line
        values = dict(line.__dict__)
        values.update(
            reference=None if site is None else site.view,
            reason=None if site is None else site.reason,
            images=images,
            border_bias=float(bias),
            drift=float(contrast[-1].abs().nan_to_num(-math.inf).max()) if not contrast[-1].isnan().all() else math.nan,
            contrast=contrast[:-1].clone(),
            effect=effect,
            mean=mean,
        )
        return LayerReport(**values)


def describe(conv: nn.Conv2d, skipped: str | None, geometry: Geometry | None = None) -> LayerReport:
    """A line of the report that says what a layer is, and why it was left out."""
    return LayerReport(
        channels=conv.out_channels,
        kernel_size=tuple(conv.kernel_size),
        stride=tuple(conv.stride),
        skipped=skipped,
        output_size=None if geometry is None else geometry.output_size,
        leftover=None if geometry is None else (geometry.rows.leftover, geometry.cols.leftover),
    )


def _readings(output: Tensor, where: Position) -> Tensor:
    """The map's values at some rows and columns, (images * positions, channels)."""
    return output[:, :, where[0], where[1]].permute(0, 2, 3, 1).flatten(0, 2)


def _padding_effects(site: SitePlan, x: Tensor) -> dict[str, Tensor]:
    layer = site.layer
    weight, mask = layer.weight(x), mask_of(layer.module)
    x = layer.unpadded(x).to(weight.dtype)
    effects = {}
    for side in site.border:
        if side in SIDES:
            difference = padding_effect(
                x, weight, site.geometry, side, mode=layer.mode, value=layer.value, groups=layer.module.groups
            )
            if mask is not None:  # what a mask has cut off has no effect any more
                difference[:, mask.channels.to(difference.device)] = 0
            effects[side] = difference.permute(0, 2, 3, 1).flatten(0, 2)
    return effects


class _Tally(Metric):
    """Number of images, and of updates that held a reading which is not finite."""

    full_state_update = False
    counts: Tensor

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs)
        self.add_state("counts", default=torch.zeros(2, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, images: int, readings) -> None:
        self.counts[0] += images
        for values in readings:
            self.counts[1] += ~values.isfinite().all()

    def compute(self) -> Tensor:
        return self.counts.clone()
