"""What the border behaviour of one layer costs.

Neuron by neuron and side by side a gap is compared with the spread of the reference, the inner half of the same map,
and priced with ``log(1 + gap² / variance)``: zero if there is no gap, the same at every gain of the channel, and
flat enough at the far end that a few strong padding aware neurons do not drown the task (docs/suppression.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pan_callbacks.errors import PANError
from pan_callbacks.layers import Pad, PaddedLayer
from pan_callbacks.measurement.calls import LayerCall
from pan_callbacks.measurement.effect import mean_padding_effects
from pan_callbacks.padding import Geometry

#: Variance is never taken for less than this share of the squared gap: a constant channel has a finite price.
FLOOR = 1e-4
#: Nor for less than this share of the layer's median: the gradient of a price that no gain changes grows as the channel
#: fades, and a filter that is all but dead would get more of it than all the others (docs/suppression.md).
DEAD = 1e-6
#: What the price of a moment counts against that of an effect: so that one weight suits every kind.
MOMENT_SHARE = 0.2


@dataclass
class CallView:
    """What is kept of one call of a layer until the penalty is computed: small tensors with gradient.

    They are made by slicing, averaging and copying alone, which saves nothing for the backward pass: activation
    checkpointing counts what is saved.

    Args:
        layer: The convolution with its padding.
        geometry: Its geometry at this size.
        reference: Inner half of some maps, at most 8×8 positions (images, channels, rows, columns).
        strips: Side to border strip of the same maps, for ``"moments"``.
        mean_input: Mean over the images of the layer's input (1, in channels, height, width), for ``"effect"``.
        node: What computed the output, in the graph of the backward pass; None in a compiled graph.
        parameters: Those that the convolution had in this call, for ``"effect"``: ``torch.func.functional_call`` gives
            it others for the time of a call. None if nobody looked.
    """

    layer: PaddedLayer
    geometry: Geometry
    reference: Tensor
    strips: dict[str, Tensor]
    mean_input: Tensor | None
    node: Any
    parameters: dict[str, nn.Parameter] | None

    @classmethod
    def of(cls, call: LayerCall, pad: Pad | None, node: Any, kind: str, max_images: int) -> CallView | None:
        """Return what is kept of a call; None if the map has no interior to compare its border with.

        Args:
            call: The call.
            pad: What pads the convolution's input, None if it pads itself.
            node: What computed the output, in the graph of the backward pass.
            kind: Kind of penalty.
            max_images: Images whose strips are kept.
        """
        layer = PaddedLayer(call.conv, pad)
        x, output = layer.unpadded(call.x), call.output
        geometry = layer.geometry(*x.shape[2:])
        some = output[:max_images]
        reference = _copied(some[(slice(None), slice(None), *geometry.inner)])
        if reference.numel() == 0 or geometry.output_size != tuple(output.shape[2:]):
            return None
        strips: dict[str, Tensor] = {}
        if kind != "effect":
            strips = {side: _copied(some[(slice(None), slice(None), *at)]) for side, at in geometry.borders.items()}
        mean_input = x.mean(0, keepdim=True, dtype=torch.float32) if kind != "moments" else None
        given = None if mean_input is None or torch.compiler.is_compiling() else dict(call.conv.named_parameters())
        return cls(layer, geometry, reference, strips, mean_input, node, given)

    def price(self, channels: Tensor | None) -> Tensor | None:
        """Return the price of this call, a scalar; None if no side has a border.

        Args:
            channels: The neurons to average over, None for all.
        """
        with torch.autocast(self.reference.device.type, enabled=False):
            variance, mean = torch.var_mean(self.reference, _but_channels(self.reference), correction=0)
            scale = torch.maximum(variance, DEAD * variance.detach().median())
            prices = [MOMENT_SHARE * price(_moment_gap(s, mean, variance), scale) for s in self.strips.values()]
            if self.mean_input is not None:
                prices += price(self._mean_effects(self.mean_input).square(), scale).unbind()
            if not prices:
                return None
            of_neurons = torch.stack(prices).sum(0)
            return (of_neurons if channels is None else of_neurons[channels.to(of_neurons.device)]).mean()

    def _mean_effects(self, mean_input: Tensor) -> Tensor:
        """Mean padding effect (sides, channels)."""
        layer = self.layer
        weight = self._weight(mean_input.to(next(layer.module.parameters()).dtype)).float()
        return mean_padding_effects(
            mean_input, weight, self.geometry, mode=layer.mode, value=layer.value, groups=layer.module.groups
        )

    def _weight(self, x: Tensor) -> Tensor:
        """Return the kernel that the convolution had in this call."""
        conv = self.layer.module
        own, given = dict(conv.named_parameters()), self.parameters
        try:
            if given is None or all(own.get(name) is parameter for name, parameter in given.items()):
                return self.layer.weight(x)
            others: dict[str, Tensor] = {f"conv.{name}": parameter for name, parameter in given.items()}
            weight: Tensor = torch.func.functional_call(_Kernel(self.layer), others, (x,))
            return weight
        except Exception as error:  # of a forward of somebody else's
            raise PANError(
                f"the kernel of a {type(conv).__name__} cannot be read, as its forward does not take a map alone "
                f"({type(error).__name__}: {error}); use kind='moments', or leave the layer out with layers="
            ) from error


class _Kernel(nn.Module):
    """Answers with the kernel of a layer."""

    def __init__(self, layer: PaddedLayer) -> None:
        super().__init__()
        self.conv, self._layer = layer.module, layer

    def forward(self, x: Tensor) -> Tensor:
        """Return the kernel, see :meth:`~pan_callbacks.layers.PaddedLayer.weight`."""
        return self._layer.weight(x)


def price(squared_gap: Tensor, variance: Tensor) -> Tensor:
    """Return ``log(1 + gap² / variance)``, with a finite value and gradient if the variance is 0.

    Args:
        squared_gap: Any shape.
        variance: Of the reference, broadcast to it.

    Example:
        >>> price(torch.tensor([0.0, 4.0]), torch.tensor([0.0, 1.0]))
        tensor([0.0000, 1.6091])
    """
    scale = variance + FLOOR * squared_gap
    safe = torch.where(scale > 0, scale, 1.0)  # both are 0: no gap, no price, and no 0 / 0 in the gradient
    return torch.log1p(squared_gap / safe)


def _moment_gap(strip: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """Squared 2-Wasserstein distance (channels,) of two normal distributions with these moments."""
    own_variance, own_mean = torch.var_mean(strip, _but_channels(strip), correction=0)
    return (own_mean - mean).square() + (_root(own_variance) - _root(variance)).square()


def _but_channels(maps: Tensor) -> list[int]:
    return [0, *range(2, maps.ndim)]


def _root(variance: Tensor) -> Tensor:
    """Square root with gradient 0 at 0."""
    positive = variance > 0
    return torch.where(positive, torch.where(positive, variance, 1.0).sqrt(), 0.0)


def _copied(part: Tensor) -> Tensor:
    """Return a copy in float32 that does not keep alive what it is a part of."""
    return part.to(torch.float32, copy=True)
