"""Compares what a network answers with and without its padding, to the images that a measurement takes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor

from pan_callbacks._runtime import halving
from pan_callbacks.errors import PANError
from pan_callbacks.layers import PaddedLayer
from pan_callbacks.measurement.answers import comparable
from pan_callbacks.measurement.calls import EntryCall
from pan_callbacks.measurement.findings import Images
from pan_callbacks.measurement.movement import Movement, reliance_of
from pan_callbacks.measurement.reliance import both_answers, padded_layers
from pan_callbacks.measurement.shadow import InPlace, Shadow
from pan_callbacks.measurement.visit import Visit
from pan_callbacks.reports.reliance import Reliance


class Answering:
    """Collects, for the images of one entry, how far the answers move with all padding neutral.

    Where something fails that is said in place of a reliance, and the measurement goes on.
    """

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Forget all that was collected."""
        self._movement, self._entry, self._features = Movement(), "", False
        self.forget_copies()

    def forget_copies(self) -> None:
        """Let go of layers of copies."""
        self._layers: list[PaddedLayer] | None = None

    def take(self, visit: Visit, shadow: Shadow | InPlace, answer: Any = None) -> None:
        """Run the images of a visit twice, to the end; within the copy's :meth:`~Shadow.running`.

        Images that enter by several ways are looked at where the first of them did.

        Args:
            visit: The images.
            shadow: The copy.
            answer: What it has just answered to them; None to run it.
        """
        shadow.probes.listen(None)
        call, moves = visit.call, self._movement
        self._entry = self._entry if moves.begun else call.name
        if moves.why_not or call.name != self._entry:
            return
        try:
            self._compare(call.answering.first(len(call.images)), visit, shadow, call.features, answer)
        except Exception as error:  # whatever somebody's network does not bear
            moves.why_not = str(error) if isinstance(error, PANError) else f"{type(error).__name__}: {error}"

    def _compare(
        self, call: EntryCall, visit: Visit, shadow: Shadow | InPlace, features: bool, answer: Any = None
    ) -> None:
        if not shadow.holds(call.module):
            raise PANError(f"{call.name or 'the model'}, which answers, cannot be copied")
        twin = shadow.call(call)
        self._layers = padded_layers(twin) if self._layers is None else self._layers
        before = None if answer is None else comparable(answer, call.images)
        before, after = halving(partial(self._both, twin, before), len(call.images))
        self._movement.add(before, after, call.images, visit.images.groups, features)
        self._features |= features

    def _both(self, call: EntryCall, before: Tensor | None, largest: int) -> tuple[Tensor, Tensor]:
        return both_answers(call, self._layers or [], before, largest)

    def state(self) -> dict[str, Any]:
        """Return what another process has to know for :func:`said`."""
        return {**self._movement.state(), "entry": self._entry, "features": self._features}


def said(states: Sequence[dict[str, Any]], images: Images) -> tuple[Reliance | None, list[str]]:
    """Return the reliance of what all processes collected, and what a reader should know of it.

    Args:
        states: Of the :class:`Answering` of each.
        images: What is known of all images.
    """
    found, why_not = reliance_of(states, images.clusters or images.distinct)
    if why_not:
        return None, [f"how far the answers rely on padding is not known: {why_not}"]
    part = next((state["entry"] for state in states if state["features"]), None)
    if found is None or part is None:
        return found, []
    return found, [f"reliance is that of what {part} gives: no call with images holds all of the network"]
