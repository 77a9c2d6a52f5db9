"""The padding effect: what a layer's own padding adds to its border outputs, against neutral padding of the same input.

A convolution is linear, so the difference of the two outputs is the kernel applied to the difference of the two
paddings, and the layer is not run again.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pan_callbacks._runtime import moved_to
from pan_callbacks.layers import PaddedLayer
from pan_callbacks.measurement.hooks import padding_left, replaced_channels
from pan_callbacks.padding import Axis, Geometry, source


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
    where = torch.cartesian_prod(*(torch.arange(one.start, one.stop) for one in border)).T[:, None]
    effects = effects_at(x, weight, geometry, where.expand(-1, len(x), -1), mode=mode, value=value, groups=groups)
    return effects.transpose(1, 2).reshape(len(x), len(weight), *(one.stop - one.start for one in border))


def effects_at(
    x: Tensor,
    weight: Tensor,
    geometry: Geometry,
    where: Tensor,
    *,
    mode: str = "zeros",
    value: float = 0.0,
    groups: int = 1,
) -> Tensor:
    """Return what a layer's own padding adds to some of its outputs (images, positions, channels).

    Args:
        x: Layer input without padding (images, in channels, height, width).
        weight: Kernel (out channels, in channels / groups, k, k).
        geometry: The layer's geometry at this input size.
        where: Outputs that are asked for of each image (axes, images, positions), on the CPU.
        mode: The layer's padding mode, ``"zeros"`` for a constant.
        value: The constant, for ``mode="zeros"``.
        groups: Groups of the convolution.
    """
    axes, n = geometry.axes, len(geometry.axes)
    images = torch.arange(len(x), device=x.device).view(-1, *(1,) * (n + 1))
    windows, outside = [], torch.zeros((1,) * (n + 2), dtype=torch.bool)
    for dim, (axis, outputs) in enumerate(zip(axes, where, strict=True)):
        read = outputs[..., None] * axis.stride + axis.taps(0)
        read = read.view(*outputs.shape, *(axis.kernel if i == dim else 1 for i in range(n)))
        windows.append(read)
        outside = outside | (read < 0) | (read >= axis.size)

    def taken(modes: list[str]) -> Tensor:
        at = (source(w, axis.size, m) for w, axis, m in zip(windows, axes, modes, strict=True))
        where: list[Any] = [images, slice(None), *(moved_to(one, x.device) for one in at)]
        return x[tuple(where)].to(weight.dtype)  # channels come last

    own: Tensor | float = value if mode == "zeros" else taken([mode] * n)
    difference = own - taken([axis.neutral for axis in axes])
    difference *= moved_to(outside, x.device)[..., None]
    taps = weight[0, 0].numel()
    # (groups, images * positions, taps * in channels of a group) and (groups, the same, out channels of a group)
    by_tap = difference.reshape(-1, taps, groups, x.shape[1] // groups).permute(2, 0, 1, 3).flatten(2)
    kernel = weight.reshape(groups, len(weight) // groups, -1, taps).permute(0, 3, 2, 1).flatten(1, 2)
    return torch.bmm(by_tap, kernel).transpose(0, 1).reshape(*where.shape[1:], len(weight))


def mean_padding_effects(
    x: Tensor, weight: Tensor, geometry: Geometry, *, mode: str = "zeros", value: float = 0.0, groups: int = 1
) -> Tensor:
    """Return the mean of :func:`padding_effect` over positions, of every side, for little more than reading the kernel.

    The kernel is multiplied once with what :func:`padding_by_tap` returns, and with nothing if no padding is read.

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
    by_tap = padding_by_tap(x, geometry, mode=mode, value=value, groups=groups)
    return torch.einsum("sgk,gok->sgo", by_tap, weight.reshape(groups, len(weight) // groups, -1)).flatten(1)


def padding_by_tap(
    x: Tensor, geometry: Geometry, *, mode: str = "zeros", value: float = 0.0, groups: int = 1
) -> Tensor:
    """Return what a layer's own padding adds to the input that each tap of a kernel reads, on average over positions.

    What a tap adds to the output is its weight times that: 0 for taps that read no padding.

    Args:
        x: As for :func:`mean_padding_effects`.
        geometry: Likewise.
        mode: Likewise.
        value: Likewise.
        groups: Likewise.

    Returns:
        (sides, groups, in channels / groups * taps), for the sides that have a border, in the order of :data:`SIDES`.
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
    taps = x.shape[1] * math.prod(kernel)
    return torch.cat(seen).view(len(seen), groups, -1) if seen else x.new_zeros(0, groups, taps // groups)


@lru_cache(maxsize=1024)
def sources_of(geometry: Geometry, mode: str) -> Tensor:
    """Return where a layer's own padding, or neutral padding in its place, takes values of the input from.

    Returns:
        Coordinates (axes, n), each once.
    """
    frame = [torch.arange(-axis.before, axis.size + axis.after) for axis in geometry.axes]
    inside = ((at >= 0) & (at < axis.size) for at, axis in zip(frame, geometry.axes, strict=True))
    outside: Tensor = ~torch.cartesian_prod(*inside).all(1)
    found = []
    for modes in ([axis.neutral for axis in geometry.axes], *([[mode] * len(frame)] if mode != "zeros" else [])):
        taken = (source(at, axis.size, m) for at, axis, m in zip(frame, geometry.axes, modes, strict=True))
        found.append(torch.cartesian_prod(*taken)[outside])
    where: Tensor = torch.unique(torch.cat(found), dim=0)
    return where.T


class MeanEffect:
    """The padding effect of a layer as a mean over images, of which it keeps what padding is made of alone.

    The effect is affine in the input, so that of the mean input is the mean. It is computed in 64 bits, where they are
    to be had, so that it does not depend on the division into batches.

    Args:
        layer: The layer.
        geometry: Its geometry at this input size.
        x: An input as the convolution receives it (images, in channels, height, width).
    """

    def __init__(self, layer: PaddedLayer, geometry: Geometry, x: Tensor) -> None:
        self._layer, self._geometry = layer, geometry
        self._weight = layer.weight(x).detach()
        self._masked, self._left = replaced_channels(layer.module), padding_left(layer.module)
        self._exact = torch.float64 if x.device.type != "mps" else torch.float32
        self._where = moved_to(sources_of(geometry, layer.mode), x.device)
        self._sum = torch.zeros(x.shape[1], self._where.shape[1], device=x.device, dtype=self._exact)
        self.images = torch.zeros((), device=x.device)

    def values(self, x: Tensor) -> Tensor:
        """Return what padding takes from an input (images, in channels, values)."""
        x = self._layer.unpadded(x)
        if not x.is_contiguous():
            return x[(slice(None), slice(None), *self._where)].float()
        flat = self._where[0]
        for where, size in zip(self._where[1:], x.shape[3:], strict=True):
            flat = flat * size + where
        return x.flatten(2).index_select(2, flat).float()

    def add(self, values: Tensor, finite: Tensor) -> None:
        """Add what :meth:`values` returned.

        Args:
            values: (images, in channels, values).
            finite: Which of the images count (images,).
        """
        self._sum += torch.where(finite[:, None, None], values, 0.0).sum(0, dtype=self._exact)
        self.images += finite.sum()

    def by_side(self) -> dict[str, Tensor]:
        """Return the mean effect (channels,) on every side that has a border."""
        mean = self._sum.new_zeros(1, len(self._sum), *(axis.size for axis in self._geometry.axes))
        mean[(0, slice(None), *self._where)] = self._sum / self.images.clamp_min(1)
        layer, geometry = self._layer, self._geometry
        options: dict[str, Any] = {"mode": layer.mode, "value": layer.value, "groups": layer.module.groups}
        effects = mean_padding_effects(mean, self._weight.to(self._exact), geometry, **options)
        return dict(zip(geometry.borders, without(effects, self._masked, self._left), strict=True))


def without(effects: Tensor, masked: Tensor | None, left: float = 1.0) -> Tensor:
    """Return effects with 0 for channels that a mask has cut off: they have none any more.

    Args:
        effects: Effects of a layer's own padding (..., channels).
        masked: Channels that are cut off, None for none.
        left: How much of the padding remains in the others.
    """
    effects = effects if left == 1 else left * effects
    return effects if masked is None else effects.index_fill(-1, masked.to(effects.device), 0.0)


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
            where.append(along(dim, moved_to(source(at, n, padding), x.device)))
        return x[tuple(where)]

    neutral = pick([axis.neutral for axis in geometry.axes])
    if mode != "zeros":
        return pick([mode] * len(inputs)) - neutral
    outside = torch.zeros((1,) * len(inputs), dtype=torch.bool)
    for dim, (at, n) in enumerate(zip(inputs, sizes, strict=True)):
        outside = outside | along(dim, (at < 0) | (at >= n))
    return torch.where(moved_to(outside, x.device), value - neutral, torch.zeros_like(neutral))
