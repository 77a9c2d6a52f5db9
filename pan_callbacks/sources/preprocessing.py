"""One image: what a model expects of it, and how it is read from a file."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

#: Mean and standard deviation of ImageNet's channels, for values from 0 to 1.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
#: Side, in pixels, that most ImageNet models were trained for.
SIZE = 224


@dataclass(frozen=True)
class Preprocessing:
    """What a model expects of its images.

    Args:
        size: Height and width in pixels; a single int for a square.
        mean: Mean of each channel, for values from 0 to 1; the default is ImageNet's.
        std: Standard deviation of each channel.
        interpolation: ``"bilinear"`` or ``"bicubic"``, both with antialias.
        crop_share: Share of the resized image's shorter edge that the centre crop takes (timm's ``crop_pct``).
        channels: 3, or 1 for grey.

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

    def __post_init__(self):
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
        if self.interpolation not in ("bilinear", "bicubic"):
            raise ValueError(f"interpolation={self.interpolation!r}: bilinear or bicubic")

    def grey(self) -> Preprocessing:
        """The same for one channel, mean and std averaged."""
        mean, std = (sum(values) / len(values) for values in (self.mean, self.std))
        return replace(self, mean=(mean,), std=(std,), channels=1)

    def normalise(self, images: Tensor) -> Tensor:
        """Images (..., channels, height, width) from 0 to 1, as the model expects them."""
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.mean, self.std))
        return (images - mean) / std


def read_image(path: str | os.PathLike[str], preprocessing: Preprocessing) -> Tensor:
    """One image as the model expects it: turned upright, resized, cropped at its centre, normalised.

    The resized image covers ``size / crop_share``, as torchvision and timm do it. Alpha is dropped. Values of 16 bits
    are divided by 65,535; floats, and integers beyond 16 bits, by their own range unless they are within 0 to 1.

    Returns:
        (channels, height, width).

    Raises:
        Exception: Whatever PIL raises for a file that it cannot read.
    """
    import numpy as np
    from PIL import Image, ImageOps

    with _quiet(), Image.open(path) as file:
        image = _resized_crop(_in_mode(ImageOps.exif_transpose(file), preprocessing.channels), preprocessing)
    values = torch.from_numpy(np.array(image, dtype=np.float32))
    values = values.clamp(0, 1) if image.mode == "F" else values / 255
    values = values[None] if values.ndim == 2 else values.permute(2, 0, 1)
    return preprocessing.normalise(values.expand(preprocessing.channels, -1, -1)).contiguous()


def why_unreadable(path: Path, error: Exception) -> str:
    """In words why :func:`read_image` failed on a file."""
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


def _in_mode(image: Any, channels: int) -> Any:
    """The image in PIL's mode RGB or L; F, from 0 to 1, where 8 bits are too few."""
    import numpy as np
    from PIL import Image

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
    return Image.fromarray(((values - low) / max(high - low, 1e-12)).astype(np.float32))


def _resized_crop(image: Any, preprocessing: Preprocessing) -> Any:
    from PIL import Image

    rows, columns = (round(edge / preprocessing.crop_share) for edge in preprocessing.size)
    width, height = image.size
    # of a very long image only the middle can end up in the crop; resized whole it may not fit into memory
    longest = max(1, -(-2 * height * columns // rows)), max(1, -(-2 * width * rows // columns))
    if width > longest[0] or height > longest[1]:
        image = _centre_crop(image, min(width, longest[0]), min(height, longest[1]))
        width, height = image.size
    if width * rows >= height * columns:
        width, height = max(columns, width * rows // height), rows
    else:
        width, height = columns, max(rows, height * columns // width)
    resized = image.resize((width, height), Image.Resampling[preprocessing.interpolation.upper()])
    return _centre_crop(resized, preprocessing.size[1], preprocessing.size[0])


def _centre_crop(image: Any, width: int, height: int) -> Any:
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))
