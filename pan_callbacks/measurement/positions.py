"""Which readings are kept: at all positions of a side, or where memory does not suffice at a few of each image.

A few are taken evenly: an edge is divided into as many parts, and each gives one position, which moves on from image to
image (Weyl's sequence), so that over the images all positions are read alike. Readings of one image are alike anyway:
the error of a contrast is mostly that of the images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from pan_callbacks._runtime import moved_to
from pan_callbacks.measurement.contrast import GOLDEN
from pan_callbacks.padding import Position
from pan_callbacks.reports.pans import GROUPS

#: Memory for the readings of all neurons together, in bytes; in large networks for those of each.
MEMORY, MEMORY_OF_A_NEURON = 48_000_000, 12_800
#: Readings are rounded to 16 bits rather than be taken at fewer positions of an edge than this.
LEAST_POSITIONS = 4
#: Readings of a side that are kept at least, whatever the memory: with fewer little is known of 16 groups of images.
LEAST_ROWS = 256
#: The reference that all sides share, and the control in the middle of the map, where most layers read no padding.
SHARED, INTERIOR = "shared", "interior"
#: Positions of the control that are read of an image, where positions are few.
_INTERIOR = 1


#: Side, positions read of an image, and positions that there are: of all sides that are read of a map.
Layout = tuple[tuple[str, int, int], ...]


class Keep(NamedTuple):
    """What is kept of each neuron.

    Args:
        positions: Positions of an edge that are read of an image, at most.
        values: Values of a neuron that memory has room for.
        dtype: Type that they are kept in.
    """

    positions: int
    values: int
    dtype: torch.dtype = torch.float32

    @classmethod
    def of(cls, neurons: int, images: int) -> Keep:
        """Return what suits a number of neurons and images.

        Of an image are kept, at a border and in its reference: p positions of four edges, four corners, and a position
        of the interior.

        Example:
            >>> Keep.of(neurons=100, images=256)
            Keep(positions=57, values=120000, dtype=torch.float32)
            >>> Keep.of(neurons=3776, images=256)
            Keep(positions=1, values=6400, dtype=torch.float16)
        """
        for dtype, least in ((torch.float32, LEAST_POSITIONS), (torch.float16, 1)):
            values = max(MEMORY // max(1, neurons), MEMORY_OF_A_NEURON) // dtype.itemsize
            positions = (values // max(1, images) - 2 * (4 + _INTERIOR)) // 8
            if positions >= least:
                break
        return cls(max(1, positions), values, dtype)

    def rows(self, layout: Layout) -> int:
        """Return how many images are kept of a layout; beyond, rows are thinned in order of size."""
        slots = sum(slots for _, slots, _ in layout)
        return max(self.values // (2 * slots), LEAST_ROWS // self.positions, 4 * GROUPS)


@dataclass(frozen=True, eq=False)
class Places:
    """Positions of the sides that are read of a map.

    Args:
        counts: Side to the number of its positions.
        table: Their coordinates (axes, positions of all sides).
    """

    counts: Mapping[str, int]
    table: Tensor

    @classmethod
    def of(cls, where: Mapping[str, Position]) -> Places:
        """Make them of the rows and columns of each side."""
        tables = [
            torch.cartesian_prod(*(torch.arange(one.start, one.stop, one.step or 1) for one in position)).T
            for position in where.values()
        ]
        counts = {side: table.shape[1] for side, table in zip(where, tables, strict=True)}
        return cls(counts, torch.cat(tables, 1))

    def layout(self, keep: Keep) -> Layout:
        """Return how many positions of each side are read of an image."""
        most = {SHARED: 2 * keep.positions, INTERIOR: max(_INTERIOR, keep.positions // 8)}
        return tuple((side, min(n, most.get(side, keep.positions)), n) for side, n in self.counts.items())

    def at(self, numbers: Tensor, layout: Layout) -> Tensor:
        """Return the coordinates that are read of each image (axes, images, positions).

        Args:
            numbers: Number of each image, which decides where it is read (images,), on the CPU.
            layout: Positions read of each side.
        """
        return self.table[:, _chosen(layout, tuple(numbers.tolist()))]


def read(output: Tensor, where: Tensor) -> Tensor:
    """Return the readings of a map (images, positions, channels), float32.

    Args:
        output: The map (images, channels, height, width), with depth in three dimensions.
        where: Coordinates that are read of each image (axes, images, positions).
    """
    images = torch.arange(len(output), device=output.device)[:, None]
    return output[(images, slice(None), *moved_to(where, output.device))].float()


def chosen(layout: Layout, numbers: Tensor) -> Tensor:
    """Return which positions, of all that there are, are read of each image (images, positions).

    Example:
        >>> chosen((("top", 2, 8), ("top-left", 1, 1)), torch.arange(3)).tolist()
        [[0, 4, 8], [2, 6, 8], [0, 4, 8]]
    """
    first, rank, step, moves, last = _slots(layout)
    shift = (numbers.double()[:, None] * GOLDEN).frac() * moves
    return (first + ((rank + shift) * step).floor().minimum(last)).long()


@lru_cache(maxsize=64)
def _chosen(layout: Layout, numbers: tuple[int, ...]) -> Tensor:
    """Do what :func:`chosen` does, once for all layers whose maps are alike."""
    return chosen(layout, torch.tensor(numbers))


@cache
def _slots(layout: Layout) -> tuple[Tensor, ...]:
    """Return of each position read: the first of its side, its part of it, the parts' length, if it moves, the last."""
    found, before = [], 0
    for _, slots, n in layout:
        found += [(before, rank, n / slots, float(slots < n), n - 1) for rank in range(slots)]
        before += n
    return torch.tensor(found, dtype=torch.float64).T.unbind()
