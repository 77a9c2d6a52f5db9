"""What a page of a survey says first, to somebody who got the file and knows nothing of padding aware neurons."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from importlib import metadata

from pan_callbacks.cli.page import Links, Part, Text
from pan_callbacks.cli.survey import Survey
from pan_callbacks.reports.pan_report import PANReport
from pan_callbacks.reports.reliance import PIXELS

_WHAT = (
    "Convolutions read rows of zeros beyond the edges of an image: padding. A neuron (an output channel of a "
    "convolution) that recognises the edge by it, whatever the image shows, is a padding aware neuron, a PAN."
)
_NO_FAULT = (
    "That is no fault by itself: where something lies may be what the task needs. But such neurons answer otherwise "
    "where the edge is elsewhere: for other sizes, crops, or tiles of an image. The command pan-callbacks advise "
    "weighs what padding is worth to a network, and says whether to keep it, to blind the network to it, or to retrain."
)
_PAPER = ("Garcia-Gasulla et al. 2023, who named these neurons", "https://arxiv.org/abs/2309.08048")


def lead(survey: Survey) -> list[Part]:
    """Return what is found in plain words, and where to read on.

    Args:
        survey: The survey.
    """
    return [
        Text(_WHAT),
        Text(" ".join(_found(survey)), "lead"),
        *([Text(_NO_FAULT)] if survey.report.count else []),
        Links((*documentation(), _PAPER)),
    ]


def _found(survey: Survey) -> Iterator[str]:
    report, model = survey.report, survey.about.get("model", "the model")
    if not report.neurons:
        yield f"In {model} no padded convolution was measured: there is nothing to recognise an edge by, or it cannot "
        yield "be looked at."
        return
    count = f"Of the {report.neurons:,} neurons of {model} that were measured, {report.count:,} are PANs"
    low, high = report.interval
    known = "" if math.isnan(low) else f"; other images of the kind would give {low:,.0f} to {high:,.0f}"
    yield f"{count} ({report.fraction:.1%}{known})."
    if survey.floor is not None:
        yield from _compared(survey)
    if report.count:
        yield _where(report)
    reliance = report.reliance
    if reliance is not None and reliance.flips is not None:
        what = "pixels" if reliance.distance == PIXELS else "images"
        yield f"If padding says nothing about the edge, {reliance.flips:.1%} of the {what} change class."


def _compared(survey: Survey) -> Iterator[str]:
    assert survey.floor is not None, "there is something to compare with"
    own, neutral, random = survey.floor.own, survey.floor.neutral, survey.floor.random
    if neutral is not None:
        left = f"{neutral.count:,} are left, owed to chance and content" if neutral.count else "none is left"
        yield f"On {survey.floor.images} of the images there are {own.count:,}; if padding says nothing about the edge"
        yield f"{left}."
    if random is not None:
        yield f"The same network with random weights has {random.count:,}."


def _where(report: PANReport) -> str:
    sides, layers = Counter(side for pan in report.pans for side in pan.side), report.count_by("layer")
    (side, at_side), layer = sides.most_common(1)[0], max(layers, key=layers.__getitem__)
    return (
        f"More of them answer at the {side} ({at_side:,}) than elsewhere; the layer with the most is {layer} "
        f"({layers[layer]:,} of its {report.layers[layer].channels:,} neurons)."
    )


def documentation() -> tuple[tuple[str, str], ...]:
    """Return where this package says that its documentation lies; nothing if it does not say, or is not installed."""
    try:
        urls = metadata.metadata("pan_callbacks").get_all("Project-URL") or []
    except metadata.PackageNotFoundError:
        return ()
    named = dict(url.split(", ", 1) for url in urls if ", http" in url)
    found = next((named[name] for name in ("Documentation", "Homepage", "Source") if name in named), None)
    return () if found is None else (("Documentation of pan_callbacks", found),)
