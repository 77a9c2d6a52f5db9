"""One forward of the user's whose images are measured, and who listens to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pan_callbacks.measurement.calls import EntryCall, LayerCall, StopForward
from pan_callbacks.measurement.collector import LayerCollector, Passing
from pan_callbacks.measurement.plans import Forward, Plan
from pan_callbacks.measurement.trace import Site
from pan_callbacks.measurement.views import Role


@dataclass
class Visit:
    """One forward of the user's.

    Args:
        call: The call that images entered by, on the images that are measured.
        plan: How its layers are measured.
        number: Number of the batch among those of all processes.
        first: Number of its first image among those of all processes, as far as that is known.
        groups: Group that each image is in (images,), on the CPU.

    Attributes:
        missing: Sites that did not pass in the model's own forward, so far; afterwards, those that it left out.
    """

    call: EntryCall
    plan: Plan
    number: int = 0
    first: int = 0
    groups: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    missing: set[Site] = field(init=False)

    def __post_init__(self) -> None:
        self.missing = set(self.plan.own.reads)

    def count_for(self, forward: Forward) -> int:
        """Return on how many of the images a forward is run: so many that it comes out even over the batches."""
        return forward.count_of(self.first + len(self.call.images)) - forward.count_of(self.first)


class Reading:
    """Listens to one forward, and hands the calls of the sites that are read in it to the layers' collectors.

    Args:
        forward: The forward, and what is read in it.
        visit: The images.
        collectors: Layer name to what collects.
        ours: Whether the forward is one of ours, which ends with the last site that is read in it.
    """

    def __init__(
        self, forward: Forward, visit: Visit, collectors: Mapping[str, LayerCollector], ours: bool = True
    ) -> None:
        self._forward, self._visit, self._collectors, self._ours = forward, visit, collectors, ours
        self._calls: Counter[str] = Counter()
        # a site that the model's own forward left out need not be waited for in the others
        self._left = visit.missing if forward is visit.plan.own else forward.reads.keys() - visit.missing
        self._first: dict[str, int] = {}
        for name, number in forward.reads:
            self._first[name] = min(number, self._first.get(name, number))

    def __call__(self, name: str, call: LayerCall) -> None:
        """Is called with what passes a layer."""
        number = self._calls[name]
        self._calls[name] += 1
        site = self._forward.reads.get((name, number))
        if site is None:
            return
        count = self._visit.count_for(self._forward)
        first = number == self._first[name] and self._forward.make == site.view.usual.border
        passing = Passing(self._visit.number, self._visit.groups[:count], self._visit.first, first, number)
        roles: tuple[Role, ...] = ("earlier",) if self._forward.neutral else site.roles
        for role in roles if count else ():
            self._collectors[name].add(role, site, call.first(count), passing)
        self._left.discard((name, number))
        if self._ours and not self._left:
            raise StopForward  # what follows, a classifier of fixed size perhaps, need not run
