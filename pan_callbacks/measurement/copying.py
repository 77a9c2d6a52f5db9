"""Copies what objects of somebody else's hold, as far as a forward can change it.

A copy must not reach what belongs to the run (data, loggers, the trainer), and must reach everything that a forward may
write to. Where both cannot be had the original is shared.
"""

from __future__ import annotations

import collections
import copy
import weakref
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from types import BuiltinFunctionType, CellType, FunctionType, MemberDescriptorType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pan_callbacks.measurement.standins import ATOMS, dict_of, is_foreign, owner_of, stand_in

#: Classes whose objects are the run's and not the forward's, by name, since Lightning has two copies of some.
OF_THE_RUN = {"Dataset", "DataLoader", "LightningDataModule", "Trainer", "Logger", "Callback", "SummaryWriter", "Graph"}
#: Arrays and containers beyond this are data.
MOST_VALUES, MOST_ITEMS = 2**25, 2**16

#: By the number of an object, what takes its place in a copy.
Memo = dict[int, Any]
#: Makes the copy of a module and puts it into the memo.
CopyModule = Callable[[nn.Module, Memo], nn.Module]


def is_of_the_run(value: object) -> bool:
    """Whether an object belongs to the run that a forward is part of, as a data set or a logger does."""
    return any(kind.__name__ in OF_THE_RUN for kind in type(value).__mro__)


class Copier:
    """Copies attributes; one object is copied once, so that what was shared between them stays shared.

    Args:
        memo: What takes the place of which object, at first.
        module: Makes the copy of a module that is not in the memo.

    Attributes:
        shared: What copies have in common with their originals and may write to: classes, functions, and objects that
            cannot be copied.

    Example:
        >>> features = [torch.zeros(1)]
        >>> copier = Copier({}, lambda module, memo: module)
        >>> a, b = copier.copy({"a": features, "b": (features, 3)}).values()
        >>> a is features, a is b[0], b[1]
        (False, True, 3)
    """

    def __init__(self, memo: Memo, module: CopyModule) -> None:
        self.memo, self._module = memo, module
        self.shared: list[object] = []
        self._alive: list[object] = []  # originals, so that no other object gets their number

    def copy(self, value: Any) -> Any:
        """Return the copy of an object; the object itself, if it cannot change or cannot be copied."""
        if isinstance(value, type) or isinstance(value, ATOMS) and owner_of(value) is None:
            return value
        if id(value) not in self.memo:
            self._alive.append(value)
            self.memo[id(value)] = self._copied(value)
        return self.memo[id(value)]

    def _copied(self, value: Any) -> Any:
        if is_of_the_run(value):
            return value
        if not is_foreign(type(value)):
            self.shared.append(type(value))
        if isinstance(value, nn.Module):
            return self._module(value, self.memo)
        if isinstance(value, Tensor):
            return value if value.numel() > MOST_VALUES else value.detach().clone()
        if isinstance(value, torch.Generator):
            return torch.Generator(value.device).set_state(value.get_state())
        if isinstance(value, FunctionType):
            return self._function(value)
        if isinstance(value, MethodType):
            bound = self.copy(value.__self__)
            return value if bound is value.__self__ else MethodType(value.__func__, bound)
        if isinstance(value, BuiltinFunctionType):  # of a list, say
            return getattr(self.copy(value.__self__), value.__name__)
        if type(value) is partial:
            return partial(self.copy(value.func), *map(self.copy, value.args), **self._dict(value.keywords))
        if isinstance(value, (weakref.ref, weakref.ProxyType)):
            return self._reference(value)
        if type(value) in (list, tuple, set, frozenset, collections.deque) or hasattr(type(value), "_make"):
            return self._items(value)
        if isinstance(value, dict):
            return self._mapping(value)
        return self._object(value)

    def _dict(self, found: dict[str, Any]) -> dict[str, Any]:
        return {key: self.copy(item) for key, item in found.items()}

    def _function(self, function: FunctionType) -> Any:
        """Return the function, over copies of what it was closed over."""
        self.shared.append(function)
        if function.__closure__ is None:
            return function
        cells = tuple(self._cell(cell) for cell in function.__closure__)
        made = FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__, cells)
        made.__kwdefaults__ = function.__kwdefaults__
        made.__dict__.update(function.__dict__)
        return made

    def _cell(self, cell: CellType) -> CellType:
        """Return a cell of its own for what a function writes to (``nonlocal``) or reads."""
        if id(cell) not in self.memo:
            self._alive.append(cell)
            self.memo[id(cell)] = made = CellType()
            with suppress(ValueError):  # an empty cell
                made.cell_contents = self.copy(cell.cell_contents)
        kept: CellType = self.memo[id(cell)]
        return kept

    def _reference(self, value: Any) -> Any:
        try:
            is_proxy = not isinstance(value, weakref.ref)
            target = value.__init__.__self__ if is_proxy else value()  # which a proxy asks its target for
            other = self.copy(target)
            return value if other is target else weakref.proxy(other) if is_proxy else weakref.ref(other)
        except (AttributeError, ReferenceError, TypeError):  # it is gone
            return value

    def _items(self, value: Any) -> Any:
        if len(value) > MOST_ITEMS:
            return copy.copy(value)
        if type(value) is list:  # itself among its items, perhaps
            made: list[Any] = []
            self.memo[id(value)] = made
            made.extend(map(self.copy, value))
            return made
        if type(value) is collections.deque:
            return collections.deque(map(self.copy, value), value.maxlen)
        make = getattr(type(value), "_make", type(value))  # of a named tuple
        return make(map(self.copy, value))

    def _mapping(self, value: dict[Any, Any]) -> Any:
        made = copy.copy(value)
        self.memo[id(value)] = made
        if len(value) <= MOST_ITEMS:
            for key, item in value.items():
                dict.__setitem__(made, key, self.copy(item))
        own = dict_of(value)
        if own is not None:  # its items may be its attributes, or be attributes besides
            made.__dict__ = made if own is value else {name: self.copy(item) for name, item in own.items()}
        return made

    def _object(self, value: Any) -> Any:
        """Copy an object by its attributes if it is a plain one, else by what its class says of copies."""
        if isinstance(value, np.ndarray) and value.size > MOST_VALUES:
            return value
        other = stand_in(value)
        if other is not value:
            return other
        if _is_the_only_one(type(value)):
            self.shared.append(value)
            return value
        try:
            if not _is_plain(type(value)):
                made = copy.deepcopy(value, dict(self.memo))  # a memo of its own: a failure may leave halves behind
                self.shared += [value] if made is value else []
                return made
            self.memo[id(value)] = made = object.__new__(type(value))
            for name, item in _attributes(value):
                object.__setattr__(made, name, self.copy(item))
            return made
        except Exception:  # a lock, a socket: whatever it is, it cannot be copied
            self.shared.append(value)
            return value


