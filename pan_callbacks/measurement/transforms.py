"""Calls of a layer under a transform of ``torch.func``: seen from outside of it, where that is possible."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from pan_callbacks.measurement.calls import LayerCall

_functorch = cast(Any, torch._C)._functorch


def is_transformed(x: Tensor) -> bool:
    """Whether a tensor belongs to a transform that goes on, and means nothing outside of it."""
    return bool(_functorch.is_functorch_wrapped_tensor(x))


def untransformed(call: LayerCall) -> LayerCall | None:
    """Return a call under ``torch.vmap`` as it is outside: what is mapped over counts as images.

    Args:
        call: The call.

    Returns:
        The call; None if it means nothing outside, as its kernel is mapped over, too (an ensemble), or gradients are
        taken inside (``torch.func.grad`` and its kin).

    Example:
        >>> conv, images = torch.nn.Conv2d(1, 2, 3, padding=1), torch.randn(4, 1, 8, 8)
        >>> def one(image):
        ...     print(untransformed(LayerCall.of(conv, (image,), {}, conv(image))).output.shape)
        >>> torch.vmap(one, out_dims=None)(images)
        torch.Size([4, 2, 8, 8])
    """
    if any(is_transformed(parameter) for parameter in call.conv.parameters()):
        return None
    x, output = call.x, call.output
    while is_transformed(output):
        if not _functorch.is_batchedtensor(output) or not _functorch.is_batchedtensor(x):
            return None
        if _functorch.maybe_get_level(x) != _functorch.maybe_get_level(output):
            return None
        x, output = _merged(x), _merged(output)
    return None if is_transformed(x) else replace(call, x=x, output=output)


def _merged(x: Tensor) -> Tensor:
    """Return what is mapped over, and the images within, as images (images, channels, height, width)."""
    inner: Tensor = _functorch.get_unwrapped(x)
    return inner.movedim(_functorch.maybe_get_bdim(x), 0).flatten(0, 1)
