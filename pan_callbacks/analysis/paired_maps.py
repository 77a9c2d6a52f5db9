"""What a layer says along its borders, and what it says of the same pixels inside: line by line, image by image."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn

from pan_callbacks._runtime import ALONE, unseen
from pan_callbacks.layers import Convolution, pad_modules, select
from pan_callbacks.measurement.batches import device_of
from pan_callbacks.measurement.calls import EntryCall, LayerCall, StopForward
from pan_callbacks.measurement.forwards import OurForwards
from pan_callbacks.measurement.plans import SitePlan
from pan_callbacks.measurement.trace import Site
from pan_callbacks.measurement.views import Input
from pan_callbacks.reports.pan_report import PANReport

#: Rows and columns that are looked at, from the outermost inwards.
DISTANCES = 4
#: Images that are looked at, at most.
MOST_IMAGES = 32
#: Positions that are taken of a line, evenly spaced; along each axis of a plane in three dimensions.
POSITIONS, POSITIONS_OF_A_PLANE = 8, 3
#: Numbers that are held at a time, 256 MiB of them; the layers beyond wait for another forward, which costs more time
#: than all that is done with what is held.
MOST_VALUES = 2**26
NO_PAIRS = "compared with the centre of its own map, so that no pixel is seen both at a border and inside"

#: An edge, and the distance from it in rows or columns.
Line = tuple[str, int]
#: Places along each axis of a map.
_Places = tuple[Tensor, ...]
_AXES = {"front": -3, "back": -3, "top": -2, "bottom": -2, "left": -1, "right": -1}


@dataclass(frozen=True, eq=False)
class PairedLines:
    """Readings of a layer along lines at its border, and of the same pixels seen inside.

    Args:
        border: Line to readings (images, positions, channels), float32 on the CPU.
        reference: The same lines, where the same pixels lie inside a larger or another input: same shapes.
    """

    border: Mapping[Line, Tensor]
    reference: Mapping[Line, Tensor]

    @property
    def edges(self) -> tuple[str, ...]:
        """The edges at which there is an outermost line."""
        return tuple(edge for edge, distance in self.border if distance == 0)

    @property
    def images(self) -> int:
        """Number of images."""
        return len(next(iter(self.border.values()), ()))

    @property
    def outermost(self) -> tuple[Tensor, Tensor]:
        """Border and reference readings of the outermost lines of all edges, (images, positions, channels) each."""
        border, reference = (torch.cat([of[edge, 0] for edge in self.edges], 1) for of in (self.border, self.reference))
        return border, reference

    def of(self, images: slice) -> PairedLines:
        """Return what was read of some of the images."""
        border, reference = ({line: one[images] for line, one in of.items()} for of in (self.border, self.reference))
        return PairedLines(border, reference)


def paired_lines(
    model: nn.Module, batches: Iterable[Tensor], report: PANReport, advance: Callable[[float], None] = unseen
) -> Iterator[tuple[str, PairedLines | str]]:
    """Yield, for every measured layer, its lines at the border beside the same pixels inside, or why there are none.

    The views are those of the report: of a layer measured by ``crop`` the border is that of the images' middle, and the
    reference lies in the map of the whole images. A line at distance d from an edge has positions that are no closer to
    any other edge, and that read no padding but that edge's.

    Args:
        model: The model that the report is about; a copy of it is run.
        batches: Images (images, channels, height, width), :data:`MOST_IMAGES` of which are looked at.
        report: Which layers, and by which reference.
        advance: Takes the number of images that were done since, or a part of one.

    Example:
        >>> from pan_callbacks import scan
        >>> net = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, bias=False)).eval()
        >>> _ = nn.init.ones_(net[0].weight)
        >>> images = torch.ones(2, 1, 32, 32)
        >>> name, lines = next(paired_lines(net, [images], scan(net, [images], progress=False)))
        >>> [float(lines.border["top", distance].mean()) for distance in range(3)]
        [6.0, 9.0, 9.0]
        >>> float(lines.reference["top", 0].mean())
        9.0
    """
    layers = {name: conv for name, conv in select(model).items() if name in report.measured}
    calls = list(_calls(model, batches))
    if not calls or not layers:
        return
    forwards = OurForwards(layers, pad_modules(model), report.reference, ALONE, with_hooks=True)
    plan, shadow = forwards.plan_of(calls[0]), forwards.shadow(calls[0])
    sites: dict[str, tuple[Site, SitePlan]] = {}
    for site, how in plan.sites.items():
        if site[0] not in sites:  # of a layer that is called several times, the first call that is measured
            sites[site[0]] = site, how
    for name in layers:
        if name not in sites:
            yield name, str(plan.skipped.get(name, "not called"))
        elif sites[name][1].view.name == "centre":
            yield name, NO_PAIRS
    images = sum(len(call.images) for call in calls)
    groups = list(_groups([pair for pair in sites.values() if pair[1].view.name != "centre"], images, layers))
    passes = sum(len(group[0][1].view.inputs) for group in groups)
    for group in groups:
        view, offset = group[0][1].view, group[0][1].offset
        readers = {site: _Reader(how) for site, how in group}
        with shadow.running():
            for make in view.inputs:
                for call in calls:
                    here = call if make is None else call.seen(make, offset)
                    shadow.probes.listen(_Listener(readers, make), {name for name, _ in readers})
                    shadow.call(here.copied() if plan.in_place else here).run()
                    advance(len(call.images) / passes)
        for (name, _), reader in readers.items():
            yield name, reader.lines()


def _calls(model: nn.Module, batches: Iterable[Tensor]) -> Iterator[EntryCall]:
    """Return the calls that give the model its first images, all of one size."""
    left, size, device = MOST_IMAGES, None, device_of(model)
    for batch in batches:
        size = size or batch.shape[1:]
        if left and batch.shape[1:] == size:
            yield EntryCall("", model, (batch[:left].to(device),), {})
            left -= min(left, len(batch))


def _groups(
    sites: Sequence[tuple[Site, SitePlan]], images: int, layers: Mapping[str, Convolution]
) -> Iterator[list[tuple[Site, SitePlan]]]:
    """Return sites that are read in the same forwards, no more at a time than memory is meant for."""
    by_input: dict[tuple[str, int], list[tuple[Site, SitePlan]]] = {}
    for site, how in sites:
        by_input.setdefault((how.view.name, how.offset), []).append((site, how))
    for members in by_input.values():
        waiting = iter(members)
        for first in waiting:
            group, held = [first], _values(first, images, layers)
            while held < MOST_VALUES and (more := list(islice(waiting, 1))):
                group += more
                held += _values(more[0], images, layers)
            yield group


def _values(site: tuple[Site, SitePlan], images: int, layers: Mapping[str, Convolution]) -> int:
    edges = len(site[1].geometry.edges)
    return 2 * images * edges * DISTANCES * POSITIONS * layers[site[0][0]].out_channels


class _Reader:
    """Takes what is read of one site, in both roles.

    Args:
        how: How the site is measured.
    """

    def __init__(self, how: SitePlan) -> None:
        self._how = how
        self._places = {line: places for line, places in _lines(how)}
        self._border: dict[Line, list[Tensor]] = {line: [] for line in self._places}
        self._reference: dict[Line, list[Tensor]] = {line: [] for line in self._places}

    def read(self, output: Tensor, make: Input | None) -> None:
        """Take the lines that are read in one input of the view."""
        for line, (border, reference) in self._places.items():
            pair = self._how.view.pair(line[0])
            if pair.border == make:
                self._border[line].append(_at(output, border))
            if pair.reference == make:
                self._reference[line].append(_at(output, reference))

    def lines(self) -> PairedLines | str:
        """Return the lines, without images of which a reading is not finite; if that leaves none, why."""
        border, reference = ({k: torch.cat(v) for k, v in of.items() if v} for of in (self._border, self._reference))
        both = [line for line in border if line in reference]
        if not any(distance == 0 for _, distance in both):
            return "no outermost line is seen both at a border and inside"
        readings = [of[line].flatten(1) for line in both for of in (border, reference)]
        finite = torch.stack([one.isfinite().all(1) for one in readings]).all(0)
        if not bool(finite.any()):
            return "no image is finite in it"
        return PairedLines({line: border[line][finite] for line in both}, {k: reference[k][finite] for k in both})


class _Listener:
    """Hands what passes in one forward to the readers, and ends it when all were served.

    Args:
        readers: By site.
        make: What made the input of this forward.
    """

    def __init__(self, readers: Mapping[Site, _Reader], make: Input | None) -> None:
        self._readers, self._make = readers, make
        self._calls: dict[str, int] = {}
        self._left = set(readers)

    def __call__(self, name: str, call: LayerCall) -> None:
        """Is called with what passes a layer."""
        site = name, self._calls.get(name, 0)
        self._calls[name] = site[1] + 1
        if site in self._readers:
            self._readers[site].read(call.output.detach(), self._make)
            self._left.discard(site)
            if not self._left:
                raise StopForward


def _lines(how: SitePlan) -> Iterator[tuple[Line, tuple[_Places, _Places]]]:
    """Return the lines of a site, with their places at the border and inside."""
    axes, clean = how.geometry.axes, how.geometry.clean
    most = POSITIONS if len(axes) == 2 else POSITIONS_OF_A_PLANE
    for edge in (edge for edge in how.geometry.edges if edge in how.border and edge in how.reference):
        own, last = len(axes) + _AXES[edge], edge in ("bottom", "right", "back")
        shifts = [r.start - b.start for r, b in zip(how.reference[edge], how.border[edge], strict=True)]
        for distance in range(DISTANCES):
            size = axes[own].outputs
            if 2 * distance > size - 1:
                break  # closer to the other end
            places = []
            for number, axis in enumerate(axes):
                if number == own:
                    places.append(torch.tensor([size - 1 - distance if last else distance]))
                elif axis.outputs == 1:
                    places.append(torch.tensor([0]))
                else:
                    ends = max(clean[number].start, distance), min(clean[number].stop, axis.outputs - distance)
                    places.append(_spaced(*ends, most))
            if all(map(len, places)):
                yield (edge, distance), (tuple(places), tuple(p + by for p, by in zip(places, shifts, strict=True)))


def _spaced(start: int, stop: int, most: int) -> Tensor:
    """Return evenly spaced whole numbers from start to below stop, with both ends; none if there are none."""
    return torch.linspace(start, stop - 1, min(max(0, stop - start), most)).round().long()


def _at(output: Tensor, places: _Places) -> Tensor:
    """Return a map's values at some places (images, positions, channels)."""
    for dim, where in enumerate(places, start=2):
        output = output.index_select(dim, where.to(output.device))
    return output.flatten(2).transpose(1, 2).float().cpu()
