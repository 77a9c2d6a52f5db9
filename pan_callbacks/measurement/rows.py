"""What is kept of a layer in one role: a row of readings for each image, of all sides together."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from pan_callbacks.measurement.coding import Code
from pan_callbacks.measurement.contrast import thin_each
from pan_callbacks.measurement.crossfit import Sample
from pan_callbacks.measurement.positions import Keep, Layout
from pan_callbacks.measurement.readings import ReadingStore
from pan_callbacks.reports.pans import GROUPS

#: Where each group comes: those of the one half of :mod:`~pan_callbacks.measurement.crossfit` before the other's.
_ORDER = torch.arange(GROUPS) % 2 * GROUPS + torch.arange(GROUPS)


class Rows:
    """Rows of readings of one layer in one role.

    Rows of one layout (which positions of which sides) lie in one store, as readings of so many times as many channels:
    it thins them when there are too many. Maps of another size, or of another forward, have another layout.

    Args:
        channels: Channels of the layer.
        code: How readings are kept; one and the same in all roles, so that equal readings stay equal.
    """

    def __init__(self, channels: int, code: Code) -> None:
        self._channels, self._code = channels, code
        self._stores: dict[Layout, ReadingStore] = {}

    @property
    def layouts(self) -> list[Layout]:
        """The layouts that there are rows of."""
        return list(self._stores)

    def add(self, layout: Layout, rows: Tensor, groups: Tensor, keep: Keep) -> None:
        """Add rows.

        Args:
            layout: What the positions are.
            rows: (images, positions, channels), NaN throughout for an image that has none; nobody else's.
            groups: Group that each image is in (images,), on the CPU.
            keep: What is kept.
        """
        if layout not in self._stores:
            self._stores[layout] = ReadingStore(rows.shape[1] * self._channels, keep.rows(layout))
        self._stores[layout].add(0, self._code.coded(rows, keep.dtype).flatten(1), groups, given=True)

    def sample(self, sides: Iterable[str]) -> Sample:
        """Return the readings of some sides, side by side (readings, sides * channels), and the group of each.

        They are the transpose of what lies in memory, ordered by half and group, as
        :func:`~pan_callbacks.measurement.crossfit.crossfit` reads them fastest.

        Args:
            sides: Sides of which each layout has equally many positions, as :func:`alike` groups them.
        """
        sides, parts, labels, weights = tuple(sides), [], [], []
        for layout, store in self._stores.items():
            at, before = {}, 0
            for side, n, _ in layout:
                at[side] = range(before, before + n)
                before += n
            if sides[0] in at:
                rows, groups = store.sample(0)
                known = ~rows[:, :1].isnan().flatten().cpu()
                order = torch.argsort(_ORDER[groups] + (~known) * 2 * GROUPS, stable=True)[: int(known.sum())]
                slots = [i for side in sides for i in at[side]]
                part = rows.view(len(rows), -1, self._channels)[:, _indices(slots, rows.device)]
                part = part.index_select(0, order.to(rows.device))
                # (images, sides, positions, channels) -> (sides * channels, images * positions)
                each = len(slots) // len(sides)
                part = part.view(len(order), len(sides), each, self._channels).permute(1, 3, 0, 2).contiguous()
                parts.append(self._code.decoded(part.flatten(2)).flatten(0, 1))
                labels.append(groups[order].repeat_interleave(each))
                weights.append(store.weight(0))
        return _joined(parts, labels, weights, len(sides) * self._channels)

    def slots(self, side: str) -> tuple[int, ...]:
        """Return at how many positions of a side each layout is read, in their order."""
        return tuple(sum(slots for name, slots, _ in layout if name == side) for layout in self._stores)

    def positions(self, side: str) -> int:
        """Return how many positions a side has in the largest map; 1 if it is none of its own here."""
        return max((n for layout in self._stores for name, _, n in layout if name == side), default=1)

    def state(self) -> list[dict[str, Any]]:
        """Return all that is kept, for another process."""
        return [
            {"layout": layout, "capacity": store.capacity, **store.state()} for layout, store in self._stores.items()
        ]

    def merge(self, state: list[dict[str, Any]], theirs: Code, device: torch.device) -> None:
        """Add what another process keeps.

        Args:
            state: What its :meth:`state` returned.
            theirs: Its code.
            device: Where readings are to lie.
        """
        for one in state:
            layout: Layout = tuple((str(side), int(slots), int(n)) for side, slots, n in one["layout"])
            channels = self._channels * sum(slots for _, slots, _ in layout)
            other = ReadingStore.of(channels, one["capacity"], one["values"].to(device), one["heads"], one["groups"])
            kept = self._stores.setdefault(layout, ReadingStore(channels, one["capacity"])).values
            dtype = kept[0].dtype if kept else one["values"].dtype
            if dtype is not one["values"].dtype or not theirs.is_like(self._code):
                shape = (-1, channels // self._channels, self._channels)
                read = (theirs.decoded(block.view(shape).transpose(1, 2)).transpose(1, 2) for block in other.values)
                other.values = [self._code.coded(rows, dtype).flatten(1) for rows in read]
            self._stores[layout].merge(other)


def alike(sides: Iterable[str], rows: Iterable[Rows]) -> list[tuple[str, ...]]:
    """Return sides in groups, each of which has equally many positions throughout; without those that have none.

    Args:
        sides: The sides.
        rows: Rows to look into; of the first each side has some.
    """
    found: dict[tuple[tuple[int, ...], ...], list[str]] = {}
    for side in sides:
        slots = tuple(one.slots(side) for one in rows)
        if any(slots[0]):
            found.setdefault(slots, []).append(side)
    return [tuple(one) for one in found.values()]


def _indices(numbers: list[int], device: torch.device) -> slice | Tensor:
    """Return what picks some rows: a slice, which copies nothing, if they follow upon each other."""
    if numbers == list(range(numbers[0], numbers[0] + len(numbers))):
        return slice(numbers[0], numbers[0] + len(numbers))
    return torch.tensor(numbers, device=device)


def _joined(parts: list[Tensor], groups: list[Tensor], weights: list[int], channels: int) -> Sample:
    """Return readings (channels, n) of several layouts as one sample, all of one weight."""
    if not parts:
        return Sample(torch.empty(0, channels), torch.empty(0, dtype=torch.long))
    if len(parts) == 1:
        return Sample(parts[0].T, groups[0])
    for i, weight in enumerate(weights):
        if weight < max(weights):
            step = max(weights) // weight
            kept, groups[i] = thin_each(parts[i].T, groups[i], step, step // 2)
            parts[i] = kept.T
    labels = torch.cat(groups)
    order = torch.argsort(_ORDER[labels], stable=True)
    return Sample(torch.cat(parts, 1)[:, order.to(parts[0].device)].T, labels[order])
