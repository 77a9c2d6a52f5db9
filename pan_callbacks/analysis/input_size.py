"""Input sizes at which no strided convolution leaves a part of its padded input unread."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from pan_callbacks.errors import PANError
from pan_callbacks.layers import convolutions, select, why_unpadded
from pan_callbacks.measurement.calls import LayerCall, StopForward
from pan_callbacks.measurement.hooks import quietly
from pan_callbacks.measurement.pads import PadTracker


def next_size_without_leftover(
    model: nn.Module, size: tuple[int, int], layers: str | Iterable[str] | None = None, limit: int = 64
) -> tuple[int, int] | None:
    """Return the next larger input size at which no padded convolution has leftover padding.

    A stride that does not divide what there is to cross leaves the far padding unread, so that top and bottom, or left
    and right, are treated differently in every forward ("Mind the Pad", Alsallakh et al. 2021). Sizes are tried one by
    one on a single black image, and each forward ends at the first layer that rules its size out.

    Args:
        model: Model to try; it is left as it was.
        size: Height and width to start from. Both grow by the same number of pixels.
        layers: Glob or globs over layer names, None for all convolutions.
        limit: Pixels to add at most; 64 is two periods of a network of stride 32.

    Returns:
        Height and width, or None if no size up to ``limit`` pixels larger will do. A size on which the model does
        not run will not do.

    Raises:
        ValueError: If ``size`` or ``limit`` is below 1.
        PANError: If a glob matches nothing, or the model does not run on one image of ``size``.

    Example:
        >>> halving = [nn.Conv2d(1, 1, 3, stride=2, padding=1) for _ in range(3)]
        >>> next_size_without_leftover(nn.Sequential(*halving), (32, 32))
        (33, 33)
    """
    if min(*size, limit) < 1:
        raise ValueError(f"size={size}, limit={limit}: both must be at least 1")
    model = getattr(model, "_orig_mod", model)  # compiled code may not call hooks that came after it
    flat = {name: conv for name, conv in convolutions(model).items() if isinstance(conv, nn.Conv2d)}
    strided = [flat[name] for name in select(model, layers) if name in flat and max(flat[name].stride) > 1]
    first = next(iter(flat.values()), None)
    if first is None or not strided:
        return size[0] + 1, size[1] + 1

    def black(height: int, width: int) -> Tensor:
        return torch.zeros(1, first.in_channels, height, width, dtype=first.weight.dtype, device=first.weight.device)

    with quietly(model):
        try:
            calls = len(_leftovers(model, strided, black(*size)))
        except Exception as error:
            wanted = f"a batch of one {first.in_channels}×{size[0]}×{size[1]} image"
            raise PANError(f"the model does not run on {wanted}: {type(error).__name__}: {error}") from error
        for more in range(1, limit + 1):
            larger = size[0] + more, size[1] + more
            try:
                if not any(_leftovers(model, strided, black(*larger), until=calls)):
                    return larger
            except Exception:  # the size after it may suit the model
                continue
    return None


def _leftovers(model: nn.Module, convs: list[nn.Conv2d], image: Tensor, until: int | None = None) -> list[bool]:
    """Run a model and say of every call of a convolution whether it is a padded layer with leftover padding.

    Args:
        model: Model to run.
        convs: The convolutions.
        image: Its input (1, channels, height, width).
        until: Calls after which to stop, or else after the first that has leftover; None to run to the end. A head of
            fixed size behind the last convolution need not run.
    """
    seen: list[bool] = []
    pads = PadTracker()

    def on_conv(conv: nn.Conv2d, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
        call = LayerCall.of(conv, args, kwargs, output)
        pad = pads.pad_of(call)
        layer = call.layer(pad)
        geometry = layer.geometry(*layer.unpadded(call.x).shape[-2:])
        padded = why_unpadded(conv, pad) is None and geometry.output_size == tuple(output.shape[-2:])
        seen.append(padded and max(geometry.rows.leftover, geometry.cols.leftover) > 0)
        if until is not None and (seen[-1] or len(seen) == until):
            raise StopForward

    handles = [*pads.attach(model), *(conv.register_forward_hook(on_conv, with_kwargs=True) for conv in convs)]
    pads.watch()
    try:
        with suppress(StopForward):
            model(image)
    finally:
        for handle in handles:
            handle.remove()
    return seen
