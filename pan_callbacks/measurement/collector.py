"""Turns the maps of one layer into readings, and keeps them."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pan_callbacks._runtime import moved_to
from pan_callbacks.layers import Convolution, PaddedLayer, dimensions
from pan_callbacks.measurement.calls import LayerCall
from pan_callbacks.measurement.coding import Code
from pan_callbacks.measurement.effect import MeanEffect, effects_at, without
from pan_callbacks.measurement.hooks import padding_left, replaced_channels
from pan_callbacks.measurement.paired import pushes
from pan_callbacks.measurement.plans import CAUSE_IMAGES, SitePlan
from pan_callbacks.measurement.positions import INTERIOR, SHARED, Keep, Layout, read
from pan_callbacks.measurement.rows import Rows
from pan_callbacks.measurement.views import Role
from pan_callbacks.padding import ALL_SIDES, SIDES

#: Images on which the padding effect is measured: it is a mean, which settles sooner than a distribution.
EFFECT_IMAGES = 32


class Passing(NamedTuple):
    """Which images pass a layer, and in which of its calls.

    Args:
        batch: Number of the batch.
        numbers: Number of each image among those of all processes (images,), on the CPU.
        groups: Group that each image is in, below :data:`~pan_callbacks.reports.pans.GROUPS` (images,), likewise.
        keep: What is kept of them.
        first_call: Whether this is the first time that these images pass the layer; else they do not count.
        call_number: Which of the layer's calls in a forward it is.
    """

    batch: int
    numbers: Tensor
    groups: Tensor
    keep: Keep
    first_call: bool = True
    call_number: int = 0


@dataclass(eq=False)
class _Part:
    """What a call of the layer gives in one role, of all sides or of some.

    Args:
        role: Whether these are border or reference readings.
        layout: Which positions they are.
        rows: The readings (images, positions, channels).
        finite: Of which images they are finite (images,).
        passing: Which images they are of.
        own: The border readings with the layer's own padding neutral, of the first images of all, and their layout.
        padding: What the padding of the first images is made of, and what takes it.
    """

    role: Role
    layout: Layout
    rows: Tensor
    finite: Tensor
    passing: Passing
    own: tuple[Layout, Tensor] | None = None
    padding: tuple[MeanEffect, Tensor] | None = None


class LayerCollector:
    """What accumulates for one layer while images pass, and can be merged with what another process has.

    An image with a reading that is not finite is left out, of border and reference alike: its readings are made NaN,
    which count as none. Nothing waits for the device to tell which images these are.

    Args:
        conv: The convolution.
        code: How readings are kept; None for a new one.

    Attributes:
        sides: The sides that its map may have.
        border: Border readings.
        reference: Reference readings.
        remaining: By what is made neutral, ``"own"`` padding or that of ``"earlier"`` layers, the border readings then.
        effect: Sum over images and positions of the padding effect (sides, channels), and their number (sides, 1).
        pushed: Sum of the directions in which the border moves the same pixels, likewise.
        seen: Number of images, how often one passed the layer, and how often one was not finite then (3,).
    """

    def __init__(self, conv: Convolution, code: Code | None = None) -> None:
        self.conv, channels = conv, conv.out_channels
        self.sides: tuple[str, ...] = ALL_SIDES if dimensions(conv) == 3 else SIDES
        self._code = code = Code() if code is None else code
        self.border, self.reference = Rows(channels, code), Rows(channels, code)
        self.remaining = {"own": Rows(channels, code), "earlier": Rows(channels, code)}
        device = next(conv.parameters()).device  # not of the weight, which a parametrisation computes when it is read
        shapes, exact = ((len(self.sides), channels), (len(self.sides), 1)), _exact(device)
        self.effect = [torch.zeros(shape, device=device, dtype=exact) for shape in shapes]
        self.pushed = [torch.zeros(shape, device=device) for shape in shapes]
        self.seen = torch.zeros(3, dtype=torch.long, device=device)
        self._effects: dict[tuple[Any, ...], MeanEffect] = {}
        # by call: what waits for other forwards of its view
        self._waiting: dict[int, list[_Part]] = {}

    def add(self, role: Role, site: SitePlan, call: LayerCall, passing: Passing) -> None:
        """Add what a call of the layer gives, but for images that are not finite in it, in this role or the other.

        Args:
            role: Whether its map gives the border or the reference readings, or the border with all padding before the
                layer neutral.
            site: How the site is measured.
            call: The call, on the images that are measured alone.
            passing: Which images these are.
        """
        kind = call.output.device.type
        whole = torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()
        with whole:  # no sum is to be rounded to 16 bits
            self._add(self._part(role, site, call, passing), site)

    def _add(self, part: _Part, site: SitePlan) -> None:
        passing = part.passing
        if part.role == "earlier":
            self.remaining["earlier"].add(part.layout, _marked(part.rows, part.finite), passing.groups, passing.keep)
            return
        waiting = self._waiting.setdefault(passing.call_number, [])
        waiting[:] = [*(one for one in waiting if one.passing.batch == passing.batch), part]
        if all(sum(len(p.layout) for p in waiting if p.role == role) == n for role, n in site.wanted.items()):
            del self._waiting[passing.call_number]
            self._file(waiting)

    def _part(self, role: Role, site: SitePlan, call: LayerCall, passing: Passing) -> _Part:
        places = site.reference_places if role == "reference" else site.border_places
        layout = places.layout(passing.keep)
        where = places.at(passing.numbers, layout)
        rows = read(call.output, where)
        part = _Part(role, layout, rows, _are_finite(rows), passing)
        if role == "border":
            layer = replace(site.layer, module=call.conv)
            sides = tuple(one for one in layout if one[0] != INTERIOR)
            first, few = (int((passing.numbers < most).sum()) for most in (EFFECT_IMAGES, CAUSE_IMAGES))
            if first and sides:
                mean = self._mean_effect(layer, site, call.x[:first], sides)
                part.padding = mean, mean.values(call.x[:first])
            if few and sides:
                at = where[:, :few, : sum(slots for _, slots, _ in sides)]  # the interior comes last
                part.own = sides, rows[:few, : at.shape[2]] - _effects_at(layer, site, call.x[:few], at)
        return part

    def _file(self, parts: list[_Part]) -> None:
        """Keep border and reference readings, which are paired, and what the padding adds to the former."""
        finite, passing = torch.stack([part.finite for part in parts]).all(0), parts[-1].passing
        marked = [_marked(part.rows, finite) for part in parts]
        if passing.keep.dtype is not torch.float32:
            self._code.suit(marked)
        for part in parts:
            if part.own is not None:
                layout, rows = part.own
                few, groups = finite[: len(rows)] & _are_finite(rows), passing.groups[: len(rows)]
                self.remaining["own"].add(layout, _marked(rows, few), groups, passing.keep)
            if part.padding is not None:
                mean, values = part.padding
                mean.add(values, finite[: len(values)] & _are_finite(values))
        if self._effects and int(passing.numbers[-1]) >= EFFECT_IMAGES - 1:
            self._settle()
        border, layout = _whole([part for part in parts if part.role == "border"])
        reference, of_reference = _whole([part for part in parts if part.role == "reference"])
        self.border.add(layout, border, passing.groups, passing.keep)
        self.reference.add(of_reference, reference, passing.groups, passing.keep)
        if layout == of_reference:
            of_side, count = (moved_to(one, border.device) for one in _by_side(layout, self.sides))
            self.pushed[0] += of_side @ pushes(border, reference).sum(0)
            self.pushed[1] += count * finite.sum()
        self.seen[0] += sum(len(part.finite) for part in parts if part.role == "border" and part.passing.first_call)
        self.seen[1] += len(finite)
        self.seen[2] += (~finite).sum()

    def _mean_effect(self, layer: PaddedLayer, site: SitePlan, x: Tensor, layout: Layout) -> MeanEffect:
        key = (site.geometry, layer.mode, layer.value, layout)
        if key not in self._effects:
            self._effects[key] = MeanEffect(layer, site.geometry, x)
        return self._effects[key]

    def _settle(self) -> None:
        """Make the padding effects of what padding was made of so far, which is then no longer needed."""
        for (*_, layout), mean in self._effects.items():
            effects = mean.by_side()
            for side, _, n in layout:
                if side in effects:
                    i, count = self.sides.index(side), n * mean.images
                    self.effect[0][i] += effects[side] * count
                    self.effect[1][i] += count
        self._effects.clear()

    def mean_effect(self) -> Tensor:
        """Return the mean padding effect (sides, channels), NaN if there is none."""
        self._settle()
        return (self.effect[0] / self.effect[1]).float()

    def readings(self, side: str) -> tuple[Tensor, Tensor]:
        """Return border and reference readings of a side that are kept, (n, channels) and (m, channels).

        Args:
            side: One of :attr:`sides`.
        """
        shared = any(name == SHARED for layout in self.reference.layouts for name, *_ in layout)
        border, reference = self.border.sample([side]), self.reference.sample([SHARED if shared else side])
        return border.readings, reference.readings

    @property
    def _rows(self) -> dict[str, Rows]:
        return {"border": self.border, "reference": self.reference, **self.remaining}

    @property
    def _sums(self) -> list[Tensor]:
        return [*self.effect, *self.pushed, self.seen]

    def state(self) -> dict[str, Any]:
        """Return all that accumulated, for another process."""
        self._settle()
        rows = {role: one.state() for role, one in self._rows.items()}
        return {"rows": rows, "sums": self._sums, "code": self._code.state()}

    def merge(self, state: dict[str, Any]) -> None:
        """Add what accumulated in another process."""
        code = Code.of(state["code"], self.seen.device)
        for role, one in self._rows.items():
            one.merge(state["rows"][role], code, self.seen.device)
        for mine, theirs in zip(self._sums, state["sums"], strict=True):
            mine += theirs.to(mine.device)


def _effects_at(layer: PaddedLayer, site: SitePlan, x: Tensor, where: Tensor) -> Tensor:
    """Return what a layer's own padding adds to some of its outputs (images, positions, channels)."""
    options: dict[str, Any] = {"mode": layer.mode, "value": layer.value, "groups": layer.module.groups}
    weight = layer.weight(x).detach().float()
    effects = effects_at(layer.unpadded(x), weight, site.geometry, where, **options)
    return without(effects, replaced_channels(layer.module), padding_left(layer.module))


