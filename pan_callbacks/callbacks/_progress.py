"""How far a training has come, by what bounds it: epochs, or optimizer steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytorch_lightning import Trainer


def has_an_end(trainer: Trainer) -> bool:
    """Return whether epochs or steps bound the training; a time limit says nothing of how many there will be."""
    return trainer.fit_loop.max_epochs != -1 or trainer.fit_loop.max_steps != -1


def epochs_passed(trainer: Trainer) -> float:
    """Return the epochs that passed before this batch, with the share of this one.

    A training loader without a length adds nothing before its epoch is over.
    """
    return trainer.current_epoch + max(0, trainer.fit_loop.batch_idx) / trainer.num_training_batches


def no_length(what: str, first: str) -> str:
    """Return what to say of something that is to grow step by step, where nobody knows how many there are.

    Args:
        what: What grows.
        first: What the first epoch has of it.
    """
    return (
        f"the training loader has no length, so {what} goes in steps of whole epochs and the first {first}; "
        "limit_train_batches gives it a length"
    )


def progress(trainer: Trainer) -> float:
    """Return the share of the training that passed before this batch, from 0 to 1.

    If both ``max_epochs`` and ``max_steps`` bound it, the one that is nearer counts. Steps are those of optimizers, as
    ``max_steps`` counts them, so that batches of one accumulation share their progress. All that this is computed from
    is in checkpoints.

    Args:
        trainer: A Trainer within its fit, for which :func:`has_an_end`.
    """
    epochs, steps = trainer.fit_loop.max_epochs or -1, trainer.fit_loop.max_steps
    by_epochs = epochs_passed(trainer) / epochs if epochs > 0 else 0.0
    by_steps = trainer.global_step / steps if steps > 0 else 0.0
    return min(1.0, max(by_epochs, by_steps))


def in_last_epoch(trainer: Trainer) -> bool:
    """Return whether no more than an epoch is left, this batch included.

    If ``max_steps`` ends the training within an epoch, that is so from before the last whole epoch is over: its
    validation is the last one.
    """
    epochs, steps = trainer.fit_loop.max_epochs or -1, trainer.fit_loop.max_steps
    if epochs > 0 and epochs - epochs_passed(trainer) <= 1:
        return True
    batches = trainer.num_training_batches
    an_epoch = 1 if batches == float("inf") else -(-batches // trainer.accumulate_grad_batches)
    return steps > 0 and steps - trainer.global_step <= an_epoch
