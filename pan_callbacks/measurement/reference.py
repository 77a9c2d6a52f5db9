"""What the border is compared with: which view of the images suits which layer, decided by trying.

The views themselves are in :mod:`pan_callbacks.measurement.views`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from pan_callbacks.layers import PaddedLayer, Reason, Skip
from pan_callbacks.measurement.calls import EntryCall
from pan_callbacks.measurement.hooks import Probes
from pan_callbacks.measurement.trace import Site, Trace, trace
from pan_callbacks.measurement.views import VIEWS, Input, Role, View
from pan_callbacks.padding import EDGES, Axis, Geometry

#: What is tried for a layer, by the reference asked for; docs/references.md has the measurement behind the order.
FALLBACKS = {
    "crop": ("crop", "zoom", "centre"),
    "zoom": ("zoom", "centre"),
    "mirror": ("mirror", "centre"),
    "centre": ("centre",),
}

#: Rows and columns of a map.
Position = tuple[slice, slice]


@dataclass(frozen=True)
class SitePlan:
    """How a site is measured.

    Args:
        layer: The padded layer.
        view: The view that it is measured in.
        reason: Why this view and not the one asked for; None if it is the one.
        geometry: Geometry of the map that gives the border readings.
        border: Side, or ``"interior"`` for the control, to the rows and columns of the border readings.
        reference: The same for the reference readings; empty if all sides share one reference.
        shared: Rows and columns of that one.
    """

    layer: PaddedLayer
    view: View
    reason: str | None
    geometry: Geometry
    border: Mapping[str, Position]
    reference: Mapping[str, Position] = field(default_factory=dict)
    shared: Position | None = None


@dataclass(frozen=True)
class Forward:
    """One forward that gives readings: the user's own, or one of ours on an input that a view makes.

    Args:
        reads: Site to the roles that its map has in this forward.
        view: The view that makes the input; None for the user's own forward.
        make: What makes it from the images.
        offset: Pixels that the view's small input lacks on each side.
    """

    reads: Mapping[Site, tuple[Role, ...]]
    view: View | None = None
    make: Input | None = None
    offset: int = 0


@dataclass
class Plan:
    """How every site of a module is measured at one input size.

    Args:
        sites: Measured sites.
        skipped: Layer name to the reason why it is left out.
        offsets: View to the pixels that its small input lacks on each side.
        geometries: Geometry of every padded site at the model's own input size.
        in_place: Whether the module writes into its input, so that the views need a copy of it.
        calls: Number of calls of the layers, measured or not.
    """

    sites: dict[Site, SitePlan] = field(default_factory=dict)
    skipped: dict[str, Reason] = field(default_factory=dict)
    offsets: dict[str, int] = field(default_factory=dict)
    geometries: dict[Site, Geometry] = field(default_factory=dict)
    in_place: bool = False
    calls: int = 0

    @cached_property
    def own(self) -> Forward:
        """What is read in the user's own forward."""
        reads = {site: tuple(r for r, make in how.view.inputs.items() if not make) for site, how in self.sites.items()}
        return Forward({site: roles for site, roles in reads.items() if roles})

    @cached_property
    def ours(self) -> tuple[Forward, ...]:
        """The forwards that we run besides, in their order."""
        found = []
        for name, offset in self.offsets.items():
            sites = [site for site, how in self.sites.items() if how.view.name == name]
            for role, make in VIEWS[name].inputs.items():
                if sites and make is not None:
                    found.append(Forward(dict.fromkeys(sites, (role,)), VIEWS[name], make, offset))
        return tuple(found)


class _Native(NamedTuple):
    """A padded layer, and its geometry in the model's own forward."""

    layer: PaddedLayer
    geometry: Geometry


class _Attempt(NamedTuple):
    """What came of trying a view: a plan, or a reason, for every site that was open.

    Args:
        found: Sites that can be measured in it.
        why: Why the others cannot.
        offset: Pixels that its small input lacks on each side.
    """

    found: dict[Site, SitePlan]
    why: dict[Site, str]
    offset: int = 0


