"""A check is a promise that no comparison with a plain run can hold: it runs something and asserts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.attack.promises import Promise


@dataclass(frozen=True)
class Check:
    """A check.

    Args:
        name: Its name, in words.
        promise: What it holds.
        run: Asserts, in a folder of its own; may return the message of what was refused.
    """

    name: str
    promise: Promise
    run: Callable[[Path], str | None]

    @property
    def id(self) -> str:
        return f"{self.promise.name.lower()}: {self.name}"


CHECKS: dict[str, Check] = {}


def check(promise: Promise, name: str | None = None) -> Callable[[Any], Any]:
    """Decorate a function that asserts; its name in words is that of the check, unless one is given."""

    def register(run: Callable[[Path], str | None]) -> Callable[[Path], str | None]:
        made = Check(name or run.__name__.replace("_", " ").strip(), promise, run)
        if made.id in CHECKS:
            raise ValueError(f"two checks are called {made.id!r}")
        CHECKS[made.id] = made
        return run

    return register
