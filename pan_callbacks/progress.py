"""Progress of long work in the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(what: str, total: int | None, show: bool = True) -> Iterator[Callable[[int], None]]:
    """A progress bar over images that goes away when the work is done, or nothing.

    Args:
        what: Word before the bar.
        total: Images in all, None where nobody knows.
        show: Whether there is a bar; it is drawn in terminals alone.

    Yields:
        What to call with the number of images that were done since.
    """
    if not show:
        yield lambda images: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn("images"), TimeRemainingColumn())
    with Progress(*columns, transient=True, console=Console(stderr=True)) as progress:
        task = progress.add_task(what, total=total)
        yield lambda images: progress.advance(task, images)
