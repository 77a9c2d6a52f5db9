"""What the fields of a saved report may hold: a small description of each, which reads a value or says what is wrong.

A *field* is a function of a value and of the place where it stands (``"layers[3].channels"``); it returns what the
value becomes, or raises a ValueError that names the place, the value and what is needed there. Fields are put together
of others, so that the description of a report looks like the report.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Mapping
from typing import Any

import torch

Field = Callable[[Any, str], Any]

_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxtuple, _SHORT.maxdict, _SHORT.maxset = 2, 3, 3, 2, 3

#: The largest number of a tensor, which is float32.
MOST = torch.finfo(torch.float32).max
#: The largest whole number that every reader of JSON knows.
MOST_WHOLE = 2**53


def wrong(where: str, value: object, wanted: str) -> ValueError:
    """Return the error that a value is not what is needed.

    Example:
        >>> wrong("layers[3].channels", True, "a whole number")
        ValueError('layers[3].channels is True: a whole number is needed')
    """
    return ValueError(f"{where} is {shown(value)}: {wanted} is needed")


def shown(value: object) -> str:
    """Return a value as it stands in a message: as Python writes it, and no longer than a line.

    Example:
        >>> shown(True), shown(list(range(99))), shown([[[1]]])
        ('True', '[0, 1, 2, ...]', '[[...]]')
    """
    try:
        return _SHORT.repr(value)
    except ValueError:  # a whole number of thousands of digits
        return f"of type {type(value).__name__}"


def text(value: Any, where: str) -> str:
    """Read a text."""
    if not isinstance(value, str):
        raise wrong(where, value, "a text")
    return value


def truth(value: Any, where: str) -> bool:
    """Read true or false."""
    if not isinstance(value, bool):
        raise wrong(where, value, "true or false")
    return value


def one_of(*values: str) -> Field:
    """Return the field of one of some texts."""

    def read(value: Any, where: str) -> str:
        if not isinstance(value, str) or value not in values:
            raise wrong(where, value, f"one of {', '.join(map(repr, values))}")
        return value

    return read


def number(low: float = -MOST, high: float = MOST, ends: bool = True) -> Field:
    """Return the field of a finite number.

    Args:
        low: The smallest.
        high: The largest.
        ends: Whether it may be one of these two.

    Example:
        >>> number(0, 1)(0.25, "drift")
        0.25
        >>> number(0, 1, ends=False)(-1, "threshold")
        Traceback (most recent call last):
        ValueError: threshold is -1: a number between 0 and 1 is needed
    """
    wanted = f"a number {'from' if ends else 'between'} {low:g} {'to' if ends else 'and'} {high:g}"

    def read(value: Any, where: str) -> float:
        known = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not known or not low <= value <= high or not ends and value in (low, high):
            raise wrong(where, value, wanted)
        return float(value)

    return read


def whole(low: int = 0, high: int = MOST_WHOLE) -> Field:
    """Return the field of a whole number from ``low`` to ``high``."""

    def read(value: Any, where: str) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise wrong(where, value, f"a whole number from {low} to {high}")
        return value

    return read


def maybe(field: Field, nothing: Any = None) -> Field:
    """Return a field that may be null.

    Args:
        field: What it is otherwise.
        nothing: What null becomes.
    """
    return lambda value, where: nothing if value is None else field(value, where)


def several(field: Field) -> Field:
    """Return the field of a list of any length, which becomes a tuple."""

    def read(value: Any, where: str) -> tuple[Any, ...]:
        if not isinstance(value, (list, tuple)):
            raise wrong(where, value, "a list")
        return tuple(field(item, f"{where}[{i}]") for i, item in enumerate(value))

    return read


def pair(field: Field) -> Field:
    """Return the field of a list of two, which becomes a tuple."""

    def read(value: Any, where: str) -> tuple[Any, Any]:
        if not isinstance(value, (list, tuple)) or len(value) != 2:
            raise wrong(where, value, "a list of two")
        return field(value[0], f"{where}[0]"), field(value[1], f"{where}[1]")

    return read


def few(field: Field) -> Field:
    """Return the field of a list of as many as there are axes, one to three, which becomes a tuple."""

    def read(value: Any, where: str) -> tuple[Any, ...]:
        if not isinstance(value, (list, tuple)) or not 1 <= len(value) <= 3:
            raise wrong(where, value, "a list of one to three, one for each axis,")
        return tuple(field(item, f"{where}[{i}]") for i, item in enumerate(value))

    return read


def row(low: float = -MOST, high: float = MOST) -> Field:
    """Return the field of a list of numbers, in which null stands for NaN."""
    one = maybe(number(low, high), math.nan)

    def read(value: Any, where: str) -> list[float]:
        if not isinstance(value, (list, tuple)):
            raise wrong(where, value, "a list of numbers")
        if all(item is None or type(item) is float and low <= item <= high for item in value):  # nearly always
            return [math.nan if item is None else item for item in value]
        return [one(item, f"{where}[{i}]") for i, item in enumerate(value)]

    return read


def record(fields: Mapping[str, Field], later: Mapping[str, Any] | None = None, closed: bool = False) -> Field:
    """Return the field of an object, which becomes a dict.

    Args:
        fields: Its fields by name.
        later: Fields that may be missing, and what they are then.
        closed: Whether it is an error that there are others; else they are passed over.

    Example:
        >>> record({"draw": maybe(whole())})({"draw": None, "comment": "mine"}, "")
        {'draw': None}
        >>> record({"draw": maybe(whole())})({}, "arms[2]")
        Traceback (most recent call last):
        ValueError: arms[2].draw is missing
    """
    later = {} if later is None else later

    def read(value: Any, where: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise wrong(where or "all of it", value, "an object")
        found = {**later, **value}
        within = f"{where}." if where else ""
        for name in fields:
            if name not in found:
                raise ValueError(f"{within}{name} is missing")
        for name in found if closed else ():
            if name not in fields:
                raise ValueError(f"{within}{shown(name)} is no field of it; those are {', '.join(fields)}")
        return {name: field(found[name], f"{within}{name}") for name, field in fields.items()}

    return read
