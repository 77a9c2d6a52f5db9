"""Turns the maps of one layer into readings, and keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from pan_callbacks._runtime import Shard
from pan_callbacks.layers import Convolution, dimensions
from pan_callbacks.measurement.calls import LayerCall
from pan_callbacks.measurement.contrast import evenly, thin_each
from pan_callbacks.measurement.crossfit import Sample
from pan_callbacks.measurement.effect import as_readings, effects_of
from pan_callbacks.measurement.finite import Seen, finite_images, marked, positions
from pan_callbacks.measurement.metrics import BorderBias, PaddingAwareness, PaddingEffect, Readings
from pan_callbacks.measurement.paired import PairedSign, TypicalSpread
from pan_callbacks.measurement.plans import SitePlan
from pan_callbacks.measurement.views import Role
from pan_callbacks.padding import ALL_SIDES, SIDES, Position

#: Images on which the padding effect is measured: it is a mean, which settles sooner than a distribution.
EFFECT_IMAGES = 64
#: Samples kept of each neuron: border and reference of every side and of the interior.
SAMPLES = 2 * len((*SIDES, "interior"))
#: Memory for the readings of all neurons together; docs/statistics.md says what it buys.
MEMORY = 64 * 2**20
#: Readings kept of each side: enough for a contrast within 0.01 of the exact one, and no more than is of use.
MIN_CAPACITY, MAX_CAPACITY = 512, 2**16
#: What is made neutral to find the cause of a contrast: the layer's own padding, or that of all layers before it.
CAUSES = ("own", "earlier")


def capacity_of(neurons: int) -> int:
    """Return how many readings of a sample are kept, if this many neurons share the memory."""
    return min(max(MEMORY // (4 * SAMPLES * max(1, neurons)), MIN_CAPACITY), MAX_CAPACITY)


class Passing(NamedTuple):
    """Which images pass a layer, and in which of its calls.

    Args:
        number: Number of the batch among those of all processes.
        groups: Group that each image is in, below :data:`~pan_callbacks.reports.pans.GROUPS` (images,), on the
            CPU.
        first: Number of the first image among those of all processes.
        first_call: Whether this is the first time that these images pass the layer; else they do not count.
        call_number: Which of the layer's calls in a forward it is.
    """

    number: int
    groups: Tensor
    first: int = 0
    first_call: bool = True
    call_number: int = 0


@dataclass
class _Batch:
    """What a call of the layer gives in one role.

    Args:
        role: Whether these are border or reference readings.
        site: How the call is measured.
        passing: Which images they are of.
        finite: Which of these are finite, as far as is known (images,).
        readings: Side, or ``"interior"``, to readings; a tensor of those that all sides share.
        effects: Side to padding effects on the first of the images.
    """

    role: Role
    site: SitePlan
    passing: Passing
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
        awareness: Border and reference readings: the contrast.
        shared: Whether other processes have a part of the work.
        remaining: By what is made neutral, ``"own"`` padding or that of ``"earlier"`` layers, the border readings then.
    """

    def __init__(self, conv: Convolution, capacity: int, shard: Shard) -> None:
        self.conv, self._capacity, self._total = conv, capacity, shard.images
        options: dict[str, Any] = {"sync_on_compute": shard.shared}
        # with a known total each batch keeps its part, and the metric, which thins as readings come, need not
        most = capacity if self._total is None else 8 * capacity
        sides = ALL_SIDES if dimensions(conv) == 3 else SIDES
        self.awareness = PaddingAwareness(conv.out_channels, (*sides, "interior"), most, **options)
        self.remaining = {
            cause: PaddingAwareness(conv.out_channels, sides, min(most, MIN_CAPACITY), **options) for cause in CAUSES
        }
        self.bias = BorderBias(conv.out_channels, sides, **options)
        self.inside = TypicalSpread(conv.out_channels, **options)
        self.effect = PaddingEffect(conv.out_channels, sides, **options)
        self.paired = PairedSign(conv.out_channels, sides, **options)
        self.seen = Seen(**options)
        device = next(conv.parameters()).device  # not of the weight, which a parametrisation computes when it is read
        for metric in self.metrics:
            metric.to(device)
        self.shared = shard.shared
        # by call: what waits for other forwards of its view, and which images of a batch are finite
        self._waiting: dict[int, list[_Batch]] = {}
        self._known: dict[int, tuple[int, Tensor]] = {}

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """All that accumulates, in an order that is the same on all ranks."""
        return (
            self.awareness,
            *self.remaining.values(),
            self.bias,
            self.inside,
            self.effect,
            self.paired,
            self.seen,
        )

    def readings(self, side: str, sync: bool = False) -> tuple[Tensor, Tensor]:
        """Return border and reference readings of a side, (n, channels) and (m, channels).

        Args:
            side: One of the eight sides, or ``"interior"``.
            sync: Whether all processes call this, for the readings of all.
        """
        with self.awareness.sync_context(should_sync=sync):
            border, reference = self.awareness.samples(side)
            return border.clone(), reference.clone()

    def add(self, role: Role, site: SitePlan, call: LayerCall, passing: Passing) -> None:
        """Add what a call of the layer gives, but for images that are not finite in it, in this role or the other.

        Args:
            role: Whether its map gives the border or the reference readings, or the border with all padding before the
                layer neutral.
            site: How the site is measured.
            call: The call, on the images that are measured alone.
            passing: Which images these are.
        """
        batch = self._batch(role, site, call, passing)
        if role == "earlier":
            assert not isinstance(batch.readings, Tensor), "a border is no reference that sides share"
            self._add_remaining("earlier", batch, batch.finite, batch.readings)
        elif site.shared is not None:  # both roles are read in one map
            before, known = self._known.get(passing.call_number, (passing.number, batch.finite))
            batch.finite = batch.finite & known if before == passing.number else batch.finite
            self._known[passing.call_number] = passing.number, batch.finite
            self._file(batch, batch.finite)
        else:
            self._wait(batch)

    def _wait(self, batch: _Batch) -> None:
        """Keep a batch until border and reference readings of all sides are there, which are paired."""
        waiting = self._waiting.setdefault(batch.passing.call_number, [])
        waiting[:] = [*(one for one in waiting if one.passing.number == batch.passing.number), batch]
        if all(_sides(waiting, role) == len(batch.site.geometry.borders) + 1 for role in ("border", "reference")):
            finite = torch.stack([one.finite for one in waiting]).all(0)
            pairs: dict[str, dict[str, Tensor]] = {"border": {}, "reference": {}}
            for one in waiting:
                self._file(one, finite)
                if not isinstance(one.readings, Tensor):
                    pairs[one.role] |= {side: marked(values, finite) for side, values in one.readings.items()}
            self.paired.update(*map(_of_sides, (pairs["border"], pairs["reference"])))
            del self._waiting[batch.passing.call_number]

    def _batch(self, role: Role, site: SitePlan, call: LayerCall, passing: Passing) -> _Batch:
        finite, effects = finite_images(call.output, positions(role, site)), {}
        readings: Readings | Tensor
        if role == "reference" and site.shared is not None:
            readings = _at(call.output, site.shared)
        else:
            where = site.reference if role == "reference" else site.border
            readings = {side: _at(call.output, at) for side, at in where.items()}
            if site.shared is None:  # it waits, and the map may be overwritten
                readings = {side: _unshared(values, call.output) for side, values in readings.items()}
        if role == "border":
            effects = self._effects(site, call, passing.first)
        return _Batch(role, site, passing, finite, readings, effects)

    def _file(self, batch: _Batch, finite: Tensor) -> None:
        """Hand readings to the metrics, those of images that are not finite as NaN."""
        if isinstance(batch.readings, Tensor):
            shared = marked(batch.readings, finite)
            self.awareness.update({}, self._part(shared, batch))
            self.bias.update({}, shared)
            self.inside.update({}, shared)
            self.effect.update({}, shared)
            return
        add = self._add_border if batch.role == "border" else self._add_reference
        add(batch, finite, {side: marked(values, finite) for side, values in batch.readings.items()})

    def _parts(self, batch: _Batch, readings: Readings) -> dict[str, Sample]:
        return {side: self._part(values, batch) for side, values in readings.items()}

    def _add_reference(self, batch: _Batch, finite: Tensor, readings: Readings) -> None:
        self.awareness.update({}, self._parts(batch, readings))
        self.bias.update({}, _of_sides(readings))
        if "interior" in readings:
            self.inside.update({}, readings["interior"])
        self.effect.update({}, _of_sides(readings))

    def _add_border(self, batch: _Batch, finite: Tensor, readings: Readings) -> None:
        self.awareness.update(self._parts(batch, readings), {})
        self.bias.update(_of_sides(readings), {})
        self.seen.update(len(finite) if batch.passing.first_call else 0, finite)
        for side, values in batch.effects.items():
            images = len(values) * len(finite) // len(readings[side])
            self.effect.update({side: marked(values, finite[:images])}, {})
            remaining = readings[side][: len(values)] - values  # of the first images, at the same positions
            self._add_remaining("own", batch, finite[:images], {side: remaining})

    def _add_remaining(self, cause: str, batch: _Batch, finite: Tensor, readings: Readings) -> None:
        groups = batch.passing.groups[: len(finite)]
        found = {side: marked(values, finite) for side, values in _of_sides(readings).items()}
        self.remaining[cause].update({side: Sample(v, _of_rows(groups, v)) for side, v in found.items()}, {})

    def _effects(self, site: SitePlan, call: LayerCall, first: int) -> dict[str, Tensor]:
        """Return the padding effect on the first of all images, by side."""
        x = call.x[: max(0, EFFECT_IMAGES - first)]
        return effects_of(replace(site.layer, module=call.conv), site, x) if len(x) else {}

    def _part(self, values: Tensor, batch: _Batch) -> Sample:
        """Return a batch's part of the readings that are kept in all, if the number of images is known; else all."""
        groups = _of_rows(batch.passing.groups, values)
        if self._total is None:
            return Sample(values, groups)
        images, number = len(batch.finite), batch.passing.number
        step = -(-len(values) * self._total // (images * self._capacity))
        if step == 1:
            return Sample(values, groups)
        return Sample(*thin_each(values, groups, step, start=int(step * evenly(number, 0.5))))


def _at(output: Tensor, where: Position) -> Tensor:
    """Return a map's values at some rows and columns, (images * positions, channels)."""
    return as_readings(output[(slice(None), slice(None), *where)])


def _unshared(values: Tensor, output: Tensor) -> Tensor:
    """Return values that do not lie in the memory of a map."""
    shared = values.untyped_storage().data_ptr() == output.untyped_storage().data_ptr()
    return values.clone() if shared else values


def _of_rows(groups: Tensor, readings: Tensor) -> Tensor:
    """Return the group of each reading (images * positions,), of that of each image."""
    return groups.repeat_interleave(len(readings) // max(1, len(groups)))


def _sides(batches: list[_Batch], role: str) -> int:
    return sum(len(one.readings) for one in batches if one.role == role)


def _of_sides(readings: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without those of the interior, which are a control."""
    return {side: values for side, values in readings.items() if side != "interior"}
