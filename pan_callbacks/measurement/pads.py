"""What pads the input of a convolution: a module, or a call of ``F.pad``."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from pan_callbacks.layers import CalledPad, Pad, PadModule, dimensions, pad_mode, pad_modules, why_unpadded
from pan_callbacks.measurement.calls import LayerCall

#: What is said of a pad within a convolution that is not of what this receives: what a layer pads is to be that.
_NOT_OF_INPUT = ", of what its forward makes of its input"
#: How the text of a pad ends that the convolution calls itself.
_INSIDE = " in its forward"


def find_pad(pads: Mapping[str, PadModule], name: str) -> Pad | None:
    """Return what pads by its name in a report: a module, or a call of ``F.pad``; None if there is no such module.

    Args:
        pads: The model's pad modules, as :func:`~pan_callbacks.layers.pad_modules` gives them.
        name: Name of a module, or the text of a :class:`~pan_callbacks.layers.CalledPad`.

    Raises:
        ValueError: If the name begins like a call of ``F.pad`` and is none.

    Example:
        >>> find_pad({}, "F.pad((1, 1, 2, 2), 'constant', 0.0)")
        CalledPad(padding=(1, 1, 2, 2), mode='constant', value=0.0, inside=False)
    """
    if not name.startswith("F.pad("):
        return pads.get(name)
    try:
        call = name.removeprefix("F.pad").removesuffix(_INSIDE)
        padding, mode, value = ast.literal_eval(call)
        return CalledPad(tuple(map(int, padding)), str(mode), float(value), inside=name.endswith(_INSIDE))
    except (SyntaxError, TypeError, ValueError) as error:
        raise ValueError(f"{name!r} is no call of F.pad: {error}") from error


def name_of_pad(pad: Pad | None, names: Mapping[int, str]) -> str | None:
    """Return what stands in a report for what pads a layer: the inverse of :func:`find_pad`.

    Args:
        pad: A pad module, a call of ``F.pad``, or None.
        names: ``id`` of every pad module to its name.
    """
    return str(pad) if isinstance(pad, CalledPad) else names.get(id(pad))


class _Made(NamedTuple):
    """A tensor that was made by padding.

    Args:
        output: The tensor.
        pad: What padded, all that did so in a row.
        x: What was padded, by the first of them.
    """

    output: Tensor
    pad: Pad
    x: Tensor


class PadTracker:
    """Forward hook of all pad modules of a model: knows which of them made a tensor.

    It holds what they made while it is watching, so that no other tensor can be mistaken for it.
    """

    def __init__(self) -> None:
        self._watching = False
        self._made: list[_Made] = []
        self._convolved: Tensor | None = None
        # pads since the last convolution, and those before that one
        self._since: list[_Made] = []
        self._before: list[_Made] = []

    def attach(self, model: nn.Module) -> list[RemovableHandle]:
        """Put the hook on every pad module of a model; nothing is kept before :meth:`watch`."""
        return [pad.register_forward_hook(self) for pad in pad_modules(model).values()]

    def watch(self, on: bool = True) -> None:
        """Start or stop watching, and forget what was seen."""
        self._watching, self._made, self._convolved = on, [], None
        self._since, self._before = [], []

    @property
    def watching(self) -> bool:
        """Whether it is watching."""
        return self._watching

    def __call__(self, pad: PadModule, args: tuple[Any, ...], output: Tensor) -> None:
        """Is called by torch after the pad module's forward; changes nothing."""
        if self._watching:
            self.note(args[0] if args else output, pad, output)

    def note(self, x: Tensor, pad: Pad, output: Tensor) -> None:
        """Note what padded a tensor; if another pad made that one, both together did.

        Args:
            x: What was padded.
            pad: What padded it.
            output: What came out.
        """
        before = self._find(x)
        if before is None:
            both = pad
        else:
            both = _together(before.pad, pad) if any(pad.padding) else before.pad
            self._since = [made for made in self._since if made is not before]
        if max(both.padding) > 0:  # else it adds nothing
            self._made.append(_Made(output, both, x if before is None else before.x))
            self._since.append(self._made[-1])

    def note_pool(self, x: Tensor) -> None:
        """Note what was pooled: a pad before that feeds no convolution."""
        self._since = [made for made in self._since if made.output is not x]

    def note_convolution(self, x: Tensor) -> None:
        """Note what was convolved last, which a convolution may have padded in its own forward."""
        self._convolved, self._before, self._since = x, self._since, []

    def pad_of(self, call: LayerCall) -> Pad | None:
        """Return what padded the input of a call that ended just now, None if nothing did.

        That is what its input comes from directly, or what the convolution calls in its own forward.
        """
        convolved, self._convolved = self._convolved, None
        since, self._before, self._since = [*self._before, *self._since], [], []
        fed = None if call.given is None else self.maker(call.given, dimensions(call.conv))
        if fed is not None or why_unpadded(call.conv) is None:
            return fed
        made = None if convolved is None or convolved is call.given else self._find(convolved)
        if made is None:  # what was padded just before may be what came here, by a way that is not followed
            axes = 2 * dimensions(call.conv)
            wide = max(call.conv.kernel_size) > 1
            pads = [made.pad for made in since if wide and made.x is not call.given and any(made.pad.padding[:axes])]
            return _as_call(pads[-1], ", and something behind it") if pads else None
        return _as_call(made.pad, "" if made.x is call.given else _NOT_OF_INPUT, inside=True)

    def maker(self, x: Tensor, axes: int | None = None) -> Pad | None:
        """Return what made a tensor by padding another, None if nothing did.

        Args:
            x: The tensor.
            axes: In how many it may be padded, from the last one on: what pads channels, or images, does not count.
        """
        made = self._find(x)
        return None if made is None or axes is not None and any(made.pad.padding[2 * axes :]) else made.pad

    def _find(self, x: Tensor) -> _Made | None:
        return next((made for made in reversed(self._made) if made.output is x), None)

    def __getstate__(self) -> dict[str, Any]:
        """Give a copy of the module a hook that keeps nothing."""
        return {"_watching": False, "_made": [], "_convolved": None, "_since": [], "_before": []}


def _as_call(pad: Pad, but: str = "", inside: bool = False) -> CalledPad:
    """Return a pad as the call that does the same; one that is not understood, if something is to be said of it."""
    mode = pad_mode(pad).replace("zeros", "constant") + but
    return CalledPad(tuple(int(n) for n in pad.padding), mode, float(getattr(pad, "value", 0.0)), inside)


def _together(first: Pad, second: Pad) -> CalledPad:
    """Return the one pad that does what two in a row do, or one that is not understood if there is no such."""
    modes, values = [pad_mode(pad) for pad in (first, second)], [getattr(pad, "value", 0.0) for pad in (first, second)]
    length = max(len(first.padding), len(second.padding))
    both = [(*pad.padding, *(0,) * (length - len(pad.padding))) for pad in (first, second)]
    padding = tuple(int(a + b) for a, b in zip(*both, strict=True))
    same = modes == ["zeros", "zeros"] and values[0] == values[1]
    return CalledPad(padding, "constant" if same else f"{modes[0]}, then {modes[1]}", float(values[0]))
