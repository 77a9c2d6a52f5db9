"""What a padding aware neuron is: the definition, and one such neuron as plain data."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pan_callbacks.padding import ALL_EDGES, ALL_SIDES, EDGES, SIDES
from pan_callbacks.reports.words import Origin

#: Padding effect, in standard deviations of the reference, from which a PAN counts as reading the padding itself.
NASCENT_EFFECT = 0.5
#: Origins in the order in which one of them names the neuron if they differ from side to side.
_FIRST: tuple[Origin, ...] = ("nascent", "both", "inherited", "neither")
#: Whether neutral padding of the layer itself takes a contrast away, then whether that of earlier ones does.
_NAMES: tuple[Origin, ...] = ("both", "nascent", "inherited", "neither")
#: Smallest mean difference between border and reference that counts, in units of the layer's typical spread. Where the
#: background is flat (MNIST as it is) a difference of any size separates border from inside perfectly, since nothing
#: else varies there. Chosen by measurement: docs/references.md has the counts.
LEAST_SHIFT = 0.3
#: Groups that images are dealt out to, at most. An error of 15 degrees of freedom makes intervals 9 % wider than one of
#: infinitely many would, and keeps what has to be kept of a neuron to 16 samples however many images there are.
GROUPS = 16
#: 97.5 % quantiles of Student's t with 1, 2, ... degrees of freedom, as many as there may be.
T_QUANTILES = (
    (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060)
    + (2.2622, 2.2281, 2.2010, 2.1788, 2.1604, 2.1448, 2.1314)
)  # fmt: skip


def quantiles(groups: Sequence[int]) -> Tensor:
    """Return the 97.5 % quantiles of Student's t for errors of so many groups (sides,), NaN for one group."""
    known = [T_QUANTILES[min(n - 1, len(T_QUANTILES)) - 1] if n > 1 else math.nan for n in groups]
    return torch.tensor(known)


def half_width(contrast: Tensor, error: Tensor, groups: Sequence[int], clusters: Sequence[int]) -> Tensor:
    """Return half the width of the 95 % interval of contrasts (sides, channels), NaN if nobody knows.

    Student's t times the standard error, to which half a cluster more is added that says nothing, 0: near 1 few do, and
    whether there is one is chance (after Agresti and Coull 1998, who add four). Where all agree exactly there is no
    error, and it is 3 / n with n clusters: what none of n showed may still happen in 3 of n (the rule of three, Hanley
    and Lippman-Hand 1983).

    Args:
        contrast: (sides, channels).
        error: Standard error, likewise.
        groups: Groups behind the error on each side.
        clusters: Clusters behind the contrast on each side.

    Example:
        >>> half_width(torch.tensor([[0.8, 1.0]]), torch.tensor([[0.03, 0.0]]), [16], [64])
        tensor([[0.0653, 0.0469]])
    """
    n = torch.tensor(clusters).clamp_min(1)[:, None]
    width = quantiles(groups)[:, None] * (error.square() + (contrast / (2 * n)).square()).sqrt()
    return torch.where((error == 0) & ~width.isnan(), (3 / n).expand_as(width), width)


def counted(contrast: Tensor, shift: Tensor | None, least: float = LEAST_SHIFT) -> Tensor:
    """Return a contrast as it counts: 0 where border and reference differ by less than it takes.

    Args:
        contrast: (sides, channels), NaN if a side has no border.
        shift: Mean difference of border and reference in the layer's typical spreads, likewise; None or NaN if it is
            not known, then the contrast counts.
        least: Smallest difference that counts.
    """
    return contrast if shift is None else torch.where(shift.abs() < least, 0 * contrast, contrast)