def plan(call: EntryCall, probes: Probes, reference: str) -> Plan:
    """Decide for every site how it is measured, on the first image.

    The reference that was asked for is used wherever it can be; a site that it does not suit takes the next one of
    :data:`FALLBACKS`, with the reason.

    Args:
        call: The module that images enter by, and its input.
        probes: Attached hooks.
        reference: The reference asked for.
    """
    image = call.first(1).copied()
    own = trace(image, probes)
    result = Plan(geometries={site: seen.geometry for site, seen in own.items() if seen.geometry is not None})
    result.calls = len(own)
    result.in_place = not torch.equal(image.images, call.images[:1])
    result.skipped = {name: seen.why_not for (name, _), seen in own.items() if seen.why_not is not None}
    open_sites = {site: _Native(t.layer, t.geometry) for site, t in own.items() if t.layer and t.geometry}
    tried: dict[Site, list[str]] = {site: [] for site in open_sites}
    for name in FALLBACKS[reference]:
        if not open_sites:
            break
        view = VIEWS[name]
        attempt = _centre(view, open_sites) if name == "centre" else _best(view, call, probes, own, open_sites)
        result.offsets[name] = attempt.offset
        for site, how in attempt.found.items():
            result.sites[site] = replace(how, reason="; ".join(tried[site]) or None)
            del open_sites[site]
        for site in open_sites:
            tried[site].append(attempt.why[site])
    for layer, number in open_sites:
        result.skipped[layer] = Skip.NO_REFERENCE.because(tried="; ".join(tried[layer, number]))
    for layer, _ in result.sites:
        result.skipped.pop(layer, None)
    return result


def _centre(view: View, sites: Mapping[Site, _Native]) -> _Attempt:
    """Return the inner half of each site's own map, as far as it reads no padding."""
    attempt = _Attempt({}, {})
    for site, (layer, geometry) in sites.items():
        inner = geometry.rows.inner, geometry.cols.inner
        if all(axis.start < axis.stop for axis in inner):
            attempt.found[site] = SitePlan(layer, view, None, geometry, geometry.borders, shared=inner)
        else:
            height, width = geometry.output_size
            attempt.why[site] = f"centre: the inner half of the {height}×{width} map reads padding"
    return attempt


def _best(
    view: View, call: EntryCall, probes: Probes, own: Mapping[Site, Trace], sites: Mapping[Site, _Native]
) -> _Attempt:
    """Return the offset at which most sites can be measured, the first of those in the order of :func:`_offsets`."""
    best = _Attempt({}, dict.fromkeys(sites, f"{view.name}: no offset fits the image"))
    for offset in _offsets(view, call.images, sites):
        try:
            attempt = _at_offset(view, offset, call, probes, own, sites)
        except Exception as error:  # a model that cannot take another size is no fault; the next reference is used
            short = (str(error).splitlines() or [""])[0][:80]
            why = f"{view.name}: the model does not run on another size ({type(error).__name__}: {short})"
            attempt = _Attempt({}, dict.fromkeys(sites, why))
        if len(attempt.found) > len(best.found) or not best.found:
            best = attempt
        if len(best.found) == len(sites):
            break
    return best


def _at_offset(
    view: View,
    offset: int,
    call: EntryCall,
    probes: Probes,
    own: Mapping[Site, Trace],
    sites: Mapping[Site, _Native],
) -> _Attempt:
    """Which sites can be measured in a view at an offset, found by running the model on the view's inputs."""
    seen = {
        role: own if make is None else trace(call.first(1).seen(make, offset), probes, until=sites)
        for role, make in view.inputs.items()
    }
    attempt = _Attempt({}, {}, offset)
    for site, (_, geometry) in sites.items():
        outcome = _pair(view, seen["border"].get(site), seen["reference"].get(site), geometry)
        if isinstance(outcome, SitePlan):
            attempt.found[site] = outcome
        else:
            attempt.why[site] = f"{view.name}: {outcome}"
    return attempt


