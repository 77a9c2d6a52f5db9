"""How far a network's answers rest on its padding: plain data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from pan_callbacks.reports._fields import MOST, MOST_WHOLE, maybe, number, one_of, pair, record, whole

#: Of class probabilities: half the sum of their absolute changes, 0 to 1.
CLASSES = "total variation"
#: The same at each pixel of a map of class probabilities, averaged within an image.
PIXELS = "total variation per pixel"
#: Of any other answer: its change, in units of the spread of the answers over images.
RELATIVE = "relative change"
#: The distances that answers may be compared by.
DISTANCES = (CLASSES, PIXELS, RELATIVE)


@dataclass(frozen=True)
class Reliance:
    """How far a network's answers move if all of its padding is made neutral.

    That is another question than how many neurons are padding aware. Answers may rest on padding that no single neuron
    betrays, and neurons may know the border without any answer resting on it.

    Args:
        distance: How answers are compared, one of :data:`DISTANCES`. ``"total variation"``: half the sum of the
            absolute changes of the class probabilities. ``"total variation per pixel"``: the same at each pixel,
            averaged within an image, with channels taken for classes. ``"relative change"``: norm of the change,
            divided by the root mean squared distance of the answers as they are from their mean over images.
        value: Mean of that over images; from 0 to 1 for total variation, 0 or more for the relative change.
        interval: Its 95 % interval; None if nobody knows, as of a single image.
        flips: Share of the images, or mean share of their pixels, whose class is another; None if there are no classes.
        flips_interval: Its 95 % interval.
        images: Number of images.

    Example:
        >>> print(Reliance("relative change", 0.25, (0.2, 0.3), None, None, 64).in_words())
        With all padding neutral, answers move by 0.25 (relative change; 95 %: 0.2 to 0.3).
    """

    distance: str
    value: float
    interval: tuple[float, float] | None
    flips: float | None
    flips_interval: tuple[float, float] | None
    images: int

    def in_words(self) -> str:
        """Return it in one sentence."""
        of = "" if self.interval is None else f"; 95 %: {self.interval[0]:.2g} to {self.interval[1]:.2g}"
        moved = f"With all padding neutral, answers move by {self.value:.2g} ({self.distance}{of})"
        if self.flips is None:
            return moved + "."
        low_high, per_pixel = self.flips_interval, self.distance == PIXELS
        more = [] if low_high is None else [f"95 %: {low_high[0]:.1%} to {low_high[1]:.1%}"]
        more += ["channels taken for classes"] * per_pixel  # a detector's maps have the shape of a segmentation
        of = f" ({'; '.join(more)})" if more else ""
        return f"{moved}, and {self.flips:.1%} of the {'pixels' if per_pixel else 'images'} change class{of}."

    def to_dict(self) -> dict[str, Any]:
        """Return it as a dict of lists, numbers and strings only."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Any, where: str = "") -> Reliance:
        """Make what :meth:`to_dict` described.

        Args:
            data: What was read.
            where: Where it stands, for messages.

        Raises:
            ValueError: If the data are damaged; the message names the field and its value.
        """
        return cls(**_FIELDS(data, where))


_SHARE = number(0, 1)
_FIELDS = record(
    {
        "distance": one_of(*DISTANCES),
        "value": number(0, MOST),
        "interval": maybe(pair(number(0, MOST))),
        "flips": maybe(_SHARE),
        "flips_interval": maybe(pair(_SHARE)),
        "images": whole(1, MOST_WHOLE),
    }
)