def margin(
    contrast: Tensor,
    threshold: float,
    shift: Tensor | None = None,
    edges: Tensor | None = None,
    least: float = LEAST_SHIFT,
) -> Tensor:
    """Return by how much each neuron's contrast is beyond what makes a PAN; a neuron is one if that is 0 or more.

    A neuron is a PAN if its absolute contrast reaches the threshold on an edge; or on a corner alone, while the two
    edges that meet there stay below half of it. A corner reads much more padding than an edge (5 taps of 9 against 3
    for a 3×3 kernel), so that a neuron which an edge moves a little is nearly always far off in the corner: that is a
    weak response to edges, not a neuron that knows the corner (docs/references.md has the counts).

    Args:
        contrast: (8 sides, channels), NaN if a side has no border; (10 sides, channels) in three dimensions.
        threshold: In (0, 1).
        shift: Mean difference of border and reference in the layer's typical spreads, likewise; a side on which it is
            smaller than ``least`` makes no PAN. None or NaN if it is not known, then the contrast alone decides.
        edges: Contrast by which edges are taken to stay quiet, if it is another one: for the ends of an interval.
        least: Smallest difference that counts.

    Returns:
        (channels,), from -1 to 1.

    Example:
        >>> contrast = torch.zeros(8, 2)
        >>> contrast[0] = torch.tensor([0.5, -0.75])  # top
        >>> margin(contrast, 0.5) >= 0, margin(contrast, 0.75)
        (tensor([True, True]), tensor([-0.2500,  0.0000]))
    """
    size = contrast.abs().nan_to_num(0.0)
    edge = size if edges is None else edges.abs().nan_to_num(0.0)
    beyond = counted(size, shift, least) - threshold
    vertical, horizontal = edge[:2].repeat_interleave(2, 0), edge[2:4].repeat(2, 1)  # in the order of the corners
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
        origin: What its contrast is due to: ``"nascent"`` (this layer's own padding) on a side where it is a PAN, or
            else ``"both"``, ``"inherited"`` (the padding of earlier layers) or ``"neither"``; see :func:`origins_of`.
        interval: 95 % interval of the signed contrast of every side, (low, high); empty if nobody knows.
        certain: Whether a PAN in all of that interval.
        consistency: Of every side, how consistently padding changes the answer to the same pixels, -1 to 1: see
            :mod:`~pan_callbacks.measurement.paired`. Empty if no pixels were paired.
        shift: Mean difference of border and reference of every side, in the layer's typical spread.
        after: Contrast of every side after the normalisation and activation that follow; empty if it is not known.
        threshold: Contrast from which a neuron is a PAN.
    """

    layer: str
    channel: int
    sides: frozenset[str]
    contrast: Mapping[str, float]
    effect: Mapping[str, float]
    origin: Origin
    interval: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    certain: bool = False
    consistency: Mapping[str, float] = field(default_factory=dict)
    shift: Mapping[str, float] = field(default_factory=dict)
    after: Mapping[str, float] = field(default_factory=dict)
    threshold: float = 0.8

    @property
    def visible(self) -> bool | None:
        """Whether the next layer sees it: it is over the threshold on one of its sides after what follows, too.

        None if that is not known.
        """
        return self._over_threshold(self.after)

    @property
    def reads_padding(self) -> bool | None:
        """Whether padding pushes it the same way at nearly all pixels of one of its sides; None if none were paired."""
        return self._over_threshold(self.consistency)

    def _over_threshold(self, values: Mapping[str, float]) -> bool | None:
        """Return whether a value is over the threshold on one of its sides; None if none is known."""
        known = [abs(values[side]) for side in self.sides if side in values]
        return max(known) >= self.threshold if known else None

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
    def strongest_contrast(self) -> float:
        """The contrast of its :attr:`strongest` side: one number, where :attr:`contrast` has that of every side.

        Example:
            >>> pan = PAN("stem", 3, frozenset({"top"}), {"top": -0.9, "left": 0.1}, {}, "nascent")
            >>> pan.strongest, pan.strongest_contrast
            ('top', -0.9)
        """
        return self.contrast[self.strongest]

    @property
    def strongest_effect(self) -> float:
        """The padding effect of its :attr:`strongest` side, NaN if nobody knows; see :attr:`effect` for every side."""
        return self.effect.get(self.strongest, math.nan)

    @property
    def sign(self) -> str:
        """``"excited"`` or ``"inhibited"`` if it is that on all of :attr:`side`, else ``"mixed"``."""
        signs = {self.contrast[side] > 0 for side in self.side}
        return "mixed" if len(signs) > 1 else "excited" if signs == {True} else "inhibited"


def origins_of(
    contrast: Tensor, own: Tensor | None, earlier: Tensor | None, effect: Tensor | None
) -> list[list[Origin]]:
    """Return what the contrast of each neuron is due to, of each side.

    ``"nascent"`` if at most half of it remains where this layer's own padding is neutral, ``"inherited"`` if that is so
    where the padding of all earlier layers is neutral, ``"both"`` if either takes it away and ``"neither"`` if none
    does. If it was not tried (in reports of early releases, or with too few images) it is nascent where the padding
    effect reaches :data:`NASCENT_EFFECT`, and else inherited.

    Args:
        contrast: (sides, channels).
        own: What remains of it with own padding neutral, likewise; None or NaN if it was not tried.
        earlier: What remains of it with the padding of earlier layers neutral, likewise.
        effect: Padding effect, likewise.

    Returns:
        A list for each channel, with a word for each side.

    Example:
        >>> contrast = torch.tensor([[0.9, 0.9], [0.9, 0.9]])  # two sides, two neurons
        >>> own, earlier = torch.tensor([[0.1, 0.9], [0.9, 0.1]]), torch.tensor([[0.9, 0.0], [0.9, 0.1]])
        >>> origins_of(contrast, own, earlier, None)
        [['nascent', 'neither'], ['inherited', 'both']]
    """
    unknown = torch.full_like(contrast, math.nan)
    own, earlier, effect = (unknown if one is None else one for one in (own, earlier, effect))
    by_own, by_earlier = (one.abs() <= contrast.abs() / 2 for one in (own, earlier))
    numbers = torch.where(by_own, 0, 2) + torch.where(by_earlier, 0, 1)
    by_effect = torch.where(effect.abs() >= NASCENT_EFFECT, _NAMES.index("nascent"), _NAMES.index("inherited"))
    numbers = torch.where((own + earlier).isnan(), by_effect, numbers)
    return [[_NAMES[number] for number in row] for row in numbers.T.tolist()]


def origin_of(origins: Iterable[Origin]) -> Origin:
    """Return the one word for a neuron, of the origins on the sides where it is a PAN."""
    return min(origins, key=_FIRST.index)


def by_side(values: Tensor) -> list[dict[str, float]]:
    """Return the values (8 or 10 sides, channels) of each neuron by the name of the side, without NaN."""
    sides = ALL_SIDES if len(values) == len(ALL_SIDES) else SIDES
    return [
        {side: value for side, value in zip(sides, row, strict=True) if not math.isnan(value)}
        for row in values.T.tolist()
    ]
