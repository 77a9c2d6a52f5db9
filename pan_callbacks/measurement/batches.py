"""What a batch of a loader holds, and where a model wants it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def first_images(batch: Any) -> Tensor | None:
    """Return the first tensor of images in a batch, looking into tuples, lists and dicts; None if there is none.

    Args:
        batch: As a loader yields it; images are floats (images, channels, height, width).
    """
    if isinstance(batch, Tensor):
        return batch if batch.ndim == 4 and batch.is_floating_point() else None
    if isinstance(batch, Mapping):
        batch = batch.values()
    if isinstance(batch, (tuple, list)) or hasattr(batch, "__iter__") and not isinstance(batch, (str, bytes)):
        return next((found for item in batch if (found := first_images(item)) is not None), None)
    return None


def describe_batch(batch: Any) -> str:
    """Return what a batch is, in a few words."""
    if isinstance(batch, Tensor):
        return f"a tensor of shape {tuple(batch.shape)} and {batch.dtype}"
    if isinstance(batch, Mapping):
        items = (f"{key!r}: {describe_batch(batch[key])}" for key in list(batch)[:3])
        return f"a {type(batch).__name__} of {', '.join(items)}"
    if isinstance(batch, (tuple, list)):
        return f"a {type(batch).__name__} of {', '.join(describe_batch(item) for item in batch[:3])}"
    return f"a {type(batch).__name__}"


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's first parameter."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))
