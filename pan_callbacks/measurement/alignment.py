"""Which position of one map shows the same pixels as a position of another: strides, shifts, and a look at the maps."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from pan_callbacks.measurement.contrast import RESOLUTION
from pan_callbacks.padding import Axis

#: Pixels from one output of a layer to the next, down and across; below 1 where a map is larger than the image.
Strides = tuple[Fraction, Fraction]
_DOWN = (nn.modules.conv._ConvNd, nn.modules.pooling._MaxPoolNd, nn.modules.pooling._AvgPoolNd)
_UP = nn.modules.conv._ConvTransposeNd


class StrideLadder:
    """Forward hook of convolutions and pools: how many pixels apart the positions of maps of each size lie.

    The size of the image divided by that of a map is not it where convolutions without padding take a row off each map:
    299 pixels become 8 rows at a stride of 32. From one map to the next the stride is known of every convolution and
    pool, and where a function did the step it is the ratio of the two sizes, rounded, since little is lost in one step.

    Args:
        height: Of the image, in pixels.
        width: Likewise.

    Example:
        >>> import torch
        >>> ladder = StrideLadder(299, 299)
        >>> net = nn.Sequential(nn.Conv2d(1, 1, 3, stride=2), nn.Conv2d(1, 1, 3), nn.MaxPool2d(3, 2))
        >>> handles = ladder.attach(net)
        >>> net(torch.zeros(1, 1, 299, 299)).shape[-2:], [int(stride) for stride in ladder.at(73, 73)]
        (torch.Size([73, 73]), [4, 4])
    """

    def __init__(self, height: int, width: int) -> None:
        self._known: tuple[dict[int, Fraction], ...] = ({height: Fraction(1)}, {width: Fraction(1)})

    def attach(self, model: nn.Module) -> list[RemovableHandle]:
        """Put the hook on every convolution and pool of a model."""
        return [module.register_forward_hook(self) for module in model.modules() if isinstance(module, _DOWN)]

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Is called by torch after the module's forward; changes nothing."""
        if not args or not isinstance(output, Tensor) or not output.ndim == args[0].ndim == 4:
            return
        stride: Any = module.stride
        by = (stride, stride) if isinstance(stride, int) else tuple(stride)
        for axis, (known, step) in enumerate(zip(self._known, by, strict=True)):
            before = self._at(axis, args[0].shape[2 + axis])
            known.setdefault(output.shape[2 + axis], before / step if isinstance(module, _UP) else before * step)

    def at(self, height: int, width: int) -> Strides:
        """Return the strides at which maps of a size lie."""
        return self._at(0, height), self._at(1, width)

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
    shift, odd = divmod(outer.outputs - inner.outputs, 2)
    in_phase = outer.size - inner.size == 2 * shift * inner.stride
    same_padding = (inner.before, inner.after) == (outer.before, outer.after)
    return shift if not odd and shift >= 1 and in_phase and same_padding else None


def lines_up(one: Tensor, other: Tensor, shift: tuple[int, int] = (0, 0)) -> bool:
    """Whether the middles of two maps agree better as they should lie than with one moved by a position.

    Args:
        one: Middle of a map (channels, rows, columns).
        other: Middle of another, around the same pixel or one at a distance.
        shift: Position i of the one should be position i + shift of the other, down and across.
    """
    rows, cols = (min(a, b) for a, b in zip(one.shape[1:], other.shape[1:], strict=True))
    a, b = (_central(t, rows, cols) for t in (one, other))
    for dim, by in ((1, shift[0]), (2, shift[1])):
        length = a.shape[dim] - abs(by)
        if length < 3:
            return True  # too small to see; the arithmetic of the sizes has to do
        a, b = a.narrow(dim, max(0, -by), length), b.narrow(dim, max(0, by), length)
    rows, cols = a.shape[1:]

    def distance(dy: int, dx: int) -> float:
        moved = b[:, 1 + dy : rows - 1 + dy, 1 + dx : cols - 1 + dx]
        return float((a[:, 1:-1, 1:-1] - moved).abs().mean())

    return distance(0, 0) <= min(distance(dy, dx) for dy, dx in ((-1, 0), (1, 0), (0, -1), (0, 1)))


def answers_line_up(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor], shift: tuple[int, int] = (0, 0)) -> bool:
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


def _central(middle: Tensor, rows: int, cols: int) -> Tensor:
    top, left = (middle.shape[1] - rows) // 2, (middle.shape[2] - cols) // 2
    return middle[:, top : top + rows, left : left + cols]
