"""What passes the convolutions of a model in one forward: where each is called, and with which padding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field

from torch import Tensor

from pan_callbacks.layers import PaddedLayer, PadModule, Reason, Skip, why_unpadded
from pan_callbacks.measurement.calls import EntryCall, LayerCall, StopForward
from pan_callbacks.measurement.hooks import Probes
from pan_callbacks.measurement.pads import PadTracker
from pan_callbacks.padding import EDGES, Geometry

_CONTEXT = 12  # rows and columns of a map that are kept to check that two views of it line up

#: A layer at one of its calls within a forward; a layer that is called twice has two sites.
Site = tuple[str, int]


@dataclass(frozen=True, eq=False)
class Trace:
    """What passed a site in one forward of one image.

    Args:
        output_size: Height and width of its output map.
        middle: The middle of that map, (channels, rows, columns).
        layer: The padded layer, None if it is none or has no border.
        geometry: Its geometry at this size, if it is one.
        why_not: Why it cannot be measured.
    """

    output_size: tuple[int, int]
    middle: Tensor = field(repr=False)
    layer: PaddedLayer | None = None
    geometry: Geometry | None = None
    why_not: Reason | None = None


def trace(
    call: EntryCall, probes: Probes, until: Collection[Site] = (), failures: list[Exception] | None = None
) -> dict[Site, Trace]:
    """Run a module on its first image and note the sites in the order of their calls.

    Args:
        call: The module and its input.
        probes: Attached hooks.
        until: Sites after which the forward is stopped: a head of fixed size need not see another size.
        failures: Takes an error that ends the forward, whose sites up to there are returned; None to raise it.
    """
    sites: dict[Site, Trace] = {}
    calls: Counter[str] = Counter()
    pads = PadTracker()

    def listen(name: str, layer_call: LayerCall) -> None:
        sites[name, calls[name]] = _trace_site(layer_call, pads.pad_of(layer_call))
        calls[name] += 1
        if until and sites.keys() >= set(until):
            raise StopForward

    handles = pads.attach(call.module)
    pads.watch()
    try:
        probes.listen(listen)
        call.first(1).run()
    except Exception as error:
        if failures is None:
            raise
        failures.append(error)
    finally:
        probes.listen(None)
        for handle in handles:
            handle.remove()
    return sites


def _trace_site(call: LayerCall, pad: PadModule | None) -> Trace:
    height, width = call.output.shape[-2:]
    middle = middle_of(call)
    conv = call.conv
    why = why_unpadded(conv, pad)
    if why is None and pad is not None and conv.padding != "valid" and any(conv._reversed_padding_repeated_twice):
        why = Skip.PADDED_TWICE.because()
    if why is not None:
        return Trace((height, width), middle, why_not=why)
    layer = PaddedLayer(conv, pad)
    geometry = layer.geometry(*layer.unpadded(call.x).shape[-2:])
    if geometry.output_size != (height, width):
        return Trace((height, width), middle, why_not=Skip.MISFIT.because(height=height, width=width))
    if not any(geometry.border(side) for side in EDGES):
        why = Skip.NO_BORDER.because(height=height, width=width)
        return Trace((height, width), middle, geometry=geometry, why_not=why)
    return Trace((height, width), middle, layer, geometry)


def middle_of(call: LayerCall) -> Tensor:
    """Return the middle of the first image's map, (channels, rows, columns)."""
    height, width = call.output.shape[-2:]
    return call.output[0, :, _middle_slice(height), _middle_slice(width)].detach().float().clone()


def _middle_slice(n: int) -> slice:
    """Return the middle of an axis, as even or odd as the axis, so that the middles of two maps have one centre."""
    kept = n if n <= _CONTEXT else _CONTEXT - n % 2
    return slice((n - kept) // 2, (n + kept) // 2)
