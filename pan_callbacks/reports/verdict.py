"""What to do about the padding of a network: a pure function of what was measured of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from pan_callbacks.reports.estimate import Estimate
from pan_callbacks.reports.reliance import CLASSES, Reliance

Verdict = Literal["keep", "blind", "retrain"]
Blind = Literal["", "padding", "pans"]
#: Nobody is asked to find more images than this.
MOST_IMAGES = 100_000


@dataclass(frozen=True)
class Evidence:
    """What was measured of a network; shares and changes of accuracy are from 0 to 1.

    Args:
        images: Images that it answered.
        neurons: Neurons that were measured.
        pans: Number of PANs, None if nothing was measured.
        surely_visible: PANs that are certain one by one, and that the next layer sees, or of which it is not known
            whether it does.
        floor: Number of PANs that remain with all padding neutral, None if it could not be measured.
        floor_visible: PANs of those that the next layer sees, or of which that is not known.
        reliance: How far answers move when all padding is neutral, None if nothing was measured.
        accuracy: Accuracy of the network as it is, None without labels, like the next two.
        padding_change: Change of accuracy when all padding is neutral, paired.
        pans_change: Change of accuracy when the PANs alone are, paired.
        pans_flips: Share of images whose class is another with the PANs neutral, None if the model is no classifier.
        unpadded: Why no padding was measured; empty if some was.
        without_padding: Whether there is none, as opposed to some that could not be measured.
        tolerance: What is small: of the share that changes class, of a loss of accuracy, of what answers move by.
    """

    images: int
    neurons: int = 0
    pans: Estimate | None = None
    surely_visible: int = 0
    floor: Estimate | None = None
    floor_visible: int = 0
    reliance: Reliance | None = None
    accuracy: Estimate | None = None
    padding_change: Estimate | None = None
    pans_change: Estimate | None = None
    pans_flips: Estimate | None = None
    unpadded: str = ""
    without_padding: bool = False
    tolerance: float = 0.01

    @property
    def moved(self) -> Estimate | None:
        """How far answers move when all padding is neutral, in the distance of :attr:`reliance`."""
        return None if self.reliance is None else _estimate(self.reliance.value, self.reliance.interval)

    @property
    def flips(self) -> Estimate | None:
        """Share of images, or of their pixels, whose class is another then; None if there are no classes."""
        found = self.reliance
        return None if found is None or found.flips is None else _estimate(found.flips, found.flips_interval)

    @property
    def labelled(self) -> bool:
        """Whether it is known what blinding does to the accuracy."""
        return self.padding_change is not None

    @property
    def beyond_chance(self) -> bool:
        """Whether more PANs are surely seen by the next layer than are seen where there is no padding."""
        return self.surely_visible > self.floor_visible

    @property
    def answers_still(self) -> bool | None:
        """Whether answers are the same without padding: none is known to move more than is small; None if unknown."""
        found = [one.at_most(self.tolerance) for one in (self.moved, self.flips) if one is not None]
        return False if False in found else None if None in found or not found else True

    @property
    def padding_free(self) -> bool | None:
        """Whether blinding all padding costs no more than is small; None if unknown.

        With labels that is a loss of accuracy; without them a change of class, for it may be one; and where there are
        no classes, any move of the answer.
        """
        if self.padding_change is None and self.flips is None:
            return self.answers_still
        return _free(self.padding_change, self.flips, self.tolerance)

    @property
    def pans_free(self) -> bool | None:
        """Whether blinding the PANs alone costs no more than is small, likewise; None without classes."""
        return _free(self.pans_change, self.pans_flips, self.tolerance)


@dataclass(frozen=True)
class Decision:
    """What to do about the padding of a network.

    Args:
        verdict: ``"keep"`` it, ``"blind"`` the network to it, or ``"retrain"``.
        blind: What to blind: ``"padding"`` (all of it), ``"pans"``, or ``""`` for nothing.
        decided: Whether the intervals say so. If not, the verdict is to keep it until more is known.
        images: Images that would decide about all padding, roughly, if the numbers stay what they are. None if there is
            nothing left to decide, or if more than :data:`MOST_IMAGES` would be needed.
    """

    verdict: Verdict
    blind: Blind = ""
    decided: bool = True
    images: int | None = None


def decide(evidence: Evidence) -> Decision:
    """Decide what to do about the padding of a network.

    The first of these that is so, by all of the interval:

    1. There is no padding: *keep*.
    2. Without padding the answers are the same (what they move by, and the share that changes class, are at most the
       tolerance): *keep*. But if more PANs are surely visible than remain without padding, and masking the PANs is
       free, *blind* them: the answers lose nothing, and whatever else reads the features is rid of them.
    3. Blinding all padding is free (accuracy falls by at most the tolerance; without labels at most that share of the
       images changes class): *blind* all of it.
    4. It is not: the network relies on its padding. *Retrain*, also if blinding the PANs alone is free, for that leaves
       what the answers owe to all other padding.
    5. Nobody knows, but more PANs are surely visible than remain without padding, and masking them is free: *blind* the
       PANs.
    6. Nobody knows: *keep* it until more images were seen.

    Example:
        >>> moved = Reliance("total variation", 0.2, (0.15, 0.25), 0.1, (0.07, 0.13), 400)
        >>> decide(Evidence(images=400, neurons=8, reliance=moved)).verdict
        'retrain'
        >>> free = Estimate(0.0, -0.005, 0.005)  # of accuracy, where there are labels
        >>> decide(Evidence(images=400, neurons=8, reliance=moved, padding_change=free))
        Decision(verdict='blind', blind='padding', decided=True, images=None)
    """
    if evidence.unpadded:
        return Decision("keep", decided=evidence.without_padding)
    pans_go_free = evidence.beyond_chance and evidence.pans_free is True
    if evidence.answers_still:
        return Decision("blind", "pans") if pans_go_free else Decision("keep")
    if evidence.padding_free is not None:
        return Decision("blind", "padding") if evidence.padding_free else Decision("retrain")
    if pans_go_free:
        return Decision("blind", "pans", images=_images(evidence))
    return Decision("keep", decided=False, images=_images(evidence))


def _estimate(value: float, interval: tuple[float, float] | None) -> Estimate:
    return Estimate(value, *(interval or ()))


def _free(change: Estimate | None, flips: Estimate | None, tolerance: float) -> bool | None:
    if change is not None:
        return change.at_least(-tolerance)
    return None if flips is None else flips.at_most(tolerance)


def _images(evidence: Evidence) -> int | None:
    """Return how many images would decide about all padding: either what it costs, or that answers do not move."""
    limit, images = evidence.tolerance, evidence.images
    found, moved, flips = evidence.reliance, evidence.moved, evidence.flips
    wilson = found is not None and found.distance == CLASSES
    open_ones = {
        what: one.images_to_decide(limit, images, share=what == "flips" and wilson)
        for what, one in (("moved", moved), ("flips", flips))
        if one is not None and one.at_most(limit) is None
    }
    ways = []
    if evidence.padding_change is not None:
        ways.append(evidence.padding_change.images_to_decide(-limit, images))
    elif flips is not None:
        ways.append(open_ones["flips"])
    if open_ones and (not ways or all(one.value < limit for one in (moved, flips) if one is not None)):
        ways.append(max(open_ones.values()))  # all of it has to be known to be small
    needed = max(min(ways, default=math.inf), images + 1)
    if needed > MOST_IMAGES:
        return None
    step: int = 10 ** max(0, math.floor(math.log10(needed)) - 1)  # two digits: more are not known
    return math.ceil(needed / step) * step
