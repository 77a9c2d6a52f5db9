"""What passes the convolutions of a model in one forward: where each is called, and with which padding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

from torch import Tensor, nn

from pan_callbacks.layers import Pad, PaddedLayer, Reason, Skip, dimensions, why_unpadded
from pan_callbacks.measurement.calls import EntryCall, LayerCall, StopForward
from pan_callbacks.measurement.hooks import Probes
from pan_callbacks.measurement.pads import PadTracker
from pan_callbacks.measurement.watching import CallWatch
from pan_callbacks.padding import Geometry

_CONTEXT = 12  # rows and columns of a map that are kept to check that two views of it line up

#: A layer at one of its calls within a forward; a layer that is called twice has two sites.
Site = tuple[str, int]


@dataclass(frozen=True, eq=False)
class Trace:
    """What passed a site in one forward of one image.

    Args:
        output_size: Height and width of its output map, with depth in three dimensions.
        middle: The middle of that map, (channels, rows, columns), likewise.
        layer: The padded layer, None if it is none or has no border.
        geometry: Its geometry at this size, if it is one.
        why_not: Why it cannot be measured.
        pad: What pads its input, measured or not; None if nothing does but the convolution itself.
    """

    output_size: tuple[int, ...]
    middle: Tensor = field(repr=False)
    layer: PaddedLayer | None = None
    geometry: Geometry | None = None
    why_not: Reason | None = None
    pad: Pad | None = None


def trace(
    call: EntryCall,
    probes: Probes,
    until: Collection[Site] = (),
    failures: list[Exception] | None = None,
    notes: list[str] | None = None,
) -> dict[Site, Trace]:
    """Run a module on its first image and note the sites in the order of their calls.

    Args:
        call: The module and its input.
        probes: Attached hooks.
        until: Sites after which the forward is stopped: a head of fixed size need not see another size.
        failures: Takes an error that ends the forward, whose sites up to there are returned; None to raise it.
        notes: Takes what a reader should know of what is no site; None to forget it.
    """
    sites: dict[Site, Trace] = {}
    calls: Counter[str] = Counter()
    pads = PadTracker()
    watch = CallWatch(call.name, call.module, pads)
    axes = call.images.ndim - 2

    def listen(name: str, layer_call: LayerCall) -> None:
        pad, watch.resting = pads.pad_of(layer_call), True
        sites[name, calls[name]] = replace(_trace_site(layer_call, pad, axes), pad=pad)
        watch.resting = False
        calls[name] += 1
        if until and sites.keys() >= set(until):
            raise StopForward

    handles = pads.attach(call.module)
    pads.watch()
    try:
        probes.listen(listen)
        with ExitStack() as stack:
            if probes.watched and not runs_compiled(call.module):
                stack.enter_context(watch.watching())
            call.first(1).run()
    except Exception as error:
        if failures is not None:
            failures.append(error)
        elif not probes.watched:
            raise
        else:  # a function that is compiled, perhaps, and cannot be watched
            probes.watched = False
            try:
                return trace(call, probes, until, failures, notes)
            except Exception:
                probes.watched = True  # that was not it
                raise
    finally:
        probes.listen(None)
        for handle in handles:
            handle.remove()
    if notes is not None:
        notes += watch.notes
    return sites


def runs_compiled(module: nn.Module) -> bool:
    """Whether anything in a module runs compiled, which a function mode would have compiled anew."""
    return any(
        type(one).__name__ == "OptimizedModule" or one._compiled_call_impl is not None for one in module.modules()
    )


def _trace_site(call: LayerCall, pad: Pad | None, axes: int) -> Trace:
    conv, map_size, middle = call.conv, tuple(call.output.shape[2:]), middle_of(call)
    why, size = why_unpadded(conv, pad), {"height": "×".join(map(str, map_size[:-1])), "width": map_size[-1]}
    if why is None and pad is not None and conv.padding != "valid" and any(conv._reversed_padding_repeated_twice):
        why = Skip.PADDED_TWICE.because()
    if why is None and dimensions(conv) != axes:
        why = Skip.OTHER_AXES.because(own=dimensions(conv), images=axes)
    if why is not None:
        return Trace(map_size, middle, why_not=why)
    layer = PaddedLayer(conv, pad)
    geometry = layer.geometry(*layer.unpadded(call.x).shape[2:])
    if geometry.output_size != map_size:
        return Trace(map_size, middle, why_not=Skip.MISFIT.because(**size))
    if not any(geometry.border(side) for side in geometry.edges):
        return Trace(map_size, middle, geometry=geometry, why_not=Skip.NO_BORDER.because(**size))
    try:
        layer.weight(call.x)
    except Exception as error:  # whatever a forward of somebody's wants besides an image
        return Trace(map_size, middle, geometry=geometry, why_not=Skip.NO_KERNEL.because(error=error))
    return Trace(map_size, middle, layer, geometry)


def middle_of(call: LayerCall) -> Tensor:
    """Return the middle of the first image's map, (channels, rows, columns), with depth in three dimensions."""
    first = call.output[0].detach()
    return first[(slice(None), *map(_middle_slice, first.shape[1:]))].float().clone()


def _middle_slice(n: int) -> slice:
    """Return the middle of an axis, as even or odd as the axis, so that the middles of two maps have one centre."""
    kept = n if n <= _CONTEXT else _CONTEXT - n % 2
    return slice((n - kept) // 2, (n + kept) // 2)
