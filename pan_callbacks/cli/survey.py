"""A survey of a trained model: what ``pan-callbacks scan`` and ``impact`` measure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from pan_callbacks._runtime import halving
from pan_callbacks.analysis.agreement import Companions, companions
from pan_callbacks.analysis.input_size import next_size_without_leftover
from pan_callbacks.analysis.kernels import KernelSymmetry, model_asymmetries
from pan_callbacks.analysis.portraits import NeuronPicture, by_type, neuron_pictures
from pan_callbacks.errors import PANError
from pan_callbacks.measurement.engine import Measurement
from pan_callbacks.reports.impact_report import ImpactReport
from pan_callbacks.reports.pan_report import PANReport

#: Neurons that are pictured.
PICTURES = 12
#: Images on which the activations of a pictured neuron are shown.
EXAMPLES = 3


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
    impact: ImpactReport | None = None
    skipped: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


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
        images: Batches of images for the companion measures; none leaves them out.
        notes: What else a reader should know.
    """
    images, notes = list(images), list(notes)
    try:
        next_size = next_size_without_leftover(model, size)
    except PANError:  # a model that takes its images otherwise than as one batch
        next_size = None
    measured = None
    if images and report.neurons:
        try:
            measured = halving(partial(_companions, model, report, images), 32)
        except Exception as error:  # these measures are not worth the report
            notes.append(f"other measures were left out: {type(error).__name__}: {error}")
    kernels = model_asymmetries(model, report)
    return Survey(
        about,
        report,
        kernels,
        size,
        next_size,
        pictures=tuple(pictures),
        companions=measured,
        impact=impact,
        skipped=dict(skipped or {}),
        notes=tuple(notes),
    )


def pictures_of(measurement: Measurement, report: PANReport, sync: bool = False) -> list[NeuronPicture]:
    """Return the strongest neurons of each type, as long as the measurement is attached; every process calls it."""
    pans = by_type(report, limit=PICTURES)
    return neuron_pictures(measurement, report, examples=EXAMPLES, pans=pans, sync=sync)


def _companions(model: nn.Module, report: PANReport, images: Iterable[Tensor], size: int) -> Companions:
    """Return the companion measures, in batches of no more than ``size`` images."""
    return companions(model, [part for batch in images for part in torch.split(batch, size)], report)
