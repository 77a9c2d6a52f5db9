"""The price of one call of a layer, with its gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pan_callbacks.errors import PANError
from pan_callbacks.layers import PaddedLayer
from pan_callbacks.measurement.calls import LayerCall
from pan_callbacks.suppression.cap import Cap, CappedGradient
from pan_callbacks.suppression.presence import channels_of
from pan_callbacks.suppression.pull import Pull, Whole
from pan_callbacks.suppression.strength import Strength
from pan_callbacks.suppression.yardstick import Sample, Yardstick


@dataclass
class CallView:
    """What is kept of one call of a layer until the penalty is computed.

    Args:
        layer: The convolution with its padding.
        sides: Names of the sides that have a border.
        shape: Shape of one image as the convolution received it.
        node: What computed the output, in the graph of the backward pass; None in a compiled graph.
        parameters: Those that the convolution had in this call: ``torch.func.functional_call`` gives it others for the
            time of a call. None if nobody looked.
        measured: By what it is to be measured.
    """

    layer: PaddedLayer
    sides: tuple[str, ...]
    shape: tuple[int, ...]
    node: Any
    parameters: dict[str, nn.Parameter] | None
    measured: Yardstick | Sample

    @classmethod
    def of(cls, call: LayerCall, layer: PaddedLayer, node: Any, max_images: int) -> CallView | None:
        """Return what is kept of a call; None if the map is not as large as it should be, or has no interior.

        Args:
            call: The call.
            layer: The convolution with its padding.
            node: What computed the output, in the graph of the backward pass.
            max_images: Images that it is measured on.
        """
        geometry = layer.geometry(*layer.unpadded(call.x).shape[2:])
        empty = any(one.start >= one.stop for one in geometry.inner)
        if len(call.output) == 0 or empty or geometry.output_size != tuple(call.output.shape[2:]):
            return None
        sample = Sample.of(call, layer, geometry, max_images)
        compiling = torch.compiler.is_compiling()  # as little in its graph as can be
        given = None if compiling else dict(call.conv.named_parameters())
        measured = sample if compiling else sample.yardstick()
        return cls(layer, tuple(geometry.borders), tuple(call.x.shape[1:]), node, given, measured)

    def price(self, cap: Cap, strength: Strength, channels: Tensor | None) -> Tensor | None:
        """Return how far the neurons are beyond their margins, added up, with its gradient; None without a border.

        Args:
            cap: How long its gradient may be.
            strength: Of the layer's neurons; it learns what is found.
            channels: The neurons to add up, None for all.
        """
        if not self.sides:
            return None
        measured = self.measured.yardstick() if isinstance(self.measured, Sample) else self.measured
        device = measured.by_tap.device
        with torch.autocast(device.type, enabled=False):
            kernel = self._weight(device)
            if not kernel.requires_grad:  # what learns of the layer is not in it
                return None
            price, pull = measured.price(kernel.detach(), channels, strength, self.sides)
            found = self._gradients(kernel, pull)
            parameters = [parameter for parameter, _ in found]
            cap.watch(parameters)
            capped: Tensor = CappedGradient.apply(cap, price, [ours for _, ours in found], *parameters)
            return capped

    def neurons(self, channels: Tensor | None) -> int:
        """Return how many neurons are added up.

        Args:
            channels: They, None for all.
        """
        return channels_of(self.layer.module) if channels is None else len(channels)

    def _gradients(self, kernel: Tensor, pull: Pull) -> list[tuple[nn.Parameter, Pull | Whole]]:
        """Return the parameters that a kernel is made of, each with its gradient.

        Rows of a parameter are neurons if it is the kernel itself; of what a kernel is computed from nobody knows.
        """
        given = list(self.layer.module.parameters() if self.parameters is None else self.parameters.values())
        for parameter in given:
            if parameter is kernel or kernel._base is parameter and _same_layout(kernel, parameter):
                return [(parameter, pull)]
        learning = [parameter for parameter in given if parameter.requires_grad]
        found = torch.autograd.grad(kernel, learning, pull.gradient(kernel), allow_unused=True)
        beyond = pull.beyond.amax(0, keepdim=True)
        return [(p, Whole(g, beyond)) for p, g in zip(learning, found, strict=True) if g is not None]

    def _weight(self, device: torch.device) -> Tensor:
        """Return the kernel that the convolution had in this call."""
        conv = self.layer.module
        # for kernels that must be observed; it takes no memory where nobody looks at it
        x = torch.zeros((), device=device, dtype=next(conv.parameters()).dtype).expand(1, *self.shape)
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
                f"({type(error).__name__}: {error}); leave the layer out with layers=, or use PaddingDropout"
            ) from error


class _Kernel(nn.Module):
    """Answers with the kernel of a layer."""

    def __init__(self, layer: PaddedLayer) -> None:
        super().__init__()
        self.conv, self._layer = layer.module, layer

    def forward(self, x: Tensor) -> Tensor:
        """Return the kernel, see :meth:`~pan_callbacks.layers.PaddedLayer.weight`."""
        return self._layer.weight(x)


def _same_layout(kernel: Tensor, parameter: Tensor) -> bool:
    """Whether they differ by axes of length 1 alone, as the kernel of a line does."""
    one, other = kernel.squeeze(), parameter.squeeze()
    return one.shape == other.shape and one.stride() == other.stride()
