"""A copy of a model to run forwards of ours in, so that whatever they leave behind stays there.

A forward may keep features on the module, update metrics, move statistics, initialise weights from data, draw random
numbers: all of it is what the user's own code reads next. In a copy it does no harm.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pan_callbacks.errors import PANError
from pan_callbacks.measurement.batches import device_of
from pan_callbacks.measurement.calls import EntryCall, LayerCall, Listener
from pan_callbacks.measurement.copying import Copier, Memo
from pan_callbacks.measurement.hooks import (
    FORWARD_HOOKS,
    Probes,
    belongs,
    global_state_off,
    is_ours,
    own_hooks_alone,
    quietly,
)
from pan_callbacks.measurement.sharded import divides, is_sharded, keeps_parts, undivided, whole_weights
from pan_callbacks.measurement.standins import is_foreign
from pan_callbacks.measurement.undisturbed import undisturbed

_HOOKS = {name: value for name, value in vars(nn.Module()).items() if "hooks" in name}
#: What a module holds in tables that are copied in a way of their own.
_TABLES = {"_parameters", "_buffers", "_modules", "_compiled_call_impl", *_HOOKS}


class Shadow:
    """A copy of a module and of all below it, in evaluation mode, with hooks of ours on it.

    Weights, buffers, attributes and what those hold are copied, as far as they can be. Of the module's hooks those that
    are part of what it computes come along: masks of ours, and torch's own (weight norm, pruning). All others stay
    behind, so that nobody sees our forwards.

    A sharded module is whole in the copy: all processes make theirs at the same time, and run it on their own.

    Args:
        root: The module.
        layers: Layers to listen to, by name; those outside of the module are left out.
        device: Where the copied weights lie while it rests; None for where the module's are.
        with_hooks: Whether copies of all other forward hooks come along, for the case that they compute something.

    Attributes:
        probes: The hooks on the copies of the layers.
        left_behind: Number of forward hooks that did not come along.

    Raises:
        PANError: If the module cannot be copied.
    """

    def __init__(
        self,
        root: nn.Module,
        layers: Mapping[str, nn.Module],
        device: torch.device | str | None = None,
        with_hooks: bool = False,
    ) -> None:
        self.left_behind, self._with_hooks, self._stored = 0, with_hooks, device
        self._home, self._modules, self._resting = device_of(root), list(root.modules()), device is not None
        with torch.inference_mode(False), torch.no_grad():  # what is made in inference mode cannot be used outside
            self._copier = Copier(dict(whole_weights(root)), self._twin)
            self._root: nn.Module = self._copier.copy(root)
        self._shared = [*dict.fromkeys(map(type, self._modules)), *self._copier.shared]
        # parts and wholes take each other's place within a forward
        self._print = None if is_sharded(root) else _print_of(root)
        self._was_other: Tensor | None = None
        self.probes = Probes({name: self.of(layer) for name, layer in layers.items() if self.holds(layer)}, {})
        self.probes.attach()

    @property
    def is_current(self) -> bool:
        """Whether the module still has the weights that were copied, as far as the first value of each tells.

        Weights are swapped within a step, too (an average is validated), and in ways that no counter of torch sees.
        """
        if self._print is None:
            return True
        same = torch.eq(self._print.nan_to_num(), _print_of(self._modules[0]).nan_to_num()).all()
        if same.device.type == "cpu":
            return bool(same)
        self._was_other = ~same if self._was_other is None else self._was_other | ~same
        return True  # nobody waits for a device here

    @property
    def was_other(self) -> bool:
        """Whether :attr:`is_current` was not always true, where it could not be waited for."""
        return self._was_other is not None and bool(self._was_other)

    def holds(self, module: nn.Module) -> bool:
        """Whether there is a copy of a module."""
        return id(module) in self._copier.memo

    def of(self, module: nn.Module) -> nn.Module:
        """Return the copy of a module at or below the root."""
        return cast(nn.Module, self._copier.memo[id(module)])

    def original(self, twin: nn.Module) -> nn.Module:
        """Return the module that a copy is of; the module itself, if it is no copy."""
        return next((module for module in self._modules if self.of(module) is twin), twin)

    def call(self, call: EntryCall) -> EntryCall:
        """Return the same call on the copy."""
        return EntryCall(call.name, self.of(call.module), call.args, call.kwargs, call.method)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run forwards of the copy, without a gradient; random states, and what it shares, are put back afterwards."""
        if self._resting:
            nn.Module.to(self._root, self._home)
            self._resting = False
        with undisturbed(*self._shared, lend=True), quietly(self._root), global_state_off():
            try:
                yield
            finally:
                self.probes.listen(None)

    def rest(self) -> None:
        """Put the copied weights back where they lie while nothing runs, as a device may have no room for them."""
        if self._stored is not None and not self._resting:
            nn.Module.to(self._root, self._stored)
            self._resting = True

    def _twin(self, module: nn.Module, memo: Memo) -> nn.Module:
        """Return the copy of a module that has none yet; at first empty ones of all below it, which know each other."""
        every = list(module.modules())
        made = [below for below in every if id(below) not in memo and _eager(below) is below]
        for below in made:
            memo[id(below)] = self._empty(below)
        memo.update((id(below), memo[id(_eager(below))]) for below in every)  # that of a compiled one is not compiled
        for below in made:
            if not isinstance(below, torch.jit.ScriptModule):
                self._fill(below, memo[id(below)])
        return cast(nn.Module, memo[id(module)])

    def _empty(self, module: nn.Module) -> nn.Module:
        """Return a module of the same class with the weights alone."""
        if isinstance(module, torch.jit.ScriptModule):
            return copy.deepcopy(module)
        twin: nn.Module = object.__new__(undivided(type(module)))
        parameters = {name: self._weight(tensor) for name, tensor in module._parameters.items()}
        buffers = {name: self._weight(tensor) for name, tensor in module._buffers.items()}
        twin.__dict__.update(_parameters=parameters, _buffers=buffers, _modules={})
        return twin

    def _weight(self, tensor: Tensor | None) -> Tensor | None:
        if tensor is None:
            return None
        if _has_no_values(tensor):
            raise PANError("it holds a lazy module without weights")
        memo = self._copier.memo
        if id(tensor) not in memo:
            made = tensor.detach().to(self._stored or tensor.device, copy=True)
            memo[id(tensor)] = made = nn.Parameter(made, False) if isinstance(tensor, nn.Parameter) else made
            made.__dict__.update({name: self._copier.copy(item) for name, item in vars(tensor).items()})
        return cast(Tensor, memo[id(tensor)])

    def _fill(self, module: nn.Module, twin: nn.Module) -> None:
        """Give an empty copy the attributes, modules and hooks that its module has."""
        tables = {"_parameters": twin._parameters, "_buffers": twin._buffers}
        tables["_modules"] = {name: self._copier.copy(child) for name, child in module._modules.items()}
        twin.__dict__.update(tables, **{name: type(table)() for name, table in _HOOKS.items()})
        own = ((name, value) for name, value in vars(module).items() if not keeps_parts(name, value))
        state = {name: self._copier.copy(value) for name, value in own if name not in _TABLES}
        twin.__dict__.update({**state, **tables}, training=False)
        self._take_hooks(module, twin)
        if "_trainer" in vars(module):  # a LightningModule: nothing is logged for us
            twin.__dict__.update(log=_nothing, log_dict=_nothing, print=_nothing)

    def _take_hooks(self, module: nn.Module, twin: nn.Module) -> None:
        for table in FORWARD_HOOKS:
            for key, hook in vars(module)[table].items():
                if is_ours(hook) and not belongs(hook) or divides(hook):
                    continue
                if not belongs(hook) and not self._with_hooks:
                    self.left_behind += 1
                    continue
                # a mask that is put on the model later is not put on a copy that was made before
                vars(twin)[table][key] = copy.copy(hook) if belongs(hook) else self._copier.copy(hook)
                for flag in ("_with_kwargs", "_always_called"):
                    if key in vars(module).get(table + flag, ()):
                        vars(twin)[table + flag][key] = True


