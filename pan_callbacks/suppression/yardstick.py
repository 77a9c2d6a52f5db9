"""What the border behaviour of one layer costs.

The padding effect of a neuron is linear in its kernel: the kernel times what padding adds to the inputs that its taps
read, on average. So the kernels that padding does not move by more than a margin lie between two parallel planes. The
price says how far a neuron is beyond its margin, and its gradient is the way back for the kernel, from the side where
it is furthest off: nothing for a kernel within the margin, and no content is priced, since what a kernel does where it
reads no padding does not enter (docs/suppression.md has what else was tried).

The margin is said in the currency of the contrast. Padding that shifts readings by less than the shortest interval
that holds a share of them separates less than that share of border from interior. What a neuron inherits from the
padding of earlier layers shifts its readings as well, so as far as it does so in the same direction it counts against
the margin.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pan_callbacks.layers import PaddedLayer
from pan_callbacks.measurement.calls import LayerCall
from pan_callbacks.measurement.effect import padding_by_tap
from pan_callbacks.padding import Geometry, Position
from pan_callbacks.reports.pans import LEAST_SHIFT
from pan_callbacks.suppression.pull import Pull
from pan_callbacks.suppression.strength import Strength

#: Contrast that padding may make for nothing: below that of a PAN (0.8) by as much as an estimate from a few images may
#: be wrong (docs/suppression_variants.md has other margins).
MARGIN = 0.6
#: Contrast that a layer's own padding may make for nothing in any case, whatever its neurons inherit: the difference of
#: border and neighbours is of what the images show there, too.
LEAST_MARGIN = 0.25
#: Shift that is allowed in any case, in the layer's typical spread. A third of the smallest that makes a PAN: on flat
#: backgrounds readings at the border do not vary at all, and what several layers add is inherited together.
LEAST_ALLOWED = LEAST_SHIFT / 3
#: Length of the gradient of a kernel, in distances from its margin: at the default weight, 0.1, mostly longer than
#: what :mod:`~pan_callbacks.suppression.cap` allows, which then decides. A short one gets nowhere in a short training.
SCALE = 300.0
#: Margins that a neuron counts as beyond its own at most: in a layer where nothing varies no shift is allowed at all.
FARTHEST = 100.0
#: Readings that it takes to say how they vary. Where a side has fewer (a corner, in a small batch), those inside stand
#: in; where there are no more inside, nothing is said and nothing costs.
FEWEST = 8
#: Positions along each axis of a border that are read.
POSITIONS = 3


@dataclass
class Yardstick:
    """What the padding of a layer does at one size of its input, and how far that may go; without gradient.

    Args:
        by_tap: What padding adds to the input that each tap reads, on average (sides, groups, taps).
        shift: How far readings at the border differ from those beside it, on average (sides, channels).
        allowed: Shift that costs nothing, likewise.
        least: Padding effect that costs nothing in any case, likewise.
    """

    by_tap: Tensor
    shift: Tensor
    allowed: Tensor
    least: Tensor

    def effect(self, kernel: Tensor) -> Tensor:
        """Return how far padding moves each neuron of a kernel, on average (sides, channels)."""
        by_group = kernel.float().reshape(self.by_tap.shape[1], -1, self.by_tap.shape[2])
        return torch.einsum("sgk,gok->sgo", self.by_tap, by_group).flatten(1)

    @torch.no_grad()
    def price(
        self, kernel: Tensor, chosen: Tensor | None, strength: Strength, sides: tuple[str, ...]
    ) -> tuple[Tensor, Pull]:
        """Return how far the neurons of a kernel are beyond their margins, added up, and the way back in factors.

        How far is said in margins, on the worst side. The way back is that of the kernel: the gradient of half its
        squared distance from the margin, times :data:`SCALE` and its strength.

        Args:
            kernel: (out channels, in channels / groups, rows, columns).
            chosen: The neurons to add up, None for all.
            strength: Of the layer's neurons; it learns what is found.
            sides: Names of the sides.
        """
        effect = self.effect(kernel)
        inherited = F.relu(effect.sign() * (self.shift - effect))  # as far as it adds to the effect
        allowed = (self.allowed - inherited).maximum(self.least)
        over = F.relu(effect.abs() - allowed)
        size = self.by_tap.norm(dim=2)  # how far the effect moves if the kernel moves by 1
        size = torch.where(size > 0, size, 1.0)  # no effect, and no 0 / 0
        size = size.repeat_interleave(len(kernel) // self.by_tap.shape[1], 1)
        distance = over / size
        strengths, (away, side) = strength.update(effect.sign() * distance, sides), distance.max(0)
        unit = allowed.maximum(effect.abs() / FARTHEST).clamp_min(torch.finfo(over.dtype).tiny)
        beyond = (over / unit).amax(0)
        if chosen is not None:
            among = torch.zeros_like(away).index_fill(0, chosen.to(away.device), 1.0)
            away, beyond = away * among, beyond * among
        lengths = SCALE * strengths * away
        back = lengths * (effect.sign() / size).gather(0, side[None])[0]
        return beyond.sum(), Pull(self.by_tap, side, back, lengths, beyond)


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
        shift, allowed, least = self._of_sides(_in_order(self.inner))
        floor = LEAST_ALLOWED * self.inner.std(1, correction=0).median()
        allowed, least = allowed.clamp_min(floor), least.clamp_min(floor)
        if self.inner.shape[1] < FEWEST:
            allowed, least = (torch.full_like(one, torch.inf) for one in (allowed, least))
        finite = torch.stack([one.isfinite().all() for one in (by_tap, shift, self.inner)]).all()
        return Yardstick(
            torch.where(finite, by_tap, 0.0),  # not finite in a step that a gradient scaler skips
            torch.where(finite, shift, 0.0),
            torch.where(finite, allowed, torch.inf),
            torch.where(finite, least, torch.inf),
        )

    def _of_sides(self, inner: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return how far readings at each border are shifted, and how far they may be, by both margins.

        Each is (sides, channels).

        Args:
            inner: Readings of the inner half, in order.
        """
        found = self.inner.new_empty(3, len(self.border), len(inner))
        counts = [(at.shape[1], by.shape[1]) for at, by in zip(self.border, self.beside, strict=True)]
        for count in dict.fromkeys(counts):  # edges together, and corners: many small steps take longer than a few
            sides = [number for number, of_side in enumerate(counts) if of_side == count]
            both = [torch.stack([part[number] for number in sides]) for part in (self.border, self.beside)]
            found[0, sides] = both[0].mean(2) - both[1].mean(2)
            ordered = [_in_order(one) if one.shape[2] >= FEWEST else inner.expand(len(sides), -1, -1) for one in both]
            for number, share in enumerate((MARGIN, LEAST_MARGIN), 1):
                found[number, sides] = (shortest(ordered[0], share) + shortest(ordered[1], share)) / 2
        shift, allowed, least = found
        return shift, allowed, least


def shortest(ordered: Tensor, share: float) -> Tensor:
    """Return the length of the shortest interval that holds a share of the readings of each neuron (..., channels).

    If all readings are shifted by that much, the contrast between before and after is that share at most.

    Args:
        ordered: Readings in ascending order (..., channels, readings).
        share: In (0, 1).

    Example:
        >>> shortest(torch.tensor([[0.0, 1.0, 2.0, 2.5, 9.0]]), 0.6)
        tensor([1.5000])
    """
    last = math.ceil(share * ordered.shape[-1]) - 1
    return (ordered[..., last:] - ordered[..., : ordered.shape[-1] - last]).amin(-1)


def _in_order(readings: Tensor) -> Tensor:
    """Return the readings of each neuron in ascending order."""
    if readings.device.type == "cpu" and type(readings) is Tensor and not torch.compiler.is_compiling():
        return torch.from_numpy(np.sort(readings.numpy(), axis=-1))  # many short rows: in a tenth of torch's time
    return readings.sort(-1).values


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
