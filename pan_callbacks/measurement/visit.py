"""One forward of the user's whose images are measured, and who listens to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from pan_callbacks.measurement.calls import EntryCall, LayerCall, StopForward
from pan_callbacks.measurement.collector import LayerCollector, Passing
from pan_callbacks.measurement.plans import Forward, Plan
from pan_callbacks.measurement.positions import Keep
from pan_callbacks.measurement.trace import Site
from pan_callbacks.measurement.views import Role


@dataclass(eq=False)
class Images:
    """Images that pass, and what is known of them.

    Args:
        call: The call that they enter by.
        numbers: Number of each among those of all processes (images,), on the CPU.
        groups: Group that each is in, below :data:`~pan_callbacks.reports.pans.GROUPS` (images,), likewise.
    """

    call: EntryCall
    numbers: Tensor
    groups: Tensor

    def first(self, count: int) -> Images:
        """Return the first of them, in lists and dicts of their own, which a forward may write into."""
        return Images(self.call.first(count), self.numbers[:count], self.groups[:count])


@dataclass
class Visit:
    """One forward of the user's.

    Args:
        images: The images that are measured, of those that entered.
        plan: How its layers are measured.
        keep: What is kept of it.
        number: Number of the batch in this process.

    Attributes:
        missing: Sites that did not pass in the model's own forward, so far; afterwards, those that it left out.
    """

    images: Images
    plan: Plan
    keep: Keep
    number: int = 0
    missing: set[Site] = field(init=False)

    def __post_init__(self) -> None:
        self.missing = set(self.plan.own.reads)

    @property
    def call(self) -> EntryCall:
        """The call that images entered by, on the images that are measured."""
        return self.images.call

    def images_of(self, forward: Forward) -> Images:
        """Return the images that a forward is run on."""
        return self.images.first(forward.takes(self.images.numbers))


class Reading:
    """Listens to one forward, and hands the calls of the sites that are read in it to the layers' collectors.

    Args:
        forward: The forward, and what is read in it.
        visit: The forward of the user's that it belongs to.
        images: The images that it is run on.
        collectors: Layer name to what collects.
        ours: Whether the forward is one of ours, which ends with the last site that is read in it.
    """

    def __init__(
        self,
        forward: Forward,
        visit: Visit,
        images: Images,
        collectors: Mapping[str, LayerCollector],
        ours: bool = True,
    ) -> None:
        self._forward, self._visit, self._collectors, self._ours = forward, visit, collectors, ours
        self._passing = Passing(visit.number, images.numbers, images.groups, visit.keep)
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
        if site is None or len(call.output) < len(self._passing.numbers):
            return  # not asked for, or run on a part of the images: nobody knows which
        first = number == self._first[name] and self._forward.make == site.view.usual.border
        passing = self._passing._replace(first_call=first, call_number=number)
        roles: tuple[Role, ...] = ("earlier",) if self._forward.neutral else site.roles
        for role in roles:
            self._collectors[name].add(role, site, call.first(len(passing.numbers)), passing)
        self._left.discard((name, number))
        if self._ours and not self._left:
            raise StopForward  # what follows, a classifier of fixed size perhaps, need not run
