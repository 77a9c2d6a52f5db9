"""Networks whose padding aware neurons are known by construction, and images to look for them on.

One input channel is constant one. A kernel that takes its centre tap on that channel less another tap answers 0
wherever both read the image, and 1 where the other tap reads the zero padding: a border detector that no content can
sway. Two such differences multiplied, one along rows and one along columns, answer in one corner alone. Content comes
in through the centre tap, which never reads padding; a neuron with nothing but a centre tap is a distractor.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EDGES = ("top", "bottom", "left", "right")
CORNERS = ("top-left", "top-right", "bottom-left", "bottom-right")
SIDES = EDGES + CORNERS
CONTENT, ONES = slice(0, 3), 3  # channels of an image
CHANNELS = 4
DISTRACTORS = 8
STRENGTH = 2.0  # of a detector; the content adds less than 0.75 on either side

#: Where a detector fires, side by side, with its sign; where several meet (in a corner) they add up.
RECIPES: tuple[dict[str, int], ...] = (
    *({edge: sign} for edge in EDGES for sign in (1, -1)),
    *({corner: sign} for corner in CORNERS for sign in (1, -1)),
    {"top": 1, "left": 1},
    {"bottom": -1, "right": -1},
    {"top": 1, "bottom": 1},
    {"left": -1, "right": -1},
    {"top": 1, "bottom": 1, "left": 1, "right": 1},
    {"top": -1, "bottom": -1, "left": -1, "right": -1},
    {"top": 1, "left": -1},  # cancels in the corner where they meet
    {"top": 1, "top-left": -1, "top-right": -1},  # the edge without its corners
)
EDGE_RECIPES = tuple(recipe for recipe in RECIPES if all(part in EDGES for part in recipe))

Key = tuple[str, int]


@dataclass(frozen=True)
class Truth:
    """What a report must say of a planted neuron: its sides with their signs, and its origin."""

    signs: Mapping[str, int]
    origin: str = "nascent"

    @property
    def sides(self) -> frozenset[str]:
        return frozenset(self.signs)


@dataclass(frozen=True)
class Planted:
    """A network and what is known of it.

    Args:
        model: The network.
        truth: Its padding aware neurons.
        distractors: Neurons that read no padding at all, their own layer's or an earlier one's.
        sides: The sides that the map of each layer has.
    """

    model: nn.Module
    truth: Mapping[Key, Truth]
    distractors: tuple[Key, ...]
    sides: Mapping[str, frozenset[str]]


def _distractors(count: int, *layers: str) -> tuple[Key, ...]:
    """The channels after the detectors, in each of the layers."""
    return tuple((layer, count + i) for layer in layers for i in range(DISTRACTORS))


def reached(size: int, stride: int, reach: int) -> frozenset[str]:
    """Edges on which a tap ``reach`` positions off the centre reads padding, with padding of k // 2 all round."""
    last = (size - 1) // stride * stride  # input position under the centre tap of the last output
    return frozenset(EDGES if last + reach >= size else ("top", "left"))


def sides_of(edges: frozenset[str]) -> frozenset[str]:
    """Those edges, and the corners where two of them meet."""
    return frozenset(side for side in SIDES if edges.issuperset(side.split("-")))


def response(recipe: Mapping[str, int], side: str) -> int:
    """What a detector answers on a side, in units of its strength."""
    return sum(sign for part, sign in recipe.items() if set(part.split("-")) <= set(side.split("-")))


def truth_of(
    recipe: Mapping[str, int],
    origin: str = "nascent",
    edges: frozenset[str] = frozenset(EDGES),
    sides: frozenset[str] = frozenset(SIDES),
) -> Truth | None:
    """The truth about one detector; None if it never answers.

    Args:
        recipe: What it would detect.
        origin: Its origin.
        edges: Edges on which its taps read padding.
        sides: Sides that the map has: the edges on which any tap of the kernel reads padding, and their corners.
    """
    read = {part: sign for part, sign in recipe.items() if edges.issuperset(part.split("-"))}
    answers = {side: response(read, side) for side in sides}
    signs = {side: 1 if answer > 0 else -1 for side, answer in answers.items() if answer}
    return Truth(signs, origin) if signs else None


def truths(layer: str, recipes: Iterable[Mapping[str, int]], *args) -> dict[Key, Truth]:
    """:func:`truth_of` every recipe that answers at all; channel i of the layer follows recipe i."""
    told = {(layer, channel): truth_of(recipe, *args) for channel, recipe in enumerate(recipes)}
    return {key: truth for key, truth in told.items() if truth is not None}


