"""Which position of one map shows the same pixels as a position of another: strides, shifts, and a look at the maps."""

from __future__ import annotations

from fractions import Fraction
from math import ceil, lcm
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from pan_callbacks.layers import PaddedLayer
from pan_callbacks.measurement.contrast import RESOLUTION
from pan_callbacks.measurement.views import Pair
from pan_callbacks.padding import Axis, Geometry, Position

#: Pixels from one output of a layer to the next along each axis; below 1 where a map is larger than the image.
Strides = tuple[Fraction, ...]
#: Of a layer in one dimension; it does not move.
ONE_ROW = Axis(1, 1)
_DOWN = (nn.modules.conv._ConvNd, nn.modules.pooling._MaxPoolNd, nn.modules.pooling._AvgPoolNd)
_UP = nn.modules.conv._ConvTransposeNd


def size_of(of_map: tuple[int, ...]) -> str:
    """Return the size of a map as it stands in a sentence."""
    return "×".join(map(str, of_map))


class StrideLadder:
    """Forward hook of convolutions and pools: how many pixels apart the positions of maps of each size lie.

    The size of the image divided by that of a map is not it where convolutions without padding take a row off each map:
    299 pixels become 8 rows at a stride of 32. From one map to the next the stride is known of every convolution and
    pool, and where a function did the step it is the ratio of the two sizes, rounded, since little is lost in one step.

    Args:
        size: Height and width of the image in pixels; the length in one dimension, depth before them in three.

    Example:
        >>> import torch
        >>> ladder = StrideLadder(299, 299)
        >>> net = nn.Sequential(nn.Conv2d(1, 1, 3, stride=2), nn.Conv2d(1, 1, 3), nn.MaxPool2d(3, 2))
        >>> handles = ladder.attach(net)
        >>> net(torch.zeros(1, 1, 299, 299)).shape[-2:], [int(stride) for stride in ladder.at(73, 73)]
        (torch.Size([73, 73]), [4, 4])
    """

    def __init__(self, *size: int) -> None:
        self._known: tuple[dict[int, Fraction], ...] = tuple({n: Fraction(1)} for n in size)

    def attach(self, model: nn.Module) -> list[RemovableHandle]:
        """Put the hook on every convolution and pool of a model."""
        return [module.register_forward_hook(self) for module in model.modules() if isinstance(module, _DOWN)]

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Is called by torch after the module's forward; changes nothing."""
        axes = len(self._known)
        if not args or not isinstance(output, Tensor) or not output.ndim == args[0].ndim == 2 + axes:
            return
        stride: Any = module.stride
        by = (stride,) * axes if isinstance(stride, int) else tuple(stride) * (axes // len(stride))
        for axis, (known, step) in enumerate(zip(self._known, by, strict=True)):
            before = self._at(axis, args[0].shape[2 + axis])
            known.setdefault(output.shape[2 + axis], before / step if isinstance(module, _UP) else before * step)

    def at(self, *size: int) -> Strides:
        """Return the strides at which maps of a size lie; what has more axes has one row, which does not move."""
        own = size[-len(self._known) :]
        return (Fraction(1),) * (len(size) - len(own)) + tuple(self._at(axis, n) for axis, n in enumerate(own))

    def _at(self, axis: int, size: int) -> Fraction:
        known = self._known[axis]
        if size not in known:
            larger = [n for n in known if n > size]
            near = min(larger) if larger else max(known)
            ratio = max(near, size) / max(1, min(near, size))
            known[size] = known[near] * int(ratio + 0.5) if larger else known[near] / int(ratio + 0.5)
        return known[size]


def shift_of(inner: Axis, outer: Axis) -> int | None:
    """Return how many outputs of a larger map come before a smaller one's place in it; None if they do not align."""
    if inner == outer == ONE_ROW:
        return 0
    shift, odd = divmod(outer.outputs - inner.outputs, 2)
    in_phase = outer.size - inner.size == 2 * shift * inner.stride
    same_padding = (inner.before, inner.after) == (outer.before, outer.after)
    return shift if not odd and shift >= 1 and in_phase and same_padding else None


def inside(pair: Pair, where: Position, shifts: tuple[int, ...]) -> Position:
    """Return where the pixels at a border lie in the other input."""
    times = (1, pair.down, pair.right)[-len(where) :]
    return moved(where, tuple(n * by for n, by in zip(times, shifts, strict=True)))


def moved(where: Position, shifts: tuple[int, ...]) -> Position:
    """Return positions moved on each axis."""
    return tuple(slice(one.start + by, one.stop + by) for one, by in zip(where, shifts, strict=True))


def lines_up(one: Tensor, other: Tensor, shift: tuple[int, ...] | None = None) -> bool:
    """Whether the middles of two maps agree better as they should lie than with one moved by a position.

    Args:
        one: Middle of a map (channels, rows, columns), with depth in three dimensions.
        other: Middle of another, around the same pixel or one at a distance.
        shift: Position i of the one should be position i + shift of the other, on each axis; None for nowhere else.
    """
    size = [min(a, b) for a, b in zip(one.shape[1:], other.shape[1:], strict=True)]
    a, b = (_central(t, size) for t in (one, other))
    dims = [dim for dim in range(1, one.ndim) if not one.shape[dim] == other.shape[dim] == 1]  # one row does not move
    for dim in dims:
        by = 0 if shift is None else shift[dim - 1]
        length = a.shape[dim] - abs(by)
        if length < 3:
            return True  # too small to see; the arithmetic of the sizes has to do
        a, b = a.narrow(dim, max(0, -by), length), b.narrow(dim, max(0, by), length)
    inside = tuple(slice(1, -1) if dim in dims else slice(None) for dim in range(one.ndim))

    def distance(dim: int, step: int) -> float:
        return float((a[inside] - b.roll(-step, dim)[inside]).abs().mean())

    return not dims or distance(dims[0], 0) <= min(distance(dim, step) for dim in dims for step in (-1, 1))


def answers_line_up(
    one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor], shift: tuple[int, ...] | None = None
) -> bool:
    """Whether what two maps make of the content of an image lines up, in spite of what they make of its border.

    Deep in a network the border of earlier layers has spread over the map, and may be more than what is left of the
    content. It is much the same for another image of the same size, so that the difference between two images is free
    of it. Where no difference is left, no content is there that could be taken for a border.

    Args:
        one: Middles of a map for two images (channels, rows, columns).
        other: Those of another map.
        shift: As for :func:`lines_up`.
    """
    answers = []
    for first, second in (one, other):
        if first.shape != second.shape:
            return False
        answers.append(first - second)
        if float(answers[-1].abs().amax()) <= 2 * RESOLUTION * float(first.abs().amax()):
            return True
    return lines_up(answers[0], answers[1], shift)


def _central(middle: Tensor, size: list[int]) -> Tensor:
    for dim, n in enumerate(size, start=1):
        middle = middle.narrow(dim, (middle.shape[dim] - n) // 2, n)
    return middle


class Native(NamedTuple):
    """A padded layer, its geometry in the model's own forward, and how many pixels its outputs lie apart."""

    layer: PaddedLayer
    geometry: Geometry
    strides: Strides

    @property
    def step(self) -> int:
        """The smallest offset in pixels that moves the map by whole positions."""
        return lcm(*(stride.numerator for stride in self.strides))

    @property
    def least(self) -> int:
        """The smallest multiple of it that moves every border to where no padding is read."""
        axes = zip(self.geometry.axes, self.strides, strict=True)
        return max(1, *(ceil(max(axis.leading, axis.trailing) * stride / self.step) for axis, stride in axes))

    def shifts(self, offset: int) -> tuple[int, ...] | None:
        """Return how many positions an offset moves the map on each axis; None if they are not whole."""
        if offset % self.step:
            return None
        axes = zip(self.geometry.axes, self.strides, strict=True)
        return tuple(0 if axis == ONE_ROW else int(offset / stride) for axis, stride in axes)
