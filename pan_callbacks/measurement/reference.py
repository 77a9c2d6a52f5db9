"""What the border is compared with: which view of the images suits which layer, decided by trying.

The views themselves are in :mod:`pan_callbacks.measurement.views`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import replace
from typing import NamedTuple

import torch

from pan_callbacks.layers import Skip
from pan_callbacks.measurement.alignment import (
    Native,
    StrideLadder,
    answers_line_up,
    inside,
    lines_up,
    moved,
    shift_of,
    size_of,
)
from pan_callbacks.measurement.calls import EntryCall
from pan_callbacks.measurement.hooks import Probes
from pan_callbacks.measurement.plans import Plan, SitePlan
from pan_callbacks.measurement.trace import Site, Trace, trace
from pan_callbacks.measurement.views import VIEWS, Input, View, turned
from pan_callbacks.padding import Geometry

#: What is tried for a layer, by the reference asked for; docs/references.md has the measurement behind the order.
FALLBACKS = {
    "crop": ("crop", "zoom", "windows", "centre"),
    "zoom": ("zoom", "windows", "centre"),
    "windows": ("windows", "centre"),
    "mirror": ("mirror", "windows", "centre"),
    "centre": ("centre",),
}

#: What passes a site on each input of a view; None if it is not called.
_Seen = Mapping[Input | None, Trace | None]


class _Attempt(NamedTuple):
    """What came of trying a view: a plan, or a reason, for every site that was open."""

    found: dict[Site, SitePlan]
    why: dict[Site, str]


def plan(call: EntryCall, probes: Probes, reference: str) -> Plan:
    """Decide for every site how it is measured, on the first image that is finite.

    The reference that was asked for is used wherever it can be; a site that it does not suit takes the next one of
    :data:`FALLBACKS`, with the reason.

    Args:
        call: The module that images enter by, and its input.
        probes: Attached hooks.
        reference: The reference asked for.
    """
    first, result = call.one(), Plan()
    image = first.copied()
    own, ladder = _own_trace(image, probes, result.notes)
    result.geometries, result.calls = {site: t.geometry for site, t in own.items() if t.geometry is not None}, len(own)
    result.in_place = not torch.equal(image.images, first.images)
    result.skipped = {name: seen.why_not for (name, _), seen in own.items() if seen.why_not is not None}
    result.skipped |= probes.without_map
    open_sites = {
        site: Native(t.layer, t.geometry, ladder.at(*t.output_size))
        for site, t in own.items()
        if t.layer and t.geometry
    }
    tried: dict[Site, dict[str, str]] = {site: {} for site in open_sites}
    views = FALLBACKS[reference]
    if _channels_are_last(image, result.geometries):
        views, tried = ("centre",), {site: {"views": "the images have their channels last"} for site in open_sites}
    for name in views:
        for attempt in _attempts(VIEWS[name], first, probes, own, open_sites):
            for site, how in attempt.found.items():
                reasons = [why for view, why in tried[site].items() if view != name]
                result.sites[site] = replace(how, reason="; ".join(reasons) or None)
                del open_sites[site]
            for site in open_sites.keys() & attempt.why.keys():
                tried[site][name] = f"{name}: {attempt.why[site]}"
    for site in open_sites:
        result.skipped[site[0]] = Skip.NO_REFERENCE.because(tried="; ".join(tried[site].values()))
    for layer, _ in result.sites:
        result.skipped.pop(layer, None)
    return result


def _channels_are_last(call: EntryCall, geometries: Mapping[Site, Geometry]) -> bool:
    """Whether the first padded map is as high and wide as images are that have their channels last."""
    first = next(iter(geometries.values()), None)
    size, axes = None if first is None else tuple(axis.size for axis in first.axes), call.images.ndim - 2
    last, usual = tuple(call.images.shape[1:-1]), tuple(call.images.shape[2:])
    return size is not None and size[-axes:] == last and size[-axes:] != usual


def _own_trace(call: EntryCall, probes: Probes, notes: list[str]) -> tuple[dict[Site, Trace], StrideLadder]:
    """Run the model on an image as it is: what passes, and the strides of the maps."""
    ladder = StrideLadder(*call.images.shape[2:])
    handles = ladder.attach(call.module)
    try:
        return trace(call, probes, notes=notes), ladder
    finally:
        for handle in handles:
            handle.remove()


def _attempts(
    view: View, call: EntryCall, probes: Probes, own: Mapping[Site, Trace], sites: Mapping[Site, Native]
) -> Iterator[_Attempt]:
    """Try a view on the sites that are open, and again, harder, on those that are open still."""
    if view.name == "centre":
        yield _centre(view, sites)
        return
    if not view.resizes and call.images.ndim != 4:
        yield _Attempt({}, dict.fromkeys(sites, "its corners are those of two dimensions"))
        return
    for thorough in (False, True) if view.resizes else (True,):
        yield from _Search(view, call, probes, own, thorough).attempts(sites)


def _centre(view: View, sites: Mapping[Site, Native]) -> _Attempt:
    """Return the inner half of each site's own map, as far as it reads no padding."""
    attempt = _Attempt({}, {})
    for site, (layer, geometry, _) in sites.items():
        inner = geometry.inner
        if all(axis.start < axis.stop for axis in inner):
            attempt.found[site] = SitePlan(layer, view, None, geometry, geometry.borders, shared=inner)
        else:
            attempt.why[site] = f"the inner half of the {size_of(geometry.output_size)} map reads padding"
    return attempt


