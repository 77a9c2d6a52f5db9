"""Turns the maps of one layer into readings, and the readings into a line of the report."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pan_callbacks._runtime import Shard
from pan_callbacks.layers import Convolution, PaddedLayer, Reason, Skip, dimensions
from pan_callbacks.measurement.calls import LayerCall
from pan_callbacks.measurement.contrast import thin
from pan_callbacks.measurement.effect import padding_effect
from pan_callbacks.measurement.finite import MOST, Seen, finite_images, marked, positions
from pan_callbacks.measurement.hooks import replaced_channels
from pan_callbacks.measurement.lines import Figures, HowMeasured, line_of
from pan_callbacks.measurement.metrics import BorderBias, PaddingAwareness, PaddingEffect, Readings
from pan_callbacks.measurement.plans import SitePlan
from pan_callbacks.measurement.readings import evenly
from pan_callbacks.measurement.views import Role, View
from pan_callbacks.padding import ALL_SIDES, SIDES, Position
from pan_callbacks.reports.layer_report import LayerReport

#: Images on which the padding effect is measured: it is a mean, which settles sooner than a distribution.
EFFECT_IMAGES = 64
#: Samples kept of each neuron: border and reference of every side and of the interior.
SAMPLES = 2 * len((*SIDES, "interior"))
#: Memory for the readings of all neurons together; docs/statistics.md says what it buys.
MEMORY = 64 * 2**20
#: Readings kept of each side: enough for a contrast within 0.01 of the exact one, and no more than is of use.
MIN_CAPACITY, MAX_CAPACITY = 512, 2**16


def capacity_of(neurons: int) -> int:
    """Return how many readings of a sample are kept, if this many neurons share the memory."""
    return min(max(MEMORY // (4 * SAMPLES * max(1, neurons)), MIN_CAPACITY), MAX_CAPACITY)


@dataclass
class _Batch:
    """What a call of the layer gives in one role.

    Args:
        role: Whether these are border or reference readings.
        site: How the call is measured.
        number: Number of the batch.
        first_call: Whether its images count.
        finite: Which of them are finite, as far as is known (images,).
        readings: Side, or ``"interior"``, to readings; a tensor of those that all sides share.
        effects: Side to padding effects on the first of the images.
    """

    role: Role
    site: SitePlan
    number: int
    first_call: bool
    finite: Tensor
    readings: Readings | Tensor
    effects: Readings


class LayerCollector:
    """What accumulates for one layer while images pass; all of it reduces over ranks.

    An image with a reading that is not finite is left out, of border and reference alike: its readings are made NaN,
    which the metrics take for no readings. Nothing waits for the device to tell which images these are.

    Args:
        conv: The convolution.
        capacity: Readings of one side kept at most, see :class:`~pan_callbacks.measurement.metrics.PaddingAwareness`.
        shard: This process's part of the work. If it says how many images there are, what is kept of a batch depends
            on its number and not on the batches before it.

    Attributes:
        left_out: Images that were left out of the last :meth:`line`, since they are not finite in this layer.
    """

    def __init__(self, conv: Convolution, capacity: int, shard: Shard) -> None:
        self.conv, self._capacity, self._total = conv, capacity, shard.images
        options: dict[str, Any] = {"sync_on_compute": shard.shared}
        # with a known total each batch keeps its part, and the metric, which thins as readings come, need not
        most = capacity if self._total is None else 8 * capacity
        sides = ALL_SIDES if dimensions(conv) == 3 else SIDES
        self.awareness = PaddingAwareness(conv.out_channels, (*sides, "interior"), most, **options)
        self.bias = BorderBias(conv.out_channels, sides, **options)
        self.effect = PaddingEffect(conv.out_channels, sides, **options)
        self.seen = Seen(**options)
        device = next(conv.parameters()).device  # not of the weight, which a parametrisation computes when it is read
        for metric in (self.awareness, self.bias, self.effect, self.seen):
            metric.to(device)
        self._shared = shard.shared
        self._effect_images: Counter[str] = Counter()  # on each side, which a view need not read in one forward
        self.left_out = 0
        # by call: what waits for other forwards of its view, and which images of a batch are finite
        self._waiting: dict[int, list[_Batch]] = {}
        self._known: dict[int, tuple[int, Tensor]] = {}

    def readings(self, side: str, sync: bool = False) -> tuple[Tensor, Tensor]:
        """Return border and reference readings of a side, (n, channels) and (m, channels).

        Args:
            side: One of the eight sides, or ``"interior"``.
            sync: Whether all processes call this, for the readings of all.
        """
        with self.awareness.sync_context(should_sync=sync):
            border, reference = self.awareness.samples(side)
            return border.clone(), reference.clone()

    def add(
        self, role: Role, site: SitePlan, call: LayerCall, number: int, first_call: bool = True, call_number: int = 0
    ) -> None:
        """Add what a call of the layer gives, but for images that are not finite in it, in this role or the other.

        Args:
            role: Whether its map gives the border or the reference readings.
            site: How the site is measured.
            call: The call, on the images that are measured alone.
            number: Number of the batch among those of all processes.
            first_call: Whether this is the first time that these images pass the layer; else they do not count.
            call_number: Which of the layer's calls in a forward it is.
        """
        batch = self._batch(role, site, call, number, first_call)
        if site.view.usual.reference is None:  # read before the border, or in the very map
            before, known = self._known.get(call_number, (number, batch.finite))
            batch.finite = batch.finite & known if before == number else batch.finite
            self._known[call_number] = number, batch.finite
            self._file(batch, batch.finite)
            return
        waiting = self._waiting.setdefault(call_number, [])
        waiting[:] = [*(one for one in waiting if one.number == number), batch]
        if all(_sides(waiting, role) == len(site.geometry.borders) + 1 for role in ("border", "reference")):
            finite = torch.stack([one.finite for one in waiting]).all(0)
            for one in waiting:
                self._file(one, finite)
            del self._waiting[call_number]

    def _batch(self, role: Role, site: SitePlan, call: LayerCall, number: int, first_call: bool) -> _Batch:
        finite, effects = finite_images(call.output, positions(role, site)), {}
        readings: Readings | Tensor
        if role == "reference" and site.shared is not None:
            readings = _at(call.output, site.shared)
        else:
            where = site.border if role == "border" else site.reference
            readings = {side: _at(call.output, at) for side, at in where.items()}
            if site.view.usual.reference is not None:  # it waits, and the map may be overwritten
                readings = {side: values.clone() for side, values in readings.items()}
        if role == "border":
            effects = self._effects(site, call)
        return _Batch(role, site, number, first_call, finite, readings, effects)

    def _file(self, batch: _Batch, finite: Tensor) -> None:
        """Hand readings to the metrics, those of images that are not finite as NaN."""
        if isinstance(batch.readings, Tensor):
            shared = marked(batch.readings, finite)
            self.awareness.update({}, self._part(shared, batch.site.view, len(finite), batch.number))
            self.bias.update({}, shared)
            self.effect.update({}, shared)
            return
        add = self._add_border if batch.role == "border" else self._add_reference
        add(batch, finite, {side: marked(values, finite) for side, values in batch.readings.items()})

    def _parts(self, batch: _Batch, readings: Readings) -> dict[str, Tensor]:
        images = len(batch.finite)
        return {side: self._part(values, batch.site.view, images, batch.number) for side, values in readings.items()}

    def _add_reference(self, batch: _Batch, finite: Tensor, readings: Readings) -> None:
        self.awareness.update({}, self._parts(batch, readings))
        self.bias.update({}, _of_sides(readings))
        self.effect.update({}, _of_sides(readings))

    def _add_border(self, batch: _Batch, finite: Tensor, readings: Readings) -> None:
        images, parts = len(finite), self._parts(batch, readings)
        self.awareness.update(parts, {})
        self.bias.update(_of_sides(readings), {})
        self.seen.update(images if batch.first_call else 0, finite)
        for side, values in batch.effects.items():  # of the first images, at the same positions
            some = len(values) * images // len(readings[side])
            self.effect.update({side: marked(values, finite[:some])}, {})

    def _effects(self, site: SitePlan, call: LayerCall) -> dict[str, Tensor]:
        """Return the padding effect on some of the images, by side; of none once it was measured on enough."""
        if self._total is None:
            x = call.x[: max(0, EFFECT_IMAGES - max(self._effect_images[side] for side in site.border))]
        else:
            x = call.x[: -(-len(call.output) * EFFECT_IMAGES // site.view.count(self._total))]
        self._effect_images.update(dict.fromkeys(site.border, len(x)))
        return _padding_effects(replace(site.layer, module=call.conv), site, x) if len(x) else {}

    def _part(self, values: Tensor, view: View, images: int, number: int) -> Tensor:
        """Return a batch's part of the readings that are kept in all, if the number of images is known; else all."""
        if self._total is None:
            return values
        step = -(-len(values) * view.count(self._total) // (images * self._capacity))
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
        images, passed, broken = (int(n) for n in seen.tolist())
        skipped: Reason | None = None
        if broken > MOST * passed:
            skipped, broken = Skip.NOT_FINITE.because(), 0
        elif not images:
            skipped = how.skipped or Skip.NEVER_CALLED.because()
        self.left_out = -(-broken * images // passed) if passed else 0  # an image may pass a layer several times
        images -= self.left_out
        if skipped is None and bool(contrast[:-1].isnan().all()):
            skipped = Skip.TOO_FEW_READINGS.because(images=f"{images} image{'s' * (images != 1)}")
        if skipped:
            return line_of(self.conv, how, skipped)
        interior = contrast[-1].abs()
        figures = Figures(
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


def _at(output: Tensor, where: Position) -> Tensor:
    """Return a map's values at some rows and columns, (images * positions, channels)."""
    return _as_readings(output[(slice(None), slice(None), *where)])


def _as_readings(part: Tensor) -> Tensor:
    """Return a part of a map (images, channels, rows, columns) as (images * positions, channels)."""
    return part.movedim(1, -1).flatten(0, -2)


def _sides(batches: list[_Batch], role: str) -> int:
    return sum(len(one.readings) for one in batches if one.role == role)


def _of_sides(readings: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without those of the interior, which are a control."""
    return {side: values for side, values in readings.items() if side != "interior"}


def _padding_effects(layer: PaddedLayer, site: SitePlan, x: Tensor) -> dict[str, Tensor]:
    """Return what the layer's own padding adds at the border, by side (images * positions, channels)."""
    weight, masked = layer.weight(x), replaced_channels(layer.module)
    x = layer.unpadded(x).to(weight.dtype)
    options: dict[str, Any] = {"mode": layer.mode, "value": layer.value, "groups": layer.module.groups}
    effects = {}
    for side in (side for side in site.border if side != "interior"):
        difference = padding_effect(x, weight, site.geometry, side, **options)
        if difference is not None:
            if masked is not None:  # what a mask has cut off has no effect any more
                difference[:, masked.to(difference.device)] = 0
            effects[side] = _as_readings(difference)
    return effects
