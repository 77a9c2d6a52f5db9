"""Whether what was put on the layers of a model is still there."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy
from torch.utils.hooks import RemovableHandle

from pan_callbacks.layers import Convolution, clean_name

#: A module on the way to a layer, the name of its child on that way, and the child.
_Edge = tuple[nn.Module, str, nn.Module]


@dataclass(eq=False)
class _Place:
    """Where a hook is.

    Args:
        module: The module that it is on.
        handle: What torch gave for it, None if there is no hook and only the module counts.
        hook: The hook.
        way: From the model to the module.
        channels: Output channels that the module had, 0 if it is no convolution.
    """

    module: nn.Module
    handle: RemovableHandle | None
    hook: object
    way: list[_Edge]
    channels: int


class Presence:
    """Remembers which hook is on which module of a model, and says what became of it.

    A layer is known by its name and its identity: a module that another one wraps (an adapter, a quantised copy) no
    longer gives what the layer gives. Wrappers that change nothing, as those of compilation, do not count. To look is
    cheap enough for every step.

    Args:
        model: The model.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model: nn.Module | None = model
        self._places: dict[str, _Place] = {}

    def add(self, hooks: Mapping[str, tuple[nn.Module, RemovableHandle | None, object]]) -> None:
        """Remember hooks.

        Args:
            hooks: Name of a layer to its module, the handle of the hook on it, and the hook; None for both where just
                the module counts.
        """
        ways = _ways(self._model)
        for name, (module, handle, hook) in hooks.items():
            self._places[name] = _Place(module, handle, hook, ways[name], channels_of(module))

    def remove(self, name: str) -> None:
        """Take a hook off, and forget it."""
        handle = self._places.pop(name).handle
        if handle is not None:
            handle.remove()

    def clear(self) -> None:
        """Take all hooks off, and forget them."""
        hooks = {id(place.hook) for place in self._places.values() if place.handle is not None}
        for name in list(self._places):
            self.remove(name)
        for module in () if self._model is None else self._model.modules():  # quantisation hands hooks on to its copies
            for number in [number for number, hook in module._forward_hooks.items() if id(hook) in hooks]:
                del module._forward_hooks[number]

    @property
    def modules(self) -> dict[str, nn.Module]:
        """Name of every layer to the module that its hook was put on."""
        return {name: place.module for name, place in self._places.items()}

    def lost(self, names: Collection[str] | None = None, indexed: bool = False) -> dict[str, str]:
        """Return the layers whose hook is no longer there, and what happened to each; ordinarily none.

        Args:
            names: Names of layers to look at; None for all.
            indexed: Whether somebody counts on the numbers of their channels, which mean nothing once some are gone.
        """
        places = self._places if names is None else {name: self._places[name] for name in names if name in self._places}
        lost = {}
        for name, place in places.items():
            if any(parent._modules.get(child) is not module for parent, child, module in place.way):
                why = self._moved(name, place)
            elif place.handle and place.module._forward_hooks.get(place.handle.id) is not place.hook:
                why = "its forward hooks were removed"
            elif indexed and channels_of(place.module) < place.channels:
                why = f"it has {channels_of(place.module)} channels now and had {place.channels}"
            else:
                continue
            if why:
                lost[name] = why
        return lost

    def _moved(self, name: str, place: _Place) -> str:
        """Say what became of a layer that is not where it was; nothing if it can be said to be where it was."""
        assert self._model is not None, "a copy watches nothing"
        now = {clean_name(path): m for path, m in self._model.named_modules()}
        if now.get(name) is place.module:
            place.way = _ways(self._model)[name]
            return self.lost([name]).get(name, "")
        if name in now:
            return f"it was replaced during training (by a {type(now[name]).__name__})"
        elsewhere = next((path for path, module in now.items() if module is place.module), None)
        return "it is no longer in the model" if elsewhere is None else f"it was moved during training (to {elsewhere})"

    def __getstate__(self) -> dict[str, Any]:
        """Give a copy nothing to watch: hooks of a copied model are its own."""
        return {"_model": None, "_places": {}}


def channels_of(module: nn.Module) -> int:
    """Return the number of output channels that a convolution has now, 0 for any other module."""
    if not isinstance(module, Convolution):
        return 0
    weight = module._parameters.get("weight")  # not the attribute, which a parametrisation computes
    return module.out_channels if weight is None or is_lazy(weight) else min(module.out_channels, weight.shape[0])


def _ways(model: nn.Module | None) -> dict[str, list[_Edge]]:
    """Return the name of every module to the way that leads there."""
    ways: dict[str, list[_Edge]] = {"": []}
    modules = {} if model is None else dict(model.named_modules())
    for path, module in modules.items():
        if path:
            parent, _, child = path.rpartition(".")
            ways[path] = [*ways[parent], (modules[parent], child, module)]
    return {clean_name(path): way for path, way in ways.items()}
