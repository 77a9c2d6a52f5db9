"""Which outputs of a convolution read its padding, and where other paddings take their values from.

Per axis of size n, kernel k, dilation d, stride s and padding (p0, p1), output i covers the inputs
``i*s - p0 ... i*s - p0 + d*(k-1)``. It reads the padding before the input iff its first tap is negative, and the
padding after the input iff its last tap is at n or beyond. All of this module follows from these two lines.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

SIDES = ("top", "bottom", "left", "right", "top-left", "top-right", "bottom-left", "bottom-right")
EDGES = SIDES[:4]


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
    """The two axes of a convolution on an input of a known size.

    Example:
        >>> g = Geometry(Axis(6, 3, before=1, after=1), Axis(6, 3, before=1, after=1))
        >>> g.border("top")
        (slice(0, 1, None), slice(1, 5, None))
        >>> g.border("bottom-right")
        (slice(5, 6, None), slice(5, 6, None))
    """

    rows: Axis
    cols: Axis

    @property
    def output_size(self) -> tuple[int, int]:
        """Height and width of the output map."""
        return self.rows.outputs, self.cols.outputs

    @property
    def clean(self) -> tuple[slice, slice]:
        """Rows and columns of the positions that read no padding at all."""
        return self.rows.clean, self.cols.clean

    def border(self, side: str) -> tuple[slice, slice] | None:
        """Return rows and columns of one side's border, or None if the side has none.

        The border is the outermost row or column, less what reads a second side; a corner is the one position where
        two outermost lines meet.

        Args:
            side: One of :data:`SIDES`.
        """
        vertical, _, horizontal = side.partition("-") if "-" in side else (side, "", side)
        rows = {"top": self.rows.first, "bottom": self.rows.last}.get(vertical, self.rows.clean)
        cols = {"left": self.cols.first, "right": self.cols.last}.get(horizontal, self.cols.clean)
        if rows is None or cols is None or rows.start >= rows.stop or cols.start >= cols.stop:
            return None
        return rows, cols

    @property
    def borders(self) -> dict[str, tuple[slice, slice]]:
        """Every side that has a border, in the order of :data:`SIDES`, to its rows and columns."""
        return {side: border for side in SIDES if (border := self.border(side)) is not None}

    def reads_padding(self, device: torch.device | str = "cpu") -> Tensor:
        """Return a mask (height, width) of every output position that reads padding on any side."""
        on_axes = []
        for axis in (self.rows, self.cols):
            position = torch.arange(axis.outputs, device=device)
            on_axes.append((position < axis.leading) | (position >= axis.outputs - axis.trailing))
        return on_axes[0][:, None] | on_axes[1][None, :]

    def reads(self, side: str) -> Tensor:
        """Return a mask of every output position that reads the padding of one edge.

        Args:
            side: ``"top"``, ``"bottom"``, ``"left"`` or ``"right"``.

        Returns:
            Boolean tensor (height, width) of the output map.
        """
        height, width = self.output_size
        mask = torch.zeros(height, width, dtype=torch.bool)
        if side == "top":
            mask[: self.rows.leading] = True
        elif side == "bottom":
            mask[height - self.rows.trailing :] = True
        elif side == "left":
            mask[:, : self.cols.leading] = True
        else:
            mask[:, width - self.cols.trailing :] = True
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


def neutral_pad(x: Tensor, geometry: Geometry) -> Tensor:
    """Pad an input with its own values: reflected, or replicated on an axis that is too small for that.

    Args:
        x: Layer input without padding (images, channels, height, width).
        geometry: The layer's geometry at this input size.

    Returns:
        (images, channels, height + padding, width + padding), for a convolution that pads nothing itself.
    """
    rows, cols = geometry.rows, geometry.cols
    for axis, pads in ((cols, (cols.before, cols.after, 0, 0)), (rows, (0, 0, rows.before, rows.after))):
        x = F.pad(x, pads, mode=axis.neutral) if any(pads) else x
    return x