class InPlace:
    """Takes the place of a shadow of a module that cannot be copied: forwards of ours run in the module itself.

    Buffers, attributes, and what is reached from them, are put back afterwards, and nobody's hooks see the forward.

    Args:
        root: The module.
        layers: Layers to listen to, by name.
    """

    left_behind = 0
    is_current = True

    def __init__(self, root: nn.Module, layers: Mapping[str, nn.Module]) -> None:
        self._root = root
        self.probes = Probes(layers, {})

    def of(self, module: nn.Module) -> nn.Module:
        """Return the module, as it is before it was compiled."""
        return _eager(module)

    def original(self, twin: nn.Module) -> nn.Module:
        """Return the module."""
        return twin

    def holds(self, module: nn.Module) -> bool:
        """Whether a module is below the one that forwards are run in."""
        return any(self.of(module) is one for one in self._root.modules())

    def call(self, call: EntryCall) -> EntryCall:
        """Return the call on the module as it is before it was compiled."""
        return EntryCall(call.name, self.of(call.module), call.args, call.kwargs, call.method)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run forwards, and put back afterwards what they changed."""
        with undisturbed(self._root, lend=True), quietly(self._root), own_hooks_alone(self._root), global_state_off():
            self.probes.attach()
            try:
                yield
            finally:
                self.probes.detach()


class InCopy:
    """Hands on what passes the user's layers with the copies of these, for whoever has to run one once more.

    Args:
        listener: Who gets it.
        shadow: The copy.
    """

    def __init__(self, listener: Listener, shadow: Shadow | InPlace) -> None:
        self._listener, self._shadow = listener, shadow

    def __call__(self, name: str, call: LayerCall) -> None:
        """Is called with what passes a layer."""
        twin = cast(nn.Conv2d, self._shadow.of(call.conv))
        # its weight may be what code of somebody's makes of it, of random numbers perhaps
        made = parametrize.is_parametrized(twin) or not is_foreign(type(twin))
        with self._shadow.running() if made else nullcontext():
            self._listener(name, replace(call, conv=twin))


def is_lazy(module: nn.Module) -> bool:
    """Whether a module, or one below it, gets its weights in its first forward.

    Example:
        >>> is_lazy(nn.Sequential(nn.LazyConv2d(3, 3))), is_lazy(nn.Conv2d(1, 3, 3))
        (True, False)
    """
    return any(_has_no_values(tensor) for tensor in (*module.parameters(), *module.buffers()))


def _has_no_values(tensor: Tensor) -> bool:
    return isinstance(tensor, nn.parameter.UninitializedTensorMixin)  # type: ignore[attr-defined]  # not among its names


def _print_of(module: nn.Module) -> Tensor:
    """Return the first value of every weight of a module, on the device of the first of them."""
    weights = [weight for weight in module.parameters() if weight.numel() and not _has_no_values(weight)]
    with torch.no_grad():
        firsts = [weight.detach().reshape(-1)[:1].float().to(weights[0].device) for weight in weights]
    return torch.cat(firsts) if firsts else torch.empty(0)


def _eager(module: nn.Module) -> nn.Module:
    """Return what a compiled module was before; compiled code would run the original, and not the copy."""
    if isinstance(module, torch.jit.ScriptModule):
        return module
    return cast(nn.Module, module._modules.get("_orig_mod", module))


def _nothing(*args: object, **kwargs: object) -> None:
    """Take the place of what a LightningModule logs."""
