"""Knows an object again."""

from __future__ import annotations

import weakref
from typing import Any


class Remembered:
    """Knows an object again without keeping it alive; what comes out of a pickle knows none.

    Args:
        thing: The object, None for none.
    """

    def __init__(self, thing: object = None) -> None:
        self._ref = None if thing is None else weakref.ref(thing)

    def is_(self, thing: object) -> bool:
        """Return whether this is the object."""
        return self._ref is not None and self._ref() is thing

    def __deepcopy__(self, memo: dict[int, Any]) -> Remembered:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return Remembered, ()
