"""Convolutions whose padding is neutral: what remains of a contrast without it shows what it is due to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pan_callbacks.layers import Convolution, PaddedLayer, lifted, unlifted
from pan_callbacks.measurement.hooks import replaced_channels
from pan_callbacks.padding import Axis, Geometry, convolve, neutral_pad

#: Share of a map below which what reads padding is computed in strips: of small maps one convolution costs less than
#: several (CPU time of maps of 7 to 224 pixels, dense and depthwise kernels).
_WORTH_IT = 0.15


def neutral_output(
    layer: PaddedLayer, x: Tensor, own: Tensor, channels: Tensor | None = None, mean: bool = False
) -> Tensor:
    """Return a layer's output as it is with neutral padding: the input's own values in place of the padding.

    Args:
        layer: The layer.
        x: What its convolution received (images, in channels, height, width).
        own: What it returned, those channels alone (images, channels, rows, columns).
        channels: Channels that are asked for; None for all.
        mean: Whether each channel of an image is padded with its mean there, in place of its values near the border.

    Returns:
        The same shape as ``own``: what reads no padding is that of ``own``, bit for bit. Differentiable.
    """
    conv = layer.module
    x, own = lifted(conv, x), lifted(conv, own)
    weight, bias, groups = layer.weight(x), conv.bias, conv.groups
    x = layer.unpadded(x)
    geometry = layer.geometry(*x.shape[2:])
    if channels is not None:
        weight, bias = weight[channels], None if bias is None else bias[channels]
        if groups > 1:  # each channel becomes a group of its own, with the inputs that it reads
            group, inputs, groups = channels // (conv.out_channels // groups), weight.shape[1], len(channels)
            x = x.index_select(1, (group[:, None] * inputs + torch.arange(inputs, device=x.device)).flatten())
    options = {**layer.steps, "groups": groups}
    offset = None
    if mean:  # zeros around what is centred are the mean around what is not
        centre = x.mean(tuple(range(2, x.ndim)), keepdim=True)
        x, offset = x - centre, convolve(centre.expand(-1, -1, *weight.shape[2:]), weight, groups=groups)

    def convolved(x: Tensor) -> Tensor:
        found = convolve(x, weight, bias, **options)
        return (found if offset is None else found + offset).to(own.dtype)

    # inside nothing changes; the two differ there by rounding, and none should be added
    if _strips_are_less(geometry):
        return unlifted(conv, _with_border(convolved, x, own, geometry.axes, zeros=mean))
    recomputed = convolved(neutral_pad(x, geometry, zeros=mean))
    return unlifted(conv, torch.where(geometry.reads_padding(own.device), recomputed, own))


def _strips_are_less(geometry: Geometry) -> bool:
    """Whether outputs that read padding are few enough to be computed apart, and those of two opposite sides apart."""
    whole = clean = 1
    for axis in geometry.axes:  # plainly, as torch.compile does not understand every way to multiply
        if not isinstance(axis.size, int):
            return False  # an export for any size decides nothing by it
        whole *= axis.outputs
        clean *= max(0, axis.outputs - axis.leading - axis.trailing)
    return whole - clean < _WORTH_IT * whole


def _with_border(
    convolved: Callable[[Tensor], Tensor], x: Tensor, own: Tensor, axes: tuple[Axis, ...], zeros: bool
) -> Tensor:
    """Return an output whose border is that of an input with neutral padding.

    Args:
        convolved: Convolves without padding.
        x: What is to be padded on these axes, the last ones; on those before them as it is convolved (images, channels,
            ...).
        own: What is returned where no padding is read, on all axes (images, channels, ...).
        axes: The axes.
        zeros: As for :func:`~pan_callbacks.padding.neutral_pad`.
    """
    if not axes:
        return own
    axis, dim = axes[0], own.ndim - len(axes)
    parts = []
    for first, count in ((0, axis.leading), (axis.outputs - axis.trailing, axis.trailing)):
        if count:
            strip = _read_by(x, axis, dim, first, count, zeros)
            for number, other in enumerate(axes[1:], dim + 1):
                strip = _padded(strip, other, number, zeros)
            parts.append(convolved(strip))
    count = axis.outputs - axis.leading - axis.trailing
    inner_x, inner_own = _read_by(x, axis, dim, axis.leading, count, zeros), own.narrow(dim, axis.leading, count)
    inner = _with_border(convolved, inner_x, inner_own, axes[1:], zeros)
    return torch.cat([*parts[: axis.leading > 0], inner, *parts[axis.leading > 0 :]], dim)


def _read_by(x: Tensor, axis: Axis, dim: int, first: int, count: int, zeros: bool) -> Tensor:
    """Return what some outputs in a row read of an axis, with neutral padding where they read padding of one side."""
    start = first * axis.stride - axis.before
    stop = start + (count - 1) * axis.stride + axis.extent + 1
    before, after = max(0, -start), max(0, stop - axis.size)
    low, high = max(0, min(start, axis.size - 1 - after)), min(axis.size, max(stop, before + 1))
    part = x.narrow(dim, low, high - low)
    if before or after:
        part = _padded(part, replace(axis, size=high - low, before=before, after=after), dim, zeros, axis.neutral)
    return part.narrow(dim, start - low + before, stop - start)


def _padded(x: Tensor, axis: Axis, dim: int, zeros: bool, mode: str | None = None) -> Tensor:
    """Pad one axis neutrally, or with zeros."""
    pads = [0, 0] * (x.ndim - 1 - dim) + [axis.before, axis.after]
    if not any(pads):
        return x
    return F.pad(x, pads + [0, 0] * (dim - 2), mode="constant" if zeros else mode or axis.neutral)


@contextmanager
def padding_neutral(layers: Iterable[PaddedLayer]) -> Iterator[None]:
    """Make the padding of some layers neutral while the context lasts, for all that follows them.

    Whoever listens to a layer since before hears what it gives with its own padding as it is, and the padding of the
    layers before it neutral.

    Args:
        layers: The layers.
    """
    handles = []
    try:
        for layer in layers:
            handles.append(layer.module.register_forward_hook(_Neutral(layer), with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Neutral:
    """Forward hook that replaces what a layer gives."""

    def __init__(self, layer: PaddedLayer) -> None:
        self._layer = layer

    def __call__(self, conv: Convolution, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
        """Is called by torch after the layer's forward."""
        neutral = neutral_output(self._layer, args[0] if args else kwargs["input"], output)
        masked = replaced_channels(conv)
        if masked is not None:  # what a mask has put there has no padding
            masked = masked.to(output.device)
            neutral = neutral.index_copy(1, masked, output.index_select(1, masked))
        return neutral
