"""What kernels say about padding: which taps read it, and how lopsided a layer's mean kernel is.

Where padding is read on one side alone, training leaves its trace in the mean kernel of a layer ("Mind the Pad",
Alsallakh et al. 2021, arXiv 2010.02178, looks at it). The numbers for it are our own.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from pan_callbacks.errors import PANError
from pan_callbacks.layers import Convolution, PaddedLayer, convolutions, lifted
from pan_callbacks.measurement.hooks import quietly
from pan_callbacks.padding import Axis, Geometry
from pan_callbacks.reports.pan_report import PANReport


class KernelSymmetry(NamedTuple):
    """A layer's mean kernel, and how unlike its mirror images it is.

    Args:
        mean_kernel: Mean over all output and input channels (rows, columns).
        vertical: Asymmetry of top against bottom, 0 to 1.
        horizontal: Asymmetry of left against right, 0 to 1.
    """

    mean_kernel: Tensor
    vertical: float
    horizontal: float


def mean_kernel(conv: Convolution, weight: Tensor | None = None) -> Tensor:
    """Return the mean of a convolution's kernels over all output and input channels.

    Args:
        conv: The convolution.
        weight: Its kernel (out channels, in channels / groups, rows, columns), if it is not ``conv.weight``.

    Returns:
        (rows, columns), on the CPU.

    Example:
        >>> mean_kernel(nn.Conv2d(3, 8, (3, 5))).shape
        torch.Size([3, 5])
    """
    weight = lifted(conv, conv.weight) if weight is None else weight
    return weight.detach().float().mean((0, 1)).cpu()


def effective_kernel(conv: Convolution) -> Tensor:
    """Return the kernel that a convolution convolves with, which weight-standardised layers compute in each forward.

    It is observed in a forward on a black image that the kernel fits on.

    Args:
        conv: The convolution; it is left as it was.

    Returns:
        (out channels, in channels / groups, rows, columns).

    Example:
        >>> conv = nn.Conv2d(3, 8, 3)
        >>> effective_kernel(conv) is conv.weight
        True
    """
    parameter = next(conv.parameters())
    size = [d * (k - 1) + 1 for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
    black = torch.zeros(1, conv.in_channels, *size, dtype=parameter.dtype, device=parameter.device)
    with torch.no_grad():
        return PaddedLayer(conv).weight(lifted(conv, black))


def kernel_asymmetry(mean_kernel: Tensor) -> tuple[float, float]:
    """Return how unlike its mirror image a kernel is, top against bottom and left against right.

    ``sum |K - flip(K)| / sum (|K| + |flip(K)|)``: 0 for a kernel that equals its mirror image, 1 if a value never
    meets one of its own sign. A kernel of zeros is symmetric.

    Args:
        mean_kernel: (rows, columns).

    Returns:
        Vertical and horizontal asymmetry, 0 to 1; NaN for a kernel that holds NaN.

    Example:
        >>> import torch
        >>> kernel_asymmetry(torch.tensor([[1.0, 2.0, 1.0], [0.0, 0.0, 0.0], [-1.0, -2.0, -1.0]]))
        (1.0, 0.0)
    """
    kernel = mean_kernel.detach().double()
    size = 2 * kernel.abs().sum()
    if size == 0:
        return 0.0, 0.0
    vertical, horizontal = (float((kernel - kernel.flip(axis)).abs().sum() / size) for axis in (0, 1))
    return vertical, horizontal


def model_asymmetries(model: nn.Module, report: PANReport) -> dict[str, KernelSymmetry]:
    """Return mean kernel and asymmetries of every layer that a report measured, if its kernel has more than one tap.

    Those in one dimension have one row; those in three, which are no picture, are left out.

    Args:
        model: The model that the report is about; it is left as it was.
        report: The report.

    Returns:
        Layer name to its mean kernel and asymmetries, in the report's order.

    Raises:
        PANError: If the model has no convolution of a measured layer's name.

    Example:
        >>> import torch
        >>> from pan_callbacks import scan
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1))
        >>> list(model_asymmetries(net, scan(net, [torch.rand(8, 1, 16, 16)], progress=False)))
        ['0']
    """
    found, symmetries = convolutions(model), {}
    with quietly(model):  # some parametrisations change with every look in training mode
        for name, layer in report.measured.items():
            if max(layer.kernel_size) == 1 or len(layer.kernel_size) > 2:
                continue
            if name not in found:
                raise PANError(f"the report was made for another model: layer {name!r} is none of its convolutions")
            kernel = mean_kernel(found[name], effective_kernel(found[name]))
            symmetries[name] = KernelSymmetry(kernel, *kernel_asymmetry(kernel))
    return symmetries


def padding_taps(geometry: Geometry, side: str) -> tuple[list[int], list[int]]:
    """Return rows and columns of a kernel that read the padding of a side, at the outermost output there.

    Args:
        geometry: The layer's geometry at an input size.
        side: One of :data:`pan_callbacks.padding.SIDES`; in a corner, the taps of both edges.

    Returns:
        Indices of rows and of columns; none on the axis along an edge, and none if a side has no border.

    Example:
        >>> from pan_callbacks.padding import Axis
        >>> axis = Axis(size=8, kernel=5, before=2, after=2)
        >>> padding_taps(Geometry(axis, axis), "top"), padding_taps(Geometry(axis, axis), "bottom-right")
        (([0, 1], []), ([3, 4], [3, 4]))
    """
    if geometry.border(side) is None:
        return [], []
    edges = side.split("-")
    return (
        _taps_outside(geometry.rows, "top" in edges, "bottom" in edges),
        _taps_outside(geometry.cols, "left" in edges, "right" in edges),
    )


def _taps_outside(axis: Axis, before: bool, after: bool) -> list[int]:
    """Taps of the first output that lie before the input, or of the last that lie after it."""
    if before:
        outside = axis.taps(0) < 0
    elif after:
        outside = axis.taps(axis.outputs - 1) >= axis.size
    else:
        return []
    taps: list[int] = outside.nonzero().flatten().tolist()
    return taps
