"""Which outputs of a convolution read its padding, and where other paddings take their values from.

Per axis of size n, kernel k, dilation d, stride s and padding (p0, p1), output i covers the inputs
``i*s - p0 ... i*s - p0 + d*(k-1)``. It reads the padding before the input iff its first tap is negative, and the
padding after the input iff its last tap is at n or beyond. All of this module follows from these two lines.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

SIDES = ("top", "bottom", "left", "right", "top-left", "top-right", "bottom-left", "bottom-right")
EDGES = SIDES[:4]
#: Of a convolution in three dimensions: the first and the last position in depth, or in time.
DEPTH_SIDES = ("front", "back")
ALL_SIDES, ALL_EDGES = (*SIDES, *DEPTH_SIDES), (*EDGES, *DEPTH_SIDES)

#: Positions of a map: rows and columns, and depth before them in three dimensions.
Position = tuple[slice, ...]


@dataclass(frozen=True)
class Axis:
    """One spatial axis of a convolution.

    Args:
        size: Length n of the input, without padding.
        kernel: Number of taps k.
        stride: Step s between neighbouring outputs, in inputs.
        dilation: Distance d between neighbouring taps, in inputs.
        before: Padded values p0 before the first input.
        after: Padded values p1 after the last input.

    Example:
        >>> axis = Axis(size=8, kernel=3, stride=2, before=1, after=1)
        >>> axis.outputs, axis.leading, axis.trailing, axis.leftover
        (4, 1, 0, 1)
    """

    size: int
    kernel: int
    stride: int = 1
    dilation: int = 1
    before: int = 0
    after: int = 0

    @property
    def extent(self) -> int:
        """Distance from the first tap to the last, ``d * (k - 1)``."""
        return self.dilation * (self.kernel - 1)

    @property
    def outputs(self) -> int:
        """Number of output positions, never negative."""
        return max(0, (self.size + self.before + self.after - self.extent - 1) // self.stride + 1)

    @property
    def leading(self) -> int:
        """Number of outputs that read the padding before the input: those with ``i*s < p0``."""
        return min(self.outputs, -(-self.before // self.stride))

    @property
    def trailing(self) -> int:
        """Number of outputs that read the padding after the input: those with ``i*s >= n + p0 - d*(k-1)``."""
        first = max(0, -(-(self.size + self.before - self.extent) // self.stride))
        return max(0, self.outputs - first)

    @property
    def leftover(self) -> int:
        """Padded or real values at the far end that no window reaches ("leftover padding" of Mind the Pad, 2021)."""
        return (self.size + self.before + self.after - self.extent - 1) % self.stride

    @property
    def neutral(self) -> str:
        """Mode of neutral padding: ``"reflect"``, or ``"replicate"`` where there is more padding than to reflect."""
        return "reflect" if max(self.before, self.after) < self.size else "replicate"

    def taps(self, output: int) -> Tensor:
        """Return the input coordinates that one output reads; coordinates outside ``0 ... n-1`` are padding."""
        return output * self.stride - self.before + self.dilation * torch.arange(self.kernel)

    @property
    def clean(self) -> slice:
        """Outputs that read no padding; empty if there are none."""
        return slice(self.leading, max(self.leading, self.outputs - self.trailing))

    @property
    def inner(self) -> slice:
        """At most 8 evenly spaced outputs of the inner half that read no padding; empty if there are none."""
        start = max(self.clean.start, self.outputs // 4)
        stop = min(self.clean.stop, self.outputs - self.outputs // 4)
        return slice(start, max(start, stop), max(1, -(-(stop - start) // 8)))

    @property
    def middle(self) -> slice:
        """The middle one or two outputs."""
        return slice((self.outputs - 1) // 2, self.outputs // 2 + 1)

    @property
    def first(self) -> slice | None:
        """The outermost output before the input, if it reads the padding on that side alone."""
        return slice(0, 1) if self.leading > 0 and self.trailing < self.outputs else None

    @property
    def last(self) -> slice | None:
        """The outermost output after the input, if it reads the padding on that side alone."""
        reads_it_alone = self.trailing > 0 and self.leading < self.outputs
        return slice(self.outputs - 1, self.outputs) if reads_it_alone else None


@dataclass(frozen=True)
class Geometry:
    """The axes of a convolution on an input of a known size.

    A convolution in one dimension has one row; one in three dimensions has depth, and no corners: a position that reads
    the padding of two sides belongs to none.

    Example:
        >>> g = Geometry(Axis(6, 3, before=1, after=1), Axis(6, 3, before=1, after=1))
        >>> g.border("top")
        (slice(0, 1, None), slice(1, 5, None))
        >>> g.border("bottom-right")
        (slice(5, 6, None), slice(5, 6, None))
        >>> Geometry(Axis(1, 1), g.cols).borders
        {'left': (slice(0, 1, None), slice(0, 1, None)), 'right': (slice(0, 1, None), slice(5, 6, None))}
    """

    rows: Axis
    cols: Axis
    depth: Axis | None = None

    @property
    def axes(self) -> tuple[Axis, ...]:
        """Rows and columns, or depth, rows and columns: in the order in which tensors have them."""
        return (self.rows, self.cols) if self.depth is None else (self.depth, self.rows, self.cols)

    @property
    def sides(self) -> tuple[str, ...]:
        """Names of the sides that a map of so many axes may have."""
        return SIDES if self.depth is None else ALL_SIDES

    @property
    def edges(self) -> tuple[str, ...]:
        """Those of them that are no corners."""
        return EDGES if self.depth is None else ALL_EDGES

    @property
    def output_size(self) -> tuple[int, ...]:
        """Height and width of the output map; depth, height and width in three dimensions."""
        return tuple(axis.outputs for axis in self.axes)

    @property
    def clean(self) -> Position:
        """Rows and columns of the positions that read no padding at all."""
        return tuple(axis.clean for axis in self.axes)

    @property
    def inner(self) -> Position:
        """Rows and columns of some positions of the inner half, see :attr:`Axis.inner`."""
        return tuple(axis.inner for axis in self.axes)

    @property
    def middle(self) -> Position:
        """Rows and columns of the middle."""
        return tuple(axis.middle for axis in self.axes)

    def border(self, side: str) -> Position | None:
        """Return rows and columns of one side's border, or None if the side has none.

        The border is the outermost row or column, less what reads a second side; a corner is the one position where
        two outermost lines meet.

        Args:
            side: One of :data:`SIDES`, or in three dimensions of :data:`ALL_EDGES`.
        """
        vertical, _, horizontal = side.partition("-") if "-" in side else (side, "", side)
        where = [
            {"top": self.rows.first, "bottom": self.rows.last}.get(vertical, self.rows.clean),
            {"left": self.cols.first, "right": self.cols.last}.get(horizontal, self.cols.clean),
        ]
        if self.depth is not None:
            where.insert(0, {"front": self.depth.first, "back": self.depth.last}.get(side, self.depth.clean))
        if side not in (SIDES if self.depth is None else ALL_EDGES):
            return None
        found = tuple(one for one in where if one is not None and one.start < one.stop)
        return found if len(found) == len(where) else None

    @property
    def borders(self) -> dict[str, Position]:
        """Every side that has a border, in the order of :attr:`sides`, to its rows and columns."""
        return dict(self._borders)

    @cached_property
    def _borders(self) -> dict[str, Position]:
        return {side: border for side in self.sides if (border := self.border(side)) is not None}

    def reads_padding(self, device: torch.device | str = "cpu") -> Tensor:
        """Return a mask (height, width) of every output position that reads padding on any side."""
        mask = torch.zeros((1,) * len(self.axes), dtype=torch.bool, device=device)
        for number, axis in enumerate(reversed(self.axes)):
            position = torch.arange(axis.outputs, device=device)
            reads = (position < axis.leading) | (position >= axis.outputs - axis.trailing)
            mask = mask | reads.view(-1, *(1,) * number)
        return mask

    def reads(self, side: str) -> Tensor:
        """Return a mask of every output position that reads the padding of one edge.

        Args:
            side: One of :attr:`edges`.

        Returns:
            Boolean tensor (height, width) of the output map.
        """
        mask = torch.zeros(self.output_size, dtype=torch.bool)
        dim, before = {"front": (-3, True), "back": (-3, False), "top": (-2, True), "bottom": (-2, False)}.get(
            side, (-1, side == "left")
        )
        axis = self.axes[dim]
        start, count = (0, axis.leading) if before else (axis.outputs - axis.trailing, axis.trailing)
        mask.narrow(dim, start, count)[:] = True
        return mask


def same_padding(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """Return the padding of TensorFlow's "same", by the input: ``ceil(n/s)`` outputs, the odd value after.

    Example:
        >>> same_padding(224, kernel=3, stride=2, dilation=1)
        (0, 1)
    """
    total = max((-(-size // stride) - 1) * stride + dilation * (kernel - 1) + 1 - size, 0)
    return total // 2, total - total // 2


def source(coordinates: Tensor, size: int, mode: str) -> Tensor:
    """Return where a padding mode takes the value of a coordinate outside the input from.

    Args:
        coordinates: Integer input coordinates, negative or beyond ``size`` if they lie in the padding.
        size: Length of the axis.
        mode: ``"reflect"``, ``"replicate"``, ``"circular"``, or ``"neutral"``: reflect, if the map is large
            enough for it, else replicate.

    Returns:
        Coordinates inside ``0 ... size-1``; unchanged if they were inside already.
    """
    if mode == "circular":
        return coordinates % size
    reflected = size - 1 - (size - 1 - coordinates.abs()).abs()
    once = (coordinates > -size) & (coordinates < 2 * size - 1)  # farther out a reflection would be reflected again
    if mode == "reflect" or mode == "neutral" and bool(once.all()):
        return reflected
    return coordinates.clamp(0, size - 1)


def neutral_pad(x: Tensor, geometry: Geometry, zeros: bool = False) -> Tensor:
    """Pad an input with its own values: reflected, or replicated on an axis that is too small for that.

    Args:
        x: Layer input without padding (images, channels, height, width), with depth in three dimensions.
        geometry: The layer's geometry at this input size.
        zeros: Whether to pad with zeros all the same, for an input that is centred around 0.

    Returns:
        (images, channels, height + padding, width + padding), for a convolution that pads nothing itself.
    """
    none = [0, 0] * len(geometry.axes)
    for number, axis in enumerate(reversed(geometry.axes)):  # F.pad counts from the last axis
        pads = [*none[: 2 * number], axis.before, axis.after, *none[2 * number + 2 :]]
        x = F.pad(x, pads, mode="constant" if zeros else axis.neutral) if any(pads) else x
    return x


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None = None, **options: Any) -> Tensor:
    """Convolve in as many dimensions as the kernel has.

    Args:
        x: (images, channels, height, width), with depth in three dimensions.
        weight: (out channels, in channels / groups, rows, columns), likewise.
        bias: (out channels,).
        options: Stride, dilation, groups.
    """
    return (F.conv2d if weight.ndim == 4 else F.conv3d)(x, weight, bias, **options)