def _exact(device: torch.device) -> torch.dtype:
    """Return a type in which sums hardly depend on their order."""
    return torch.float64 if device.type != "mps" else torch.float32


def _are_finite(values: Tensor) -> Tensor:
    """Return of which images all of some values (images, ...) are finite (images,)."""
    return values.flatten(1).isfinite().all(1)


def _marked(rows: Tensor, finite: Tensor) -> Tensor:
    """Make rows (images, positions, channels) of images that are not finite NaN."""
    return rows.masked_fill_(~finite[:, None, None], torch.nan)


def _whole(parts: list[_Part]) -> tuple[Tensor, Layout]:
    """Return the rows of all sides, in one order, and what they are."""
    if len(parts) == 1:
        return parts[0].rows, parts[0].layout
    found: dict[str, tuple[Tensor, tuple[str, int, int]]] = {}
    for part in parts:
        slices = torch.split(part.rows, [slots for _, slots, _ in part.layout], 1)
        found |= {one[0]: (rows, one) for rows, one in zip(slices, part.layout, strict=True)}
    in_order = [found[side] for side in (*ALL_SIDES, INTERIOR) if side in found]
    return torch.cat([rows for rows, _ in in_order], 1), tuple(one for _, one in in_order)


@cache
def _by_side(layout: Layout, sides: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """Return which positions are of which side (sides, positions), and how many are (sides, 1)."""
    names = [side for side, slots, _ in layout for _ in range(slots)]
    of_side = torch.tensor([[float(name == side) for name in names] for side in sides])
    return of_side, of_side.sum(1, keepdim=True)
