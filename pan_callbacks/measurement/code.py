"""What the code of a module names, as far as reading it tells."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Collection, Iterator
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from torch import nn

#: Of these no methods are looked for.
_NO_OBJECTS = (FunctionType, BuiltinFunctionType, MethodType, ModuleType, str, int, float, tuple, list, dict)
#: Functions of these are named, but not read.
_LIBRARIES = {"torch", "lightning", "pytorch_lightning", "lightning_fabric", "torchmetrics", "numpy"}


def names_in_code(module: nn.Module, methods: Collection[str] = ("forward",)) -> set[str]:
    """Return the names that the code of some methods uses, and that of the methods and functions that it names.

    Args:
        module: The module.
        methods: Methods to begin with; those that it does not have count for nothing.

    Example:
        >>> import torch.nn.functional as F
        >>> def framed(x):
        ...     return F.pad(x, (1, 1, 1, 1))
        >>> class Framed(nn.Sequential):
        ...     def forward(self, x):
        ...         return super().forward(framed(x))
        >>> "pad" in names_in_code(Framed()), "pad" in names_in_code(nn.Sequential())
        (True, False)
    """
    found: set[str] = set()
    read: set[FunctionType] = set()
    waiting = [one for name in methods for one in _of_module(module, name)]
    while waiting:
        function = _function(waiting.pop())
        if isinstance(function, (FunctionType, BuiltinFunctionType)):
            found.add(function.__name__)  # whatever it is called where it is used
        if not isinstance(function, FunctionType) or function in read or _is_of_library(function):
            continue
        read.add(function)
        names = names_of(function.__code__)
        found |= names
        given = [function.__globals__.get(name) for name in names]
        given += [vars(one).get(name) for one in given if isinstance(one, ModuleType) for name in names]
        given += [one for name in names for one in _of_module(module, name)]
        given += [one for held in given for one in _methods(held, {*names, "__call__"})]
        waiting += [*given, *_closed_over(function)]
    return found


def _of_module(module: nn.Module, name: str) -> list[Any]:
    """Return what a module may mean by a name: what it holds, and the methods of its classes, which may call super."""
    return [vars(one)[name] for one in (module, *type(module).__mro__) if name in vars(one)]


def _methods(value: Any, names: Collection[str]) -> list[Any]:
    """Return the methods of these names of an object, or of a class; none of a module, whose forward is its own."""
    if isinstance(value, (*_NO_OBJECTS, nn.Module)) or value is None:
        return []
    kinds = value.__mro__ if isinstance(value, type) else type(value).__mro__
    return [vars(kind)[name] for kind in kinds for name in names if name in vars(kind)]


def _function(value: Any) -> Any:
    """Return the function behind what wraps it."""
    while isinstance(value, (functools.partial, MethodType, staticmethod, classmethod)):
        value = value.func if isinstance(value, functools.partial) else value.__func__
    return inspect.unwrap(value) if callable(value) else value


def _is_of_library(function: FunctionType) -> bool:
    return str(function.__module__).split(".")[0] in _LIBRARIES


def names_of(code: CodeType) -> set[str]:
    """Return the names that the code of a function uses, and that of the functions within.

    Example:
        >>> sorted(names_of((lambda x: [abs(y) for y in range(x)]).__code__))
        ['abs', 'range']
    """
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return {*code.co_names}.union(*map(names_of, inner))


def _closed_over(function: FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # nothing yet
            continue