class _Search(NamedTuple):
    """The search for an offset at which sites can be measured in a view.

    Args:
        view: The view.
        call: The module and one image.
        probes: Attached hooks.
        own: What passes in the model's own forward.
        thorough: Whether to try what follows from the strides, beyond what follows from the sizes of the maps; to take
            the layers that come before a model fails on another size; and to look at the maps without their borders.
    """

    view: View
    call: EntryCall
    probes: Probes
    own: Mapping[Site, Trace]
    thorough: bool

    def attempts(self, sites: Mapping[Site, Native]) -> Iterator[_Attempt]:
        """Yield what is found at the offset at which most sites can be measured; if thorough, go on with the others.

        Args:
            sites: The open ones; whoever takes what is found removes it from them before the next attempt.
        """
        tried: list[_Attempt] = []
        for offset in self._offsets(sites):
            if not any(attempt.found.keys() >= _served(offset, sites) for attempt in tried):  # it may be better
                tried.append(self._at(offset, sites))
        why = tried[0].why if tried else dict.fromkeys(sites, "no offset fits the image")
        while sites:
            best = max((attempt.found for attempt in tried), key=lambda found: len(found.keys() & sites), default={})
            found = {site: how for site, how in best.items() if site in sites}
            yield _Attempt(found, why)
            if not found or not self.thorough:
                break

    def _offsets(self, sites: Mapping[Site, Native]) -> list[int]:
        """Offsets worth trying, multiples of the strides at which the sites' maps lie, in the order of preference.

        Up to an eighth of the image the larger is the better: just inside the border, deeper layers still see what
        earlier ones made of it. Beyond, each step costs more of the image than it is worth.
        """
        size = self.call.images.shape[2:]
        small, rows_alone = min(size), slice(0, 1 if len(size) == 2 else None)
        eighth = small // 8
        offsets = set()
        for native in sites.values():
            pairs = list(zip(size, native.geometry.output_size[-len(size) :], strict=True))[rows_alone]
            steps = [(max(1, round(n / outputs)), 1) for n, outputs in pairs]
            for step, least in [(native.step, native.least)] if self.thorough else steps:
                offsets |= {step * multiple for multiple in (least, least + 1, least + 2, eighth // step)}
        limit = (small - 1) // 2 if self.view.name == "crop" else small - 1  # reflection needs one more
        offsets = {offset for offset in offsets if 0 < offset <= limit}
        ordered = sorted((o for o in offsets if o <= eighth), reverse=True) + sorted(o for o in offsets if o > eighth)
        return sorted(ordered, key=lambda offset: -len(_served(offset, sites))) if self.thorough else ordered

    def _at(self, offset: int, sites: Mapping[Site, Native]) -> _Attempt:
        """Return which sites can be measured at an offset, by running the model on the view's inputs."""
        failures: list[Exception] = []
        seen = self._seen(self.call, offset, sites.keys(), failures)
        others: dict[Input | None, Mapping[Site, Trace]] = {}
        attempt = _Attempt({}, {})
        for site, native in sites.items():
            here = {make: traces.get(site) for make, traces in seen.items()}
            if failures and not (self.thorough and None not in here.values()):
                short = (str(failures[0]).splitlines() or [""])[0][:80]
                attempt.why[site] = f"the model does not run on another size ({type(failures[0]).__name__}: {short})"
                continue
            outcome = _pair(self.view, here, native, offset)
            if isinstance(outcome, SitePlan) and not _agree(outcome, native, here):
                if self.thorough and not others:
                    others = self._seen(self.call.seen(turned, 0), offset, sites.keys(), failures)
                there = {make: traces.get(site) for make, traces in others.items()}
                if not there or not _agree(outcome, native, here, there):
                    outcome = "its activations do not move with the image"
            if isinstance(outcome, SitePlan):
                attempt.found[site] = outcome
            else:
                attempt.why[site] = outcome
        return attempt

    def _seen(
        self, call: EntryCall, offset: int, sites: Set[Site], failures: list[Exception]
    ) -> dict[Input | None, Mapping[Site, Trace]]:
        """Run the model on every input of the view, as far as it goes: one that fails on another size is no fault."""
        seen: dict[Input | None, Mapping[Site, Trace]] = dict.fromkeys(self.view.inputs, {})
        for make in reversed(self.view.inputs):  # the larger first, on which a model is more likely to fail
            if make is None:
                seen[make] = self.own if call is self.call else trace(call, self.probes)
            elif sites:
                seen[make] = trace(call.seen(make, offset), self.probes, sites, failures)
            sites = sites & seen[make].keys()
        return seen


def _pair(view: View, seen: _Seen, native: Native, offset: int) -> SitePlan | str:
    """Return the plan of a site seen in the inputs of a view, or why they cannot be compared."""
    small, large = seen[view.usual.border], seen[view.usual.reference]
    if small is None or large is None or small.geometry is None or large.geometry is None:
        return "not called, or called otherwise, on another size"
    if small.layer is None:
        return str(small.why_not)
    shifts = native.shifts(offset)
    if view.resizes:
        in_place = shifts == tuple(map(shift_of, small.geometry.axes, large.geometry.axes))
    else:  # all of one size, so where they lie follows from the strides alone
        in_place = all(trace is not None and trace.geometry == native.geometry for trace in seen.values())
    if shifts is None or not in_place:
        return "its map cannot be aligned with that of another size"
    border = small.geometry.borders
    missing = [side for side in native.geometry.edges if native.geometry.border(side) and side not in border]
    if missing:
        return f"its map of {size_of(small.output_size)} is too small for the border {missing[0]}"
    reference = {side: inside(view.pair(side), where, shifts) for side, where in border.items()}
    clean = large.geometry.clean
    if not all(
        c.start <= w.start and w.stop <= c.stop
        for where in reference.values()
        for w, c in zip(where, clean, strict=True)
    ):
        return "its reference would read padding"
    middle = small.geometry.middle
    if not view.resizes:  # as far from the middle in the one window as in the other
        middle = moved(middle, tuple(by // 2 for by in shifts))
    border["interior"], reference["interior"] = middle, inside(view.usual, middle, shifts)
    return SitePlan(small.layer, view, None, small.geometry, border, reference, offset=offset)


def _agree(how: SitePlan, native: Native, seen: _Seen, turned: _Seen | None = None) -> bool:
    """Whether the maps of a site show the same pixels where they should; by its answers to two images, if given."""
    pair, shifts = how.view.usual, native.shifts(how.offset)
    assert shifts is not None
    apart = None if how.view.resizes else (pair.down * shifts[0], pair.right * shifts[1])
    one, other = seen[pair.border], seen[pair.reference]
    assert one is not None and other is not None
    if turned is None:
        return lines_up(one.middle, other.middle, apart)
    first, second = turned[pair.border], turned[pair.reference]
    if first is None or second is None:
        return False
    return answers_line_up((one.middle, first.middle), (other.middle, second.middle), apart)


def _served(offset: int, sites: Mapping[Site, Native]) -> set[Site]:
    """Return the sites whose maps an offset moves by whole positions, and far enough."""
    return {site for site, n in sites.items() if not offset % n.step and offset >= n.step * n.least}
