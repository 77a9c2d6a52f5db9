"""Images that are not finite in a layer, which are left out of it: found and marked without waiting for the device."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

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


class Seen(Metric):
    """Number of images, how often one passed the layer, and how often one was not finite then."""

    full_state_update = False
    counts: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("counts", default=torch.zeros(3, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, images: int, finite: Tensor) -> None:
        """Add a batch.

        Args:
            images: How many of its images were not counted before.
            finite: Which of them are finite (images,).
        """
        self.counts[0] += images
        self.counts[1] += len(finite)
        self.counts[2] += (~finite).sum()

    def compute(self) -> Tensor:
        """Return the three numbers."""
        return self.counts.clone()
