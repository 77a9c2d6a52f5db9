"""What a batch of a loader holds, and where a model wants it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sized
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from pan_callbacks.errors import PANError


def is_images(value: object, axes: int = 4) -> TypeGuard[Tensor]:
    """Whether something is a batch of images, of floats or bytes.

    Args:
        value: Anything.
        axes: As many axes as images have, 4 for (images, channels, height, width):
            :func:`pan_callbacks.layers.image_axes`.
    """
    return isinstance(value, Tensor) and value.ndim == axes and len(value) > 0 and _kind(value) is not None


def _kind(tensor: Tensor) -> str | None:
    return "floats" if tensor.is_floating_point() else "bytes" if tensor.dtype == torch.uint8 else None


def first_images(batch: Any, axes: int = 4, kind: str = "floats") -> Tensor | None:
    """Return the first tensor of images in a batch, looking into tuples, lists and dicts; None if there is none.

    Args:
        batch: As a loader yields it; images are (images, channels, height, width), perhaps none.
        axes: As many axes as images have.
        kind: ``"floats"``, or ``"bytes"`` for images that are made floats later.
    """
    if isinstance(batch, Tensor):
        return batch if batch.ndim == axes and _kind(batch) == kind else None
    if isinstance(batch, Mapping):
        batch = batch.values()
    if isinstance(batch, (str, bytes)) or hasattr(batch, "__next__"):  # the latter would be used up
        return None
    if hasattr(batch, "__iter__"):
        return next((found for item in batch if (found := first_images(item, axes, kind)) is not None), None)
    return None


def images_in(batches: Iterable[Any], first: int) -> int | None:
    """Return how many images come from batches that say how many of these there are; None if nobody knows.

    Args:
        batches: The batches.
        first: Images of the first.
    """
    try:
        return len(batches) * first  # type: ignore[arg-type]
    except Exception:  # a stream; some loaders have a length that fails
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


def image_count(batches: Iterable[Any]) -> int | None:
    """Return the number of images in a loader, None if it does not say."""
    images = getattr(batches, "dataset", None)
    return len(images) if isinstance(images, Sized) else None


def labels_of(batch: Any) -> Any:
    """Return the second item of a batch, or what a dict has under ``"label"``, ``"target"`` or a plural, or None."""
    if isinstance(batch, Mapping):
        return next((batch[key] for key in ("label", "labels", "target", "targets") if key in batch), None)
    return batch[1] if isinstance(batch, (tuple, list)) and len(batch) > 1 else None


def answer_of(output: Any) -> Tensor:
    """Return the tensor in a model's answer: itself, ``"out"`` or ``"logits"`` of a dict, the first of a tuple."""
    if isinstance(output, Mapping):
        output = next((output[key] for key in ("out", "logits") if key in output), next(iter(output.values()), None))
    if isinstance(output, (tuple, list)):
        output = output[0] if output else None
    if not isinstance(output, Tensor):
        output = getattr(output, "logits", output)
    if not isinstance(output, Tensor):
        raise PANError(
            f"the model answers with a {type(output).__name__}, and not with a tensor: wrap it so that it does"
        )
    return output.detach()
