"""Watches padding aware neurons emerge while a model trains."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pan_callbacks._runtime import Shard
from pan_callbacks.callbacks._lightning import Callback
from pan_callbacks.callbacks._probing import InputCheck, feed, validation_batches
from pan_callbacks.callbacks._showing import Show
from pan_callbacks.errors import PANError
from pan_callbacks.layers import Skip
from pan_callbacks.measurement.engine import Measurement, Settings
from pan_callbacks.measurement.scan import check_measured
from pan_callbacks.reports.history import Entry, History, entry_of, scalars
from pan_callbacks.reports.pan_report import PANReport

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule, Trainer

START = -1  # the epoch of the network before its first step


class PANMonitor(Callback):
    """Finds the padding aware neurons of a model epoch by epoch, and logs their number, sides, layers and origin.

    During validation it takes the images that pass anyway and runs the part of the model that holds the monitored
    layers once more on their middle. Weights, random numbers, batch statistics, outputs and the user's metrics stay
    what they are without it, and an error of its own ends the measurement, not the training.

    The first point of every curve is the network before its first step: random weights distinguish a border, too.

    Args:
        layers: Glob or globs over module names; None for all convolutions.
        reference: What the border is compared with, see :func:`pan_callbacks.scan`.
        threshold: Absolute contrast from which a neuron is a PAN, in (0, 1).
        max_images: Images to probe, at most, over all ranks; the first ones of the first validation loader, so that
            they are the same every epoch if the loader does not shuffle.
        every_n_epochs: Probe every so many epochs; in between the last figures are logged again, so that a
            ``ModelCheckpoint(monitor="pan/count")`` finds its key.
        figures: Whether to show pictures and tables if the logger can (TensorBoard, W&B).
        batches: Images to probe instead of those of the validation loop: any iterable of batches that can be iterated
            again and again. They are handed to the part of the model that holds the monitored layers.

    Attributes:
        report: The latest :class:`~pan_callbacks.PANReport`, None before the first probe.

    Raises:
        ValueError: If an argument is out of range.
        PANError: At the start of fit, if there is neither a validation loop nor ``batches``, or a glob matches nothing.
    """

    def __init__(
        self,
        layers: str | list[str] | None = None,
        reference: str = "crop",
        threshold: float = 0.8,
        max_images: int = 256,
        every_n_epochs: int = 1,
        figures: bool = True,
        batches: Iterable[Any] | None = None,
    ) -> None:
        super().__init__()
        self._settings = Settings(layers, reference, threshold, max_images)
        if every_n_epochs < 1:
            raise ValueError(f"every_n_epochs={every_n_epochs!r}: at least 1 is needed")
        if batches is not None and hasattr(batches, "__next__"):
            raise ValueError("batches can be iterated once only; pass a list or a DataLoader, it is read every epoch")
        self.layers, self.reference, self.threshold, self.max_images = layers, reference, threshold, max_images
        self.every_n_epochs, self.figures, self.batches = every_n_epochs, figures, batches
        self.report: PANReport | None = None
        self._history = History(threshold)
        self._measurement: Measurement | None = None
        self._inputs = InputCheck()
        self._measuring = self._told_of_nothing = False
        self._scalars: dict[str, float] = {}
        self._show = Show(figures)

    @property
    def history(self) -> list[Entry]:
        """One dict a probed epoch: ``epoch`` (-1 before the first step), ``step``, ``count``, ``born``, ``gone`` ..."""
        return self._history.entries

    @property
    def births(self) -> dict[str, dict[int, int]]:
        """Layer name to channel to the epoch in which this living PAN was born."""
        return self._history.births

    @property
    def state_key(self) -> str:
        """What distinguishes two monitors in one checkpoint."""
        return self._generate_state_key(layers=self.layers, reference=self.reference, threshold=self.threshold)

    def state_dict(self) -> dict[str, Any]:
        """Return history and births, for the checkpoint."""
        return {**self._history.state_dict(), "scalars": self._scalars}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the curves and the timeline of a checkpoint."""
        self._history.load_state_dict(state_dict)
        self._scalars = dict(state_dict["scalars"])

    # --- when to run -----------------------------------------------------------------------------------------------

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attach; after the model was configured, before the first forward."""
        if self.batches is None and not trainer.enable_validation:
            raise PANError(
                "PANMonitor has no images to probe: this Trainer runs no validation. "
                "Give it a validation loop, or PANMonitor(batches=...) a loader of images"
            )
        self._attach(trainer, pl_module)

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look how images reach the model; what is measured here is a point only if they do not reach it otherwise."""
        if self.batches is None and not self._history.entries:
            self._inputs = InputCheck()
            self._attached.on_entry = self._inputs.entered
            self._start(trainer)

    def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop listening until the first point is taken."""
        self._pause()
        self._attached.on_entry = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the first point: the network before its first step."""
        if self._history.entries or trainer.global_step > 0:
            return  # resumed
        if self.batches is not None:
            self._probe(trainer, pl_module, self.batches)
        elif not self._inputs.changed:  # else the sanity check's own images are what there is
            self._probe(trainer, pl_module, validation_batches(trainer))
        if self._conclude():
            self._record(trainer, START)
            for logger in trainer.loggers:
                logger.log_metrics(self._scalars, step=0)
            return
        why = self._attached.failure or "reading the validation loader ahead would use it up"
        warnings.warn(
            f"PANMonitor could not probe the network before its first step ({why}). The curve begins after the "
            "first epoch; PANMonitor(batches=...) probes images of your choice",
            stacklevel=2,
        )

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start listening, in an epoch that is due."""
        if trainer.sanity_checking or not self._is_due(trainer):
            return
        if self._measurement is None:  # trainer.validate
            self._attach(trainer, pl_module)
        if self.batches is None:
            self._start(trainer)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Leave out every loader but the first."""
        if self._measuring and dataloader_idx > 0:
            self._attached.stop()
        elif self._measuring and trainer.sanity_checking and batch_idx == 0:
            self._inputs.expect(batch)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what was found, and log it."""
        if not trainer.sanity_checking:
            self._take_point(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Probe the user's own images if no validation does."""
        if self.batches is not None and not trainer.enable_validation:
            self._take_point(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the last state in full."""
        if self.report is not None and self._history.entries:
            self._show.all(trainer, self._attached, self.report, self.history)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attach and listen."""
        self._attach(trainer, pl_module)
        if self.batches is None:
            self._start(trainer)

    on_test_batch_start = on_validation_batch_start
    on_test_epoch_end = on_validation_epoch_end

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Detach."""
        self._detach()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Detach: after an exception Lightning calls no teardown."""
        self._detach()

    # --- what to do ------------------------------------------------------------------------------------------------

    def _is_due(self, trainer: Trainer) -> bool:
        return trainer.state.fn != "fit" or (trainer.current_epoch + 1) % self.every_n_epochs == 0 or not self._scalars

    @property
    def _attached(self) -> Measurement:
        """The measurement of the run that goes on."""
        assert self._measurement is not None, "the monitor is not attached"
        return self._measurement

    def _attach(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._detach()
        shard = Shard(trainer.global_rank, trainer.world_size)
        self._measurement = Measurement(pl_module, self._settings, shard, tolerant=True)
        self._measurement.attach()

    def _detach(self) -> None:
        if self._measurement is not None:
            self._measurement.detach()
        self._measurement, self._measuring = None, False

    def _start(self, trainer: Trainer) -> None:
        self._attached.start(-(-self.max_images // trainer.world_size))
        self._measuring = True

    def _pause(self) -> None:
        self._attached.stop()
        self._measuring = False

    def _probe(self, trainer: Trainer, pl_module: LightningModule, batches: Iterable[Any] | None) -> None:
        """Hand batches to the model ourselves, if none pass by."""
        self._start(trainer)
        feed(trainer, pl_module, self._attached, batches)

    def _take_point(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add a point to the curves, if one is due, and log the last one."""
        if self._is_due(trainer):
            if self.batches is not None:
                self._probe(trainer, pl_module, self.batches)
            self._conclude()
            self._record(trainer, trainer.current_epoch, keep=trainer.state.fn == "fit")
        self._log(pl_module)

    def _conclude(self) -> bool:
        """Take the report of the images that passed, on every rank, as ranks reduce what they saw.

        Returns:
            Whether there is one: if no image passed, the last report stays.
        """
        self._pause()
        report = self._attached.report()
        seen = bool(report.images or self._attached.images)
        if seen or not self._attached.layers:
            self.report = report
            self._warn(report)
            return True
        if self._scalars:
            warnings.warn(
                "PANMonitor saw no image pass through the monitored layers; it keeps its last figures", stacklevel=2
            )
        return False

    def _record(self, trainer: Trainer, epoch: int, keep: bool = True) -> None:
        """Add the report to the curves (in fit) and show it."""
        if self.report is None:
            return
        step = trainer.global_step
        entry = self._history.add(self.report, epoch, step) if keep else entry_of(self.report, epoch, step)
        self._scalars = scalars(self.report, entry)
        if keep:
            self._show.epoch(trainer, self.report, self.history)

    def _log(self, pl_module: LightningModule) -> None:
        if self._scalars:
            pl_module.log_dict(self._scalars, on_step=False, on_epoch=True, batch_size=1)

    def _warn(self, report: PANReport) -> None:
        """Warn once of what is wrong with the measurement, if anything is."""
        for name, line in report.layers.items():
            if line.skip is Skip.NOT_FINITE:
                warnings.warn(
                    f"layer {name} has NaN or infinite activations and is left out of this epoch's figures",
                    stacklevel=3,
                )
                break
        if report.neurons == 0 and not self._told_of_nothing:
            self._told_of_nothing = True
            why = "no padded convolution was found in this model"
            try:
                check_measured(report)
            except PANError as error:
                why = str(error)
            warnings.warn(f"PANMonitor logs a count of 0: {why}", stacklevel=3)


def find_monitor(trainer: Trainer) -> PANMonitor | None:
    """Return the first monitor among a Trainer's callbacks."""
    callbacks = getattr(trainer, "callbacks", ())  # an attribute that Lightning does not declare
    return next((callback for callback in callbacks if isinstance(callback, PANMonitor)), None)
