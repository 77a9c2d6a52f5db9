"""What a monitor found so far: the latest report, the curves, and what it shows of them."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any

from torch import nn

from pan_callbacks.callbacks._logging import log_in
from pan_callbacks.callbacks._showing import Show
from pan_callbacks.callbacks._tags import Tags
from pan_callbacks.errors import PANError
from pan_callbacks.layers import Skip
from pan_callbacks.measurement.engine import Measurement
from pan_callbacks.measurement.scan import check_measured
from pan_callbacks.measurement.unseen import why_nothing
from pan_callbacks.reports._state import report_from_state, report_state
from pan_callbacks.reports.entries import FLIPS, TOTALS, entry_of, missing_layers, scalars, why_missing
from pan_callbacks.reports.history import History
from pan_callbacks.reports.pan_report import PANReport

if TYPE_CHECKING:
    from pytorch_lightning import Trainer

START = -1  # the epoch of the network before its first step
BATCHES = "PANMonitor(batches=...) probes images of your choice"


class Curve:
    """The report, history and logged figures of one run.

    Args:
        threshold: Absolute contrast from which a neuron is a PAN.
        figures: Whether to show pictures.
        tags: What its figures are logged under.
        figures_every: How many probes lie between two with pictures; None for ever more.

    Attributes:
        report: The latest report, None before the first.
        scalars: What was logged last of this run, by tag.
        history: The entries and births.
    """

    def __init__(self, threshold: float, figures: bool, tags: Tags, figures_every: int | None = None) -> None:
        self.report: PANReport | None = None
        self.history = History(threshold)
        self.scalars: dict[str, float] = {}
        self._show, self._tags = Show(figures, tags, figures_every), tags
        self._told_of_nothing = self._failed = False

    def state_dict(self) -> dict[str, Any]:
        """Return history, births and the report behind the last entry, for the checkpoint."""
        report = report_state(self.history.report)
        return {**self.history.state_dict(), "scalars": self.scalars, "report": report}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the curves and the timeline of a checkpoint."""
        self.history.load_state_dict(state_dict)
        self.scalars = dict(state_dict["scalars"])
        self.report = self.history.report = report_from_state(state_dict.get("report"))

    def take(self, measurement: Measurement) -> bool:
        """Take the report of the images that passed, on every rank, as ranks reduce what they saw.

        Returns:
            Whether there is one: if no image passed, the last report stays.
        """
        measurement.stop()
        try:
            report = measurement.report()
        except Exception as error:  # it is ours, and the run goes on
            measurement.failure = f"{type(error).__name__}: {error}"
            warnings.warn(f"PANMonitor could not make its report: {measurement.failure}", stacklevel=2)
            return False
        self._failed = measurement.failed_anywhere
        seen = bool(report.images or measurement.images) or not measurement.layers
        if seen:
            self.report = report
            self._warn(report, measurement.model)
        return seen

    def record_start(self, trainer: Trainer, measurement: Measurement) -> None:
        """Make the report the first point: the network before its first step."""
        values = self._tags.of_all(self.record(trainer, measurement, START, step=0))
        for logger in trainer.loggers:
            log_in(logger, values, step=0)

    def no_start(self, why: str | None) -> None:
        """Warn that there is no first point."""
        why = why or "no image passed through the monitored layers"
        text = f"PANMonitor could not probe the network before its first step ({why})."
        warnings.warn(f"{text} The curve begins after the first epoch; {BATCHES}", stacklevel=3)

    def record(
        self, trainer: Trainer, measurement: Measurement, epoch: int, keep: bool = True, step: int | None = None
    ) -> dict[str, float]:
        """Add the report to the curves and show it.

        Args:
            trainer: The running Trainer.
            measurement: What the report came from.
            epoch: Epoch of the entry.
            keep: Whether it is part of the run; what ``validate`` finds is not.
            step: Step of the entry; None for the Trainer's.

        Returns:
            What is to be logged, by tag.
        """
        assert self.report is not None, "there is no report to record"
        step = trainer.global_step if step is None else step
        if not keep:
            missing = missing_layers(self.report, failed=self._failed)
            return scalars(self.report, entry_of(self.report, epoch, step, missing=missing))
        entry = self.history.add(self.report, epoch, step, self._failed)
        why = why_missing(self.report, entry)
        if why is not None:
            warnings.warn(why, stacklevel=2)
        kept = {FLIPS: math.nan} if FLIPS in self.scalars else {}  # whoever watches it finds it in every epoch
        self.scalars = kept | scalars(self.report, entry)
        self._show.epoch(trainer, measurement, self.report, self.history.entries)
        return self.scalars

    def nothing(self, failure: str | None = None) -> dict[str, float]:
        """Return what is to be logged of an epoch that should have been measured, and was not: NaN, as nobody knows.

        Args:
            failure: Why it was not; None if no image passed.
        """
        why = "saw no image pass through the monitored layers" if failure is None else f"measured nothing ({failure})"
        warnings.warn(f"PANMonitor {why}; its figures of this epoch are NaN", stacklevel=2)
        return dict.fromkeys(self.scalars or TOTALS, math.nan)

    def show_all(self, trainer: Trainer, measurement: Measurement) -> None:
        """Show the last state in full."""
        if self.report is not None and self.history.entries:
            self._show.all(trainer, measurement, self.report, self.history.entries)

    def _warn(self, report: PANReport, model: nn.Module) -> None:
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
            why = why_nothing(model, report)
            try:
                check_measured(report)
            except PANError as error:
                why = str(error)
            warnings.warn(f"PANMonitor logs a count of 0: {why}", stacklevel=3)
