"""The padding effect: what a layer's own padding adds to its border outputs, against neutral padding of the same input.

A convolution is linear, so the difference of the two outputs is the kernel applied to the difference of the two
paddings, and the layer is not run again.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pan_callbacks.layers import PaddedLayer
from pan_callbacks.measurement.hooks import replaced_channels
from pan_callbacks.measurement.plans import SitePlan
from pan_callbacks.padding import Axis, Geometry, convolve, source


def padding_effect(
    x: Tensor,
    weight: Tensor,
    geometry: Geometry,
    side: str,
    *,
    mode: str = "zeros",
    value: float = 0.0,
    groups: int = 1,
) -> Tensor | None:
    """Return what a layer's own padding adds to its border outputs, against neutral padding of the same input.

    A convolution is linear, so the difference of the two outputs is the kernel applied to the difference of the two
    paddings: just the taps that read padding are computed, and the layer is not run again.

    Args:
        x: Layer input without padding (images, in channels, height, width).
        weight: Kernel (out channels, in channels / groups, k, k).
        geometry: The layer's geometry at this input size.
        side: One of :data:`SIDES`.
        mode: The layer's padding mode, ``"zeros"`` for a constant.
        value: The constant, for ``mode="zeros"``.
        groups: Groups of the convolution.

    Returns:
        (images, out channels, rows, columns) of the border, output as it is minus output with neutral padding; None
        if the side has no border.
    """
    border = geometry.border(side)
    if border is None:
        return None
    corner = "-" in side
    inputs, strides, dilations = [], [], []
    for dim, (axis, outputs) in enumerate(zip(geometry.axes, border, strict=True), start=2):
        coordinates, taps, stride, dilation = _reads(axis, outputs, corner)
        inputs.append(coordinates)
        strides.append(stride)
        dilations.append(dilation)
        weight = weight[(slice(None),) * dim + (taps,)]
    return convolve(
        _own_minus_neutral(x, inputs, geometry, mode, value), weight, stride=strides, dilation=dilations, groups=groups
    )


def mean_padding_effects(
    x: Tensor, weight: Tensor, geometry: Geometry, *, mode: str = "zeros", value: float = 0.0, groups: int = 1
) -> Tensor:
    """Return the mean of :func:`padding_effect` over positions, of every side, for little more than reading the kernel.

    What a tap adds on average is its weight times the mean difference of the two paddings at the inputs that it reads
    from there. So the kernel is multiplied once with those means, and with nothing if no padding is read.

    Args:
        x: Layer input without padding (1, in channels, height, width); of several images their mean, as the effect is
            affine in the input.
        weight: Kernel (out channels, in channels / groups, k, k).
        geometry: The layer's geometry at this input size.
        mode: The layer's padding mode, ``"zeros"`` for a constant.
        value: The constant, for ``mode="zeros"``.
        groups: Groups of the convolution.

    Returns:
        (sides, out channels), for the sides that have a border, in the order of :data:`SIDES`.
    """
    axes = geometry.axes
    inputs = [torch.arange(-axis.before, axis.size + axis.after) for axis in axes]
    difference = _own_minus_neutral(x, inputs, geometry, mode, value)
    kernel, dilation = tuple(axis.kernel for axis in axes), tuple(axis.dilation for axis in axes)
    stride = tuple(axis.stride for axis in axes)
    seen = []
    for border in geometry.borders.values():
        read = (
            slice(o.start * axis.stride, (o.stop - 1) * axis.stride + axis.extent + 1)
            for o, axis in zip(border, axes, strict=True)
        )
        part = difference[(slice(None), slice(None), *read)]
        if geometry.depth is None:
            seen.append(F.unfold(part, kernel, stride=stride, dilation=dilation).mean(-1))
        else:
            seen.append(_mean_window(part, axes))
    if not seen:
        return x.new_zeros(0, len(weight))
    by_tap = torch.cat(seen).view(len(seen), groups, -1)  # mean difference that each tap reads
    return torch.einsum("sgk,gok->sgo", by_tap, weight.reshape(groups, len(weight) // groups, -1)).flatten(1)


def effects_of(layer: PaddedLayer, site: SitePlan, x: Tensor) -> dict[str, Tensor]:
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
            effects[side] = as_readings(difference)
    return effects


def as_readings(part: Tensor) -> Tensor:
    """Return a part of a map (images, channels, rows, columns) as readings (images * positions, channels)."""
    return part.movedim(1, -1).flatten(0, -2)


def _reads(axis: Axis, outputs: slice, corner: bool) -> tuple[Tensor, Tensor | slice, int, int]:
    """Return what some outputs of an axis read: input coordinates, taps of the kernel, stride and dilation of it.

    Along an edge the outputs read no padding on this axis, and every tap is needed; across it there is one output, and
    just the taps that read padding can make a difference. In a corner any tap can.
    """
    if outputs == axis.clean:
        first, last = (i * axis.stride - axis.before for i in (outputs.start, outputs.stop - 1))
        return torch.arange(first, last + axis.extent + 1), slice(None), axis.stride, axis.dilation
    taps = axis.taps(outputs.start)
    kept = torch.ones_like(taps, dtype=torch.bool) if corner else (taps < 0) | (taps >= axis.size)
    return taps[kept], kept, 1, 1


def _mean_window(x: Tensor, axes: tuple[Axis, ...]) -> Tensor:
    """Return the mean over all windows of an input, (1, channels * taps) as ``F.unfold`` orders them."""
    for dim, axis in enumerate(axes, start=2):
        x = x.unfold(dim, axis.extent + 1, axis.stride)
    taps = (slice(None, None, axis.dilation) for axis in axes)
    return x.mean(tuple(range(2, 2 + len(axes))))[(slice(None), slice(None), *taps)].flatten(1)


def _own_minus_neutral(x: Tensor, inputs: list[Tensor], geometry: Geometry, mode: str, value: float) -> Tensor:
    """Return padded input at the given coordinates, as the layer pads it minus as neutral padding would.

    Args:
        x: Layer input without padding (1, in channels, height, width), with depth in three dimensions.
        inputs: Coordinates on each of these axes.
        geometry: The layer's geometry at this input size.
        mode: The layer's padding mode.
        value: The constant, for ``mode="zeros"``.
    """
    sizes = x.shape[2:]

    def along(dim: int, of_axis: Tensor) -> Tensor:
        return of_axis.view(-1, *(1,) * (len(inputs) - 1 - dim))

    def pick(modes: list[str]) -> Tensor:
        where: list[Any] = [slice(None), slice(None)]
        for dim, (at, n, padding) in enumerate(zip(inputs, sizes, modes, strict=True)):
            where.append(along(dim, source(at, n, padding).to(x.device)))
        return x[tuple(where)]

    neutral = pick([axis.neutral for axis in geometry.axes])
    if mode != "zeros":
        return pick([mode] * len(inputs)) - neutral
    outside = torch.zeros((1,) * len(inputs), dtype=torch.bool)
    for dim, (at, n) in enumerate(zip(inputs, sizes, strict=True)):
        outside = outside | along(dim, (at < 0) | (at >= n))
    return torch.where(outside.to(x.device), value - neutral, torch.zeros_like(neutral))
