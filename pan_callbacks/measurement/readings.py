"""The store of readings: samples of activations in bounded memory, exact while they fit.

A kept reading has a *weight*, the number of readings that it stands for: 1 until a sample has more than the capacity,
then every second one in order of size is dropped and the rest count twice. The store counts how far that may have moved
a distribution function, so that whatever is computed from it has a stated error. docs/statistics.md says why readings
are kept and no histogram.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pan_callbacks.measurement.contrast import evenly, thin_each


def one_group(readings: Tensor) -> Tensor:
    """Return the group of readings (n, channels) that all belong together (n,)."""
    return torch.zeros(len(readings), dtype=torch.long)


class _Head(NamedTuple):
    """What a block of readings is.

    Args:
        sample: Sample that it belongs to.
        weight: Readings that a kept one stands for.
        rows: Readings kept.
        moved: Ranks by which any value may be off since the sample's block before.
    """

    sample: int
    weight: int
    rows: int
    moved: int


@dataclass
class _Known:
    """What is known of a sample, so that no block need be looked into.

    Args:
        weight: Largest weight of its blocks.
        rows: Readings kept.
        unsaid: Ranks by which values may be off, as far as no head says it yet.
        left_out: Batches of which nothing was kept since readings were last dropped.
    """

    weight: int = 1
    rows: int = 0
    unsaid: int = 0
    left_out: int = 0


class ReadingStore:
    """Samples of readings, by number; of each at most ``capacity`` readings of every channel are kept.

    A reading may have a *group*: the images that it comes from. Groups are thinned each by itself, so that what is kept
    of a sample tells how much groups differ.

    The store works on three lists: ``values`` with blocks of readings (n, channels), ``groups`` with the group of each
    (n,), on the CPU, and ``heads`` with what each block is, four whole numbers (1, 4): sample, weight, n, and ranks by
    which values may be off. Concatenated they are three tensors that another process can be sent, and make a store of
    again (:meth:`of`).

    Args:
        channels: Values in a reading.
        capacity: Readings kept of a sample, at most.
        values: Blocks to go on with; the lists are the store's own from then on.
        heads: Their heads.
        groups: Their groups; None for one and the same.

    Example:
        >>> store = ReadingStore(channels=1, capacity=4)
        >>> store.add(0, torch.arange(8.0)[:, None])
        >>> store.readings(0).flatten().tolist(), store.weight(0), store.error(0)
        ([1.0, 3.0, 5.0, 7.0], 2, 0.25)
    """

    def __init__(
        self,
        channels: int,
        capacity: int,
        values: list[Tensor] | None = None,
        heads: list[Tensor] | None = None,
        groups: list[Tensor] | None = None,
    ) -> None:
        self.channels, self.capacity = channels, capacity
        self.values: list[Tensor] = [] if values is None else values
        self.heads: list[Tensor] = [] if heads is None else heads
        self.groups: list[Tensor] = [one_group(block) for block in self.values] if groups is None else groups
        self._heads = [_Head(*head.flatten().tolist()) for head in self.heads]
        self._known: dict[int, _Known] = {}
        for head in self._heads:
            self._count(head)

    @classmethod
    def of(
        cls, channels: int, capacity: int, values: Tensor, heads: Tensor, groups: Tensor | None = None
    ) -> ReadingStore:
        """Make a store of what several stores hold, whose samples may then be larger than the capacity.

        Args:
            channels: Values in a reading.
            capacity: Readings kept of a sample, once more are added.
            values: Blocks of all stores, concatenated (readings, channels).
            heads: Their heads (blocks, 4).
            groups: Their groups (readings,); None for one and the same.
        """
        sizes = heads[:, 2].tolist()
        blocks = None if groups is None else list(torch.split(groups.cpu(), sizes))
        return cls(channels, capacity, list(torch.split(values, sizes)), list(heads[:, None]), blocks)

    def add(self, sample: int, readings: Tensor, groups: Tensor | None = None, given: bool = False) -> None:
        """Add readings to a sample.

        Args:
            sample: Number of the sample.
            readings: (n, channels).
            groups: Group of each (n,), on the CPU; None for one and the same.
            given: Whether nobody else will overwrite them, so that no copy is needed.
        """
        known = self._known.setdefault(sample, _Known())
        groups = one_group(readings) if groups is None else groups
        if known.weight == 1:
            readings = readings if given else readings.clone()
        else:
            number = len(self._heads) + sum(one.left_out for one in self._known.values())
            known.unsaid += (known.weight - 1) * len(torch.unique(groups))
            start = int(known.weight * evenly(number))
            kept, groups = thin_each(readings, groups, known.weight, start)
            readings = kept.to(readings.dtype)
            known.left_out += len(readings) == 0
        if len(readings):
            self._append(sample, known.weight, readings, groups)
            self._fit(sample)

    def merge(self, other: ReadingStore) -> None:
        """Add everything that another store holds, which stays as it is."""
        for head, block, groups in zip(other._heads, other.values, other.groups, strict=True):
            self._known.setdefault(head.sample, _Known()).unsaid += head.moved
            self._append(head.sample, head.weight, block, groups)
        for sample, known in other._known.items():
            self._known.setdefault(sample, _Known()).unsaid += known.unsaid
            self._fit(sample)

    def state(self) -> dict[str, Tensor]:
        """Return all that is kept, of which :meth:`of` makes a store again."""
        return {"values": torch.cat(self.values), "heads": torch.cat(self.heads), "groups": torch.cat(self.groups)}

    def readings(self, sample: int) -> Tensor:
        """Return what is kept of a sample (n, channels), all of one weight."""
        return self._levelled(sample)[0]

    def sample(self, sample: int) -> tuple[Tensor, Tensor]:
        """Return what is kept of a sample (n, channels), all of one weight, and the group of each reading (n,)."""
        return self._levelled(sample)[:2]

    def weight(self, sample: int) -> int:
        """Return how many readings each of :meth:`readings` stands for."""
        return self._known[sample].weight if sample in self._known else 1

    def error(self, sample: int) -> float:
        """Return how far the distribution function of :meth:`readings` may be from that of everything added, at most.

        With w the weight of n readings, each value's rank may be off by m readings and so may be their number; a share
        of them is then off by at most ``2 m / (w n)``. 0 below the capacity.
        """
        kept, _, moved = self._levelled(sample)
        return 2 * moved / (self.weight(sample) * len(kept)) if len(kept) else 0.0

    def _levelled(self, sample: int) -> tuple[Tensor, Tensor, int]:
        """Return readings of a sample with its largest weight, their groups, and ranks by which they may be off."""
        known = self._known.get(sample, _Known())
        by_weight: dict[int, list[int]] = {}
        moved = known.unsaid
        for i, head in enumerate(self._heads):
            if head.sample == sample:
                by_weight.setdefault(head.weight, []).append(i)
                moved += head.moved
        parts, labels = [], []
        for weight, blocks in sorted(by_weight.items()):
            step = known.weight // weight
            part, groups = torch.cat([self.values[i] for i in blocks]), torch.cat([self.groups[i] for i in blocks])
            if step > 1:
                moved += (step - 1) * weight * len(torch.unique(groups))
                kept, groups = thin_each(part, groups, step, start=step // 2)
                part = kept.to(part.dtype)
            parts.append(part)
            labels.append(groups)
        if not parts:
            device = self.values[0].device if self.values else None
            return torch.empty(0, self.channels, device=device), torch.empty(0, dtype=torch.long), moved
        return torch.cat(parts), torch.cat(labels), moved

    def _fit(self, sample: int) -> None:
        """Make all readings of a sample those of one weight, and drop every second one until it fits."""
        known, start = self._known[sample], len(self._heads) % 2
        while known.rows > self.capacity:
            readings, groups, moved = self._levelled(sample)
            weight = known.weight
            keep = [i for i, head in enumerate(self._heads) if head.sample != sample]
            for blocks in (self.values, self.heads, self.groups):
                blocks[:] = [blocks[i] for i in keep]
            self._heads = [self._heads[i] for i in keep]
            known.rows, known.unsaid, known.left_out = 0, moved, 0
            if len(readings) > self.capacity:  # else those of less weight were too many, and no longer are
                known.unsaid += weight * len(torch.unique(groups))
                (kept, groups), weight = thin_each(readings, groups, 2, start), 2 * weight
                readings = kept.to(readings.dtype)
            self._append(sample, weight, readings, groups)

    def _append(self, sample: int, weight: int, readings: Tensor, groups: Tensor) -> None:
        head = _Head(sample, weight, len(readings), self._known[sample].unsaid)
        self.values.append(readings)
        self.groups.append(groups)
        self.heads.append(torch.tensor([head]))
        self._heads.append(head)
        self._known[sample].unsaid = 0
        self._count(head)

    def _count(self, head: _Head) -> None:
        known = self._known.setdefault(head.sample, _Known())
        known.weight, known.rows = max(known.weight, head.weight), known.rows + head.rows
