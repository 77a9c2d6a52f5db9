"""Logs the figures of a monitor: for callbacks under their public names, in each logger under those that it has."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pan_callbacks.callbacks._loggers import tag_in

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule, Trainer
    from pytorch_lightning.loggers import Logger


def log_figures(trainer: Trainer, pl_module: LightningModule, values: Mapping[str, float], prog_bar: str = "") -> None:
    """Log figures at the end of a validation or test.

    Lightning's ``log`` has one name for a figure. Where a TensorBoard logger has another, ``log`` keeps the figure for
    callbacks alone, and loggers get it from here.

    Args:
        trainer: The running Trainer.
        pl_module: Its module.
        values: Figures by their tags.
        prog_bar: Tag of the figure that the progress bar shows, or nothing.
    """
    renamed = {tag: value for tag, value in values.items() if any(tag_in(own, tag) != tag for own in trainer.loggers)}
    at_the_end: dict[str, Any] = {"on_step": False, "on_epoch": True, "batch_size": 1}
    for tag, value in values.items():
        pl_module.log(tag, value, prog_bar=tag == prog_bar, logger=tag not in renamed, **at_the_end)
    for logger in trainer.loggers if renamed else ():
        log_in(logger, renamed, step_of(trainer))


def log_in(logger: Logger, values: Mapping[str, float], step: int) -> None:
    """Log figures in a logger, under the names that it has for them.

    Args:
        logger: One of the Trainer's.
        values: Figures by their public tags.
        step: Where they stand on the x axis.
    """
    try:
        logger.log_metrics({tag_in(logger, tag): value for tag, value in values.items()}, step=step)
    except Exception as error:  # a full disk, a server that is away: our figures are not worth a training
        warnings.warn(f"PANMonitor could not log its figures: {type(error).__name__}: {error}", stacklevel=2)


def step_of(trainer: Trainer) -> int:
    """Return the step at which Lightning itself logs, the x axis of its curves."""
    loop = getattr(getattr(trainer, "fit_loop", None), "epoch_loop", None)
    return int(getattr(loop, "_batches_that_stepped", trainer.global_step))
