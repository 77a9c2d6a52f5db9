"""Shows figures, histograms and tables in the loggers that can."""

from __future__ import annotations

import warnings
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
from pan_callbacks.callbacks._tags import Tags
from pan_callbacks.measurement.engine import Measurement
from pan_callbacks.reports.entries import Entry
from pan_callbacks.reports.pan_report import PANReport

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pytorch_lightning import Trainer
    from pytorch_lightning.loggers import Logger


class Show:
    """What a monitor shows beside its scalars.

    Drawing takes about a second, so that pictures are drawn ever more rarely (after 1, 2, 3, 5, 9, 17 ... probes) and
    at the end; tables and histograms come with every probe.

    Args:
        enabled: Whether to show anything.
        tags: What the monitor's figures are logged under.
    """

    def __init__(self, enabled: bool, tags: Tags) -> None:
        self.enabled, self._tags = enabled, tags
        self._told: set[str] = set()
        self._laid_out = False

    def epoch(self, trainer: Trainer, report: PANReport, history: list[Entry]) -> None:
        """Show the state after a probe."""
        probes = len(history) - 1
        self._on_loggers(trainer, report, history, pictures=probes & (probes - 1) == 0 or probes < 2)

    def all(self, trainer: Trainer, measurement: Measurement, report: PANReport, history: list[Entry]) -> None:
        """Show the last state in full, with a gallery of the strongest PANs."""
        self._on_loggers(trainer, report, history, pictures=True, measurement=measurement)

    def _on_loggers(
        self,
        trainer: Trainer,
        report: PANReport,
        history: list[Entry],
        pictures: bool,
        measurement: Measurement | None = None,
    ) -> None:
        try:
            loggers = [logger for logger in trainer.loggers if self._is_able(logger)] if self.enabled else []
            if not loggers or not report.layers:
                return
            figures = _draw(report, history, measurement) if pictures else {}
            for logger in loggers:
                self._show(logger, report, figures, _step(trainer))
        except Exception as error:  # a picture is not worth a training
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
        contrasts = [line.contrast.flatten() for line in report.layers.values() if line.contrast is not None]
        if contrasts:
            values = torch.cat(contrasts)
            show_histogram(logger, self._tags.of("pan/contrast"), values[~values.isnan()], step)
        show_text(logger, self._tags.of("pan/table"), report.markdown(), step)
        for tag, figure in self._tags.of_all(figures).items():
            show_figure(logger, tag, figure, step)
        self._laid_out = True


def _draw(report: PANReport, history: list[Entry], measurement: Measurement | None) -> dict[str, Figure]:
    from pan_callbacks.analysis.portraits import neuron_pictures
    from pan_callbacks.figures.gallery import gallery
    from pan_callbacks.figures.model import layer_sides
    from pan_callbacks.figures.timeline import timeline

    figures = {"pan/timeline": timeline(history), "pan/layer_sides": layer_sides(report)}
    if measurement is not None:
        figures["pan/gallery"] = gallery(neuron_pictures(measurement, report))
    return figures


def _step(trainer: Trainer) -> int:
    """Return the step at which Lightning itself logs, the x axis of the scalars."""
    loop = getattr(getattr(trainer, "fit_loop", None), "epoch_loop", None)
    return int(getattr(loop, "_batches_that_stepped", trainer.global_step))
