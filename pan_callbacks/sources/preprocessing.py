"""One image: what a model expects of it, and how it is read from a file and transformed by the model's own library."""

from __future__ import annotations

import logging
import os
import stat
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image

#: Mean and standard deviation of ImageNet's channels, for values from 0 to 1.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
#: Side, in pixels, that most ImageNet models were trained for.
SIZE = 224
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
CROP_MODES = ("center", "squash", "border")
#: Pixels of a resized image beyond which only its middle is resized: the whole may not fit into memory.
MOST_PIXELS = 2**26


@dataclass(frozen=True)
class Preprocessing:
    """What a model expects of its images.

    Args:
        size: Height and width in pixels; a single int for a square.
        mean: Mean of each channel, for values from 0 to 1; the default is ImageNet's.
        std: Standard deviation of each channel.
        interpolation: One of :data:`INTERPOLATIONS`, with antialias.
        crop_share: Share of the resized image's shorter edge that the centre crop takes (timm's ``crop_pct``).
        channels: 3, or 1 for grey.
        crop_mode: timm's: ``"center"`` crops the middle of the resized image, ``"squash"`` changes its proportions
            instead, ``"border"`` adds a border of the mean's colour.
        resize: Shorter edge of the resized image in pixels, if the model is torchvision's, which says it this way;
            None for ``size / crop_share``, rounded down, as timm has it.

    Raises:
        ValueError: If a value is out of range, or mean and std do not have one value a channel.

    Example:
        >>> Preprocessing(size=64, crop_share=0.875).size
        (64, 64)
    """

    size: tuple[int, int] = (SIZE, SIZE)
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    interpolation: str = "bilinear"
    crop_share: float = 1.0
    channels: int = 3
    crop_mode: str = "center"
    resize: int | None = None

    def __post_init__(self) -> None:
        size = (self.size, self.size) if isinstance(self.size, int) else tuple(self.size)
        for name, value in (("size", size), ("mean", tuple(self.mean)), ("std", tuple(self.std))):
            object.__setattr__(self, name, value)
        if len(size) != 2 or min(size) < 1:
            raise ValueError(f"size={self.size!r}: a height and a width of at least one pixel are needed")
        if self.channels not in (1, 3):
            raise ValueError(f"channels={self.channels!r}: images have 1 or 3")
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError(f"mean={self.mean} and std={self.std} must have {self.channels} values, one a channel")
        if not 0 < self.crop_share <= 1:
            raise ValueError(f"crop_share={self.crop_share!r} is not in (0, 1]")
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(f"interpolation={self.interpolation!r}: one of {', '.join(INTERPOLATIONS)}")
        if self.crop_mode not in CROP_MODES:
            raise ValueError(f"crop_mode={self.crop_mode!r}: one of {', '.join(CROP_MODES)}")

    def grey(self) -> Preprocessing:
        """Return the same for one channel, mean and std averaged."""
        mean, std = (sum(values) / len(values) for values in (self.mean, self.std))
        return replace(self, mean=(mean,), std=(std,), channels=1)

    def at(self, size: int | tuple[int, int]) -> Preprocessing:
        """Return the same for images of another size; the crop takes the same share of them."""
        return replace(self, size=(size, size) if isinstance(size, int) else size, resize=None)

    def normalise(self, images: Tensor) -> Tensor:
        """Return images (..., channels, height, width) from 0 to 1 as the model expects them."""
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.mean, self.std))
        return (images - mean) / std

    @cached_property
    def transform(self) -> Callable[[Image], Tensor]:
        """The transform of the model's own library: an image of PIL to a tensor (channels, height, width)."""
        return self._transform(normalise=True)

    @cached_property
    def geometric(self) -> Callable[[Image], Tensor]:
        """The same without normalising, and without scaling bytes to 1."""
        return self._transform(normalise=False)

    def _transform(self, normalise: bool) -> Callable[[Image], Tensor]:
        if self.resize is not None and self.size[0] == self.size[1] and normalise:
            from torchvision.transforms import InterpolationMode
            from torchvision.transforms._presets import ImageClassification

            mode = InterpolationMode(self.interpolation)
            edges = {"crop_size": self.size[0], "resize_size": self.resize}
            preset: Callable[[Image], Tensor] = ImageClassification(
                **edges, mean=self.mean, std=self.std, interpolation=mode
            )
            return preset
        from timm.data.transforms_factory import create_transform

        transform: Callable[[Image], Tensor] = create_transform(
            input_size=(self.channels, *self.size),
            is_training=False,
            interpolation=self.interpolation,
            mean=self.mean,
            std=self.std,
            crop_pct=self.crop_share,
            crop_mode=self.crop_mode,
            normalize=normalise,
        )
        return transform


def read_image(path: str | os.PathLike[str], preprocessing: Preprocessing) -> Tensor:
    """Read one image as the model expects it: turned upright, and then as the model's library transforms it.

    Alpha is dropped. Values of 16 bits are divided by 65,535; floats, and integers beyond 16 bits, by their own range
    unless they are within 0 to 1.

    Args:
        path: File of the image.
        preprocessing: What the model expects.

    Returns:
        (channels, height, width).

    Raises:
        ValueError: If the path is that of a pipe, a socket or a device, which might never come to an end.
        Exception: Whatever PIL raises for a file that it cannot read.
    """
    from PIL import Image, ImageOps

    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError("a pipe, a socket or a device, and no file")
    with _quiet(), Image.open(path) as file:
        image = _in_mode(ImageOps.exif_transpose(file), preprocessing.channels)
        image = _middle_of_a_huge_one(image, preprocessing)
    if image.mode != "F":
        return preprocessing.transform(image).contiguous()
    values = preprocessing.geometric(image).clamp(0, 1)  # bicubic overshoots; there is one channel
    return preprocessing.normalise(values.expand(preprocessing.channels, -1, -1)).contiguous()


def why_unreadable(path: Path, error: Exception) -> str:
    """Return in words why :func:`read_image` failed on a file."""
    if path.is_file() and path.stat().st_size == 0:
        return "empty file"
    if type(error).__name__ == "UnidentifiedImageError":
        return "no image, or of a format that PIL does not know"
    if isinstance(error, OSError) and error.strerror:  # without the path, so that equal reasons are equal
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """No word from PIL about odd files; what matters comes as an exception."""
    log = logging.getLogger("PIL")
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def _in_mode(image: Image, channels: int) -> Image:
    """Return the image in PIL's mode RGB or L; F, from 0 to 1, if 8 bits are too few."""
    import numpy as np
    from PIL.Image import fromarray

    if not image.mode.startswith(("I", "F")):
        return image.convert("RGB" if channels == 3 else "L")
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("holds values that are not finite")
    low, high = float(values.min()), float(values.max())
    if image.mode != "F" and low >= 0 and high <= 65535:
        low, high = 0.0, 65535.0
    elif image.mode == "F" and low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    return fromarray(((values - low) / max(high - low, 1e-12)).astype(np.float32))


def _middle_of_a_huge_one(image: Image, preprocessing: Preprocessing) -> Image:
    """Return the image; of one that would not fit into memory once it is resized, the middle that is cropped."""
    rows, columns = (edge / preprocessing.crop_share for edge in preprocessing.size)
    scale = max(rows / image.height, columns / image.width)
    if preprocessing.crop_mode != "center" or image.width * image.height * scale**2 <= MOST_PIXELS:
        return image
    width, height = (
        min(edge, max(1, round(2 * needed / scale))) for edge, needed in zip(image.size, (columns, rows), strict=True)
    )
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))
