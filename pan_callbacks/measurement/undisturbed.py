"""Puts back what code of somebody else's changes in its own objects, where it cannot be run on copies of them."""

from __future__ import annotations

import builtins
import functools
import random
import sys
import weakref
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pan_callbacks.measurement.code import names_of
from pan_callbacks.measurement.copying import slots_of
from pan_callbacks.measurement.standins import ATOMS, dict_of, is_foreign, is_ours, owner_of, stand_in
from pan_callbacks.measurement.undo import Undo, array_undo, container_undo, generator_undo, tensor_undo

#: Larger containers are put back, but not what their items hold; larger arrays are not looked into, but in a module.
_MANY, _LARGE = 2**14, 2**24
#: What is looked into, and how many values are copied, outside of modules.
_MOST_OBJECTS, _MOST_VALUES = 50_000, 2**25
#: What holds a function of a class, beside properties.
_WRAPPERS = (staticmethod, classmethod, functools.cached_property, type(functools.lru_cache(len)))
#: Objects by which everything is reached, by the names of their classes.
_NOT_LOOKED_INTO = {"Trainer", "Logger", "Callback", "SummaryWriter", "Graph", "_MultiProcessingDataLoaderIter"}
#: What threads and processes wait on is theirs: who is waiting, put back, would wait for ever.
_SHARED_BY_THREADS = {"threading", "_thread", "queue", "_queue", "multiprocessing", "concurrent", "asyncio"}


@contextmanager
def undisturbed(*roots: object, lend: bool = False) -> Iterator[None]:
    """Put back, afterwards, random states, attributes, containers and buffers that are reached from some objects.

    The state of Python's, NumPy's and torch's own random generators is put back as well, and what the classes of these
    objects keep on themselves, in closures or in variables of their modules. What a library in C keeps is not.

    Args:
        roots: Modules, loaders, data sets, samplers, classes, functions: whatever is about to be used.
        lend: Whether iterators, caches and files, whose state cannot be put back, are replaced by
            :func:`~pan_callbacks.measurement.standins.stand_in` meanwhile.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> with undisturbed({"generator": generator}):
        ...     first = torch.rand((), generator=generator)
        >>> bool(torch.rand((), generator=generator) == first)
        True
    """
    kept = _Kept(lend)
    for root in roots:
        kept.add(root)
    used = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]  # of torch
    with random_states_kept(range(torch.cuda.device_count()) if used else ()):
        try:
            kept.lend()
            yield
        finally:
            kept.put_back()


@contextmanager
def random_states_kept(devices: Iterable[int] = ()) -> Iterator[None]:
    """Put back, afterwards, the random states that everybody shares: Python's, NumPy's and torch's.

    Args:
        devices: CUDA devices whose states are put back, beside that of the CPU.
    """
    python, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(list(devices)):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy_state)


def _is_left_alone(kind: type) -> bool:
    """Whether nothing is put back of objects of a class."""
    package = kind.__module__.partition(".")[0]
    return kind.__name__ in _NOT_LOOKED_INTO or package in _SHARED_BY_THREADS or is_ours(kind)


