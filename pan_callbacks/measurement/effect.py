"""The padding effect: what a layer's own padding adds to its border outputs, against neutral padding of the same input.

A convolution is linear, so the difference of the two outputs is the kernel applied to the difference of the two
paddings, and the layer is not run again.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

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
    rows, row_taps, row_stride, row_dilation = _reads(geometry.rows, border[0], corner)
    cols, col_taps, col_stride, col_dilation = _reads(geometry.cols, border[1], corner)
    return F.conv2d(
        _own_minus_neutral(x, rows, cols, geometry, mode, value),
        weight[:, :, row_taps][..., col_taps],
        stride=(row_stride, col_stride),
        dilation=(row_dilation, col_dilation),
        groups=groups,
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
    rows, cols = geometry.rows, geometry.cols
    down, across = (torch.arange(-axis.before, axis.size + axis.after) for axis in (rows, cols))
    difference = _own_minus_neutral(x, down, across, geometry, mode, value)
    kernel, options = (rows.kernel, cols.kernel), {"dilation": (rows.dilation, cols.dilation)}
    seen = []
    for border in geometry.borders.values():
        r, c = (
            slice(o.start * axis.stride, (o.stop - 1) * axis.stride + axis.extent + 1)
            for o, axis in zip(border, (rows, cols), strict=True)
        )
        windows = F.unfold(difference[:, :, r, c], kernel, stride=(rows.stride, cols.stride), **options)
        seen.append(windows.mean(-1))
    if not seen:
        return x.new_zeros(0, len(weight))
    by_tap = torch.cat(seen).view(len(seen), groups, -1)  # mean difference that each tap reads
    return torch.einsum("sgk,gok->sgo", by_tap, weight.reshape(groups, len(weight) // groups, -1)).flatten(1)


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


def _own_minus_neutral(x: Tensor, rows: Tensor, cols: Tensor, geometry: Geometry, mode: str, value: float) -> Tensor:
    """Return padded input at the given coordinates, as the layer pads it minus as neutral padding would."""
    height, width = x.shape[-2:]

    def pick(down: str, across: str) -> Tensor:
        r = source(rows, height, down).to(x.device)
        c = source(cols, width, across).to(x.device)
        return x[:, :, r[:, None], c[None, :]]

    neutral = pick(geometry.rows.neutral, geometry.cols.neutral)
    if mode != "zeros":
        return pick(mode, mode) - neutral
    outside = ((rows < 0) | (rows >= height))[:, None] | ((cols < 0) | (cols >= width))[None, :]
    return torch.where(outside.to(x.device), value - neutral, torch.zeros_like(neutral))
