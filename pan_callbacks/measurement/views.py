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

import torch.nn.functional as F
from torch import Tensor


def crop(images: Tensor, offset: int) -> Tensor:
    """The middle of the images, without ``offset`` pixels on each side."""
    return images[..., offset : images.shape[-2] - offset, offset : images.shape[-1] - offset].contiguous()


def mirror(images: Tensor, offset: int) -> Tensor:
    """The images with ``offset`` mirrored pixels more on each side."""
    return F.pad(images, (offset,) * 4, mode="reflect")


def zoom(images: Tensor, offset: int) -> Tensor:
    """The images enlarged (bilinear), so that their middle without ``offset`` pixels has the size they had."""
    size = [n + 2 * offset for n in images.shape[-2:]]
    return F.interpolate(images, size=size, mode="bilinear", align_corners=False)


def zoomed_middle(images: Tensor, offset: int) -> Tensor:
    """The middle of :func:`zoom`, of the size that the images had."""
    return crop(zoom(images, offset), offset)


Input = Callable[[Tensor, int], Tensor]
ROLES = ("border", "reference")
#: View to what its border and its reference readings are read from; None is the model's own forward.
VIEWS: dict[str, tuple[Input | None, Input | None]] = {
    "crop": (crop, None),
    "zoom": (zoomed_middle, zoom),
    "mirror": (None, mirror),
    "centre": (None, None),
}
