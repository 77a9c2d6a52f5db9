"""Pictures to save and read again."""

from __future__ import annotations

import numpy as np
from PIL import Image


def photo(height: int = 60, width: int = 80, channels: int = 3, seed: int = 0) -> np.ndarray:
    """A smooth random picture, so that interpolation has something to do, (height, width, channels)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, channels), dtype=np.uint8)
    planes = [
        Image.fromarray(coarse[..., c]).resize((width, height), Image.Resampling.BICUBIC) for c in range(channels)
    ]
    return np.stack([np.asarray(plane) for plane in planes], -1)


def save(path, array: np.ndarray, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
