"""Ctrl-C: it ends long work between two batches, and what was done is kept."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Stoppable:
    """Batches that end early once the user asked for it, always between two batches."""

    def __init__(self, batches: Any, asked: list[bool]) -> None:
        self._batches, self._asked = batches, asked
        self.dataset = batches  # for the length of the progress bar

    def __iter__(self) -> Iterator[Any]:
        for batch in self._batches:
            if self._asked:
                return
            yield batch

    @property
    def stopped(self) -> bool:
        """Whether the user asked for an end."""
        return bool(self._asked)


@contextmanager
def interruptible(sources: dict[str, Any]) -> Iterator[dict[str, Stoppable]]:
    """Lets Ctrl-C end the batches instead of the program; pressed twice, it ends the program."""
    asked: list[bool] = []

    def stop(number: int, frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(True)
        if os.environ.get("LOCAL_RANK", "0") == "0":  # of several processes one says so
            print("pan-callbacks: stopping after this batch; once more to stop at once", file=sys.stderr)

    try:
        before = signal.signal(signal.SIGINT, stop)
    except ValueError:  # not in the main thread, where no signal arrives
        yield {name: Stoppable(source, asked) for name, source in sources.items()}
        return
    try:
        yield {name: Stoppable(source, asked) for name, source in sources.items()}
    finally:
        signal.signal(signal.SIGINT, before)
