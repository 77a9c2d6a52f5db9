"""Hook objects: attached, gated and detached in one place; and the quiet state in which somebody else's model is run.

A hook hands what passes by to a listener, if one is set, and does nothing else: with no listener it costs one attribute
check. It holds no tensor, no module and no trainer, so that models stay picklable and copyable with hooks attached.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from pan_callbacks.layers import clean_name
from pan_callbacks.measurement.calls import EntryCall, LayerCall, Listener


class ReplacingHook:
    """Base of forward hooks that replace channels of a convolution's output, so that a measurement knows of them."""

    @property
    def replaced(self) -> Tensor | None:
        """The channels that are replaced now, None if none are."""
        return None


def replaced_channels(conv: nn.Module) -> Tensor | None:
    """Return the output channels of a convolution that a hook replaces now, None if none are."""
    hooks: list[object] = list(conv._forward_hooks.values())
    found = (hook.replaced for hook in hooks if isinstance(hook, ReplacingHook))
    return next((channels for channels in found if channels is not None), None)


class LayerProbe:
    """Forward hook of one layer.

    Args:
        name: Name of the layer.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.listener: Listener | None = None

    def __call__(self, conv: nn.Conv2d, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
        """Is called by torch after the layer's forward; changes nothing."""
        if self.listener is not None:
            self.listener(self.name, LayerCall.of(conv, args, kwargs, output))

    def __getstate__(self) -> dict[str, Any]:
        """Give a copy of the module a hook that listens to nobody."""
        return {"name": self.name, "listener": None}


class EntryProbe:
    """Forward pre-hook and hook of a module that images may enter by."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.entered: Callable[[EntryCall], None] | None = None
        self.left: Callable[[EntryCall], None] | None = None

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Is called by torch before the module's forward."""
        if self.entered is not None:
            self.entered(EntryCall(self.name, module, args, kwargs))

    def after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: object) -> None:
        """Is called by torch after the module's forward."""
        if self.left is not None:
            self.left(EntryCall(self.name, module, args, kwargs))

    def __getstate__(self) -> dict[str, Any]:
        """Give a copy of the module a hook that listens to nobody."""
        return {"name": self.name, "entered": None, "left": None}


class Probes:
    """The hooks of one measurement on one model.

    Args:
        layers: Layers to listen to, by name.
        entries: Modules that images may enter by, by name, the outermost first.
    """

    def __init__(self, layers: Mapping[str, nn.Module], entries: Mapping[str, nn.Module]) -> None:
        self.layers = {name: LayerProbe(name) for name in layers}
        self.entries = {name: EntryProbe(name) for name in entries}
        self.layer_modules, self.entry_modules = dict(layers), dict(entries)
        self.ours = False  # whether the forward that runs now is one of ours
        self._handles: list[RemovableHandle] = []

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
    def running(self, module: nn.Module) -> Iterator[None]:
        """Run a module for us: without a trace, and without being taken for the user's forward.

        Every forward of ours is run within this: the place to run a copy of the user's module in its stead.
        """
        self.ours = True
        try:
            with quietly(module):
                yield
        finally:
            self.listen(None)
            self.ours = False


@contextmanager
def quietly(model: nn.Module) -> Iterator[None]:
    """Run a model of somebody else without a trace: no gradients, random states and module modes as they were.

    The model is in evaluation mode meanwhile, so that no statistic of a normalisation layer moves.
    """
    modes = [(module, module.training) for module in model.modules()]
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    with torch.random.fork_rng(devices), torch.no_grad():
        try:
            for module, training in modes:
                if training:
                    module.training = False  # not .eval(), which a model may have overridden
            yield
        finally:
            for module, training in modes:
                module.training = training


def entry_modules(model: nn.Module, layers: Iterable[str]) -> dict[str, nn.Module]:
    """Return the smallest module that holds all layers, and every module below it that holds one.

    Images enter by the outermost of them that is called with images: a container is never called itself, and a
    detector is called with a list. A layer alone is held by its parent, for its own input need not be an image.

    Args:
        model: Model whose modules are searched.
        layers: Names of the layers, as :func:`pan_callbacks.layers.convolutions` gives them.
    """
    wanted = list(layers)
    if not wanted:
        return {}
    modules = {clean_name(name): module for name, module in model.named_modules()}
    paths = [name.split(".") for name in wanted]
    common: list[str] = []
    for parts in zip(*(path[:-1] for path in paths), strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    root = ".".join(common)
    holders = {""} | {".".join(path[:depth]) for path in paths for depth in range(1, len(path) + 1)}
    return {
        name: modules[name]
        for name in sorted(holders, key=lambda name: (name.count(".") if name else -1, name))
        if name in modules and (name == root or not root or name.startswith(root + "."))
    }
