"""Convolutions whose padding is neutral: what remains of a contrast without it shows what it is due to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from pan_callbacks.layers import Convolution, PaddedLayer, lifted, unlifted
from pan_callbacks.measurement.hooks import replaced_channels
from pan_callbacks.padding import convolve, neutral_pad


def neutral_output(layer: PaddedLayer, x: Tensor, own: Tensor, channels: Tensor | None = None) -> Tensor:
    """Return a layer's output as it is with neutral padding: the input's own values in place of the padding.

    Args:
        layer: The layer.
        x: What its convolution received (images, in channels, height, width).
        own: What it returned, those channels alone (images, channels, rows, columns).
        channels: Channels that are asked for; None for all.

    Returns:
        The same shape as ``own``. Differentiable.
    """
    conv = layer.module
    x, own = lifted(conv, x), lifted(conv, own)
    weight, bias, groups = layer.weight(x), conv.bias, conv.groups
    x = layer.unpadded(x)
    geometry = layer.geometry(*x.shape[2:])
    if channels is not None:
        weight, bias = weight[channels], None if bias is None else bias[channels]
        if groups > 1:  # each channel becomes a group of its own, with the inputs that it reads
            group, inputs, groups = channels // (conv.out_channels // groups), weight.shape[1], len(channels)
            x = x.index_select(1, (group[:, None] * inputs + torch.arange(inputs, device=x.device)).flatten())
    recomputed = convolve(neutral_pad(x, geometry), weight, bias, **layer.steps, groups=groups)
    # inside nothing changes; the two differ there by rounding, and none should be added
    return unlifted(conv, torch.where(geometry.reads_padding(own.device), recomputed.to(own.dtype), own))


@contextmanager
def padding_neutral(layers: Iterable[PaddedLayer]) -> Iterator[None]:
    """Make the padding of some layers neutral while the context lasts, for all that follows them.

    Whoever listens to a layer since before hears what it gives with its own padding as it is, and the padding of the
    layers before it neutral.

    Args:
        layers: The layers.
    """
    handles = []
    try:
        for layer in layers:
            handles.append(layer.module.register_forward_hook(_Neutral(layer), with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Neutral:
    """Forward hook that replaces what a layer gives."""

    def __init__(self, layer: PaddedLayer) -> None:
        self._layer = layer

    def __call__(self, conv: Convolution, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
        """Is called by torch after the layer's forward."""
        neutral = neutral_output(self._layer, args[0] if args else kwargs["input"], output)
        masked = replaced_channels(conv)
        if masked is not None:  # what a mask has put there has no padding
            masked = masked.to(output.device)
            neutral = neutral.index_copy(1, masked, output.index_select(1, masked))
        return neutral