def pattern(recipe: Mapping[str, int], kernel: int, reach: int) -> Tensor:
    """Kernel (k, k) that answers the recipe on a zero-padded channel of ones, and 0 inside."""
    centre = kernel // 2
    tap = {"top": centre - reach, "left": centre - reach, "bottom": centre + reach, "right": centre + reach}
    total = torch.zeros(kernel, kernel)
    for part, sign in recipe.items():
        rows, cols = torch.zeros(kernel), torch.zeros(kernel)
        rows[centre] = cols[centre] = 1.0
        for edge in part.split("-"):
            (rows if edge in ("top", "bottom") else cols)[tap[edge]] = -1.0
        total += sign * rows[:, None] * cols[None, :]
    return total


def lift(recipe: Mapping[str, int], strength: float) -> float:
    """Bias that keeps a detector's answers above 0, so that ReLU passes both signs."""
    return 1.0 - strength * min(0, *(response(recipe, side) for side in SIDES))


def _noise(*shape: int, seed: int, scale: float) -> Tensor:
    return scale * (2 * torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) - 1)


def _conv(inputs: int, outputs: int, kernel: int, mode: str = "zeros", dilation: int = 1, **kwargs) -> nn.Conv2d:
    options = {"padding": kernel // 2 * dilation, "dilation": dilation, "padding_mode": mode, **kwargs}
    conv = nn.Conv2d(inputs, outputs, kernel, **options)
    nn.init.zeros_(conv.weight)
    nn.init.constant_(conv.bias, 1.0)
    return conv.requires_grad_(False)


def detectors(
    kernel: int,
    reach: int | None = None,
    mode: str = "zeros",
    recipes: tuple[dict[str, int], ...] = RECIPES,
    strength: float = STRENGTH,
    stray: float = 0.0,
    **kwargs,
) -> nn.Conv2d:
    """A convolution with one detector for each recipe, and after them distractors.

    Args:
        kernel: Taps k; the padding is k // 2.
        reach: Distance from the centre of the tap that reads the padding; the outermost, k // 2, by default.
        mode: Padding mode.
        recipes: What to detect.
        strength: How strongly.
        stray: Content weights on all the taps of the detectors, beside those on the centre tap.
        kwargs: Stride, dilation and so on.
    """
    conv = _conv(CHANNELS, len(recipes) + DISTRACTORS, kernel, mode, **kwargs)
    centre = kernel // 2
    conv.weight[:, CONTENT, centre, centre] = _noise(conv.out_channels, 3, seed=kernel, scale=0.2)
    conv.weight[: len(recipes), CONTENT] += _noise(len(recipes), 3, kernel, kernel, seed=kernel + 1, scale=stray)
    for channel, recipe in enumerate(recipes):
        conv.weight[channel, ONES] = strength * pattern(recipe, kernel, reach or centre)
        conv.bias[channel] = lift(recipe, strength)
    return conv


def single(kernel: int, reach: int | None = None, stride: int = 1, size: int = 64, dilation: int = 1, **kwargs):
    """One layer of detectors, ``conv``, and distractors; kwargs as for :func:`detectors`.

    Where leftover padding keeps the far edges from being read, the last distractors use every tap that looks there.
    """
    conv = detectors(kernel, reach, stride=stride, dilation=dilation, **kwargs)
    centre = kernel // 2
    outermost = reached(size, stride, centre * dilation)
    if "bottom" not in outermost:
        conv.weight[-2:, :, centre:, centre:] = _noise(2, CHANNELS, *[kernel - centre] * 2, seed=7, scale=0.1)
    truth = truths("conv", RECIPES, "nascent", reached(size, stride, (reach or centre) * dilation), sides_of(outermost))
    model = nn.Sequential(OrderedDict(conv=conv))
    return Planted(model, truth, _distractors(len(RECIPES), "conv"), {"conv": sides_of(outermost)})


def depthwise(kernel: int, reach: int | None = None, stride: int = 1, size: int = 64, mode: str = "zeros") -> Planted:
    """A 1×1 layer that makes channels near one, ``spread``, and a depthwise layer of detectors on them, ``conv``."""
    channels = len(RECIPES) + DISTRACTORS
    spread = _conv(CHANNELS, channels, 1)
    spread.weight[:, CONTENT, 0, 0] = _noise(channels, 3, seed=3, scale=0.02)
    conv = _conv(channels, channels, kernel, mode, stride=stride, groups=channels)
    conv.weight[len(RECIPES) :, 0, kernel // 2, kernel // 2] = 1.0
    for channel, recipe in enumerate(RECIPES):
        conv.weight[channel, 0] = STRENGTH * pattern(recipe, kernel, reach or kernel // 2)
    sides = sides_of(reached(size, stride, kernel // 2))
    truth = truths("conv", RECIPES, "nascent", reached(size, stride, reach or kernel // 2), sides)
    model = nn.Sequential(OrderedDict(spread=spread, conv=conv))
    return Planted(model, truth, _distractors(len(RECIPES), "conv"), {"conv": sides})


def _copies(recipes: tuple[dict[str, int], ...], mode: str, strength: float) -> tuple[nn.Conv2d, list[dict[str, int]]]:
    """A layer of centre taps on :func:`detectors`, and what it copies: every other one upside down, content added."""
    conv = _conv(len(recipes) + DISTRACTORS, len(recipes) + DISTRACTORS, 3, mode)
    conv.weight[:, len(recipes) :, 1, 1] = _noise(conv.out_channels, DISTRACTORS, seed=11, scale=0.05)
    copies = []
    for channel, recipe in enumerate(recipes):
        sign = 1 if channel % 2 == 0 else -1
        copies.append({part: sign * value for part, value in recipe.items()})
        conv.weight[channel, channel, 1, 1] = sign
        conv.bias[channel] = lift(copies[-1], strength) - sign * lift(recipe, strength) + 1.0
    return conv, copies


def chain(kernel: int, mode: str = "zeros", between: nn.Module | None = None) -> Planted:
    """Detectors, ``first``; copies of them through centre taps, ``second``; and what follows from those, ``third``.

    The third layer copies the second, but for one channel that inherits the corner where two edges met (ReLU takes
    off what the edges alone bring), and one that inherits the top and detects the bottom itself.

    Args:
        kernel: Taps of the first layer.
        mode: Padding mode of all layers.
        between: A module after the first layer.
    """
    first = detectors(kernel, mode=mode)
    second, copies = _copies(RECIPES, mode, STRENGTH)
    meeting, constant = RECIPES.index({"top": 1, "left": 1}), len(RECIPES) + DISTRACTORS - 1
    assert meeting % 2 == 0  # copied the right way up
    second.bias[meeting] = -1.5 * STRENGTH - lift(RECIPES[meeting], STRENGTH)  # passes ReLU where both are read
    second.weight[constant] = 0.0  # a bias alone
    third = _conv(second.out_channels, second.out_channels, 3, mode)
    third.weight[:, len(RECIPES) : constant, 1, 1] = _noise(third.out_channels, DISTRACTORS - 1, seed=13, scale=0.05)
    third.weight[range(len(RECIPES)), range(len(RECIPES)), 1, 1] = 1.0
    third.weight[0, constant] = STRENGTH * pattern({"bottom": 1}, 3, 1)
    truth = truths("first", RECIPES) | truths("second", copies, "inherited") | truths("third", copies, "inherited")
    truth["third", meeting] = Truth({"top-left": 1}, "inherited")
    truth["third", 0] = truth_of({"top": 1, "bottom": 1})
    layers = OrderedDict(first=first, relu1=nn.ReLU())
    if between is not None:
        layers["between"] = between
    layers |= OrderedDict(second=second, relu2=nn.ReLU(), third=third)
    names = ("first", "second", "third")
    return Planted(
        nn.Sequential(layers), truth, _distractors(len(RECIPES), *names), dict.fromkeys(names, frozenset(SIDES))
    )


def pooled(pool: int, mode: str = "zeros") -> Planted:
    """Detectors, ``first``; then, on maps that are ``pool`` times smaller, copies of them, ``copy``, and ``own``.

    Of ``own`` every neuron is a detector again, on a channel that is constant by its bias.
    """
    strength = STRENGTH * pool  # an edge is one row in so many of those that a pool averages
    first = detectors(3, mode=mode, recipes=EDGE_RECIPES, strength=strength)
    first.weight[-1] = 0.0
    copy, copies = _copies(EDGE_RECIPES, mode, STRENGTH)
    for channel, recipe in enumerate(EDGE_RECIPES):
        copy.bias[channel] += (1 if channel % 2 == 0 else -1) * (lift(recipe, STRENGTH) - lift(recipe, strength))
    copy.weight[-1] = 0.0
    own = _conv(copy.out_channels, len(RECIPES) + DISTRACTORS, 3, mode)
    own.weight[:, len(EDGE_RECIPES) : -1, 1, 1] = _noise(own.out_channels, DISTRACTORS - 1, seed=17, scale=0.05)
    for channel, recipe in enumerate(RECIPES):
        own.weight[channel, -1] = STRENGTH * pattern(recipe, 3, 1)
    truth = truths("first", EDGE_RECIPES) | truths("copy", copies, "inherited") | truths("own", RECIPES)
    layers = OrderedDict(first=first, relu1=nn.ReLU(), pool=nn.AvgPool2d(pool), copy=copy, relu2=nn.ReLU(), own=own)
    distractors = _distractors(len(EDGE_RECIPES), "first", "copy") + _distractors(len(RECIPES), "own")
    return Planted(nn.Sequential(layers), truth, distractors, dict.fromkeys(("first", "copy", "own"), frozenset(SIDES)))


def blurred(kernel: int) -> Planted:
    """Detectors of edges, ``first``, and a layer ``blur`` that averages k taps across the edge each of them knows.

    The first layer answers 0 on average inside, so that the average's own padding changes nothing to speak of. The
    edge is seen in k // 2 rows more than the outermost.
    """
    recipes = tuple(
        recipe for recipe in EDGE_RECIPES if {*recipe} <= {"top", "bottom"} or {*recipe} <= {"left", "right"}
    )
    first = detectors(3, recipes=recipes, strength=STRENGTH * kernel)
    first.weight[:, ONES, 1, 1] -= first.weight[:, CONTENT, 1, 1].sum(1) / 2  # content of mean 1/2
    blur = _conv(first.out_channels, first.out_channels, kernel, groups=first.out_channels)
    for conv in (first, blur):
        nn.init.zeros_(conv.bias)
    centre = kernel // 2
    for channel, recipe in enumerate(recipes):
        vertical = not {"top", "bottom"}.isdisjoint(recipe)
        blur.weight[(channel, 0, slice(None), centre) if vertical else (channel, 0, centre)] = 1 / kernel
    blur.weight[len(recipes) :, 0, centre, centre] = 1.0
    truth = truths("first", recipes) | truths("blur", recipes, "inherited")
    model = nn.Sequential(OrderedDict(first=first, blur=blur))
    sides = dict.fromkeys(("first", "blur"), frozenset(SIDES))
    return Planted(model, truth, _distractors(len(recipes), *sides), sides)


class Residual(nn.Module):
    """Detectors; what a second layer makes of them, added to them; and a third layer behind the addition."""

    def __init__(self, first: nn.Conv2d, second: nn.Conv2d, third: nn.Conv2d) -> None:
        super().__init__()
        self.first, self.second, self.third, self.relu = first, second, third, nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.first(x))
        return self.third(self.relu(x + self.second(x)))


def residual(kernel: int = 3) -> Planted:
    """A residual path: a border of ``first`` reaches ``third`` through the addition, whatever ``second`` does.

    Every other channel of ``second`` copies the detector; the others are constant, and pass the border by. Two neurons
    of ``third`` detect an edge themselves, on a channel that is constant by its bias.
    """
    first = detectors(kernel)
    second = _conv(first.out_channels, first.out_channels, 3)
    copied = range(0, len(RECIPES), 2)
    second.weight[list(copied), list(copied), 1, 1] = 1.0
    first.weight[-1] = second.weight[-1] = 0.0  # a bias alone
    third = _conv(first.out_channels, first.out_channels, 3)
    third.weight[range(len(RECIPES)), range(len(RECIPES)), 1, 1] = 1.0
    third.weight[:, len(RECIPES) : -1, 1, 1] = _noise(third.out_channels, DISTRACTORS - 1, seed=13, scale=0.05)
    own = ({"left": 1}, {"bottom": -1})
    for channel, recipe in zip((-2, -1), own, strict=True):
        third.weight[channel] = 0.0
        third.weight[channel, -1] = STRENGTH * pattern(recipe, 3, 1)
    truth = truths("first", RECIPES)
    truth |= {key: one for key, one in truths("second", RECIPES, "inherited").items() if key[1] in copied}
    truth |= truths("third", RECIPES, "inherited")
    truth |= {
        ("third", third.out_channels + at): told for at, told in zip((-2, -1), map(truth_of, own), strict=True) if told
    }
    silent = tuple(("second", channel) for channel in range(1, len(RECIPES), 2))
    last = tuple(("third", len(RECIPES) + i) for i in range(DISTRACTORS - 2))
    distractors = _distractors(len(RECIPES), "first", "second") + silent + last
    layers = dict.fromkeys(("first", "second", "third"), frozenset(SIDES))
    return Planted(Residual(first, second, third), truth, distractors, layers)


class Twice(nn.Module):
    """One layer of detectors that is called on two maps in one forward."""

    def __init__(self, one: nn.Conv2d, other: nn.Conv2d, conv: nn.Conv2d) -> None:
        super().__init__()
        self.one, self.other, self.conv = one, other, conv

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.one(x)).relu() + self.conv(self.other(x)).relu()


def twice(kernel: int = 3) -> Planted:
    """Depthwise detectors, ``conv``, that are called twice in a forward."""
    single_call = depthwise(kernel)
    one, conv = single_call.model.spread, single_call.model.conv
    other = _conv(CHANNELS, one.out_channels, 1)
    other.weight[:, CONTENT, 0, 0] = _noise(one.out_channels, 3, seed=5, scale=0.03)
    return Planted(Twice(one, other, conv), single_call.truth, single_call.distractors, single_call.sides)


def spread_answers() -> Planted:
    """Neurons, 0 to 3, that answer an edge with their spread: they vary inside, and at one edge they are constant.

    The tap that looks over that edge reads the difference of two contents, of mean zero; there it reads zeros. Half of
    what they answer inside lies on either side of that constant, so that no threshold recognises it.
    """
    conv = _conv(CHANNELS, 4 + DISTRACTORS, 3)
    difference = torch.tensor([1.0, -1.0, 0.0])
    for channel, at in enumerate(((0, 1), (2, 1), (1, 0), (1, 2))):
        conv.weight[(channel, CONTENT, *at)] = difference
    conv.weight[4:, CONTENT, 1, 1] = _noise(DISTRACTORS, 3, seed=3, scale=0.2)
    distractors = tuple(("conv", 4 + i) for i in range(DISTRACTORS))
    return Planted(nn.Sequential(OrderedDict(conv=conv)), {}, distractors, {"conv": frozenset(SIDES)})


class GlobalGate(nn.Module):
    """Scales the map by a function of its mean, as squeeze-and-excite does: global context."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (1.0 + 0.1 * torch.tanh(x[:, -DISTRACTORS:].mean((1, 2, 3), keepdim=True)))


#: The edges at both ends of each axis, in the order in which tensors have the axes, by the number of dimensions.
ENDS = {
    1: (("left", "right"),),
    2: (("top", "bottom"), ("left", "right")),
    3: (("front", "back"), ("top", "bottom"), ("left", "right")),
}


def edges_of(dims: int) -> tuple[str, ...]:
    """Every edge of a map of so many dimensions."""
    return tuple(edge for ends in ENDS[dims] for edge in ends)


def recipes_of(dims: int) -> tuple[dict[str, int], ...]:
    """What to detect in so many dimensions: each edge with either sign, both ends of an axis, one end of each, all."""
    ends = ENDS[dims]
    return (
        *({edge: sign} for edge in edges_of(dims) for sign in (1, -1)),
        *({first: 1, last: 1} for first, last in ends),
        {first: 1 if i % 2 else -1 for i, (first, _) in enumerate(ends)},
        dict.fromkeys(edges_of(dims), 1),
        dict.fromkeys(edges_of(dims), -1),
    )


def _edge_pattern(recipe: Mapping[str, int], dims: int, kernel: int) -> Tensor:
    """Kernel of so many dimensions that answers the recipe on a zero-padded channel of ones, and 0 inside."""
    total, centre = torch.zeros((kernel,) * dims), (kernel // 2,) * dims
    for axis, ends in enumerate(ENDS[dims]):
        for edge, tap in zip(ends, (0, kernel - 1), strict=True):
            total[centre] += recipe.get(edge, 0)
            total[(*centre[:axis], tap, *centre[axis + 1 :])] -= recipe.get(edge, 0)
    return total


def line_or_solid(dims: int, kernel: int = 3, stride: int = 1, size: int = 24, padding: int | None = None) -> Planted:
    """Detectors of edges in 1, 2 or 3 dimensions, ``first``, and centre taps that copy them, ``second``.

    Args:
        dims: Number of dimensions.
        kernel: Taps on each axis of the first layer.
        stride: Stride of the first layer.
        size: Size of the images, which says what edges a stride reaches.
        padding: Padding of the first layer, kernel // 2 by default; if it is 0 something else has to pad.
    """
    make = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[dims]
    recipes, centre = recipes_of(dims), (slice(None), slice(None), *(kernel // 2,) * dims)
    first = make(CHANNELS, len(recipes) + DISTRACTORS, kernel, stride, kernel // 2 if padding is None else padding)
    second = make(first.out_channels, first.out_channels, 3, padding=1)
    for conv in (first, second):
        nn.init.zeros_(conv.weight)
        nn.init.constant_(conv.bias, 1.0)
        conv.requires_grad_(False)
    first.weight[centre][:, CONTENT] = _noise(first.out_channels, 3, seed=kernel, scale=0.2)
    taps = second.weight[(slice(None), slice(None), *(1,) * dims)]
    taps[:, len(recipes) :] = _noise(second.out_channels, DISTRACTORS, seed=11, scale=0.05)
    copies = []
    last = (size - 1) // stride * stride
    read = {edge for ends in ENDS[dims] for edge in (ends if last + kernel // 2 >= size else ends[:1])}
    for channel, recipe in enumerate(recipes):
        sign = 1 if channel % 2 == 0 else -1
        first.weight[channel, ONES] = STRENGTH * _edge_pattern(recipe, dims, kernel)
        first.bias[channel] = lift = 1.0 + STRENGTH * 2 * dims  # above 0 wherever several meet
        taps[channel, channel] = sign
        second.bias[channel] = 1.0 if sign == 1 else 1.0 + 2 * lift
        copies.append({edge: sign * value for edge, value in recipe.items()})

    def told(layer: str, of: Iterable[Mapping[str, int]], origin: str) -> dict[Key, Truth]:
        signs = ({edge: sign for edge, sign in recipe.items() if edge in read} for recipe in of)
        return {(layer, i): Truth(one, origin) for i, one in enumerate(signs) if one}

    truth = told("first", recipes, "nascent") | told("second", copies, "inherited")
    model = nn.Sequential(OrderedDict(first=first, relu=nn.ReLU(), second=second))
    sides = {"first": frozenset(read), "second": frozenset(edges_of(dims))}
    return Planted(model, truth, _distractors(len(recipes), "first", "second"), sides)


def content_of(dims: int, images: int, size: int, positional: bool = False, seed: int = 0) -> Tensor:
    """Noise in so many dimensions, on a slope and within a frame if it is positional, and the channel of ones."""
    noise = _noise(images, 3, *(size,) * dims, seed=seed, scale=0.1 if positional else 0.3)
    content = 0.5 + noise
    if positional:
        for axis in range(dims):
            across = torch.linspace(-1, 1, size).view(-1, *(1,) * (dims - 1 - axis))
            content = content - 0.1 * across + 0.2 * (across.abs() > 1 - 4 / size)
    light = _noise(images, 3, *(1,) * dims, seed=seed + 1, scale=0.1)
    return torch.cat([(content + light).clamp(0, 1), torch.ones_like(content[:, :1])], 1)


def stationary(images: int, size: int, seed: int = 0) -> Tensor:
    """Textures and noise in [0, 1] that look alike at every position, and the channel of ones."""
    noise = _noise(images, 3, size + 4, size + 4, seed=seed, scale=1.0)
    share = torch.rand(images, 1, 1, 1, generator=torch.Generator().manual_seed(seed))
    texture = share * 2 * F.avg_pool2d(noise, 5, stride=1) + (1 - share) * noise[..., 2:-2, 2:-2]
    return _photograph(0.5 + 0.3 * texture, seed)


def positional(images: int, size: int, seed: int = 0) -> Tensor:
    """A bright sky above dark ground, an object in the middle, a frame around, noise; and the channel of ones."""
    across = torch.linspace(-1, 1, size)
    rows, cols = across[:, None], across[None, :]
    scene = (0.5 - 0.25 * rows).expand(size, size).clone()
    scene[rows.square() + cols.square() < 0.3] = 0.2
    scene[torch.maximum(rows.abs(), cols.abs()) > 1 - 8 / size] = 0.8
    return _photograph(scene + _noise(images, 3, size, size, seed=seed, scale=0.1), seed)


def _photograph(content: Tensor, seed: int) -> Tensor:
    """The content under a light of another colour and brightness for each image, and the channel of ones."""
    light = _noise(len(content), 3, 1, 1, seed=seed + 1, scale=0.1)
    return torch.cat([(content + light).clamp(0, 1), torch.ones_like(content[:, :1])], 1)
