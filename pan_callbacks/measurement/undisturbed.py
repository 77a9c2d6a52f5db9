"""Puts back what code of somebody else's changes in its own objects, where it cannot be run on copies of them."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import CellType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pan_callbacks.measurement.copying import ATOMS

#: Larger containers are put back, but not what their items hold; larger arrays are not looked into, but in a module.
_MANY, _LARGE = 4096, 2**16


@contextmanager
def undisturbed(*roots: object) -> Iterator[None]:
    """Put back, afterwards, random states, attributes, containers and buffers that are reached from some objects.

    The state of Python's, NumPy's and torch's own random generators is put back as well. What an open file, a running
    iterator or a library in C keeps is not.

    Args:
        roots: Modules, loaders, data sets, samplers: whatever is about to be used.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> with undisturbed({"generator": generator}):
        ...     first = torch.rand((), generator=generator)
        >>> bool(torch.rand((), generator=generator) == first)
        True
    """
    kept = _Kept()
    for root in roots:
        kept.add(root)
    used = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]  # of torch
    with random_states_kept(range(torch.cuda.device_count()) if used else ()):
        try:
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


class _Kept:
    """What objects held when they were added."""

    def __init__(self) -> None:
        self._seen: dict[int, object] = {}  # keeps them alive, so that no other object gets their number
        self._undo: list[Callable[[], None]] = []

    def put_back(self) -> None:
        for undo in self._undo:
            undo()

    def add(self, root: object) -> None:
        """Keep what is reached from an object; of modules the buffers whatever their size, of weights nothing."""
        waiting: deque[tuple[object, bool]] = deque([(root, False)])
        while waiting:
            value, in_module = waiting.popleft()
            if id(value) in self._seen or isinstance(value, (*ATOMS, nn.Parameter)):
                continue
            self._seen[id(value)] = value
            in_module = in_module or isinstance(value, nn.Module)
            waiting.extend((item, in_module) for item in self._keep(value, in_module))

    def _keep(self, value: Any, in_module: bool) -> list[object]:
        """Keep what an object holds itself, and return what to look into next."""
        if isinstance(value, MethodType):
            return [value.__self__]
        if isinstance(value, FunctionType):
            return list(value.__closure__ or ())
        if isinstance(value, CellType):
            return self._cell(value)
        if isinstance(value, Tensor):
            if in_module or value.numel() <= _LARGE:
                self._undo.append(_tensor(value))
        elif isinstance(value, np.ndarray):
            if value.size <= _LARGE and value.flags.writeable:
                self._undo.append(_array(value))
        elif isinstance(value, (torch.Generator, random.Random, np.random.Generator, np.random.RandomState)):
            self._undo.append(_generator(value))
        elif isinstance(value, (dict, list, set, deque)):
            self._undo.append(_container(value))
            if len(value) <= _MANY:
                return list(value.values()) if isinstance(value, dict) else list(value)
        elif isinstance(value, (tuple, frozenset)):
            return list(value) if len(value) <= _MANY else []
        elif hasattr(value, "__dict__") and not any(kind.__name__ == "Trainer" for kind in type(value).__mro__):
            self._undo.append(_container(vars(value)))
            return list(vars(value).values())
        return []

    def _cell(self, cell: CellType) -> list[object]:
        """Keep what a function is closed over."""
        try:
            kept = cell.cell_contents
        except ValueError:  # nothing yet
            return []
        self._undo.append(lambda: setattr(cell, "cell_contents", kept))
        return [kept]


def _generator(value: Any) -> Callable[[], None]:
    if isinstance(value, np.random.Generator):
        bits, state = value.bit_generator, value.bit_generator.state
        return lambda: setattr(bits, "state", state)
    if isinstance(value, random.Random):
        kept = value.getstate()
        return lambda: value.setstate(kept)
    found = value.get_state()

    def undo() -> None:
        value.set_state(found)

    return undo


def _tensor(tensor: Tensor) -> Callable[[], None]:
    kept = tensor.detach().clone()

    def undo() -> None:
        if tensor.shape != kept.shape or not torch.equal(tensor, kept):
            with torch.no_grad():
                tensor.detach().resize_(kept.shape).copy_(kept)

    return undo


def _array(array: np.ndarray[Any, Any]) -> Callable[[], None]:
    kept = array.copy()

    def undo() -> None:
        array[...] = kept

    return undo


def _container(container: Any) -> Callable[[], None]:
    """Return what gives a dict, list, set or deque the very items again that it has now."""
    kept = container.copy()

    def undo() -> None:
        if isinstance(container, dict):
            for key in [key for key in container if key not in kept]:
                del container[key]
            for key, item in kept.items():
                if key not in container or container[key] is not item:
                    container[key] = item
        elif isinstance(container, set):
            container.intersection_update(kept)
            container.update(kept)
        elif len(container) != len(kept) or any(a is not b for a, b in zip(container, kept, strict=True)):
            container.clear()
            container.extend(kept)

    return undo