def _is_the_only_one(kind: type) -> bool:
    """Whether a copy of an object would do harm: as it ends (a file is deleted), or as there is to be one alone."""
    return hasattr(kind, "__del__") or isinstance(kind.__new__, FunctionType)


def _is_plain(kind: type) -> bool:
    """Whether objects of a class are no more than their attributes."""
    same = ("__reduce__", "__reduce_ex__", "__new__", "__getstate__")
    as_any_object = all(getattr(kind, name, None) is getattr(object, name, None) for name in same)
    return as_any_object and not hasattr(kind, "__deepcopy__")


def _attributes(value: object) -> Iterable[tuple[str, Any]]:
    """Return the attributes of an object, those in slots as well."""
    yield from (dict_of(value) or {}).items()
    yield from slots_of(value)


def slots_of(value: object) -> Iterable[tuple[str, Any]]:
    """Return the attributes of an object that lie in slots.

    Args:
        value: The object.

    Example:
        >>> class Point:
        ...     __slots__ = ("x", "y")
        >>> point = Point()
        >>> point.x = 3
        >>> dict(slots_of(point))
        {'x': 3}
    """
    for kind in type(value).__mro__:
        for name, slot in vars(kind).items() if "__slots__" in vars(kind) else ():
            if isinstance(slot, MemberDescriptorType):
                with suppress(AttributeError):  # nothing is in it
                    yield name, slot.__get__(value)
