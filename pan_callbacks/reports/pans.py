"""What a padding aware neuron is: the definition, and one such neuron as plain data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pan_callbacks.padding import ALL_EDGES, ALL_SIDES, EDGES, SIDES

#: Padding effect, in standard deviations of the reference, from which a PAN counts as reading the padding itself.
NASCENT_EFFECT = 0.5


def margin(contrast: Tensor, threshold: float) -> Tensor:
    """Return by how much each neuron's contrast is beyond what makes a PAN; a neuron is one if that is 0 or more.

    A neuron is a PAN if its absolute contrast reaches the threshold on an edge; or on a corner alone, while the two
    edges that meet there stay below half of it. A corner reads much more padding than an edge (5 taps of 9 against 3
    for a 3×3 kernel), so that a neuron which an edge moves a little is nearly always far off in the corner: that is a
    weak response to edges, not a neuron that knows the corner (docs/references.md has the counts).

    Args:
        contrast: (8 sides, channels), NaN if a side has no border; (10 sides, channels) in three dimensions.
        threshold: In (0, 1).

    Returns:
        (channels,), from -1 to 1.

    Example:
        >>> contrast = torch.zeros(8, 2)
        >>> contrast[0] = torch.tensor([0.5, -0.75])  # top
        >>> margin(contrast, 0.5) >= 0, margin(contrast, 0.75)
        (tensor([True, True]), tensor([-0.2500,  0.0000]))
    """
    size = contrast.abs().nan_to_num(0.0)
    beyond = size - threshold
    vertical, horizontal = size[:2].repeat_interleave(2, 0), size[2:4].repeat(2, 1)  # in the order of the corners
    quiet = threshold - 2 * torch.maximum(vertical, horizontal)
    quiet = quiet.nextafter(quiet.new_tensor(-math.inf))  # below half of the threshold, and not half of it
    corners = slice(len(EDGES), len(SIDES))
    return torch.cat([beyond[:4], torch.minimum(beyond[corners], quiet), beyond[len(SIDES) :]]).amax(0)


@dataclass(frozen=True)
class PAN:
    """A padding aware neuron.

    Args:
        layer: Name of its convolution.
        channel: Output channel of that convolution.
        sides: Sides on which the absolute contrast reaches the threshold.
        contrast: Signed contrast of every side that has a border; + excited, - inhibited.
        effect: Padding effect of every side that has a border, in standard deviations of the reference.
        origin: ``"nascent"`` if it reads the padding itself on a side where it is a PAN, else ``"inherited"``.
    """

    layer: str
    channel: int
    sides: frozenset[str]
    contrast: Mapping[str, float]
    effect: Mapping[str, float]
    origin: str

    @property
    def side(self) -> tuple[str, ...]:
        """What its sign, place and colours are about: the edges among its sides, or else the corners.

        A corner beside an edge is none of its own: it reads the padding of the edge as well.
        """
        edges = tuple(side for side in ALL_EDGES if side in self.sides)
        return edges or tuple(side for side in SIDES if side in self.sides)

    @property
    def kind(self) -> str:
        """The sides in short: a corner is named only if no side that meets in it is.

        Example:
            >>> PAN("conv", 0, frozenset({"top", "top-left", "top-right"}), {"top": 0.9}, {}, "nascent").kind
            'top'
        """
        edges = {side for side in ALL_EDGES if side in self.sides}
        return "+".join(
            side for side in ALL_SIDES if side in self.sides and (side in edges or not {*side.split("-")} & edges)
        )

    @property
    def strongest(self) -> str:
        """The side of largest absolute contrast among those of :attr:`side`; of equal corners the first by name."""
        side = self.side if self.side[0] in ALL_EDGES else sorted(self.side)
        return max(side, key=lambda one: abs(self.contrast[one]))

    @property
    def sign(self) -> str:
        """``"excited"`` or ``"inhibited"`` if it is that on all of :attr:`side`, else ``"mixed"``."""
        signs = {self.contrast[side] > 0 for side in self.side}
        return "mixed" if len(signs) > 1 else "excited" if signs == {True} else "inhibited"


def pans_of_layer(layer: str, contrast: Tensor, effect: Tensor | None, threshold: float, margins: Tensor) -> list[PAN]:
    """Return the PANs of a layer, by channel.

    Args:
        layer: Name of the layer.
        contrast: (8 sides, channels), NaN if a side has no border.
        effect: Padding effect, likewise; None if it was not measured.
        threshold: In (0, 1).
        margins: What :func:`margin` says of the contrast (channels,).
    """
    over = contrast.abs() >= threshold  # NaN compares false: no border, no PAN
    pans = []
    for channel in (margins >= 0).nonzero().flatten().tolist():
        sides = frozenset(by_side(torch.where(over[:, channel], contrast[:, channel], math.nan)))
        effects = {} if effect is None else by_side(effect[:, channel])
        nascent = any(abs(effects.get(side, 0.0)) >= NASCENT_EFFECT for side in sides)
        origin = "nascent" if nascent else "inherited"
        pans.append(PAN(layer, channel, sides, by_side(contrast[:, channel]), effects, origin))
    return pans


def by_side(values: Tensor) -> dict[str, float]:
    """Return the values (8 or 10 sides,) of one neuron by the name of the side, without those that have no border."""
    sides = ALL_SIDES if len(values) == len(ALL_SIDES) else SIDES
    return {side: value for side, value in zip(sides, values.tolist(), strict=True) if not math.isnan(value)}
