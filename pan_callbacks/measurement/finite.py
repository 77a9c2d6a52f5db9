"""Images that are not finite in a layer, which are left out of it: how many may be, and what a report says of them."""

from __future__ import annotations

from collections.abc import Iterable

#: If more than this share of the images is not finite in a layer, the layer is left out, and else these images.
MOST = 0.5


def left_out(counts: Iterable[int]) -> list[str]:
    """Return a note about images that were left out; none if none were.

    Args:
        counts: How many were left out in each layer.

    Example:
        >>> left_out([0, 1, 1]), left_out([0, 0])
        (['1 image with NaN or infinite activations was left out'], [])
    """
    counts = {*counts} - {0}
    most = max(counts, default=0)
    if not most:
        return []
    images = "1 image" if most == 1 else f"{most} images"
    up_to, were = ("up to " if len(counts) > 1 else ""), "was" if most == 1 else "were"
    return [f"{up_to}{images} with NaN or infinite activations {were} left out"]
