"""Which module images enter by, found while a forward of the user's runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from torch import nn

from pan_callbacks.layers import clean_name
from pan_callbacks.measurement.calls import EntryCall
from pan_callbacks.measurement.watching import calls_what_is_no_module


def entry_modules(model: nn.Module, layers: Iterable[str]) -> dict[str, nn.Module]:
    """Return the smallest module that holds all layers, and every module below it that holds one.

    A module that pads in its own forward, or convolves, holds what it calls there as if these were layers.

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
    above = (".".join(common[:depth]) for depth in range(len(common)))
    root = next(
        (name for name in above if name in modules and calls_what_is_no_module(modules[name])), ".".join(common)
    )
    holders = {""} | {".".join(path[:depth]) for path in paths for depth in range(1, len(path) + 1)}
    return {
        name: modules[name]
        for name in sorted(holders, key=lambda name: (name.count(".") if name else -1, name))
        if name in modules and (name == root or not root or name.startswith(root + "."))
    }


def modules_above(model: nn.Module, name: str) -> dict[str, nn.Module]:
    """Return the modules that hold another one, the outermost first.

    Example:
        >>> list(modules_above(nn.Sequential(nn.Sequential(nn.Sequential(nn.ReLU()))), "0.0"))
        ['', '0']
    """
    modules = {clean_name(path): module for path, module in model.named_modules()}
    parts = name.split(".") if name else []
    return {path: modules[path] for depth in range(len(parts)) if (path := ".".join(parts[:depth])) in modules}


def _weights(module: nn.Module) -> set[int]:
    return {*map(id, module.parameters())}


@dataclass(frozen=True)
class _Open:
    """A call that is going on, and its first image as it was."""

    call: EntryCall
    before: EntryCall


class Entrance:
    """Decides by which call images enter a model, as calls begin and end.

    That is the call of the smallest module that holds all layers. If it is a container, which nobody calls, or is
    called in parts, it is the innermost call above it that is going on: a layer below was reached, and without what
    came before it, it would be measured on its own input and not on images. If there is none either (a detector is
    called with a list), images enter by the outermost module below that is called with a batch.

    Args:
        model: The model.
        layers: Names of the layers.

    Attributes:
        modules: Modules whose calls are to be told of, by name.
        smallest: Name of the smallest module that holds all layers.
        heard: Whether images entered since the last :meth:`reset`.
        began: Is called when images enter; None for nobody.
        ended: Is called when that call ends; None for nobody.
    """

    def __init__(self, model: nn.Module, layers: Iterable[str]) -> None:
        entries = entry_modules(model, layers)
        self._model = model
        self.smallest = next(iter(entries), "")
        self._above = modules_above(model, self.smallest) if entries else {}
        self.modules = {**self._above, **entries}
        self.heard = False
        self.began: Callable[[EntryCall], None] | None = None
        self.ended: Callable[[EntryCall], None] | None = None
        self._open: list[_Open] = []  # calls above the smallest module that are going on
        self._inside: EntryCall | None = None
        self._writing: set[str] = set()  # calls that change their images in place
        self._unwritten: set[str] = set()  # calls that were seen not to, since the start

    @property
    def candidates(self) -> list[str]:
        """Names of the modules that may take images from us: the smallest that holds all layers, then those above."""
        return [self.smallest, *reversed(self._above)] if self.modules else []

    def is_part(self, call: EntryCall) -> bool:
        """Whether a call is of a part of the model that does not hold all layers."""
        return call.method == "__call__" and call.name not in self.candidates

    def reset(self) -> None:
        """Forget what is going on: a forward that ended with an exception never tells of its end."""
        self._open.clear()
        self._unwritten.clear()
        self._inside, self.heard = None, False

    def enter(self, call: EntryCall) -> None:
        """Take note of a call that begins."""
        if self._inside is not None and self._inside.name != call.name:
            return
        self._inside = None  # else that call ended with an exception, and this is the next one
        if call.name in self._above or call.method != "__call__":
            self._close(call.name)
            if call.has_images:
                kept = call.copied() if call.name in self._writing else call
                self._open.append(_Open(kept, call.first(1).copied()))
            return
        entering = call if call.name == self.smallest or not self._open else self._unchanged(self._open[-1])
        if entering is not None and entering.has_images:
            self._inside, self.heard = self._with_answer(entering), True
            if self.began is not None:
                self.began(self._inside)

    def leave(self, call: EntryCall) -> None:
        """Take note of a call that ends."""
        if self._inside is not None and self._inside.name == call.name:
            entered, self._inside = self._inside, None
            if self.ended is not None:
                self.ended(entered)
        self._close(call.name)

    def unheard(self, call: EntryCall) -> EntryCall | None:
        """Return a call that ends, if no image entered within it: compiled code may not tell of what it runs."""
        mine = next((one for one in self._open if one.call.name == call.name), None)
        return None if self.heard or mine is None else self._unchanged(mine)

    def _with_answer(self, entering: EntryCall) -> EntryCall:
        """Return the call that images enter by, with what is known of the one that gives the network's answer.

        That is the innermost call that goes on and holds all weights that any of them holds: what an outer one adds has
        none.
        """
        outer = [one for one in self._open if one.call.method == "__call__" and one.call is not entering]
        answering = entering
        if outer and not _weights(outer[0].call.module) <= _weights(entering.module):
            whole = _weights(outer[0].call.module)
            inner = next(one for one in reversed(outer) if whole <= _weights(one.call.module))
            answering = self._unchanged(inner) or entering
        if len(answering.images) != len(entering.images):
            answering = entering
        own = _weights(answering.module)
        trained = (p for p in self._model.parameters() if p.requires_grad and p.ndim > 1)  # a scale is no head
        features = self.is_part(entering) or any(id(p) not in own for p in trained)
        return replace(entering, within=None if answering is entering else answering, features=features)

    def _unchanged(self, one: _Open) -> EntryCall | None:
        """Return a call that goes on; None if its images were changed in place since, as is expected from then on."""
        now, before = one.call.first(1).images, one.before.images
        # elsewhere than on the CPU a comparison waits for the device, so once a start is enough
        if one.call.name in self._unwritten or torch.equal(now.nan_to_num(), before.nan_to_num()):
            if now.device.type != "cpu":
                self._unwritten.add(one.call.name)
            return one.call
        self._writing.add(one.call.name)
        return None

    def _close(self, name: str) -> None:
        names = [one.call.name for one in self._open]
        if name in names:
            del self._open[names.index(name) :]
