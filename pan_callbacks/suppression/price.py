"""What the border behaviour of one layer costs.

The padding effect of a neuron is linear in its kernel: the kernel times what padding adds to the inputs that its taps
read, on average. So the kernels that padding does not move by more than a margin lie between two parallel planes, and
the price of a kernel is its squared distance from there, to scale, on the side where that is largest. Its gradient is
the way back: nothing for a kernel within the margin, and no content is priced, since what a kernel does where it reads
no padding does not enter (docs/suppression.md has what else was tried).

The margin is said in the currency of the contrast. Padding that shifts readings by less than the shortest interval
that holds a share of them separates less than that share of border from interior.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pan_callbacks.errors import PANError
from pan_callbacks.layers import PaddedLayer
from pan_callbacks.measurement.calls import LayerCall
from pan_callbacks.measurement.effect import padding_by_tap
from pan_callbacks.padding import Geometry, Position
from pan_callbacks.reports.pans import LEAST_SHIFT
from pan_callbacks.suppression.cap import Cap, CappedGradient
from pan_callbacks.suppression.pull import Pull
from pan_callbacks.suppression.strength import Strength

#: Contrast that a layer's own padding may make for nothing: below that of a PAN (0.8) by as much as an estimate from a
#: few images may be wrong, and by what neurons inherit besides (docs/suppression.md has other margins).
MARGIN = 0.4
#: Shift that is allowed in any case, in the layer's typical spread. A third of the smallest that makes a PAN: on flat
#: backgrounds readings at the border do not vary at all, and what several layers add is inherited together.
LEAST_ALLOWED = LEAST_SHIFT / 3
#: Of half the squared distance: at the default weight, 0.1, the gradient of a kernel that is far off is usually longer
#: than what :mod:`~pan_callbacks.suppression.cap` allows, and shorter near the margin.
SCALE = 300.0
#: Readings of a side that it takes to say how they vary; of fewer (a corner, in a small batch) those inside stand in.
FEWEST = 8
#: Positions along each axis of a border that are read.
POSITIONS = 3


@dataclass
class Yardstick:
    """What the padding of a layer does at one size of its input, and how far that may go; without gradient.

    Args:
        by_tap: What padding adds to the input that each tap reads, on average (sides, groups, taps).
        allowed: Padding effect that costs nothing (sides, channels).
    """

    by_tap: Tensor
    allowed: Tensor

    def effect(self, kernel: Tensor) -> Tensor:
        """Return how far padding moves each neuron of a kernel, on average (sides, channels)."""
        by_group = kernel.float().reshape(self.by_tap.shape[1], -1, self.by_tap.shape[2])
        return torch.einsum("sgk,gok->sgo", self.by_tap, by_group).flatten(1)

    @torch.no_grad()
    def price(
        self, kernel: Tensor, chosen: Tensor | None, strength: Strength, sides: tuple[str, ...]
    ) -> tuple[Tensor, Pull]:
        """Return the price of a kernel, the sum over its neurons, and its gradient in factors.

        Args:
            kernel: (out channels, in channels / groups, rows, columns).
            chosen: The neurons to add up, None for all.
            strength: Of the layer's neurons; it learns what is found.
            sides: Names of the sides.
        """
        effect = self.effect(kernel)
        size = self.by_tap.norm(dim=2)  # how far the effect moves if the kernel moves by 1
        size = torch.where(size > 0, size, 1.0)  # no effect, and no 0 / 0
        size = size.repeat_interleave(len(kernel) // self.by_tap.shape[1], 1)
        beyond = F.relu(effect.abs() - self.allowed) / size
        scale, (away, side) = SCALE * strength.update(effect.sign() * beyond, sides), beyond.max(0)
        if chosen is not None:
            away = away * torch.zeros_like(away).index_fill(0, chosen.to(away.device), 1.0)
        back = scale * away * (effect.sign() / size).gather(0, side[None])[0]
        return (scale / 2 * away.square()).sum(), Pull(self.by_tap, side, back)


@dataclass
class Sample:
    """What a yardstick is made of: slices of a call, copied and without gradient.

    Args:
        layer: The convolution with its padding.
        geometry: Its geometry at this size.
        mean_input: Mean over the images of the layer's input (1, in channels, height, width).
        inner: Readings of the inner half (channels, readings).
        border: Readings of each side that has a border, likewise.
        beside: Readings of the nearest positions that read no padding, likewise.
    """

    layer: PaddedLayer
    geometry: Geometry
    mean_input: Tensor
    inner: Tensor
    border: list[Tensor]
    beside: list[Tensor]

    @classmethod
    def of(cls, call: LayerCall, layer: PaddedLayer, geometry: Geometry, max_images: int) -> Sample:
        """Take it of the first images of a call."""
        x, output = layer.unpadded(call.x)[:max_images].detach(), call.output[:max_images].detach()
        mean = x.mean(0, keepdim=True, dtype=torch.float32)
        border = [_readings(output, where) for where in geometry.borders.values()]
        beside = [_readings(output, _inward(where, geometry.clean)) for where in geometry.borders.values()]
        return cls(layer, geometry, mean, _readings(output, geometry.inner), border, beside)

    @torch.no_grad()
    def yardstick(self) -> Yardstick:
        """Measure how far padding moves the layer's neurons, and how far it may."""
        layer = self.layer
        options: dict[str, Any] = {"mode": layer.mode, "value": layer.value, "groups": layer.module.groups}
        by_tap = padding_by_tap(self.mean_input, self.geometry, **options)
        widths = [
            shortest(one if one.shape[1] >= FEWEST else self.inner, MARGIN) for one in (*self.border, *self.beside)
        ]
        allowed = [(own + other) / 2 for own, other in zip(widths, widths[len(self.border) :], strict=False)]
        least = LEAST_ALLOWED * self.inner.std(1, correction=0).median()
        found = torch.stack(allowed).clamp_min(least) if allowed else by_tap.new_zeros(0, len(self.inner))
        finite = by_tap.isfinite().all() & found.isfinite().all()  # not so in a step that a gradient scaler skips
        return Yardstick(torch.where(finite, by_tap, 0.0), torch.where(finite, found, torch.inf))


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
        """Return the price of this call, the sum over its neurons; None if no side has a border.

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
            gradients = self._gradients(kernel, pull)
            cap.watch([parameter for parameter, _ in gradients])
            makers = tuple(make for _, make in gradients)
            capped: Tensor = CappedGradient.apply(cap, price, makers, *(parameter for parameter, _ in gradients))
            return capped

    def _gradients(self, kernel: Tensor, pull: Pull) -> list[tuple[nn.Parameter, Callable[[], Tensor]]]:
        """Return the parameters that a kernel is made of, each with what makes its gradient."""
        given = list(self.layer.module.parameters() if self.parameters is None else self.parameters.values())
        for parameter in given:
            if parameter is kernel:
                return [(parameter, partial(pull.gradient, parameter.detach()))]
        learning = [parameter for parameter in given if parameter.requires_grad]
        found = torch.autograd.grad(kernel, learning, pull.gradient(kernel), allow_unused=True)
        return [(p, partial(_itself, g)) for p, g in zip(learning, found, strict=True) if g is not None]

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


def shortest(readings: Tensor, share: float) -> Tensor:
    """Return the length of the shortest interval that holds a share of the readings of each neuron (channels,).

    If all readings are shifted by that much, the contrast between before and after is that share at most.

    Args:
        readings: (channels, readings).
        share: In (0, 1).

    Example:
        >>> shortest(torch.tensor([[0.0, 1.0, 2.0, 2.5, 9.0]]), 0.6)
        tensor([1.5000])
    """
    ordered, last = _in_order(readings), math.ceil(share * readings.shape[1]) - 1
    return (ordered[:, last:] - ordered[:, : readings.shape[1] - last]).amin(1)


def _itself(gradient: Tensor) -> Tensor:
    return gradient


def _in_order(readings: Tensor) -> Tensor:
    """Return the readings of each neuron in ascending order."""
    if readings.device.type == "cpu" and type(readings) is Tensor and not torch.compiler.is_compiling():
        return torch.from_numpy(np.sort(readings.numpy(), axis=1))  # many short rows: in a tenth of torch's time
    return readings.sort(1).values


def _inward(border: Position, clean: Position) -> Position:
    """Return the positions nearest to a border that read no padding."""
    return tuple(
        slice(max(clean.start, min(one.start, clean.stop - 1)), min(clean.stop, max(one.stop, clean.start + 1)))
        for one, clean in zip(border, clean, strict=True)
    )


def _readings(output: Tensor, where: Position) -> Tensor:
    """Return readings of a part of a map (channels, images * positions), copied, at a few positions of each axis."""
    some = (slice(one.start, one.stop, max(one.step or 1, -(-(one.stop - one.start) // POSITIONS))) for one in where)
    return output[(slice(None), slice(None), *some)].transpose(0, 1).flatten(1).to(torch.float32, copy=True)
