"""Says in the progress bar what goes on after the last batch of a validation, so that nobody waits for nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytorch_lightning import Trainer


@contextmanager
def saying(trainer: Trainer, word: str) -> Iterator[None]:
    """Add a word to the description of the validation's bar, for as long as a block runs.

    Args:
        trainer: The running Trainer; with a bar that is neither tqdm's nor rich's nothing is said.
        word: What goes on.
    """
    restore: Callable[[], object] | None = None
    with suppress(Exception):  # a word is not worth a training
        restore = _say(getattr(trainer, "progress_bar_callback", None), word)
    try:
        yield
    finally:
        with suppress(Exception):
            if restore is not None:
                restore()


def _say(bar: Any, word: str) -> Callable[[], object] | None:
    """Say a word, and return what takes it back."""
    names = [kind.__name__ for kind in type(bar).__mro__]
    if "TQDMProgressBar" in names:
        own = bar.val_progress_bar
        before = own.desc.removesuffix(": ")
        own.set_description(f"{before}, {word}")
        return lambda: own.set_description(before)
    if "RichProgressBar" in names:
        progress, number = bar.progress, bar.val_progress_bar_id
        before = progress.tasks[progress.task_ids.index(number)].description
        progress.update(number, description=f"{before}, {word}")
        progress.refresh()
        return lambda: progress.update(number, description=before)
    return None
