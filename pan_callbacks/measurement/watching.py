"""Calls of ``F.pad``, and of ``F.conv2d`` and its kin, which no module shows: found in code, and seen in a forward."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

from pan_callbacks.layers import CalledPad, Convolution, PadModule, clean_name, pad_mode, pads_inside
from pan_callbacks.measurement.code import names_in_code
from pan_callbacks.measurement.pads import PadTracker

_PADS: tuple[Callable[..., Any], ...] = (F.pad, torch._C._nn.pad)
#: Methods by which images enter; the steps are those of a LightningModule.
_METHODS = ("forward", "training_step", "validation_step", "test_step", "predict_step")
_PAD_NAMES = {"pad", "constant_pad_nd"}
_CONVOLUTIONS: tuple[Callable[..., Any], ...] = (torch.conv1d, torch.conv2d, torch.conv3d)
#: What convolves by other names, to the place and name of the argument that says how it pads.
_OTHERS: dict[Callable[..., Any], int] = {
    torch.convolution: 4,
    torch.conv_transpose1d: 4,
    torch.conv_transpose2d: 4,
    torch.conv_transpose3d: 4,
    F.unfold: 3,
}
_OWN_FORWARDS = (nn.Conv1d.forward, nn.Conv2d.forward, nn.Conv3d.forward)


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

    A pad module is none of these, and a convolution only if its class has a forward of its own; that may as well call
    a pad module that it holds.
    """
    if isinstance(module, Convolution) and (type(module).forward in _OWN_FORWARDS or pads_inside(module)):
        return False
    if isinstance(module, (PadModule, torch.jit.ScriptModule)):
        return False
    if isinstance(module, Convolution) and any(isinstance(one, PadModule) for one in module.modules()):
        return True
    return not names_in_code(module, _METHODS).isdisjoint(_PAD_NAMES)


class PadWatch(TorchFunctionMode):
    """Sees calls of ``F.pad``, which no module shows.

    Args:
        pads: Is told of what pads.

    Attributes:
        resting: Whether to look at nothing: what runs is code of ours.
    """

    def __init__(self, pads: PadTracker) -> None:
        super().__init__()
        self._pads, self.resting = pads, False

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if not self.resting:
            self._see(func, args, kwargs, output)
        return output

    def _see(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if func in _PADS:
            self._see_pad(output, *args, **kwargs)
        elif func is torch.constant_pad_nd:
            self._see_constant_pad(output, *args, **kwargs)
        elif func in _CONVOLUTIONS:
            self._pads.note_convolution(args[0] if args else kwargs["input"])
        elif "pool" in getattr(func, "__name__", ""):
            self._pads.note_pool(args[0] if args else kwargs["input"])

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
        above = "" if name.endswith("()") else name  # the step of a module, and none of its parts
        self._names = {
            id(one): clean_name(".".join(filter(None, (above, path)))) for path, one in module.named_modules()
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

    def _see(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        super()._see(func, args, kwargs, output)
        if func in _CONVOLUTIONS:
            self._see_convolution(func.__name__, *args, **kwargs)
        elif func in _OTHERS and self._running_layer is None:
            padding = args[_OTHERS[func]] if len(args) > _OTHERS[func] else kwargs.get("padding", 0)
            if "transpose" in func.__name__ or torch.as_tensor(padding).any():
                self._note(func.__name__)

    @property
    def _running_layer(self) -> nn.Module | None:
        """The convolution that runs and is a module, which a report has a line for; None if none does."""
        kinds = (Convolution, nn.modules.conv._ConvTransposeNd)
        return next((module for module in self._running if isinstance(module, kinds)), None)

    def _note(self, name: str) -> None:
        inside = self._running[-1] if self._running else None
        where = "the step" if inside is None else self._names.get(id(inside), type(inside).__name__) or "the model"
        self._alone[name, where] += 1

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
        if self._running_layer is not None:
            return
        if isinstance(padding, str):
            own = padding == "same" and max(weight.shape[2:]) > 1
        else:
            own = any(padding) if isinstance(padding, (tuple, list)) else bool(padding)
        fed = self._pads.maker(input, weight.ndim - 2)
        if own or fed is not None and pad_mode(fed) == "zeros":
            self._note(name)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the report should know: calls that add values around an image and are no layers."""
        found = []
        for name in dict.fromkeys(name for name, _ in self._alone):
            places = [where for kind, where in self._alone if kind == name]
            calls = sum(self._alone[name, where] for where in places)
            some = ", ".join(places[:3]) + (", ..." if len(places) > 3 else "")
            called = "torch.convolution" if name == "convolution" else f"F.{name}"
            what = called if "transpose" in name else f"{called} with padding"
            noun, verb = ("call", "has") if calls == 1 else ("calls", "have")
            module = f": use nn.{name.replace('conv', 'Conv')}" if name in ("conv1d", "conv2d", "conv3d") else ""
            found.append(f"{calls} {noun} of {what} in {some} {verb} no module that could be measured{module}")
        return tuple(found)
