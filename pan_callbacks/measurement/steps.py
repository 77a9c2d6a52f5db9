"""What is made of a map by mapping its readings one by one: calls that are repeated on readings, and checked for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

#: Positions of a map on which a step is checked, evenly spread.
_POSITIONS = 1024
#: Made-up readings beside them: on those of one image much is elementwise that is not (all zeros, a single position).
_MADE_UP = 16
#: Part of the largest value that counts as rounding, for maps of float32.
_ROUNDING = 1e-4


@dataclass(frozen=True)
class Slot:
    """Stands for the readings (0), or for the result of a step (from 1 on), among the arguments of a step."""

    number: int


@dataclass(frozen=True, eq=False)
class Constant:
    """A tensor among the arguments of a step that does not depend on the image.

    Args:
        value: A copy of it, nobody else's.
        name: Name of the parameter or buffer that it is; None for what was computed of some.
    """

    value: Tensor
    name: str | None = None

    def of(self, weights: Mapping[str, Tensor]) -> Constant:
        """Return the same parameter or buffer as it is now, among those of the model by name."""
        return self if self.name is None else Constant(copied(weights[self.name]), self.name)


@dataclass(frozen=True, eq=False)
class Step:
    """One call of a function of torch that maps the readings of each channel one by one.

    Args:
        name: Name of the function.
        function: The function.
        args: Its arguments, with slots for readings and for results of earlier steps, and constants.
        kwargs: Likewise.
    """

    name: str
    function: Callable[..., Any] = field(repr=False)
    args: tuple[Any, ...] = field(repr=False)
    kwargs: dict[str, Any] = field(repr=False)

    def __call__(self, values: Mapping[int, Tensor], axes: int) -> Tensor:
        """Repeat the call in float32, and return (n, channels); nothing that is given is written into.

        Args:
            values: What belongs into the slots, (n, channels).
            axes: Number of axes of a position.
        """
        maps = {number: value[:, :, None] for number, value in values.items()}  # of one position
        return self.on_maps(maps, axes).flatten(1)

    def on_maps(self, values: Mapping[int, Tensor], axes: int) -> Tensor:
        """Do the same with maps (images, channels, positions) in place of readings."""
        device = next(iter(values.values())).device

        def filled(leaf: Any) -> Any:
            if isinstance(leaf, Slot):
                return values[leaf.number].clone()[(..., *(None,) * (axes - 1))]
            return leaf.value.to(device, copy=True) if isinstance(leaf, Constant) else leaf

        args, kwargs = mapped((self.args, self.kwargs), filled)
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            made: Tensor = self.function(*args, **kwargs)
        return in_float32(made).flatten(2)

    def of(self, weights: Mapping[str, Tensor]) -> Step:
        """Return the step with weights as they are now, by name."""
        change = mapped((self.args, self.kwargs), lambda leaf: leaf.of(weights) if isinstance(leaf, Constant) else leaf)
        return Step(self.name, self.function, *change)

    @property
    def constants(self) -> list[Constant]:
        """The constants among its arguments."""
        found: list[Constant] = []
        mapped((self.args, self.kwargs), lambda leaf: found.append(leaf) if isinstance(leaf, Constant) else None)
        return found

    def renumbered(self, order: Mapping[int, int]) -> Step:
        """Return the step with other numbers in its slots.

        Args:
            order: Old number to new one.
        """
        change = mapped((self.args, self.kwargs), lambda leaf: Slot(order[leaf.number]) if type(leaf) is Slot else leaf)
        return Step(self.name, self.function, *change)


@dataclass(eq=False)
class Node:
    """A value that is made elementwise of the map of a site.

    Args:
        track: What it belongs to.
        number: 0 for the map itself.
        step: What made it, None for the map itself.
        of: Numbers of the values that it was made of.
        makes: Numbers of those that are made of it.
        stops: What else it is used for, each a reason why the tail goes no further.
    """

    track: Track
    number: int
    step: Step | None
    of: set[int]
    makes: set[int] = field(default_factory=set)
    stops: list[str] = field(default_factory=list)


class Live(NamedTuple):
    """What a tensor holds now: a value, and some of its readings (n, channels), the made-up ones last."""

    node: Node
    rows: Tensor

    def is_in(self, x: Tensor) -> bool:
        """Whether a tensor still holds it."""
        return torch.equal(self.node.track.readings(x).nan_to_num(), self.rows[:-_MADE_UP].nan_to_num())


class Track:
    """What is known of what follows a site: values in the order in which they were made, and how they are used.

    Args:
        shape: Shape of its map.
        axes: Number of axes of a position.
    """

    def __init__(self, shape: torch.Size, axes: int) -> None:
        self.shape, self.axes, self.nodes = shape, axes, list[Node]()

    def begin(self, x: Tensor) -> Live:
        """Return what the map itself holds."""
        rows = self.readings(x)
        waves = torch.arange(1, 1 + _MADE_UP * rows.shape[1], device=x.device).sin().view(_MADE_UP, -1)
        self.nodes.append(Node(self, 0, None, set()))
        return Live(self.nodes[0], torch.cat([rows, waves * (_largest(rows) or 1.0)]))

    def grow(self, step: Step, used: list[Live], x: Tensor) -> Live | str:
        """Return what a step made of values, or why it cannot be repeated on readings.

        Args:
            step: The step.
            used: What it was given.
            x: The tensor that it gave.
        """
        rows = _repeated(step, {live.node.number: live.rows for live in used}, self.readings(x), x.dtype, self.axes)
        if isinstance(rows, str):
            return rows
        node = Node(self, len(self.nodes), step, {live.node.number for live in used})
        for live in used:
            live.node.makes.add(node.number)
        self.nodes.append(node)
        return Live(node, rows)

    def readings(self, x: Tensor) -> Tensor:
        """Return what some positions of a map hold, (n, channels)."""
        x = x.detach().flatten(-self.axes).movedim(-2, -1).flatten(0, -2)
        spread = torch.linspace(0, len(x) - 1, min(len(x), _POSITIONS), dtype=torch.float64)
        return in_float32(x[spread.round().long().to(x.device)])

    def path(self) -> tuple[tuple[Step, ...], str]:
        """Return the steps to the last value that all uses of the map lead through, and what comes then."""
        used = self._used()
        if not used:
            return (), "nothing that could be watched"
        end, reach = self.nodes[0], 0.0  # reach: how far values lead past others, by a use of their own
        for number, node in used.items():
            end = node if number >= reach else end
            reach = max(reach, *node.makes & used.keys(), float("inf") if node.stops else 0)
        ways = [*end.stops, *("" for number in end.makes if number in used)]
        needed = {end.number}
        for node in reversed(self.nodes[: end.number + 1]):
            needed |= node.of if node.number in needed else set()
        order = {number: place for place, number in enumerate(sorted(needed | {0}))}
        steps = (self.nodes[number].step for number in order)
        moved = tuple(step.renumbered(order) for step in steps if step is not None)
        return moved, ways[0] if len(ways) == 1 else "several consumers"

    def _used(self) -> dict[int, Node]:
        """Return the values that lead somewhere; what becomes of the others nobody sees."""
        used: set[int] = set()
        for node in reversed(self.nodes):
            used |= {node.number} if node.stops or node.makes & used else set()
        return {number: self.nodes[number] for number in sorted(used)}


def _repeated(step: Step, values: Mapping[int, Tensor], actual: Tensor, dtype: torch.dtype, axes: int) -> Tensor | str:
    """Return what a step makes of readings, those of the map as they came out; or why it cannot be repeated on them.

    Args:
        step: The step.
        values: Readings of what it was given, (n, channels), the made-up ones last.
        actual: Those of what it gave, without any for the made-up ones.
        dtype: Type of the map that it gave.
        axes: Number of axes of a position.
    """
    (n, channels), real = next(iter(values.values())).shape, len(actual)
    if real > 1 and all(bool((rows[:real] == rows[0]).all()) for rows in values.values()):
        return "cannot be checked on a map that is the same everywhere"
    # each channel is given the readings of other positions, and half of them are left out: what maps them one by one
    # does not care
    order = (torch.arange(n // 2)[:, None] + torch.arange(channels)).remainder(n).to(actual.device)
    before = _random_state(actual.device)
    try:
        made = step(values, axes)
        again = step({number: rows.gather(0, order) for number, rows in values.items()}, axes)
    except Exception:  # it does not take a map of one position
        return "not elementwise"
    if not torch.equal(before, _random_state(actual.device)):
        return "random"
    rounding = max(_ROUNDING, 4 * torch.finfo(dtype).eps if dtype.is_floating_point else 0)
    if made.shape != (n, channels) or not _close(made[:real], actual, rounding):
        return "not elementwise"
    if not _close(again, made.gather(0, order), _ROUNDING):
        return "not elementwise"
    return torch.cat([actual, made[real:]])


def _close(given: Tensor, expected: Tensor, rounding: float) -> bool:
    given, expected = given.float(), expected.float()
    return torch.allclose(given, expected, 0, rounding * _largest(expected), equal_nan=True)


def _largest(x: Tensor) -> float:
    return float(x.nan_to_num(posinf=0, neginf=0).abs().max())


def _random_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return arguments with what is in them changed, in tuples, lists and dicts, too.

    Example:
        >>> mapped({"a": [1, 2]}, lambda leaf: leaf + 1)
        {'a': [2, 3]}
    """
    if isinstance(value, dict):
        return {key: mapped(item, change) for key, item in value.items()}
    if type(value) in (tuple, list):
        return type(value)(mapped(item, change) for item in value)
    return change(value)


def in_float32(x: Tensor) -> Tensor:
    """Return a tensor of floats in float32, any other (a mask, a place) as it is."""
    return x.float() if x.is_floating_point() else x


def copied(x: Tensor) -> Tensor:
    """Return a tensor as steps keep it."""
    with torch.inference_mode(False):
        return in_float32(x.detach().clone())


def tensors_in(value: Any) -> list[Tensor]:
    """Return the tensors among arguments."""
    found: list[Tensor] = []
    mapped(value, lambda leaf: found.append(leaf) if isinstance(leaf, Tensor) else None)
    return found
