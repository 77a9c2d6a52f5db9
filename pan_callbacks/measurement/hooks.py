"""Hook objects: attached, gated and detached in one place; and the quiet state in which somebody else's model is run.

A hook hands what passes by to a listener, if one is set, and does nothing else: with no listener it costs one attribute
check. It holds no tensor, no module and no trainer, so that models stay picklable and copyable with hooks attached.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ParamSpec

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.hooks import RemovableHandle

from pan_callbacks.layers import Convolution, Reason, Skip
from pan_callbacks.measurement.calls import EntryCall, LayerCall, Listener, StopForward, why_no_map
from pan_callbacks.measurement.transforms import is_transformed, untransformed
from pan_callbacks.measurement.undisturbed import random_states_kept

P = ParamSpec("P")

#: Where a module keeps its forward hooks.
FORWARD_HOOKS = ("_forward_pre_hooks", "_forward_hooks")


class ReplacingHook(ABC):
    """Base of forward hooks that replace channels of a convolution's output, so that a measurement knows of them."""

    @abstractmethod
    def __call__(
        self, conv: Convolution, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
    ) -> Tensor | None:
        """Is called by torch after the convolution's forward."""

    def attach(self, conv: Convolution) -> RemovableHandle:
        """Put the hook on a convolution, before all other hooks, which are to see what the network sees."""
        return conv.register_forward_hook(self, with_kwargs=True, prepend=True)

    @property
    def replaced(self) -> Tensor | None:
        """The channels that are replaced now, None if none are."""
        return None

    @property
    def padding_left(self) -> float:
        """How much of the layer's own padding remains in the channels that are not replaced."""
        return 1.0


def replaced_channels(conv: nn.Module, but: ReplacingHook | None = None) -> Tensor | None:
    """Return the output channels of a convolution that a hook replaces now, None if none are.

    Args:
        conv: The convolution.
        but: A hook that does not count.
    """
    hooks: list[object] = list(conv._forward_hooks.values())
    found = (hook.replaced for hook in hooks if isinstance(hook, ReplacingHook) and hook is not but)
    return next((channels for channels in found if channels is not None), None)


def padding_left(conv: nn.Module) -> float:
    """Return how much of a convolution's own padding remains in the channels that no hook replaces, 1 for all of it."""
    hooks: list[object] = list(conv._forward_hooks.values())
    return math.prod(hook.padding_left for hook in hooks if isinstance(hook, ReplacingHook))


class LayerProbe:
    """Forward hook of one layer.

    Args:
        name: Name of the layer.

    Attributes:
        listener: Is called with what passes; None for nobody.
        no_map: Why the last call was none of a map, and nobody was told; None if it was.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.listener: Listener | None = None
        self.no_map: str | None = None

    def __call__(self, conv: Convolution, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
        """Is called by torch after the layer's forward; changes nothing."""
        if self.listener is not None:
            self._tell(conv, args, kwargs, output)

    # what listens is another in each forward, and a compiled model would be compiled anew for each of them
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _tell(self, conv: Convolution, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
        self.no_map = why_no_map(conv, args, kwargs, output)
        if self.no_map is not None:
            return
        call: LayerCall | None = LayerCall.of(conv, args, kwargs, output)
        if is_transformed(output):
            call = untransformed(call) if call is not None else None
        if call is None:
            self.no_map = "it runs under a transform of torch.func that its map cannot leave"
        elif len(call.output) == 0:
            self.no_map = "no images in the batch"
        elif self.listener is not None:
            self.listener(self.name, call)

    def __getstate__(self) -> dict[str, Any]:
        """Give a copy of the module a hook that listens to nobody."""
        return {"name": self.name, "listener": None, "no_map": None}


class EntryProbe:
    """Forward pre-hook and hook of a module that images may enter by."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.entered: Callable[[EntryCall], None] | None = None
        self.left: Callable[[EntryCall], None] | None = None

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Is called by torch before the module's forward."""
        if self.entered is not None:
            _hand(self.entered, self.name, module, args, kwargs)

    def after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: object) -> None:
        """Is called by torch after the module's forward."""
        if self.left is not None:
            _hand(self.left, self.name, module, args, kwargs)

    def __getstate__(self) -> dict[str, Any]:
        """Give a copy of the module a hook that listens to nobody."""
        return {"name": self.name, "entered": None, "left": None}


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _hand(to: Callable[[EntryCall], None], *of_call: Any) -> None:
    to(EntryCall(*of_call))