class _Kept:
    """What objects held when they were added.

    Args:
        lend: Whether to replace what has a state that cannot be put back.
    """

    def __init__(self, lend: bool) -> None:
        self._seen: dict[int, object] = {}  # keeps them alive, so that no other object gets their number
        self._undo: list[Undo] = []
        self._lends, self._lent = lend, list[Undo]()
        self._objects, self._values = _MOST_OBJECTS, _MOST_VALUES  # left to look into, and to copy

    def lend(self) -> None:
        """Put what stands in for something into its place, until all is put back."""
        for put in self._lent:
            put()

    def put_back(self) -> None:
        """Put back all that can be; raise the first error after that."""
        errors = []
        for undo in self._undo:
            try:
                undo()
            except Exception as error:
                errors.append(error)
        if errors:
            raise errors[0]

    def add(self, root: object) -> None:
        """Keep what is reached from an object; of modules the buffers whatever their size, of weights nothing."""
        waiting: deque[tuple[object, bool]] = deque([(root, False)])
        while waiting:
            value, in_module = waiting.popleft()
            value = value if (owner := owner_of(value)) is None else owner
            if id(value) in self._seen or isinstance(value, (*ATOMS, nn.Parameter)):
                continue
            in_module = in_module or isinstance(value, nn.Module)
            self._objects -= not in_module
            if in_module or self._objects > 0:  # a variable of a module may lead to all that there is
                self._seen[id(value)] = value
                with suppress(Exception):  # an object of somebody's that cannot be looked into
                    waiting.extend((item, in_module) for item in self._keep(value, in_module))

    def _keep(self, value: Any, in_module: bool) -> list[object]:
        """Keep what an object holds itself, and return what to look into next."""
        if isinstance(value, type):
            return self._class(value)
        if isinstance(value, MethodType):
            return [value.__self__, value.__func__]
        if isinstance(value, FunctionType):
            return self._function(value)
        if isinstance(value, weakref.ref):
            return [value()]
        if isinstance(value, Tensor):
            if in_module or self._afford(value.numel()):
                self._undo.append(tensor_undo(value))
        elif isinstance(value, np.ndarray):
            if value.flags.writeable and self._afford(value.size):
                self._undo.append(array_undo(value))
        elif isinstance(value, (torch.Generator, random.Random, np.random.Generator, np.random.RandomState)):
            self._undo.append(generator_undo(value))
        elif isinstance(value, (dict, list, set, deque, bytearray, array)):
            return [*self._container(value), *(() if (own := dict_of(value)) is None else self._container(own))]
        elif isinstance(value, functools.partial):
            return [value.func, *value.args, *self._container(value.keywords)]
        elif isinstance(value, (tuple, frozenset)):
            return list(value) if len(value) <= _MANY else []
        elif not any(map(_is_left_alone, type(value).__mro__)):
            return [type(value), *self._attributes(value)]
        return []

    def _afford(self, values: int) -> bool:
        if values > _LARGE or values > self._values:
            return False
        self._values -= values
        return True

    def _container(self, value: Any) -> list[object]:
        self._undo.append(container_undo(value))
        if len(value) > _MANY or isinstance(value, (bytearray, array)):
            return []
        if isinstance(value, dict):
            return self._items(value, functools.partial(dict.__setitem__, value))
        if isinstance(value, list):
            return self._items(dict(enumerate(value)), functools.partial(list.__setitem__, value))
        return list(value)

    def _attributes(self, value: Any) -> list[object]:
        """Keep the attributes of an object, those in slots as well."""
        found = []
        if (own := dict_of(value)) is not None:
            found += self._container(own)
        slots = dict(slots_of(value))
        self._undo += [functools.partial(object.__setattr__, value, name, item) for name, item in slots.items()]
        return found + self._items(slots, functools.partial(object.__setattr__, value))

    def _items(self, items: Mapping[Any, object], put: Callable[[Any, Any], None]) -> list[object]:
        """Note what is lent in the place of some of a holder's items, and return all of them."""
        for name, item in items.items() if self._lends else ():
            other = stand_in(item)
            if other is not item:
                self._lent.append(functools.partial(put, name, other))
        return list(items.values())

    def _class(self, kind: type) -> list[object]:
        """Keep what a class of somebody's has besides its code, and what that code may write to."""
        if is_foreign(kind):
            return []
        kept = {name: value for name, value in vars(kind).items() if not name.startswith(("__", "_abc_"))}
        put = functools.partial(type.__setattr__, kind)

        def undo() -> None:
            for name in [name for name in vars(kind) if name not in kept and not name.startswith(("__", "_abc_"))]:
                type.__delattr__(kind, name)
            for name, value in kept.items():
                if vars(kind).get(name, undo) is not value:
                    put(name, value)

        self._undo.append(undo)
        code = [part for value in vars(kind).values() for part in _code_of(value)]
        return [*kind.__mro__[1:], *code, *self._items(kept, put)]

    def _function(self, function: FunctionType) -> list[object]:
        """Keep what a function of somebody's is closed over, and the variables of its module that it names."""
        if is_foreign(function):
            return []
        names = names_of(function.__code__)
        found = self._variables(function.__globals__, names)
        for cell in function.__closure__ or ():
            found += self._cell(cell)
        modules = [one for one in found if isinstance(one, ModuleType)]
        for module in [*modules, *(sys.modules[name] for name in names if name in sys.modules)]:
            found += [] if is_foreign(module) else self._variables(vars(module), names)
        return [*found, *(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values(), vars(function)]

    def _variables(self, known: dict[str, Any], names: set[str]) -> list[object]:
        """Keep the variables of a module that code names."""
        kept = {name: known[name] for name in names if name in known}
        new = names - {*kept, *vars(builtins)}

        def undo() -> None:
            for name in new:
                if not isinstance(known.get(name), ModuleType):  # which is imported once, by whoever needs it first
                    known.pop(name, None)
            for name, value in kept.items():
                if known.get(name, undo) is not value:
                    known[name] = value

        self._undo.append(undo)
        return self._items(kept, known.__setitem__)

    def _cell(self, cell: CellType) -> list[object]:
        """Keep what a function is closed over."""
        if id(cell) in self._seen:
            return []
        self._seen[id(cell)] = cell
        try:
            kept = cell.cell_contents
        except ValueError:  # nothing yet
            return []
        self._undo.append(lambda: setattr(cell, "cell_contents", kept))
        return self._items({"cell_contents": kept}, functools.partial(setattr, cell))


def _code_of(value: Any) -> list[FunctionType]:
    """Return the functions behind an attribute of a class: a method of any kind, a property, a cached function."""
    if isinstance(value, property):
        return [function for function in (value.fget, value.fset) if isinstance(function, FunctionType)]
    while isinstance(value, _WRAPPERS):
        value = value.func if isinstance(value, functools.cached_property) else value.__wrapped__
    return [value] if isinstance(value, FunctionType) else []
