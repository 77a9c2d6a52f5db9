"""Makes the report of what was collected, with what a reader should know of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import nn

from pan_callbacks.layers import Convolution, why_unpadded
from pan_callbacks.measurement.findings import Images, finding_of
from pan_callbacks.measurement.finite import left_out
from pan_callbacks.measurement.forwards import OurForwards
from pan_callbacks.measurement.lines import line_of
from pan_callbacks.measurement.settings import Settings
from pan_callbacks.measurement.together import Together
from pan_callbacks.measurement.unseen import NO_MODULE, why_nothing
from pan_callbacks.reports.layer_report import LayerReport
from pan_callbacks.reports.pan_report import PANReport

#: With fewer images than this a report says so.
FEW_IMAGES = 32


def report_of(
    model: nn.Module,
    selected: Mapping[str, Convolution],
    forwards: OurForwards,
    settings: Settings,
    found: Together,
    ended: Iterable[str] = (),
) -> PANReport:
    """Return the report of what was collected; if the work is shared every rank calls it.

    Args:
        model: The model.
        selected: Convolutions that the report is about, by name.
        forwards: Knows how they were measured.
        settings: What was asked.
        found: What is known of the images, and of the answers to them, and what a reader should know besides.
        ended: Why the measurement ended early, if it did.
    """
    lines: dict[str, LayerReport] = {}
    collectors, behind = found.collectors, found.images
    broken: set[int] = set()
    for name, conv in selected.items():
        how = forwards.how_measured(name)
        if name in collectors:
            lines[name], images_left_out = finding_of(collectors[name], how, settings.threshold, behind)
            broken.add(images_left_out)
        else:
            lines[name] = line_of(conv, how, why_unpadded(conv) or how.skipped)
    images = max((line.images for line in lines.values()), default=0)
    probed = f"{images} image was" if images == 1 else f"{images} images were"
    few = [f"only {probed} probed: intervals are wide"] if 1 < images < FEW_IMAGES else []
    alone = f"only {probed} probed: chance adds to every contrast, and no interval is known"
    few += [alone] if images == 1 else _alike(behind)
    remarks = (*few, *found.notes, *left_out(broken), *forwards.remarks, *ended)
    asked = settings.threshold, settings.reference
    report = PANReport(lines, *asked, remarks, found.reliance)
    if report.neurons or any(NO_MODULE in note for note in remarks):  # which says enough
        return report
    return PANReport(lines, *asked, (*remarks, why_nothing(model, report)), found.reliance)


def _alike(images: Images) -> list[str]:
    """Return a sentence if some images are the same, or all belong together."""
    if images.passed > 1 and images.distinct == 1:
        return ["all images are the same: chance adds to every contrast, and no interval is known"]
    if images.clusters == 1:
        return ["all images belong together: chance adds to every contrast, and no interval is known"]
    if 0 < images.distinct < images.passed:
        how_many = f"only {images.distinct} of {images.passed} images are different"
        return [f"{how_many}: intervals are as wide as that makes them"]
    return []
