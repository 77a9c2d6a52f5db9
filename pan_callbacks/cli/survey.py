"""A survey of a trained model: what ``pan-callbacks scan`` and ``impact`` measure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor, nn

from pan_callbacks._runtime import halving, progress_bar
from pan_callbacks.analysis.agreement import Companions, companions
from pan_callbacks.analysis.beyond import Beyond, beyond
from pan_callbacks.analysis.floor import Floor, floor
from pan_callbacks.analysis.input_size import next_size_without_leftover
from pan_callbacks.analysis.kernels import KernelSymmetry, model_asymmetries
from pan_callbacks.analysis.paired_maps import MOST_IMAGES
from pan_callbacks.analysis.portraits import NeuronPicture, by_type, neuron_pictures
from pan_callbacks.errors import PANError
from pan_callbacks.measurement.engine import Measurement
from pan_callbacks.reports._text import visible
from pan_callbacks.reports.impact_report import ImpactReport
from pan_callbacks.reports.pan_report import PANReport

T = TypeVar("T")
Advance = Callable[[float], None]

#: Neurons that are pictured.
PICTURES = 12
#: Images on which the activations of a pictured neuron are shown.
EXAMPLES = 3
THE_FLOOR = "the floor of the count"


@dataclass(frozen=True, eq=False)
class Survey:
    """What is known of a model.

    Args:
        about: What was surveyed, in words: ``"model"``, ``"weights"``, ``"images"`` and so on.
        report: Its padding aware neurons.
        kernels: Mean kernel of each layer.
        size: Height and width of the images.
        next_size: The next larger size without leftover padding, None if none was found.
        pictures: Its strongest neurons of each type.
        companions: Other measures, None if they were left out.
        beyond: What goes beyond the contrast, None likewise.
        floor: What the count is to be held against, None likewise.
        impact: What masking did, None if it was not measured.
        skipped: Images that could not be read, and why.
        notes: What else a reader should know.
    """

    about: Mapping[str, str]
    report: PANReport
    kernels: Mapping[str, KernelSymmetry] = field(repr=False)
    size: tuple[int, int]
    next_size: tuple[int, int] | None
    pictures: tuple[NeuronPicture, ...] = field(default=(), repr=False)
    companions: Companions | None = field(default=None, repr=False)
    beyond: Beyond | None = field(default=None, repr=False)
    floor: Floor | None = field(default=None, repr=False)
    impact: ImpactReport | None = None
    skipped: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def summary(self) -> str:
        """Return the summary of the report, and beside the count what it is to be held against."""
        count, *others = self.report.summary().split("\n")
        return "\n".join([count, *([] if self.floor is None else [visible(self.floor.summary())]), *others])


def look_at(
    model: nn.Module,
    report: PANReport,
    about: Mapping[str, str],
    size: tuple[int, int],
    pictures: Iterable[NeuronPicture] = (),
    impact: ImpactReport | None = None,
    skipped: Mapping[str, str] | None = None,
    images: Iterable[Tensor] = (),
    notes: Iterable[str] = (),
    progress: bool = False,
    same_images: bool = True,
) -> Survey:
    """Put a survey together, and measure what a report does not say.

    Args:
        model: Model that the report is about.
        report: Its padding aware neurons.
        about: What was surveyed, in words.
        size: Height and width of the images.
        pictures: Neurons as :func:`pictures_of` gives them.
        impact: What masking did.
        skipped: Images that could not be read, and why.
        images: Batches of images for the companion measures, for what goes beyond the contrast, and for the floor; none
            leaves them out.
        notes: What else a reader should know.
        progress: Whether to show progress bars.
        same_images: Whether the images are the first of those that the report was made with.
    """
    images, notes = list(images), list(notes)
    try:
        next_size = next_size_without_leftover(model, size)
    except PANError:  # a model that takes its images otherwise than as one batch
        next_size = None

    def measured(what: str, most: int | None, work: Callable[[list[Tensor], Advance], T]) -> T | None:
        if not images or not report.neurons:
            return None

        def in_batches_of(size: int) -> T:
            batches = [part for batch in images for part in torch.split(batch, size)]
            number = sum(map(len, batches))
            with progress_bar(what, min(number, most or number), progress and most != 0) as advance:
                return work(batches, advance)

        try:
            return halving(in_batches_of, 32)
        except Exception as error:  # these measures are not worth the report
            notes.append(f"{what} {'was' if what == THE_FLOOR else 'were'} left out: {type(error).__name__}: {error}")
            return None

    kernels = model_asymmetries(model, report)
    return Survey(
        about,
        report,
        kernels,
        size,
        next_size,
        pictures=tuple(pictures),
        companions=measured("other measures", None, lambda *given: companions(model, given[0], report, given[1])),
        beyond=measured(
            "measures beyond the contrast", MOST_IMAGES, lambda *given: beyond(model, given[0], report, given[1])
        ),
        floor=measured(THE_FLOOR, 0, lambda *given: floor(model, given[0], report, 0, progress, same_images)),
        impact=impact,
        skipped=dict(skipped or {}),
        notes=tuple(notes),
    )


def pictures_of(measurement: Measurement, report: PANReport, progress: bool = False) -> list[NeuronPicture]:
    """Return the strongest neurons of each type, as long as the measurement is attached; every process calls it."""
    pans = by_type(report, limit=PICTURES)
    with progress_bar("pictures of neurons", len(pans), progress and bool(pans), "neurons") as advance:
        return neuron_pictures(measurement, report, examples=EXAMPLES, pans=pans, advance=advance)
