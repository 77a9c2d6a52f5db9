"""Shows figures, histograms and tables in the loggers that can."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from pan_callbacks.callbacks._loggers import (
    can_show,
    is_silent,
    scalar_layout,
    show_figure,
    show_histogram,
    show_layout,
    show_text,
)
from pan_callbacks.callbacks._remembered import Remembered
from pan_callbacks.callbacks._tags import Tags
from pan_callbacks.measurement.engine import Measurement
from pan_callbacks.reports.entries import Entry
from pan_callbacks.reports.pan_report import PANReport

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pytorch_lightning import Trainer
    from pytorch_lightning.loggers import Logger


class Show:
    """What a monitor shows beside its scalars: tables and histograms with every probe, pictures more rarely.

    Drawing is dear beside a short epoch, so that a state is pictured once, and not in every epoch.

    Args:
        enabled: Whether to show anything.
        tags: What the monitor's figures are logged under.
        every: Pictures come with the first probe and every so many after it; None for ever more rarely: with the first,
            and 1, 2, 4, 8, 16 ... after it. The last state is pictured at the end in any case.

    Raises:
        ValueError: If that is below 1.
    """

    def __init__(self, enabled: bool, tags: Tags, every: int | None = None) -> None:
        if every is not None and every < 1:
            raise ValueError(f"figures_every={every!r}: at least 1 is needed")
        self.enabled, self._tags, self._every = enabled, tags, every
        self._told: set[str] = set()
        self._laid_out = False
        self._pictured = self._tabled = Remembered()  # the reports that were shown last, so that none is shown twice

    def epoch(self, trainer: Trainer, report: PANReport, history: list[Entry]) -> None:
        """Show the state after a probe."""
        after = len(history) - 1
        due = after & (after - 1) == 0 or after == 0 if self._every is None else after % self._every == 0
        # the first point is taken in the first validation, when there were steps already
        step = _step(trainer) if history[-1]["epoch"] >= 0 else 0
        self._on_loggers(trainer, report, lambda: self._pictures(report, history) if due else {}, step)

    def all(self, trainer: Trainer, measurement: Measurement, report: PANReport, history: list[Entry]) -> None:
        """Show what the last state has not shown yet, and a gallery of its strongest PANs."""

        def draw() -> dict[str, Figure]:
            return {**self._pictures(report, history), **_gallery(measurement, report)}

        self._on_loggers(trainer, report, draw, _step(trainer))

    def _pictures(self, report: PANReport, history: list[Entry]) -> dict[str, Figure]:
        """Draw a state, unless it was drawn."""
        from pan_callbacks.figures.model import layer_sides
        from pan_callbacks.figures.timeline import timeline

        if self._pictured.is_(report):
            return {}
        figures = {"pan/layer_sides": layer_sides(report)}
        if len(history) > 1:  # one probe is no time
            figures["pan/timeline"] = timeline(history)
        self._pictured = Remembered(report)
        return figures

    def _on_loggers(
        self, trainer: Trainer, report: PANReport, draw: Callable[[], dict[str, Figure]], step: int
    ) -> None:
        try:
            loggers = [logger for logger in trainer.loggers if self._is_able(logger)] if self.enabled else []
            if not loggers or not report.layers:
                return
            figures = draw()
            for logger in loggers:
                self._show(logger, report, figures, step)
            self._tabled = Remembered(report)
        except Exception as error:  # a picture is not worth a training
            self._pictured = Remembered()
            warnings.warn(f"PANMonitor could not show its pictures: {type(error).__name__}: {error}", stacklevel=2)

    def _is_able(self, logger: Logger) -> bool:
        """Whether a logger shows pictures; say once of one that does not."""
        if is_silent(logger):
            return False
        able, name = can_show(logger), type(logger).__name__
        if not able and name not in self._told:
            self._told.add(name)
            warnings.warn(f"PANMonitor cannot show pictures in a {name}; its scalars are logged", stacklevel=2)
        return able

    def _show(self, logger: Logger, report: PANReport, figures: dict[str, Figure], step: int) -> None:
        if not self._laid_out and self._tags.number == 1:  # a run has one page of charts
            show_layout(logger, scalar_layout(list(report.measured), report.sides))
        if not self._tabled.is_(report):
            contrasts = [line.contrast.flatten() for line in report.layers.values() if line.contrast is not None]
            if contrasts:
                values = torch.cat(contrasts)
                show_histogram(logger, self._tags.of("pan/contrast"), values[~values.isnan()], step)
            show_text(logger, self._tags.of("pan/table"), report.markdown(), step)
        for tag, figure in self._tags.of_all(figures).items():
            show_figure(logger, tag, figure, step)
        self._laid_out = True


def _gallery(measurement: Measurement, report: PANReport) -> dict[str, Figure]:
    from pan_callbacks.analysis.portraits import neuron_pictures
    from pan_callbacks.figures.gallery import gallery

    return {"pan/gallery": gallery(neuron_pictures(measurement, report))}


def _step(trainer: Trainer) -> int:
    """Return the step at which Lightning itself logs, the x axis of the scalars."""
    loop = getattr(getattr(trainer, "fit_loop", None), "epoch_loop", None)
    return int(getattr(loop, "_batches_that_stepped", trainer.global_step))
