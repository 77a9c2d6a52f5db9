"""Paired views of the same images: once small, with a border, and once large, where the same pixels lie inside.

A *view* is a pair of inputs: a small one, whose map gives the border readings, and a larger one, whose map gives the
reference readings of the same pixels, read as interior. Position i of the small map is position i + shift of the large.

========  =======================  =================================  ==================================
view      small input              large input                        cost beside the model's own forward
========  =======================  =================================  ==================================
crop      the images' middle       the images                         a forward of the middle
zoom      the enlarged middle      the enlarged images                two forwards, on a share of the images
mirror    the images               the images extended by reflection  a forward of the larger images
centre    the images               the same map's inner half          none
========  =======================  =================================  ==================================
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor


def crop(images: Tensor, offset: int) -> Tensor:
    """Return the middle of the images, without ``offset`` pixels on each side."""
    return images[..., offset : images.shape[-2] - offset, offset : images.shape[-1] - offset].contiguous()


def mirror(images: Tensor, offset: int) -> Tensor:
    """Return the images with ``offset`` mirrored pixels more on each side."""
    return F.pad(images, (offset,) * 4, mode="reflect")


def zoom(images: Tensor, offset: int) -> Tensor:
    """Return the images enlarged (bilinear), so that their middle without ``offset`` pixels has the size they had."""
    size = [n + 2 * offset for n in images.shape[-2:]]
    return F.interpolate(images, size=size, mode="bilinear", align_corners=False)


def zoomed_middle(images: Tensor, offset: int) -> Tensor:
    """Return the middle of :func:`zoom`, of the size that the images had."""
    return crop(zoom(images, offset), offset)


#: Makes a view's input from images (images, channels, height, width) and an offset in pixels.
Input = Callable[[Tensor, int], Tensor]
Role = Literal["border", "reference"]


@dataclass(frozen=True)
class View:
    """Two inputs that show the same pixels, once at a border and once inside.

    Args:
        name: As it is asked for and reported.
        border: Makes the input whose maps give the border readings; None for the images as they are.
        reference: The same for the reference readings.
        every: The view is run on one in so many images.
    """

    name: str
    border: Input | None = None
    reference: Input | None = None
    every: int = 1

    @property
    def inputs(self) -> dict[Role, Input | None]:
        """What makes the input for each role."""
        return {"border": self.border, "reference": self.reference}


#: Every view by its name; the inputs of zoom are several times as large as the images.
VIEWS = {
    "crop": View("crop", crop),
    "zoom": View("zoom", zoomed_middle, zoom, every=4),
    "mirror": View("mirror", None, mirror),
    "centre": View("centre"),
}