class Probes:
    """The hooks of one measurement on one model.

    Args:
        layers: Layers to listen to, by name.
        entries: Modules that images may enter by, by name, the outermost first.

    Attributes:
        watched: Whether calls that are no module's are watched while a forward is traced.
    """

    def __init__(self, layers: Mapping[str, nn.Module], entries: Mapping[str, nn.Module]) -> None:
        self.layers = {name: LayerProbe(name) for name in layers}
        self.entries = {name: EntryProbe(name) for name in entries}
        self.layer_modules, self.entry_modules = dict(layers), dict(entries)
        self._handles: list[RemovableHandle] = []
        self.watched = True

    @property
    def without_map(self) -> dict[str, Reason]:
        """Layer name to the reason why its last call was none of a map, for those of which it was not."""
        found = {name: probe.no_map for name, probe in self.layers.items()}
        return {name: Skip.NO_MAP.because(why=why) for name, why in found.items() if why is not None}

    @property
    def attached(self) -> bool:
        """Whether the hooks are on the model."""
        return bool(self._handles)

    def attach(self) -> None:
        """Put the hooks on the model; do nothing if they are there."""
        if self._handles:
            return
        for name, probe in self.layers.items():
            self._handles.append(self.layer_modules[name].register_forward_hook(probe, with_kwargs=True))
        for name, entry in self.entries.items():
            self._handles.append(self.entry_modules[name].register_forward_pre_hook(entry.before, with_kwargs=True))
            self._handles.append(self.entry_modules[name].register_forward_hook(entry.after, with_kwargs=True))

    def detach(self) -> None:
        """Take the hooks off the model; do nothing if they are off."""
        self.mute()
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def listen(self, listener: Listener | None, names: Collection[str] | None = None) -> None:
        """Set the listener of the named layers, of all by default, and silence all others."""
        for name, probe in self.layers.items():
            probe.listener = listener if names is None or name in names else None

    def mute(self) -> None:
        """Silence every hook."""
        self.listen(None)
        for entry in self.entries.values():
            entry.entered = entry.left = None


@contextmanager
def quietly(model: nn.Module) -> Iterator[None]:
    """Run a model of somebody else without a trace: no gradients, random states and module modes as they were.

    The model is in evaluation mode meanwhile, so that no statistic of a normalisation layer moves.
    """
    modes = [(module, module.training) for module in model.modules()]
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    with random_states_kept(devices), torch.no_grad():
        try:
            for module, training in modes:
                if training:
                    module.training = False  # not .eval(), which a model may have overridden
            yield
        finally:
            for module, training in modes:
                module.training = training


def guarded(function: Callable[P, None], failed: Callable[[BaseException], None]) -> Callable[P, None]:
    """Return a function that hands its errors to somebody: they are ours, and must not end the user's run."""

    def call(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            function(*args, **kwargs)
        except (StopForward, KeyboardInterrupt):
            raise
        except BaseException as error:  # whatever it is
            failed(error)

    return call


def is_ours(hook: object) -> bool:
    """Whether a hook is one of this package's."""
    return home_of(hook).startswith("pan_callbacks.")


def belongs(hook: object) -> bool:
    """Whether a hook is part of what a module computes: a mask of ours, or torch's own (weight norm, pruning)."""
    return isinstance(hook, ReplacingHook) or home_of(hook).startswith("torch.")


def home_of(hook: object) -> str:
    """Return the module that a hook, or its class, was written in, with a dot behind it."""
    return str(getattr(hook, "__module__", None) or type(hook).__module__) + "."


@contextmanager
def own_hooks_alone(model: nn.Module) -> Iterator[None]:
    """Take away all forward hooks of a model but those that are part of what it computes."""
    kept = [(module, name, vars(module)[name]) for module in model.modules() for name in FORWARD_HOOKS]
    try:
        for module, name, table in kept:
            vars(module)[name] = OrderedDict((key, hook) for key, hook in table.items() if belongs(hook))
        yield
    finally:
        for module, name, table in kept:
            vars(module)[name] = table


@contextmanager
def global_state_off() -> Iterator[None]:
    """Take away the forward hooks that somebody put on all modules there are, and the kernels that torch keeps.

    ``parametrize.cached()`` keeps them by the numbers of the originals, also of what a copy computes.
    """
    tables = [getattr(nn.modules.module, f"_global{name}") for name in FORWARD_HOOKS]
    kept = [dict(table) for table in tables]
    kernels: Any = parametrize  # these variables are no part of its interface
    cached = kernels._cache_enabled, kernels._cache
    try:
        kernels._cache_enabled, kernels._cache = 0, {}
        for table in tables:
            table.clear()
        yield
    finally:
        kernels._cache_enabled, kernels._cache = cached
        for table, hooks in zip(tables, kept, strict=True):
            table.update(hooks)
