"""Shows figures, histograms and tables in the loggers that can."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from pan_callbacks.callbacks._loggers import (
    can_show,
    is_silent,
    show_contrasts,
    show_figure,
    show_layout,
    show_text,
)
from pan_callbacks.callbacks._logging import step_of
from pan_callbacks.callbacks._remembered import Remembered
from pan_callbacks.callbacks._tags import Tags
from pan_callbacks.callbacks._tensorboard import scalar_layout
from pan_callbacks.measurement.engine import Measurement
from pan_callbacks.reports.entries import Entry
from pan_callbacks.reports.pan_report import PANReport

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pytorch_lightning import Trainer
    from pytorch_lightning.loggers import Logger

#: Group of the pictures to see first: TensorBoard sorts groups, capitals first, and opens two.
STORY = "PANs"
#: Neurons that have a picture of their own.
PORTRAITS = 3


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
        self._step: int | None = None  # of the last probe; the loop counts on after the last validation
        self._laid_out = False
        self._pictured = self._tabled = Remembered()  # the reports that were shown last, so that none is shown twice

    def epoch(self, trainer: Trainer, measurement: Measurement, report: PANReport, history: list[Entry]) -> None:
        """Show the state after a probe."""
        after = len(history) - 1
        due = after & (after - 1) == 0 or after == 0 if self._every is None else after % self._every == 0
        # the first point is taken in the first validation, when there were steps already
        self._step = step_of(trainer) if history[-1]["epoch"] >= 0 else 0
        self._on_loggers(trainer, report, lambda: self._pictures(measurement, report, history) if due else {})

    def all(self, trainer: Trainer, measurement: Measurement, report: PANReport, history: list[Entry]) -> None:
        """Show what the last state has not shown yet, and a gallery of its PANs, of each type first."""

        def draw() -> dict[str, Figure]:
            return {**self._pictures(measurement, report, history), **_gallery(measurement, report)}

        self._on_loggers(trainer, report, draw)

    def _pictures(self, measurement: Measurement, report: PANReport, history: list[Entry]) -> dict[str, Figure]:
        """Draw a state, unless it was drawn."""
        from pan_callbacks.figures.model import layer_sides
        from pan_callbacks.figures.timeline import count_band, timeline

        if self._pictured.is_(report):
            return {}
        figures = {f"{STORY}/count": count_band(history), "pan/layer_sides": layer_sides(report)}
        if len(history) > 1:  # one probe is no time
            figures["pan/timeline"] = timeline(history)
        epoch = history[-1]["epoch"]
        figures |= _portraits(measurement, report, "before training" if epoch < 0 else f"epoch {epoch}")
        self._pictured = Remembered(report)
        return figures

    def _on_loggers(self, trainer: Trainer, report: PANReport, draw: Callable[[], dict[str, Figure]]) -> None:
        step = step_of(trainer) if self._step is None else self._step
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
                show_contrasts(logger, self._tags.of("pan/contrast"), torch.cat(contrasts), step, report.threshold)
            show_text(logger, self._tags.of("pan/table"), report.markdown(), step)
        for tag, figure in self._tags.of_all(figures).items():
            show_figure(logger, tag, figure, step)
        self._laid_out = True


def _gallery(measurement: Measurement, report: PANReport) -> dict[str, Figure]:
    from pan_callbacks.analysis.portraits import neuron_pictures
    from pan_callbacks.figures.gallery import gallery

    pictures = neuron_pictures(measurement, report)
    nothing_seen = bool(report.pans) and not pictures  # a resumed run without validation has the report alone
    return {} if nothing_seen else {"pan/gallery": gallery(pictures)}


def _portraits(measurement: Measurement, report: PANReport, when: str) -> dict[str, Figure]:
    """Draw the strongest neurons, each under its rank, so that a slider goes through the epochs."""
    from pan_callbacks.analysis.portraits import neuron_pictures
    from pan_callbacks.figures.portrait import portrait

    pictures = neuron_pictures(measurement, report, pans=report.strongest(PORTRAITS))
    return {
        f"{STORY}/strongest_{rank}": portrait(picture, rank, when) for rank, picture in enumerate(pictures, start=1)
    }
