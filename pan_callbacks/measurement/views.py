"""Paired views of the same images: inputs that show the same pixels once at a border, and once inside.

=======  =========================  ===============================  ================================================
view     border readings from       reference readings from          cost beside the model's own forward
=======  =========================  ===============================  ================================================
crop     the images' middle         the images                       a forward of the middle
zoom     the enlarged middle        the enlarged images              two forwards of larger images
windows  a corner of the images     another corner, of which those   four forwards of the own size
         enlarged a little          pixels are no border
mirror   the images                 the images extended by           a forward of the larger images
                                    reflection
centre   the images                 the same map's inner half        none
=======  =========================  ===============================  ================================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from pan_callbacks.padding import SIDES
from pan_callbacks.reports.words import Reference


def crop(images: Tensor, offset: int) -> Tensor:
    """Return the middle of the images, without ``offset`` pixels on each side."""
    inside = (slice(offset, n - offset) for n in images.shape[2:])
    return images[(slice(None), slice(None), *inside)].contiguous()


def mirror(images: Tensor, offset: int) -> Tensor:
    """Return the images with ``offset`` mirrored pixels more on each side."""
    return F.pad(images, (offset, offset) * (images.ndim - 2), mode="reflect")


def enlarged(images: Tensor, pixels: int) -> Tensor:
    """Return the images with so many rows and columns more (linear along every axis)."""
    size = [n + pixels for n in images.shape[2:]]
    mode = {3: "linear", 4: "bilinear", 5: "trilinear"}[images.ndim]
    return F.interpolate(images, size=size, mode=mode, align_corners=False)


def zoom(images: Tensor, offset: int) -> Tensor:
    """Return the images enlarged, so that their middle without ``offset`` pixels has the size they had."""
    return enlarged(images, 2 * offset)


def zoomed_middle(images: Tensor, offset: int) -> Tensor:
    """Return the middle of :func:`zoom`, of the size that the images had."""
    return crop(zoom(images, offset), offset)


def turned(images: Tensor, offset: int = 0) -> Tensor:
    """Return the images upside down: another content, of the same kind."""
    return images.flip(*range(2, images.ndim))


@dataclass(frozen=True)
class Window:
    """Makes a window of the images' own size on the images enlarged by ``offset`` pixels.

    Args:
        down: Whether it lies at the bottom of the enlarged images, not at the top.
        right: Whether it lies at their right, not at their left.
    """

    down: bool
    right: bool

    def __call__(self, images: Tensor, offset: int) -> Tensor:
        """Return the window (images, channels, height, width)."""
        height, width = images.shape[-2:]
        large, top, left = enlarged(images, offset), offset * self.down, offset * self.right
        return large[..., top : top + height, left : left + width].contiguous()


#: Makes a view's input from images (images, channels, height, width) and an offset in pixels.
Input = Callable[[Tensor, int], Tensor]
#: What makes an input (None for the images as they are), and the offset.
InView = tuple[Input | None, int]
#: What a map gives: the border readings, those of the reference, or the border's with all earlier padding neutral.
Role = Literal["border", "reference", "earlier"]


@dataclass(frozen=True)
class Pair:
    """Two inputs that show the same pixels, once at a border and once inside.

    Args:
        border: Makes the input whose maps give the border readings; None for the images as they are.
        reference: The same for the reference readings.
        down: How many offsets the border's input begins below the reference's.
        right: How many it begins to the right of it.
    """

    border: Input | None = None
    reference: Input | None = None
    down: int = 1
    right: int = 1


@dataclass(frozen=True)
class View:
    """Inputs that show the same pixels at a border and inside.

    Args:
        name: As it is asked for and reported.
        usual: The pair for every side that has none of its own, and for the interior.
        sides: Side to its own pair.
        where: Where the border was seen, in words for a picture; "" if in the images as they are.
    """

    name: Reference
    usual: Pair = Pair()
    sides: Mapping[str, Pair] = field(default_factory=dict)
    where: str = ""

    def pair(self, side: str) -> Pair:
        """Return the two inputs for a side, or for ``"interior"``."""
        return self.sides.get(side, self.usual)

    @property
    def inputs(self) -> tuple[Input | None, ...]:
        """What makes the inputs, each once."""
        pairs = (self.usual, *self.sides.values())
        return tuple(dict.fromkeys(make for pair in pairs for make in (pair.border, pair.reference)))

    @property
    def resizes(self) -> bool:
        """Whether an input has another size than the images."""
        return not all(isinstance(make, Window) for make in self.inputs)


def _windows(side: str) -> Pair:
    """Return the window at whose border a side lies, and the one that has the same pixels inside.

    A window at the bottom has its top inside the window at the top. Along an edge both begin at the same pixel.
    """
    down = ("top" in side) - ("bottom" in side)
    right = ("left" in side) - ("right" in side)
    return Pair(Window(down > 0, right > 0), Window(down < 0, right < 0), down, right)


#: Every view by its name; the inputs of zoom are several times as large as the images, and of windows there are four.
VIEWS = {
    "crop": View("crop", Pair(crop), where="in the middle of the images"),
    "zoom": View("zoom", Pair(zoomed_middle, zoom), where="measured on enlarged images"),
    "windows": View(
        "windows",
        _windows("bottom-right"),
        {side: _windows(side) for side in SIDES},
        where="measured on enlarged images, a window",
    ),
    "mirror": View("mirror", Pair(None, mirror)),
    "centre": View("centre"),
}
