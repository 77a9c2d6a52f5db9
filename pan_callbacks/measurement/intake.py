"""Which images are taken of those that come, what is known of them, and how much of each is kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from math import ceil

from pan_callbacks._runtime import Shard
from pan_callbacks.measurement.calls import EntryCall
from pan_callbacks.measurement.grouping import Grouping, Names, once
from pan_callbacks.measurement.plans import Plan
from pan_callbacks.measurement.positions import Keep
from pan_callbacks.measurement.visit import Images, Visit


class Intake:
    """Takes images until there are enough.

    Args:
        shard: This process's part of the work.
        neurons: Neurons that are measured.
        most: Images that are taken, at most.

    Attributes:
        most: See above.
        names: Is asked for the groups of the batch that comes; None if each image is its own.
        grouping: Deals them out.
    """

    def __init__(self, shard: Shard, neurons: int, most: int) -> None:
        self._shard, self._neurons, self.most = shard, neurons, most
        self.names: Names | None = None
        self._total: int | None = None
        self.start(most)

    def start(self, most: int | None = None) -> None:
        """Begin anew.

        Args:
            most: Images that are taken, at most; None for as many as before, of the batch that was said to come.
        """
        if most is not None:
            self.most = self._limit = most
            self.names = self._total = None
        self._taken: Counter[str] = Counter()  # by the module that they entered by
        self._keep: Keep | None = None
        self._visits, self.grouping = 0, Grouping(self._shard)
        self.grouping.expect(self.names)

    def expect(self, share: float, names: Names | None, total: int | None) -> Callable[[], None]:
        """Say what the next batch is.

        Args:
            share: Part of the images that may have been taken when it has passed.
            names: Is asked to which of the user's groups each of its images belongs; None if each is its own.
            total: Images that come to this process in all; None if nobody knows.

        Returns:
            What is to be called with it, and may fail: it looks whether the batch before had the names that it should.
        """
        self._limit, self.names, self._total = min(self.most, ceil(self.most * share)), once(names), total
        return lambda: self.grouping.expect(self.names)

    @property
    def images(self) -> int:
        """Images taken so far."""
        return max(self._taken.values(), default=0)

    @property
    def satisfied(self) -> bool:
        """Whether there are as many as may be taken."""
        return bool(self._taken) and min(self._taken.values()) >= self._limit

    def room(self, call: EntryCall) -> int:
        """Return how many images of a call are taken."""
        take = min(len(call.images), self._limit - self._taken[call.name]) if call.has_images else 0
        self.grouping.cut |= call.has_images and take < len(call.images)
        return max(0, take)

    def visit(self, call: EntryCall, plan: Plan) -> Visit:
        """Return what is measured of a call.

        Args:
            call: The call, on the images that are taken.
            plan: How its layers are measured.
        """
        count, before = len(call.images), self._taken[call.name]
        first = self.grouping.first(self._shard.number(self._visits), count, before)
        numbers, groups = self.grouping.numbers(first, count), self.grouping.of(call.images, call.name, first)
        if self._keep is None:
            here = self.most if self._total is None else min(self._total, self.most)
            self._keep = Keep.of(self._neurons, self._shard.images or here * self._shard.world)
        self._visits += 1
        return Visit(Images(call, numbers, groups), plan, self._keep, self._visits)

    def took(self, visit: Visit) -> None:
        """Take note that images were measured."""
        self._taken[visit.call.name] += len(visit.call.images)
