"""What the border is compared with: which view of the images suits which layer, decided by trying.

The views themselves are in :mod:`pan_callbacks.measurement.views`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from pan_callbacks.layers import PaddedLayer, pad_modules, why_unpadded
from pan_callbacks.measurement.hooks import Probes, StopForward, run
from pan_callbacks.measurement.views import VIEWS
from pan_callbacks.padding import EDGES, Geometry

#: What is tried for a layer, by the reference asked for; docs/references.md has the measurement behind the order.
FALLBACKS = {
    "crop": ("crop", "zoom", "centre"),
    "zoom": ("zoom", "centre"),
    "mirror": ("mirror", "centre"),
    "centre": ("centre",),
}
#: The zoom view is run on one in so many probe images: its inputs are several times as large.
ZOOM_SHARE = 4
_CONTEXT = 12  # rows and columns of a map that are kept to check that two views of it line up

#: A layer at one of its calls within a forward; a layer that is called twice has two sites.
Site = tuple[str, int]
Position = tuple[slice, slice]


@dataclass(frozen=True)
class Trace:
    """What passed a site in one forward of one image.

    Args:
        layer: The padded layer, or None if it is none.
        why_not: Why it is none, in words.
        geometry: Its geometry at this size, where it is one.
        output_size: Height and width of its output map.
        middle: The middle of that map, (channels, rows, columns).
    """

    layer: PaddedLayer | None
    why_not: str | None
    geometry: Geometry | None
    output_size: tuple[int, int]
    middle: Tensor


@dataclass(frozen=True)
class SitePlan:
    """How a site is measured.

    Args:
        layer: The padded layer.
        view: ``"crop"``, ``"mirror"`` or ``"centre"``.
        reason: Why this view and not the one asked for; None if it is the one.
        geometry: Geometry of the map that gives the border readings.
        border: Side, or ``"interior"`` for the control, to the rows and columns of the border readings.
        reference: The same for the reference readings; under ``None`` those that all sides share.
    """

    layer: PaddedLayer
    view: str
    reason: str | None
    geometry: Geometry
    border: dict[str, Position]
    reference: dict[str | None, Position]


@dataclass
class Plan:
    """How every site of a module is measured at one input size.

    Args:
        sites: Measured sites.
        skipped: Layer name to the reason why it is left out.
        offsets: View to the pixels that its small input lacks on each side.
        geometries: Geometry of every padded site at the model's own input size.
        in_place: Whether the module writes into its input, so that the views need a copy of it.
    """

    sites: dict[Site, SitePlan] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    offsets: dict[str, int] = field(default_factory=dict)
    geometries: dict[Site, Geometry] = field(default_factory=dict)
    in_place: bool = False

    @property
    def views(self) -> list[str]:
        """The views that cost a forward of their own."""
        return [view for view in self.offsets if any(site.view == view for site in self.sites.values())]


def trace(
    module: nn.Module, args: tuple, kwargs: dict, probes: Probes, until: Collection[Site] = ()
) -> dict[Site, Trace]:
    """Runs a module on its first image and notes the sites in the order of their calls.

    Args:
        module: Module that images enter by.
        args: Its arguments, the first one images (images, channels, height, width).
        kwargs: Its keyword arguments.
        probes: Attached hooks.
        until: Sites after which the forward is stopped: a head of fixed size need not see another size.
    """
    sites: dict[Site, Trace] = {}
    calls: dict[str, int] = {}
    padded_by: dict[int, nn.Module] = {}  # id of a pad module's output -> the pad module
    kept: list[Tensor] = []  # keeps those outputs alive, so that no id is used twice

    def on_pad(pad: nn.Module, _: tuple, output: Tensor) -> None:
        padded_by[id(output)] = pad
        kept.append(output)

    def listener(name: str) -> Callable[[nn.Module, Tensor, Tensor], None]:
        def listen(conv: nn.Module, x: Tensor, output: Tensor) -> None:
            call = calls[name] = calls.get(name, -1) + 1
            sites[name, call] = _trace_site(conv, padded_by.get(id(x)), x, output)
            if until and sites.keys() >= set(until):
                raise StopForward

        return listen

    handles = [pad.register_forward_hook(on_pad) for pad in pad_modules(module).values()]
    try:
        probes.listen({name: listener(name) for name in probes.layers})
        run(module, (args[0][:1], *args[1:]), kwargs)
    finally:
        probes.listen({})
        for handle in handles:
            handle.remove()
    return sites


def _trace_site(conv: nn.Module, pad: nn.Module | None, x: Tensor, output: Tensor) -> Trace:
    size = (output.shape[-2], output.shape[-1])
    rows, cols = (_middle_slice(n) for n in size)
    middle = output[0, :, rows, cols].float().clone()
    why = why_unpadded(conv, pad)
    if why is None and pad is not None and any(p != 0 for p in _own_padding(conv)):
        why = "a pad module before a convolution that pads as well"
    if why is not None:
        return Trace(None, why, None, size, middle)
    layer = PaddedLayer(conv, pad)
    geometry = layer.geometry(*layer.unpadded(x).shape[-2:])
    if geometry.output_size != size:
        fits = f"its output of {size[0]}×{size[1]} does not fit its declared padding"
        return Trace(None, fits, None, size, middle)
    if not any(geometry.border(side) for side in EDGES):
        return Trace(None, _no_border(geometry), geometry, size, middle)
    return Trace(layer, None, geometry, size, middle)


def _middle_slice(n: int) -> slice:
    """The middle of an axis, as even or odd as the axis, so that the middles of two maps have one centre."""
    kept = n if n <= _CONTEXT else _CONTEXT - n % 2
    return slice((n - kept) // 2, (n + kept) // 2)


def _own_padding(conv: nn.Module) -> tuple[int, ...]:
    return conv._reversed_padding_repeated_twice if conv.padding != "valid" else (0,)


def _no_border(geometry: Geometry) -> str:
    height, width = geometry.output_size
    return f"map of {height}×{width}: no position reads the padding of one side alone"


def plan(module: nn.Module, args: tuple, kwargs: dict, probes: Probes, reference: str) -> Plan:
    """Decides for every site how it is measured, on the first image.

    The reference that was asked for is used wherever it can be; a site that it does not suit takes the next one of
    :data:`FALLBACKS`, with the reason.

    Args:
        module: Module that images enter by.
        args: Its arguments, the first one images.
        kwargs: Its keyword arguments.
        probes: Attached hooks.
        reference: The reference asked for.
    """
    image = args[0][:1].clone()
    own = trace(module, (image, *args[1:]), kwargs, probes)
    result = Plan(geometries={site: t.geometry for site, t in own.items() if t.geometry is not None})
    result.in_place = not torch.equal(image, args[0][:1])
    result.skipped = {name: t.why_not for (name, _), t in own.items() if t.why_not is not None}
    open_sites = {site: t for site, t in own.items() if t.layer is not None}
    reasons: dict[Site, str | None] = dict.fromkeys(open_sites)
    for view in FALLBACKS[reference]:
        if not open_sites:
            break
        if view == "centre":
            found, why = _plan_centre(open_sites, reasons)
        else:
            offset, found, why = _plan_view(view, module, args, kwargs, probes, open_sites, reasons)
            result.offsets[view] = offset
        result.sites.update(found)
        open_sites = {site: t for site, t in open_sites.items() if site not in found}
        for site in open_sites:
            reasons[site] = f"{reasons[site]}; {why[site]}" if reasons[site] else why[site]
    for name, call in open_sites:
        result.skipped[name] = reasons[name, call] or "no reference"
    for name, _ in result.sites:
        result.skipped.pop(name, None)
    return result


def _plan_centre(
    sites: dict[Site, Trace], reasons: dict[Site, str | None]
) -> tuple[dict[Site, SitePlan], dict[Site, str]]:
    found, why = {}, {}
    for site, seen in sites.items():
        inner = tuple(inner_half(axis) for axis in (seen.geometry.rows, seen.geometry.cols))
        if any(len(range(s.start, s.stop, s.step)) == 0 for s in inner):
            height, width = seen.output_size
            why[site] = f"centre: the inner half of the {height}×{width} map reads padding"
            continue
        found[site] = SitePlan(seen.layer, "centre", reasons[site], seen.geometry, seen.geometry.borders, {None: inner})
    return found, why


def inner_half(axis) -> slice:
    """At most 8 evenly spaced outputs of an axis' inner half that read no padding."""
    start = max(axis.clean.start, axis.outputs // 4)
    stop = min(axis.clean.stop, axis.outputs - axis.outputs // 4)
    return slice(start, max(start, stop), max(1, -(-(stop - start) // 8)))


def _plan_view(
    view: str,
    module: nn.Module,
    args: tuple,
    kwargs: dict,
    probes: Probes,
    sites: dict[Site, Trace],
    reasons: dict[Site, str | None],
) -> tuple[int, dict[Site, SitePlan], dict[Site, str]]:
    """The offset at which most sites can be measured, the first of those in the order of :func:`_offsets`."""
    images = args[0]
    best: tuple[int, dict[Site, SitePlan], dict[Site, str]] = (
        0,
        {},
        dict.fromkeys(sites, f"{view}: no offset fits the image"),
    )
    for offset in _offsets(view, images, sites):
        try:
            seen_by_role = [
                sites if make is None else trace(module, (make(images[:1], offset), *args[1:]), kwargs, probes, sites)
                for make in VIEWS[view]
            ]
        except Exception as error:  # a model that cannot take another size is no fault; the next reference is used
            if not best[1]:
                short = (str(error).splitlines() or [""])[0][:80]
                best = (
                    0,
                    {},
                    dict.fromkeys(
                        sites, f"{view}: the model does not run on another size ({type(error).__name__}: {short})"
                    ),
                )
            continue
        found, why = {}, {}
        for site, seen in sites.items():
            small, large = (seen_in.get(site) for seen_in in seen_by_role)
            outcome = _pair(view, small, large, seen.geometry, reasons[site])
            if isinstance(outcome, SitePlan):
                found[site] = outcome
            else:
                why[site] = outcome
        if len(found) > len(best[1]) or not best[1]:
            best = (offset, found, why)
        if len(found) == len(sites):
            break
    return best


def _offsets(view: str, images: Tensor, sites: dict[Site, Trace]) -> list[int]:
    """Offsets worth trying, multiples of the strides at which the sites' maps lie, in the order of preference.

    Up to an eighth of the image the larger is the better: just inside the border, deeper layers still see what earlier
    ones made of it. Beyond, each step costs more of the image than it is worth.
    """
    height, width = images.shape[-2:]
    small = min(height, width)
    strides = {max(1, round(height / seen.output_size[0])) for seen in sites.values()}
    share = small // 8
    offsets = {stride * multiple for stride in strides for multiple in (1, 2, 3, share // stride)}
    limit = (small - 1) // 2 if view == "crop" else small - 1  # reflection needs one more
    offsets = {offset for offset in offsets if 0 < offset <= limit}
    return sorted((o for o in offsets if o <= share), reverse=True) + sorted(o for o in offsets if o > share)


def _pair(view: str, small: Trace | None, large: Trace | None, native: Geometry, reason: str | None) -> SitePlan | str:
    """The plan of a site seen in two views, or why they cannot be compared there."""
    if small is None or large is None or small.geometry is None or large.geometry is None:
        return f"{view}: not called, or called otherwise, on another size"
    if small.layer is None:
        return f"{view}: {small.why_not}"
    shifts = []
    pairs = ((small.geometry.rows, large.geometry.rows), (small.geometry.cols, large.geometry.cols))
    for inner, outer in pairs:
        shift, odd = divmod(outer.outputs - inner.outputs, 2)
        in_phase = outer.size - inner.size == 2 * shift * inner.stride
        if odd or shift < 1 or not in_phase or (inner.before, inner.after) != (outer.before, outer.after):
            return f"{view}: its map cannot be aligned with that of another size"
        shifts.append(shift)
    border = small.geometry.borders
    missing = [side for side in EDGES if native.border(side) and side not in border]
    if missing:
        height, width = small.output_size
        return f"{view}: its map of {height}×{width} is too small for the border {missing[0]}"
    border["interior"] = tuple(_middle(axis) for axis in (small.geometry.rows, small.geometry.cols))
    reference = {
        side: tuple(_moved(s, shift) for s, shift in zip(where, shifts, strict=True)) for side, where in border.items()
    }
    for side, where in reference.items():
        if side != "interior" and not all(
            _inside(s, clean) for s, clean in zip(where, large.geometry.clean, strict=True)
        ):
            return f"{view}: its reference would read padding"
    if not _lines_up(small.middle, large.middle):
        return f"{view}: its activations do not move with the image"
    return SitePlan(small.layer, view, reason, small.geometry, border, reference)


def _middle(axis) -> slice:
    """The middle one or two outputs of an axis."""
    return slice((axis.outputs - 1) // 2, axis.outputs // 2 + 1)


def _moved(where: slice, shift: int) -> slice:
    return slice(where.start + shift, where.stop + shift)


def _inside(where: slice, clean: slice) -> bool:
    return clean.start <= where.start and where.stop <= clean.stop


def _lines_up(small: Tensor, large: Tensor) -> bool:
    """Whether the middles of two maps agree better as they lie than with one moved by a position."""
    rows, cols = (min(a, b) for a, b in zip(small.shape[1:], large.shape[1:], strict=True))
    if min(rows, cols) < 3:
        return True  # too small to tell; the arithmetic of the sizes has to do
    a, b = (_central(t, rows, cols) for t in (small, large))

    def distance(dy: int, dx: int) -> float:
        moved = b[:, 1 + dy : rows - 1 + dy, 1 + dx : cols - 1 + dx]
        return float((a[:, 1:-1, 1:-1] - moved).abs().mean())

    return distance(0, 0) <= min(distance(dy, dx) for dy, dx in ((-1, 0), (1, 0), (0, -1), (0, 1)))


def _central(middle: Tensor, rows: int, cols: int) -> Tensor:
    top, left = (middle.shape[1] - rows) // 2, (middle.shape[2] - cols) // 2
    return middle[:, top : top + rows, left : left + cols]
