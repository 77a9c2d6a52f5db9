"""Something around a method of a module, for a time."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable
from typing import Any

from torch import nn


class Around:
    """Stands in the place of a module's method; a copy of the module gets the method itself.

    Args:
        module: The module.
        name: Name of the method, which may be on the module's class or on itself.
        around: Called with the method and its arguments.
    """

    def __init__(self, module: nn.Module, name: str, around: Callable[..., Any]) -> None:
        own = getattr(module, name)
        functools.update_wrapper(self, own)
        self.__wrapped__ = inspect.unwrap(own)  # Lightning looks at its signature and code
        self.name, self.own, self.around = name, own, around
        self.was_on_instance = name in module.__dict__
        setattr(module, name, self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.around(self.own, *args, **kwargs)

    def remove(self, module: nn.Module) -> None:
        """Give the method back its place, also from below another of these."""
        current = module.__dict__.get(self.name)
        if current is self and self.was_on_instance:
            setattr(module, self.name, self.own)
        elif current is self:
            delattr(module, self.name)
        while isinstance(current, Around):
            if current.own is self:
                current.own, current.was_on_instance = self.own, self.was_on_instance
            current = current.own

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return copy.deepcopy(self.own, memo)

    def __reduce__(self) -> tuple[Any, ...]:
        return _itself, (self.own,)


def _itself(own: Any) -> Any:
    return own
