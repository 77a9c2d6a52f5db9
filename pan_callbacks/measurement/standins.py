"""What takes the place of an object of somebody else's that has a state which can be neither copied nor put back."""

from __future__ import annotations

import copy
import functools
import io
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import BuiltinFunctionType, GeneratorType, ModuleType
from typing import Any, NoReturn, cast

import torch

from pan_callbacks.errors import PANError

#: What cannot change.
ATOMS = (
    *(type(None), bool, int, float, complex, str, bytes, range, slice, BuiltinFunctionType, ModuleType),
    *(torch.dtype, torch.device, torch.Size, torch.memory_format),
)
#: Packages whose classes and functions keep nothing of a forward, beside Python's own.
LIBRARIES = {
    *("torch", "torchvision", "torchmetrics", "timm", "numpy", "pan_callbacks"),
    *("pytorch_lightning", "lightning", "lightning_fabric"),
}
_PYTHON = str(Path(os.__file__).parent)

_FILES = (io.BufferedReader, io.BufferedWriter, io.BufferedRandom, io.FileIO)
_CACHE = type(functools.lru_cache(len))


def is_foreign(code: Any) -> bool:
    """Whether a class, function or module is of a package that keeps nothing of a forward on it.

    Example:
        >>> is_foreign(torch.nn.Conv2d), is_foreign(type("Net", (), {"__module__": "my_project.nets"}))
        (True, False)
    """
    name = getattr(code, "__name__" if isinstance(code, ModuleType) else "__module__", None)
    return _is_foreign(str(name))


@functools.cache
def _is_foreign(module: str) -> bool:
    package = module.partition(".")[0]
    if package not in sys.stdlib_module_names:
        return package in LIBRARIES
    place = getattr(sys.modules.get(module), "__file__", None)  # somebody's folder may have the name of Python's own
    return module in sys.modules and (place is None or place.startswith(_PYTHON))


def is_ours(code: Any) -> bool:
    """Whether a class or function is one of this package's."""
    return str(getattr(code, "__module__", None)).partition(".")[0] == "pan_callbacks"


def owner_of(value: object) -> object | None:
    """Return the object that a function in C is a method of, None if it is of none.

    Example:
        >>> items = []
        >>> owner_of(items.append) is items, owner_of(len)
        (True, None)
    """
    owner = value.__self__ if isinstance(value, BuiltinFunctionType) else None
    return None if isinstance(owner, ModuleType) else owner


def dict_of(value: object) -> dict[str, Any] | None:
    """Return the attributes of an object, None if it has no dict for them, whatever its class says of attributes."""
    try:
        found: dict[str, Any] = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return None
    return found


def stand_in(value: object) -> object:
    """Return what forwards of ours use in the place of an object; the object itself, if it needs none.

    An iterator has a copy that stands where it stands, a cache is an empty one of the same function, a file that is
    read is opened once more at the same place, and what is written goes nowhere. What has no such copy (a generator) is
    replaced by an object that raises an error when it is used.

    Args:
        value: The object.

    Example:
        >>> numbers = iter([1, 2, 3])
        >>> next(numbers), next(stand_in(numbers)), next(numbers)
        (1, 2, 2)
    """
    if isinstance(value, _CACHE):
        return functools.lru_cache(**value.cache_parameters())(value.__wrapped__)
    if isinstance(value, (staticmethod, classmethod)) and isinstance(value.__func__, _CACHE):
        return type(value)(cast(Any, stand_in(value.__func__)))
    if type(value) is tuple:
        made = tuple(stand_in(item) for item in value)
        return made if any(one is not other for one, other in zip(made, value, strict=True)) else value
    if isinstance(value, io.IOBase):
        return _file(value)
    if not isinstance(value, Iterator) or dict_of(value) is not None:
        return value  # an object of a class of somebody's is what its attributes are
    try:
        if isinstance(value, GeneratorType):
            raise TypeError("a generator has no copy")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python 3.12 warns that iterators will be copied no longer
            return copy.deepcopy(value)
    except Exception:
        return _Sealed(value)


def _file(value: Any) -> object:
    raw = value.buffer if type(value) is io.TextIOWrapper else value
    try:
        if type(value) in (io.StringIO, io.BytesIO):
            return copy.copy(value)
        if type(raw) not in _FILES:
            raise TypeError("no file of this machine's")
        if value.writable() and not value.readable():
            return io.BytesIO() if value is raw else io.StringIO()
        options = {} if value is raw else {"encoding": value.encoding, "errors": value.errors}
        made = open(value.name, "rb" if value is raw else "r", **options)  # noqa: SIM115  # as long as the forward
        made.seek(value.tell())
        if not value.writable():
            return made
        with made:
            content, place = Path(value.name).read_bytes(), made.tell()
        both = io.BytesIO(content) if value is raw else io.StringIO(content.decode(value.encoding, value.errors))
        both.seek(place)
        return both
    except Exception:  # or in the middle of being iterated
        return _Sealed(value)


class _Sealed:
    """Raises an error whatever is done with it.

    Args:
        value: What it takes the place of.
    """

    def __init__(self, value: object) -> None:
        self.__dict__["_kind"] = type(value).__name__

    def _refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise PANError(
            f"the model uses a {self.__dict__['_kind']}, which cannot be copied, and would be advanced by forwards of "
            "ours; keep a number or a torch.Generator in its place"
        )

    __iter__ = __next__ = __call__ = __getattr__ = __setattr__ = __enter__ = _refuse
