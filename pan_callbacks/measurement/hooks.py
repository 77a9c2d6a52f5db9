"""Hook objects: attached, gated and detached in one place.

A hook hands what passes by to a listener, if one is set, and does nothing else: with no listener it costs one attribute
check. It holds no tensor, no module and no trainer, so that models stay picklable and copyable with hooks attached.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from pan_callbacks.layers import PaddedLayer, PadModule, clean_name, pad_modules

Listener = Callable[[nn.Module, Tensor, Tensor], None]


@dataclass(eq=False)
class LayerCall:
    """One call of a convolution: what it received, and what it returned.

    Args:
        conv: The convolution.
        x: Its input (images, in channels, height, width), as padded by a pad module before it, if there is one.
        output: Its output (images, channels, rows, columns).
    """

    conv: nn.Conv2d
    x: Tensor
    output: Tensor

    @classmethod
    def of(cls, conv: nn.Conv2d, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> LayerCall:
        """Make one of what torch gives a forward hook; a single image becomes a batch of one."""
        x = args[0] if args else kwargs["input"]
        return cls(conv, x, output) if output.ndim == 4 else cls(conv, x[None], output[None])

    def first(self, images: int) -> LayerCall:
        """Return the call on the first images alone, without a gradient."""
        return LayerCall(self.conv, self.x[:images].detach(), self.output[:images].detach())

    def layer(self, pad: PadModule | None = None) -> PaddedLayer:
        """Return the convolution together with what pads its input."""
        return PaddedLayer(self.conv, pad)


class PadTracker:
    """Forward hook of all pad modules of a model: knows which of them made a tensor.

    It holds what they made while it is watching, so that no other tensor can be mistaken for it.
    """

    def __init__(self) -> None:
        self._watching = False
        self._made: list[tuple[Tensor, PadModule]] = []

    def attach(self, model: nn.Module) -> list[RemovableHandle]:
        """Put the hook on every pad module of a model; nothing is kept before :meth:`watch`."""
        return [pad.register_forward_hook(self) for pad in pad_modules(model).values()]

    def watch(self, on: bool = True) -> None:
        """Start or stop watching, and forget what was seen."""
        self._watching, self._made = on, []

    def __call__(self, pad: PadModule, args: tuple[Any, ...], output: Tensor) -> None:
        """Is called by torch after the pad module's forward; changes nothing."""
        if self._watching:
            self._made.append((output, pad))

    def pad_of(self, x: Tensor) -> PadModule | None:
        """Return the pad module that a convolution's input comes from directly, None if it comes from none."""
        return next((pad for made, pad in reversed(self._made) if made is x), None)

    def __getstate__(self) -> dict[str, Any]:
        """A copy of the module gets a hook that keeps nothing."""
        return {"_watching": False, "_made": []}


class StopForward(Exception):
    """Ends a forward of ours early; never raised in a forward of the user's."""


class LayerProbe:
    """Forward hook of one layer.

    Args:
        name: Name of the layer.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.listener: Listener | None = None

    def __call__(self, module: nn.Module, args: tuple, kwargs: dict, output: Tensor) -> None:
        """Called by torch after the layer's forward; changes nothing."""
        if self.listener is not None:
            self.listener(module, args[0] if args else kwargs["input"], output)

    def __getstate__(self) -> dict:
        """A copy of the module gets a hook that listens to nobody."""
        return {"name": self.name, "listener": None}


class EntryProbe:
    """Forward pre-hook and hook of a module that images may enter by."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.entered: Callable[[str, nn.Module, tuple, dict], None] | None = None
        self.left: Callable[[str, nn.Module, tuple, dict], None] | None = None

    def before(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        """Called by torch before the module's forward."""
        if self.entered is not None:
            self.entered(self.name, module, args, kwargs)

    def after(self, module: nn.Module, args: tuple, kwargs: dict, output: object) -> None:
        """Called by torch after the module's forward."""
        if self.left is not None:
            self.left(self.name, module, args, kwargs)

    def __getstate__(self) -> dict:
        """A copy of the module gets a hook that listens to nobody."""
        return {"name": self.name, "entered": None, "left": None}


class Probes:
    """The hooks of one measurement on one model.

    Args:
        layers: Layers to listen to, by name.
        entries: Modules that images may enter by, by name.
    """

    def __init__(self, layers: dict[str, nn.Module], entries: dict[str, nn.Module]) -> None:
        self.layers = {name: LayerProbe(name) for name in layers}
        self.entries = {name: EntryProbe(name) for name in entries}
        self.layer_modules, self.entry_modules = dict(layers), dict(entries)
        self._handles: list = []

    @property
    def attached(self) -> bool:
        """Whether the hooks are on the model."""
        return bool(self._handles)

    def attach(self) -> None:
        """Puts the hooks on the model; does nothing if they are there."""
        if self._handles:
            return
        for name, probe in self.layers.items():
            self._handles.append(self.layer_modules[name].register_forward_hook(probe, with_kwargs=True))
        for name, entry in self.entries.items():
            self._handles.append(self.entry_modules[name].register_forward_pre_hook(entry.before, with_kwargs=True))
            self._handles.append(self.entry_modules[name].register_forward_hook(entry.after, with_kwargs=True))

    def detach(self) -> None:
        """Takes the hooks off the model; does nothing if they are off."""
        self.mute()
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def listen(self, listeners: dict[str, Listener]) -> None:
        """Sets the listeners of the named layers, and silences all others."""
        for name, probe in self.layers.items():
            probe.listener = listeners.get(name)

    def mute(self) -> None:
        """Silences every hook."""
        self.listen({})
        for entry in self.entries.values():
            entry.entered = entry.left = None


@contextmanager
def quietly(model: nn.Module) -> Iterator[None]:
    """Runs a model of somebody else without a trace: no gradients, random states and module modes as they were.

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


def run(module: nn.Module, args: tuple, kwargs: dict) -> None:
    """Runs a module until it ends or a listener stops it."""
    with suppress(StopForward):
        module(*args, **kwargs)


def entry_modules(model: nn.Module, layers: Iterable[str]) -> dict[str, nn.Module]:
    """The smallest module that holds all layers, and every module below it that holds one.

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
