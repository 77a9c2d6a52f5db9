"""A survey of a trained model: what ``pan-callbacks scan`` and ``impact`` measure, and the files they write."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from pan_callbacks._runtime import halving
from pan_callbacks.analysis.agreement import Companions, companions
from pan_callbacks.analysis.input_size import next_size_without_leftover
from pan_callbacks.analysis.kernels import KernelSymmetry, model_asymmetries
from pan_callbacks.analysis.portraits import NeuronPicture, by_type, neuron_pictures
from pan_callbacks.cli.page import png_of
from pan_callbacks.errors import PANError
from pan_callbacks.measurement.engine import Measurement
from pan_callbacks.padding import SIDES
from pan_callbacks.reports._json import write_json
from pan_callbacks.reports.impact_report import ImpactReport
from pan_callbacks.reports.pan_report import PANReport
from pan_callbacks.reports.taxonomy import PANType, type_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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
        companions: Other measures, None where they were left out.
        impact: What masking did, None where it was not measured.
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
    """Puts a survey together, and measures what a report does not say.

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
            measured = halving(lambda size: companions(model, [b for i in images for b in i.split(size)], report), 32)
        except Exception as error:  # these measures are not worth the report
            notes.append(f"other measures were left out: {type(error).__name__}: {error}")
    kernels = model_asymmetries(model, report)
    rest = tuple(pictures), measured, impact, dict(skipped or {}), tuple(notes)
    return Survey(about, report, kernels, size, next_size, *rest)


def pictures_of(measurement: Measurement, report: PANReport, sync: bool = False) -> list[NeuronPicture]:
    """The strongest neurons of each type, as long as the measurement is attached; every process calls it."""
    pans = by_type(report, limit=PICTURES)
    return neuron_pictures(measurement, report, examples=EXAMPLES, pans=pans, sync=sync)


def figures(survey: Survey) -> dict[str, tuple[Figure, str, str]]:
    """Every figure of a survey: file name to the figure, what is to be seen on it, and a caption."""
    from pan_callbacks.figures import impact as impact_figures
    from pan_callbacks.figures import model as model_figures
    from pan_callbacks.figures.gallery import gallery
    from pan_callbacks.figures.position import position_by_depth

    report = survey.report
    height, width = survey.size
    drawn = {
        "layer_sides": (
            model_figures.layer_sides(report),
            "Heat map: number of PANs of each layer on each side",
            "PANs by layer and side. A neuron counts on every side on which its contrast reaches the threshold.",
        ),
        "depth_share": (
            model_figures.depth_share(report),
            "Bars: share of PANs by depth",
            "Nascent PANs read the padding themselves, inherited ones get the border from earlier PANs.",
        ),
        "leftover_padding": (
            model_figures.leftover_padding(report, survey.next_size),
            "Leftover padding of each strided layer",
            f"At {height}×{width}: rows and columns at the far end that no window reaches (Alsallakh et al. 2021).",
        ),
        "kernel_asymmetry": (
            model_figures.kernel_asymmetries(survey.kernels),
            "Mean kernel of each layer",
            "Mean over all kernels of a layer; 0 is as its mirror image, 1 as unlike it as can be "
            "(after Alsallakh et al. 2021).",
        ),
    }
    for number, picture in enumerate(survey.pictures, 1):
        pan = picture.pan
        described = f"Channel {pan.channel} of {pan.layer}: kernel, mean activation, distributions, three images"
        drawn[f"pan_{number:02d}"] = gallery([picture]), described, ""
    if survey.companions is not None:
        drawn["position"] = (
            position_by_depth(survey.companions),
            "Lines: how well the position is read out of each layer",
            "Read out of frozen features by ridge regression, after PosENet (Islam et al. 2020). What is left without "
            "padding is what the content gives away, and what mirrored content does.",
        )
    if survey.impact is not None:
        drawn["impact"] = (
            impact_figures.impact_changes(survey.impact),
            "What masking PANs changes, against as many other neurons",
            "",
        )
        known = survey.impact.baseline.classes is not None
        for mode in [mode for mode in survey.impact.modes if known and survey.impact.arm("pans", mode).neurons]:
            drawn[f"classes_{mode}"] = (
                impact_figures.class_changes(survey.impact, mode),
                f"Classes whose probability moves most under mode {mode}",
                "",
            )
    return drawn


def write(survey: Survey, folder: Path) -> None:
    """Writes a survey: ``pans.json``, ``pans.csv``, ``figures/*.png``, ``report.html``, and more JSON beside them.

    Args:
        survey: The survey.
        folder: Folder to write into; it is made where it is missing. Files of an earlier survey are replaced.
    """
    from pan_callbacks.cli.survey_page import page_of

    survey.report.save(folder / "pans.json")
    write_json(folder / "about.json", dict(survey.about))
    (folder / "pans.csv").write_text(csv_of(survey), encoding="utf-8", newline="")
    for name, data in (("companions.json", survey.companions), ("impact.json", survey.impact)):
        (folder / name).unlink(missing_ok=True)
        if data is not None:
            write_json(folder / name, data.to_dict())
    pictures = folder / "figures"
    pictures.mkdir(exist_ok=True)
    for pattern in ("pan_[0-9][0-9].png", "classes_*.png", "position.png", "impact.png"):  # an earlier survey's
        for old in pictures.glob(pattern):
            old.unlink()
    drawn = {}
    for name, (figure, described, caption) in figures(survey).items():
        width = round(100 * figure.get_size_inches()[0])
        drawn[name] = png_of(figure), width, described, caption
        (pictures / f"{name}.png").write_bytes(drawn[name][0])
    (folder / "report.html").write_text(page_of(survey, drawn).html(), encoding="utf-8")


def csv_of(survey: Survey) -> str:
    """Every PAN as a line of comma separated values, the model's first layer first."""
    flips = None if survey.companions is None else survey.companions.flip
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    head = ["layer", "channel", "sides", *PANType._fields, "strongest"]
    head += [f"contrast {side}" for side in SIDES] + [f"effect {side}" for side in SIDES]
    writer.writerow(head + (["flip score horizontal", "flip score vertical"] if flips is not None else []))
    for pan in survey.report.pans:
        row = [pan.layer, pan.channel, pan.kind, *type_of(pan, survey.report), pan.strongest]
        row += [
            f"{values[side]:.6g}" if side in values else "" for values in (pan.contrast, pan.effect) for side in SIDES
        ]
        if flips is not None:
            row += [f"{score:.6g}" for score in flips[pan.layer][:, pan.channel].tolist()]
        writer.writerow(row)
    return file.getvalue()
