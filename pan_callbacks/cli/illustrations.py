"""Every figure of a survey that has something to show, with its name, its place on the page, and what to say of it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

from pan_callbacks.analysis.agreement import Companions
from pan_callbacks.analysis.beyond import Beyond
from pan_callbacks.cli.page import Illustration
from pan_callbacks.cli.survey import Survey
from pan_callbacks.reports.impact_report import ImpactReport
from pan_callbacks.reports.words import Mode

WHERE, LOOKS, IMPACT = "Where they are", "What they look like", "Impact"
OTHERS, BEYOND, PADDING = "Other measures", "Beyond the contrast", "Padding and kernels"
#: Files that not every survey has, so that those of an earlier one have to go.
NOT_ALWAYS = ("pan_[0-9][0-9].png", "classes_*.png") + tuple(
    f"{name}.png"
    for name in ("position", "distance", "together", "impact")
    + ("layer_sides", "depth_share", "leftover_padding", "kernel_asymmetry")
)


def classes_of(mode: Mode) -> str:
    """Return the place of what a mode of the mask does to each class."""
    return f"{IMPACT}, {mode}"


def illustrations(survey: Survey) -> list[Illustration]:
    """Return every figure of a survey that is not empty, in the order of the page; each is drawn once it is shown.

    Args:
        survey: The survey.
    """
    return [
        *(_of_report(survey) if survey.report.count else ()),
        *_of_neurons(survey),
        *(_of_impact(survey.impact) if survey.impact is not None else ()),
        *(_of_companions(survey.companions) if survey.companions is not None else ()),
        *(_of_beyond(survey.beyond) if survey.beyond is not None else ()),
        *_of_padding(survey),
    ]


def _of_report(survey: Survey) -> Iterator[Illustration]:
    from pan_callbacks.figures.model import depth_share, layer_sides

    yield Illustration(
        "layer_sides",
        partial(layer_sides, survey.report),
        "Heat map: number of PANs of each layer on each side",
        "PANs by layer and side. A neuron counts on every side on which its contrast reaches the threshold.",
        WHERE,
    )
    yield Illustration(
        "depth_share",
        partial(depth_share, survey.report),
        "Bars: share of PANs by depth",
        "Nascent PANs are due to the padding of their own layer, inherited ones to that of earlier layers.",
        WHERE,
    )


def _of_neurons(survey: Survey) -> Iterator[Illustration]:
    from pan_callbacks.figures.gallery import gallery

    for number, picture in enumerate(survey.pictures, 1):
        pan = picture.pan
        what = "kernel, mean activation, distributions, three images"
        alt = f"Channel {pan.channel} of {pan.layer}: {what}{f', {picture.where}' * bool(picture.where)}"
        yield Illustration(f"pan_{number:02d}", partial(gallery, [picture]), alt, "", LOOKS, True)


def _of_impact(impact: ImpactReport) -> Iterator[Illustration]:
    from pan_callbacks.figures.impact import class_changes, impact_changes

    alt = "What masking PANs changes, against as many other neurons"
    yield Illustration("impact", partial(impact_changes, impact), alt, "", IMPACT)
    if impact.baseline.classes is not None:
        for mode in impact.modes:
            if impact.arm("pans", mode).neurons:
                alt = f"Classes whose probability moves most under mode {mode}"
                yield Illustration(f"classes_{mode}", partial(class_changes, impact, mode), alt, "", classes_of(mode))


def _of_companions(companions: Companions) -> Iterator[Illustration]:
    from pan_callbacks.figures.position import position_by_depth

    values = [rho for layers in companions.position.values() for found in layers.values() for rho in found.spearman]
    if all(map(math.isnan, values)):
        return
    yield Illustration(
        "position",
        partial(position_by_depth, companions),
        "Lines: how well the position is read out of each layer",
        "Read out of frozen features by ridge regression, after PosENet (Islam et al. 2020). What is left without "
        "padding is what the content gives away, and what mirrored content does.",
        OTHERS,
    )


def _of_beyond(found: Beyond) -> Iterator[Illustration]:
    from pan_callbacks.figures.beyond import contrast_inwards, together_by_depth

    if not found.layers:
        return
    yield Illustration(
        "distance",
        partial(contrast_inwards, found),
        "Lines: contrast of PANs and of other neurons, by distance from the border",
        "Of each neuron, along the edge where the outermost row or column has the most contrast.",
        BEYOND,
    )
    yield Illustration(
        "together",
        partial(together_by_depth, found),
        "Lines: linear read-out of the border, and size and signal-to-noise ratio of the pattern of padding, by layer",
        "",
        BEYOND,
    )


def _of_padding(survey: Survey) -> Iterator[Illustration]:
    from pan_callbacks.figures.model import kernel_asymmetries, leftover_padding

    height, width = survey.size
    if any(any(line.leftover or ()) and max(line.stride) > 1 for line in survey.report.layers.values()):
        yield Illustration(
            "leftover_padding",
            partial(leftover_padding, survey.report, survey.next_size),
            "Leftover padding of each strided layer",
            f"At {height}×{width}: rows and columns at the far end that no window reaches (Alsallakh et al. 2021).",
            PADDING,
        )
    if survey.kernels:
        yield Illustration(
            "kernel_asymmetry",
            partial(kernel_asymmetries, survey.kernels),
            "Mean kernel of each layer",
            "Mean over all kernels of a layer; 0 is as its mirror image, 1 as unlike it as can be "
            "(after Alsallakh et al. 2021).",
            PADDING,
        )
