"""What pads the input of a convolution, and convolutions that are no module: what hooks on layers do not show."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from pan_callbacks.layers import CalledPad, Convolution, Pad, PadModule, clean_name, dimensions, pad_mode, pad_modules
from pan_callbacks.measurement.calls import LayerCall
from pan_callbacks.measurement.code import names_in_code

_PADS: tuple[Callable[..., Any], ...] = (F.pad, torch._C._nn.pad)
#: Methods by which images enter; the steps are those of a LightningModule.
_METHODS = ("forward", "training_step", "validation_step", "test_step", "predict_step")
_PAD_NAMES = {"pad", "constant_pad_nd"}
_CONVOLUTIONS: tuple[Callable[..., Any], ...] = (torch.conv1d, torch.conv2d, torch.conv3d)


def find_pad(pads: Mapping[str, PadModule], name: str) -> Pad | None:
    """Return what pads by its name in a report: a module, or a call of ``F.pad``; None if there is no such module.

    Args:
        pads: The model's pad modules, as :func:`~pan_callbacks.layers.pad_modules` gives them.
        name: Name of a module, or the text of a :class:`~pan_callbacks.layers.CalledPad`.

    Raises:
        ValueError: If the name begins like a call of ``F.pad`` and is none.

    Example:
        >>> find_pad({}, "F.pad((1, 1, 2, 2), 'constant', 0.0)")
        CalledPad(padding=(1, 1, 2, 2), mode='constant', value=0.0)
    """
    if not name.startswith("F.pad("):
        return pads.get(name)
    try:
        padding, mode, value = ast.literal_eval(name.removeprefix("F.pad"))
        return CalledPad(tuple(map(int, padding)), str(mode), float(value))
    except (SyntaxError, TypeError, ValueError) as error:
        raise ValueError(f"{name!r} is no call of F.pad: {error}") from error


def name_of_pad(pad: Pad | None, names: Mapping[int, str]) -> str | None:
    """Return what stands in a report for what pads a layer: the inverse of :func:`find_pad`.

    Args:
        pad: A pad module, a call of ``F.pad``, or None.
        names: ``id`` of every pad module to its name.
    """
    return str(pad) if isinstance(pad, CalledPad) else names.get(id(pad))


class PadTracker:
    """Forward hook of all pad modules of a model: knows which of them made a tensor.

    It holds what they made while it is watching, so that no other tensor can be mistaken for it.
    """

    def __init__(self) -> None:
        self._watching = False
        self._made: list[tuple[Tensor, Pad]] = []

    def attach(self, model: nn.Module) -> list[RemovableHandle]:
        """Put the hook on every pad module of a model; nothing is kept before :meth:`watch`."""
        return [pad.register_forward_hook(self) for pad in pad_modules(model).values()]

    def watch(self, on: bool = True) -> None:
        """Start or stop watching, and forget what was seen."""
        self._watching, self._made = on, []

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
        before = self.maker(x)
        both = pad if before is None else _together(before, pad)
        if max(both.padding) > 0:  # else it adds nothing
            self._made.append((output, both))

    def pad_of(self, call: LayerCall) -> Pad | None:
        """Return what padded the input of a call, None if it does not come from a pad directly."""
        return None if call.given is None else self.maker(call.given, dimensions(call.conv))

    def maker(self, x: Tensor, axes: int | None = None) -> Pad | None:
        """Return what made a tensor by padding another, None if nothing did.

        Args:
            x: The tensor.
            axes: In how many it may be padded, from the last one on: what pads channels, or images, does not count.
        """
        pad = next((pad for made, pad in reversed(self._made) if made is x), None)
        return None if pad is None or axes is not None and any(pad.padding[2 * axes :]) else pad

    def __getstate__(self) -> dict[str, Any]:
        """Give a copy of the module a hook that keeps nothing."""
        return {"_watching": False, "_made": []}


def _together(first: Pad, second: Pad) -> CalledPad:
    """Return the one pad that does what two in a row do, or one that is not understood if there is no such."""
    modes, values = [pad_mode(pad) for pad in (first, second)], [getattr(pad, "value", 0.0) for pad in (first, second)]
    length = max(len(first.padding), len(second.padding))
    both = [(*pad.padding, *(0,) * (length - len(pad.padding))) for pad in (first, second)]
    padding = tuple(int(a + b) for a, b in zip(*both, strict=True))
    same = modes == ["zeros", "zeros"] and values[0] == values[1]
    return CalledPad(padding, "constant" if same else f"{modes[0]}, then {modes[1]}", float(values[0]))


def calls_what_is_no_module(module: nn.Module) -> bool:
    """Whether :func:`calls_pad`, or the code of a module's forward, or what that names, names ``F.conv2d`` or its kin.

    Example:
        >>> class Padded(nn.Sequential):
        ...     def forward(self, x):
        ...         return super().forward(F.pad(x, (1, 1, 1, 1)))
        >>> calls_what_is_no_module(Padded()), calls_what_is_no_module(nn.Sequential())
        (True, False)
    """
    return calls_pad(module) or not names_in_code(module).isdisjoint(function.__name__ for function in _CONVOLUTIONS)


def calls_pad(module: nn.Module) -> bool:
    """Whether the code of a module's forward, or of a LightningModule's steps, names ``F.pad`` or the like.

    A pad module, and a convolution, which pads by itself, are none of these.
    """
    if isinstance(module, (PadModule, Convolution, torch.jit.ScriptModule)):
        return False
    return not names_in_code(module, _METHODS).isdisjoint(_PAD_NAMES)


class PadWatch(TorchFunctionMode):
    """Sees calls of ``F.pad``, which no module shows.

    Args:
        pads: Is told of what pads.
    """

    def __init__(self, pads: PadTracker) -> None:
        super().__init__()
        self._pads = pads

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if func in _PADS:
            self._see_pad(output, *args, **kwargs)
        elif func is torch.constant_pad_nd:
            self._see_constant_pad(output, *args, **kwargs)
        return output

    def _see_constant_pad(self, output: Tensor, input: Tensor, pad: Any, value: Any = 0.0) -> None:
        self._see_pad(output, input, pad, value=value)

    def _see_pad(self, output: Tensor, input: Tensor, pad: Any, mode: str = "constant", value: Any = None) -> None:
        padding = tuple(int(n) for n in pad)
        while len(padding) > 2 and padding[-2:] == (0, 0):  # of images and channels, as a rule
            padding = padding[:-2]
        self._pads.note(input, CalledPad(padding, mode, float(value or 0.0)), output)


class CallWatch(PadWatch):
    """Sees, in one forward, what no module shows: calls of ``F.pad``, and of ``F.conv2d`` and its kin.

    Args:
        name: Name of the module that runs.
        module: The module.
        pads: Is told of what pads.
    """

    def __init__(self, name: str, module: nn.Module, pads: PadTracker) -> None:
        super().__init__(pads)
        self._names = {
            id(one): clean_name(".".join(filter(None, (name, path)))) for path, one in module.named_modules()
        }
        self._running: list[nn.Module] = []
        self._alone: Counter[tuple[str, str]] = Counter()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch what runs within."""
        handles = [
            register_module_forward_pre_hook(self._enter),
            register_module_forward_hook(self._leave, always_call=True),
        ]
        try:
            with self:
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, module: nn.Module, args: Any) -> None:
        self._running.append(module)

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._running:
            self._running.pop()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        output = super().__torch_function__(func, types, args, kwargs)
        if func in _CONVOLUTIONS:
            self._see_convolution(func.__name__, *args, **kwargs)
        return output

    def _see_convolution(
        self,
        name: str,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        if any(isinstance(module, Convolution) for module in self._running):
            return  # which is measured as a layer
        if isinstance(padding, str):
            own = padding == "same" and max(weight.shape[2:]) > 1
        else:
            own = any(padding) if isinstance(padding, (tuple, list)) else bool(padding)
        fed = self._pads.maker(input, weight.ndim - 2)
        if own or fed is not None and pad_mode(fed) == "zeros":
            inside = self._running[-1] if self._running else None
            where = self._names.get(id(inside), type(inside).__name__) or "the model"
            self._alone[name, where] += 1

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the report should know: calls that add values around an image and are no layers."""
        found = []
        for name in dict.fromkeys(name for name, _ in self._alone):
            places = [where for kind, where in self._alone if kind == name]
            calls = sum(self._alone[name, where] for where in places)
            some = ", ".join(places[:3]) + (", ..." if len(places) > 3 else "")
            have = "call of F.{} with padding in {} has" if calls == 1 else "calls of F.{} with padding in {} have"
            module = name.replace("conv", "Conv")
            found.append(f"{calls} {have.format(name, some)} no module that could be measured: use nn.{module}")
        return tuple(found)
