"""How every layer is measured at one input size, and what follows for the forwards: plain data.

It is decided in :mod:`pan_callbacks.measurement.reference`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from torch import Tensor

from pan_callbacks.layers import PaddedLayer, Reason
from pan_callbacks.measurement.positions import SHARED, Places
from pan_callbacks.measurement.trace import Site
from pan_callbacks.measurement.views import VIEWS, Input, Role, View
from pan_callbacks.padding import Geometry, Position

#: Images on which the cause of a contrast is looked for: what remains of it is compared with half of it. Fewer are run
#: without padding where there are no other forwards of ours, for those who want none.
CAUSE_IMAGES, NEUTRAL_IMAGES_ALONE = 8, 4


@dataclass(frozen=True)
class SitePlan:
    """How a site is measured.

    Args:
        layer: The padded layer.
        view: The view that it is measured in.
        reason: Why this view and not the one asked for; None if it is the one.
        geometry: Geometry of the map that gives the border readings.
        border: Side, or ``"interior"`` for the control, to the rows and columns of the border readings.
        reference: The same for the reference readings; empty if all sides share one reference.
        shared: Rows and columns of that one.
        offset: Pixels by which the view's inputs lie apart on each side.
    """

    layer: PaddedLayer
    view: View
    reason: str | None
    geometry: Geometry
    border: Mapping[str, Position]
    reference: Mapping[str, Position] = field(default_factory=dict)
    shared: Position | None = None
    offset: int = 0

    def part(self, make: Input | None) -> SitePlan:
        """Return the plan with those sides alone that are read in one input of its view."""
        pair = self.view.pair
        border = {side: where for side, where in self.border.items() if pair(side).border == make}
        reference = {side: where for side, where in self.reference.items() if pair(side).reference == make}
        return replace(self, border=border, reference=reference, shared=None if make else self.shared)

    @cached_property
    def border_places(self) -> Places:
        """Positions of the border readings."""
        return Places.of(self.border)

    @cached_property
    def reference_places(self) -> Places:
        """Positions of the reference readings."""
        return Places.of(self.reference if self.shared is None else {SHARED: self.shared})

    @cached_property
    def wanted(self) -> dict[Role, int]:
        """How many sides, the control included, are read in each role in all forwards together."""
        borders = len(self.geometry.borders)
        return (
            {"border": borders, "reference": 1} if self.shared else dict.fromkeys(("border", "reference"), borders + 1)
        )

    @property
    def roles(self) -> tuple[Role, ...]:
        """The roles in which it is read."""
        roles: dict[Role, object] = {"border": self.border, "reference": self.reference or self.shared}
        return tuple(role for role, where in roles.items() if where)


@dataclass(frozen=True)
class Forward:
    """One forward that gives readings: the user's own, or one of ours on an input that a view makes.

    Args:
        reads: Site to its plan, with those sides alone that are read in this forward.
        view: The view that makes the input; None for the user's own forward.
        make: What makes it from the images.
        offset: Pixels by which the view's inputs lie apart on each side.
        neutral: Whether all padding is neutral in it, and the borders are read with that of earlier layers gone.
    """

    reads: Mapping[Site, SitePlan]
    view: View | None = None
    make: Input | None = None
    offset: int = 0
    neutral: bool = False

    def takes(self, numbers: Tensor) -> int:
        """Return on how many of some images it is run, the first of them.

        Args:
            numbers: Number of each image, ascending (images,), on the CPU.

        Example:
            >>> import torch
            >>> Forward({}, neutral=True).takes(torch.arange(64)), Forward({}).takes(torch.arange(64))
            (4, 64)
        """
        if not self.neutral:
            return len(numbers)
        return int((numbers < (CAUSE_IMAGES if self.make is not None else NEUTRAL_IMAGES_ALONE)).sum())


@dataclass
class Plan:
    """How every site of a module is measured at one input size.

    Args:
        sites: Measured sites.
        skipped: Layer name to the reason why it is left out.
        geometries: Geometry of every padded site at the model's own input size.
        in_place: Whether the module writes into its input, so that the views need a copy of it.
        calls: Number of calls of the layers, measured or not.
        notes: What a reader should know of what no layer shows.
    """

    sites: dict[Site, SitePlan] = field(default_factory=dict)
    skipped: dict[str, Reason] = field(default_factory=dict)
    geometries: dict[Site, Geometry] = field(default_factory=dict)
    in_place: bool = False
    calls: int = 0
    notes: list[str] = field(default_factory=list)

    @cached_property
    def own(self) -> Forward:
        """What is read in the user's own forward."""
        return Forward(_parts(self.sites, None))

    @cached_property
    def ours(self) -> tuple[Forward, ...]:
        """The forwards that we run besides, in their order."""
        groups: dict[tuple[str, int], dict[Site, SitePlan]] = {}
        for site, how in self.sites.items():
            groups.setdefault((how.view.name, how.offset), {})[site] = how
        views = [
            Forward(_parts(sites, make), VIEWS[name], make, offset)
            for (name, offset), sites in groups.items()
            for make in VIEWS[name].inputs
            if make is not None and _parts(sites, make)
        ]
        borders = [
            Forward(_borders(sites, make), VIEWS[name], make, offset, neutral=True)
            for (name, offset), sites in groups.items()
            for make in VIEWS[name].inputs
            if _borders(sites, make)
        ]
        return (*views, *borders)


def _borders(sites: Mapping[Site, SitePlan], make: Input | None) -> dict[Site, SitePlan]:
    """Return the borders that are read of each site in one input, without those of which none is."""
    parts = {site: how.part(make) for site, how in sites.items()}
    borders = {site: {s: at for s, at in part.border.items() if s != "interior"} for site, part in parts.items()}
    return {
        site: replace(part, border=borders[site], reference={}, shared=None)
        for site, part in parts.items()
        if borders[site]
    }


def _parts(sites: Mapping[Site, SitePlan], make: Input | None) -> dict[Site, SitePlan]:
    """Return what is read of each site in one input, without those of which nothing is."""
    parts = {site: how.part(make) for site, how in sites.items()}
    return {site: part for site, part in parts.items() if part.roles}
