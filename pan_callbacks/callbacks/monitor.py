"""Watches padding aware neurons emerge while a model trains."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pan_callbacks._runtime import Shard
from pan_callbacks.callbacks._curve import Curve
from pan_callbacks.callbacks._lightning import Callback
from pan_callbacks.callbacks._logging import log_figures
from pan_callbacks.callbacks._probing import announce, check_images, feed, sanity_images, step_call
from pan_callbacks.callbacks._remembered import Remembered
from pan_callbacks.callbacks._saying import saying
from pan_callbacks.callbacks._settings_page import SettingsPage
from pan_callbacks.callbacks._tags import Tags
from pan_callbacks.measurement.engine import Measurement
from pan_callbacks.measurement.grouping import Groups
from pan_callbacks.measurement.settings import Settings
from pan_callbacks.reports.entries import Entry
from pan_callbacks.reports.pan_report import PANReport
from pan_callbacks.reports.words import Reference

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule, Trainer


class PANMonitor(Callback):
    """Finds the padding aware neurons of a model epoch by epoch, and logs their number, sides, layers and origin.

    During validation it takes the images that pass anyway, and runs a copy of the model on their middle. Weights,
    random states, outputs and the user's metrics stay what they are without it, no image is read that validation does
    not read, and an error of its own ends the measurement, not the training. ``padding/reliance`` says beside the count
    how far the answers move with all padding neutral: two more forwards of the probed images.

    The first point of every curve is the network before its first step: random weights distinguish a border, too. It is
    measured on the images of the first validation, with a copy of the network as it was.

    Args:
        layers: Glob or globs over module names; None for all convolutions.
        reference: What the border is compared with, see :func:`pan_callbacks.scan`.
        threshold: Absolute contrast from which a neuron is a PAN, in (0, 1).
        max_images: Images to probe, at most, over all ranks: evenly over the batches of the first validation loader (of
            one of unknown length the first ones), so that they are the same every epoch if it does not shuffle.
        every_n_epochs: Probe every so many epochs; in between the last figures are logged again, so that a
            ``ModelCheckpoint(monitor="pan/count")`` finds its key.
        figures: Whether to show pictures and tables if the logger can.
        groups: Which images belong together, see :func:`pan_callbacks.scan`: a function of a batch that returns the
            name of the group of each of its images, or with ``batches`` a list of all names.
        batches: Images to probe instead of those of the validation loop: any iterable of batches that can be iterated
            again and again. They are handed to the part of the model that holds the monitored layers.
        figures_every: Draw pictures with every so many probes, counted from the first; None: ever more rarely (with the
            first, and 1, 2, 4, 8 ... after it). Table and histogram come with each. The end is shown in any case.
        prog_bar: Whether the progress bar has ``pan/count``.

    Raises:
        ValueError: If an argument is out of range.
        PANError: At the start of fit, if there is neither validation nor ``batches``, or a glob matches nothing. If
            validation is switched off (``limit_val_batches=0``) the curve pauses instead.
    """

    def __init__(
        self,
        layers: str | list[str] | None = None,
        reference: Reference = "crop",
        threshold: float = 0.8,
        max_images: int = 64,
        every_n_epochs: int = 1,
        figures: bool = True,
        batches: Iterable[Any] | None = None,
        groups: Groups = None,
        figures_every: int | None = None,
        prog_bar: bool = False,
    ) -> None:
        super().__init__()
        self._settings = Settings(layers, reference, threshold, max_images)
        if every_n_epochs < 1:
            raise ValueError(f"every_n_epochs={every_n_epochs!r}: at least 1 is needed")
        if batches is not None and hasattr(batches, "__next__"):
            raise ValueError("batches can be iterated once only; pass a list or a DataLoader, it is read every epoch")
        if groups is not None and not callable(groups) and batches is None:
            raise ValueError("groups is no function of a batch, and nobody knows the order of validation beforehand")
        self.groups = groups if groups is None or callable(groups) else list(groups)
        self.layers, self.reference, self.threshold, self.max_images = layers, reference, threshold, max_images
        self.every_n_epochs, self.figures, self.batches = every_n_epochs, figures, batches
        self._tags, self.figures_every, self.prog_bar = Tags(PANMonitor, "pan/count"), figures_every, prog_bar
        self._curve, self._page = Curve(threshold, figures, self._tags, figures_every), SettingsPage(figures)
        self._measurement: Measurement | None = None
        self._initial: Measurement | None = None  # of the network before its first step, until there are images for it
        self._measuring, self._restored, self._module = False, False, Remembered()

    @property
    def report(self) -> PANReport | None:
        """The latest report, None before the first probe."""
        return self._curve.report

    @property
    def history(self) -> list[Entry]:
        """One dict a probed epoch: ``epoch`` (-1 before the first step), ``step``, ``count``, ``born``, ``gone`` ..."""
        return self._curve.history.entries

    @property
    def births(self) -> dict[str, dict[int, int]]:
        """Layer name to channel to the epoch in which this living PAN was born."""
        return self._curve.history.births

    @property
    def state_key(self) -> str:
        """What distinguishes two monitors in one checkpoint."""
        return self._generate_state_key(layers=self.layers, reference=self.reference, threshold=self.threshold)

    def state_dict(self) -> dict[str, Any]:
        """Return history and births, for the checkpoint."""
        return self._curve.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the curves and the timeline of a checkpoint."""
        self._curve.load_state_dict(state_dict)
        self._restored = True

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Describe the run by its settings, before Lightning does."""
        if stage == "fit":
            self._page.before_lightning(trainer, pl_module)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attach; after the model was configured, before the first forward."""
        check_images(trainer, self.batches)
        if self._is_another_run(trainer, pl_module):
            self._curve = Curve(self.threshold, self.figures, self._tags, self.figures_every)
        self._module, self._restored = Remembered(pl_module), False
        self._attach(trainer, pl_module)

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen: a mask wants a report before the first epoch, and a copy is smaller if it is known what runs."""
        if self.batches is None and self._is_at_start(trainer):
            self._start(trainer, most=sanity_images(trainer, self.max_images))

    def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take a first report; it is none of the curve, for it has few images."""
        if self._measuring:
            self._measuring = False
            self._curve.take(self._attached)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the first point, the network before its first step, or a copy of the network to take it of later."""
        if not self._is_at_start(trainer):
            return
        if self.batches is not None:
            self._probe(trainer, pl_module, self.batches)
            self._take_start(trainer, self._attached)
        elif trainer.enable_validation:
            self._keep_initial(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start listening, in an epoch that is due."""
        if trainer.sanity_checking or not (self._is_due(trainer) or self._initial):
            return
        if self._measurement is None:  # trainer.validate
            self._attach(trainer, pl_module)
        if self.batches is None:
            self._start(trainer, measure=self._is_due(trainer))

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Hand on what the step is about to get; leave out every loader but the first."""
        if self._measuring and dataloader_idx > 0:
            self._attached.stop()
        elif self._measuring:
            announce(trainer, self._attached, self.groups, batch, batch_idx)
            self._attached.enter(step_call(trainer, pl_module, batch, batch_idx, dataloader_idx))

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Measure the rest of what the step got."""
        if self._measuring and dataloader_idx == 0:
            with trainer.precision_plugin.forward_context():
                self._attached.leave(step_call(trainer, pl_module, batch, batch_idx, dataloader_idx))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what was found, and log it."""
        if not trainer.sanity_checking:
            with saying(trainer, "measuring padding"):
                self._take_point(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Probe the user's own images if no validation does."""
        if self.batches is not None and not trainer.enable_validation:
            self._take_point(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the last state in full."""
        self._curve.show_all(trainer, self._attached)
        self._page.at_the_end(trainer)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attach and listen."""
        self._attach(trainer, pl_module)
        if self.batches is None:
            self._start(trainer)

    on_test_batch_start = on_validation_batch_start
    on_test_batch_end = on_validation_batch_end
    on_test_epoch_end = on_validation_epoch_end

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: object) -> None:
        """Detach; after an exception as well, when Lightning calls no teardown."""
        self._detach()

    on_exception = teardown  # type: ignore[assignment]  # the exception in place of the stage

    def _is_another_run(self, trainer: Trainer, pl_module: LightningModule) -> bool:
        """Whether a fit begins something new: another model, or a Trainer that has made no step."""
        return not self._restored and (not self._module.is_(pl_module) or trainer.global_step == 0)

    def _is_at_start(self, trainer: Trainer) -> bool:
        """Whether the network has made no step yet, in this run or the one that it resumes."""
        return not self.history and trainer.global_step == 0

    def _is_due(self, trainer: Trainer) -> bool:
        due = (trainer.current_epoch + 1) % self.every_n_epochs == 0
        return trainer.state.fn != "fit" or due or not (self._curve.scalars or self._initial)

    @property
    def _attached(self) -> Measurement:
        """The measurement of the run that goes on."""
        assert self._measurement is not None, "the monitor is not attached"
        return self._measurement

    def _attach(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._detach()
        self._tags.take_number(trainer, self)
        shard = Shard(trainer.global_rank, trainer.world_size)
        self._measurement = Measurement(pl_module, self._settings, shard, tolerant=True)
        self._measurement.attach()

    def _detach(self) -> None:
        if self._measurement is not None:
            self._measurement.detach()
        self._measurement, self._initial, self._measuring = None, None, False

    def _start(self, trainer: Trainer, measure: bool = True, most: int | None = None) -> None:
        """Measure what passes from now on, and with it the network as it was before its first step, if that is open."""
        images = -(-(most or self.max_images) // trainer.world_size)
        if not self._attached.fits:  # layers were replaced meanwhile
            initial = self._initial
            self._attach(trainer, trainer.lightning_module)
            self._initial = initial
        self._attached.also = self._initial
        if self._initial is not None:
            self._initial.start(images, listen=False)
        self._attached.start(images if measure else 0)
        self._measuring = True

    def _keep_initial(self, trainer: Trainer) -> None:
        """Keep a copy of the network to measure on the images of the first validation."""
        try:
            self._initial = self._attached.frozen() if self._attached.layers else None
        except Exception as error:  # whatever cannot be copied
            if self.report is not None:
                self._curve.record_start(trainer, self._attached)  # what the sanity check fed has to do
            else:
                self._take_start(trainer, None, f"it cannot be copied: {error}")

    def _probe(self, trainer: Trainer, pl_module: LightningModule, batches: Iterable[Any]) -> None:
        """Hand batches to the model ourselves, if none pass by."""
        self._attached.start(-(-self.max_images // trainer.world_size), listen=False)
        feed(trainer, pl_module, self._attached, batches, self.groups)

    def _take_point(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add a point to the curves, if one is due, and log the last one."""
        due, self._measuring = self._is_due(trainer), False
        if self._initial is not None:
            initial, self._initial = self._initial, None
            self._take_start(trainer, initial)
        if due and self.batches is not None:
            self._probe(trainer, pl_module, self.batches)
        if not due:
            self._attached.stop()
            values = self._curve.scalars
        elif self._curve.take(self._attached):
            values = self._curve.record(trainer, self._attached, trainer.current_epoch, trainer.state.fn == "fit")
        else:
            values = self._curve.nothing(self._attached.failure)
        log_figures(trainer, pl_module, self._tags.of_all(values), self._tags.of("pan/count") if self.prog_bar else "")

    def _take_start(self, trainer: Trainer, measurement: Measurement | None, why: str | None = None) -> None:
        """Take the first point of what was measured of the network before its first step, or say why there is none."""
        if measurement is not None and self._curve.take(measurement):
            self._curve.record_start(trainer, measurement)
            return
        self._curve.no_start(why or (measurement.failure or self._attached.failure if measurement else None))