def _offsets(view: View, images: Tensor, sites: Mapping[Site, _Native]) -> list[int]:
    """Offsets worth trying, multiples of the strides at which the sites' maps lie, in the order of preference.

    Up to an eighth of the image the larger is the better: just inside the border, deeper layers still see what earlier
    ones made of it. Beyond, each step costs more of the image than it is worth.
    """
    height, width = images.shape[-2:]
    small = min(height, width)
    strides = {max(1, round(height / native.geometry.output_size[0])) for native in sites.values()}
    eighth = small // 8
    offsets = {stride * multiple for stride in strides for multiple in (1, 2, 3, eighth // stride)}
    limit = (small - 1) // 2 if view.name == "crop" else small - 1  # reflection needs one more
    offsets = {offset for offset in offsets if 0 < offset <= limit}
    return sorted((o for o in offsets if o <= eighth), reverse=True) + sorted(o for o in offsets if o > eighth)


def _pair(view: View, small: Trace | None, large: Trace | None, native: Geometry) -> SitePlan | str:
    """Return the plan of a site seen in the two inputs of a view, or why they cannot be compared there."""
    if small is None or large is None or small.geometry is None or large.geometry is None:
        return "not called, or called otherwise, on another size"
    if small.layer is None:
        return str(small.why_not)
    shifts = [
        _shift(inner, outer)
        for inner, outer in ((small.geometry.rows, large.geometry.rows), (small.geometry.cols, large.geometry.cols))
    ]
    if any(shift is None for shift in shifts):
        return "its map cannot be aligned with that of another size"
    border = small.geometry.borders
    missing = [side for side in EDGES if native.border(side) and side not in border]
    if missing:
        height, width = small.output_size
        return f"its map of {height}×{width} is too small for the border {missing[0]}"
    border["interior"] = small.geometry.rows.middle, small.geometry.cols.middle
    down, across = (shift or 0 for shift in shifts)
    reference = {side: (_moved(rows, down), _moved(cols, across)) for side, (rows, cols) in border.items()}
    clean = large.geometry.clean
    if not all(_inside(where, clean) for side, where in reference.items() if side != "interior"):
        return "its reference would read padding"
    if not _lines_up(small.middle, large.middle):
        return "its activations do not move with the image"
    return SitePlan(small.layer, view, None, small.geometry, border, reference)


def _shift(inner: Axis, outer: Axis) -> int | None:
    """Return how many outputs of a larger map come before a smaller one's place in it; None if they do not align."""
    shift, odd = divmod(outer.outputs - inner.outputs, 2)
    in_phase = outer.size - inner.size == 2 * shift * inner.stride
    same_padding = (inner.before, inner.after) == (outer.before, outer.after)
    return shift if not odd and shift >= 1 and in_phase and same_padding else None


def _moved(where: slice, shift: int) -> slice:
    return slice(where.start + shift, where.stop + shift)


def _inside(where: Position, clean: Position) -> bool:
    return all(c.start <= w.start and w.stop <= c.stop for w, c in zip(where, clean, strict=True))


def _lines_up(small: Tensor, large: Tensor) -> bool:
    """Whether the middles of two maps agree better as they lie than with one moved by a position."""
    rows, cols = (min(a, b) for a, b in zip(small.shape[1:], large.shape[1:], strict=True))
    if min(rows, cols) < 3:
        return True  # too small to see; the arithmetic of the sizes has to do
    a, b = (_central(t, rows, cols) for t in (small, large))

    def distance(dy: int, dx: int) -> float:
        moved = b[:, 1 + dy : rows - 1 + dy, 1 + dx : cols - 1 + dx]
        return float((a[:, 1:-1, 1:-1] - moved).abs().mean())

    return distance(0, 0) <= min(distance(dy, dx) for dy, dx in ((-1, 0), (1, 0), (0, -1), (0, 1)))


def _central(middle: Tensor, rows: int, cols: int) -> Tensor:
    top, left = (middle.shape[1] - rows) // 2, (middle.shape[2] - cols) // 2
    return middle[:, top : top + rows, left : left + cols]
