"""What a network answers, and how far one answer is from another to the same images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pan_callbacks.errors import PANError
from pan_callbacks.measurement.batches import answer_of
from pan_callbacks.reports.reliance import CLASSES, PIXELS, RELATIVE

_MOST_VALUES = 2**22  # of an answer that are compared at once, in 64 bits


def probabilities(answer: Tensor, ready: bool | None = None) -> Tensor:
    """Return probabilities (images, classes) from logits, or from probabilities themselves.

    Args:
        answer: What a classifier answers (images, classes).
        ready: Whether these are probabilities; seen by their sums, within the rounding of bfloat16, if None.
    """
    answer = answer.double()
    if ready is None:
        ready = are_probabilities(answer)
    return answer if ready else answer.softmax(1)


def are_probabilities(answer: Tensor) -> bool:
    """Return whether no value is negative and each image's sum to one, within the rounding of bfloat16."""
    return bool(_sum_to_one(exact(answer)).all())


def _sum_to_one(answer: Tensor) -> Tensor:
    """Return of which images the answers are probabilities (images,)."""
    return (answer >= 0).flatten(1).all(1) & ((answer.sum(1) - 1).abs() < 0.01).reshape(len(answer), -1).all(1)


def comparable(output: Any, images: Tensor) -> Tensor:
    """Return the tensor in an answer to some images, if it can be compared with another answer to them.

    Args:
        output: What the network returned; see :func:`~pan_callbacks.measurement.batches.answer_of`.
        images: What it was called with (images, ...).

    Raises:
        PANError: If there is no tensor of floats with a row for each image.
    """
    answer = answer_of(output)
    if not answer.is_floating_point():
        raise PANError(f"the network answers with {answer.dtype}, whose changes have no size")
    if answer.ndim == 0 or len(answer) != len(images):
        raise PANError(f"{len(images)} images got an answer of shape {tuple(answer.shape)}, with no row for each")
    return answer


def distance_of(answer: Tensor, images: Tensor, features: bool = False) -> str:
    """Return how answers of this shape are compared, one of :data:`~pan_callbacks.reports.reliance.DISTANCES`.

    Class scores are (images, classes), or (images, classes, height, width) for images with as many axes, with two
    classes or more. Anything else is no classification: features, a regression, a single logit, and images with the
    channels and the size of those that came in.

    Args:
        answer: The answer (images, ...).
        images: What it answers to (images, channels, height, width).
        features: Whether it is known to be no answer of a classifier, whatever its shape.
    """
    scores = answer.ndim in (2, images.ndim) and answer.shape[1] > 1 and not features
    if not scores or answer.shape == images.shape:
        return RELATIVE
    return CLASSES if answer.ndim == 2 else PIXELS


def moved(before: Tensor, after: Tensor, distance: str) -> Tensor:
    """Return how far the answer to each image moved.

    Nothing waits for the device: whether class scores are probabilities already is said of each image, to be decided
    when all are known.

    Args:
        before: Answer (images, ...).
        after: Another answer to the same images, of the same shape.
        distance: How they are compared.

    Returns:
        Of class scores (images, 4): total variation if they are logits, total variation if they are probabilities, the
        share of positions whose class is another, and whether they look like probabilities. Else (images, 2): norm of
        the change, and square of the norm of ``before``. Of answers with NaN it is NaN.
    """
    compare: Callable[[Tensor, Tensor], Tensor] = _change if distance == RELATIVE else _scores
    size = max(1, before[:1].numel())
    parts = (torch.split(one, max(1, _MOST_VALUES // size)) for one in (before, after))
    return torch.cat([compare(exact(one), exact(other)) for one, other in zip(*parts, strict=True)])


def exact(tensor: Tensor) -> Tensor:
    """Return a tensor in 64 bits, or in 32 on a device that has no more."""
    return tensor.detach().to(torch.float32 if tensor.device.type == "mps" else torch.float64)


def _change(before: Tensor, after: Tensor) -> Tensor:
    before, after = before.reshape(len(before), -1), after.reshape(len(after), -1)
    return torch.stack([(after - before).norm(dim=1), before.square().sum(1)], 1)


def _scores(before: Tensor, after: Tensor) -> Tensor:
    looks = _sum_to_one(before).to(before)
    before, after = (one.reshape(*one.shape[:2], -1) for one in (before, after))  # (images, classes, positions)
    pairs = (before.softmax(1), after.softmax(1)), (before, after)
    moves = [(one - other).abs().sum(1).mean(1) / 2 for one, other in pairs]
    flips = (before.argmax(1) != after.argmax(1)).to(before).mean(1)
    return torch.stack([*moves, flips, looks], 1)
