"""The page of a survey."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import SupportsFloat

from pan_callbacks import __version__
from pan_callbacks.analysis.agreement import Companions
from pan_callbacks.analysis.beyond import Beyond
from pan_callbacks.cli.illustrations import BEYOND, IMPACT, LOOKS, OTHERS, PADDING, WHERE, classes_of
from pan_callbacks.cli.lead import lead
from pan_callbacks.cli.page import Illustration, Page, Part, Section, ShownTable, Text
from pan_callbacks.cli.survey import Survey
from pan_callbacks.cli.words import with_definitions
from pan_callbacks.figures.impact import class_name
from pan_callbacks.reports.impact_report import ClassChanges, ImpactReport
from pan_callbacks.reports.layer_report import LayerReport
from pan_callbacks.reports.pan_report import PANReport
from pan_callbacks.reports.tables import Table, pan_table
from pan_callbacks.reports.taxonomy import PANType, counts, cross_table
from pan_callbacks.reports.words import Mode

_STRONGEST = 50
_PICTURED = (
    "The strongest of each kind (side, sign and origin), the kinds with the most members first. Taps of the kernel "
    "that read the padding are outlined; border and reference are the samples that the contrast compares. The maps are "
    "of the images that the border was seen in: below each stands which, if they are not the images as they are."
)


def page_of(survey: Survey, illustrations: Sequence[Illustration]) -> Page:
    """Lay out the page that shows a survey.

    Args:
        survey: The survey.
        illustrations: Its figures.
    """

    def shown(section: str) -> list[Part]:
        return [one for one in illustrations if one.section == section]

    sections = [Section("In numbers", _numbers(survey))]
    if survey.report.count:
        sections += [Section("Types", _types(survey.report)), Section(WHERE, shown(WHERE))]
    if survey.pictures:
        sections.append(Section(LOOKS, [Text(_PICTURED), *shown(LOOKS)]))
    if survey.impact is not None:
        parts = [*_impact(survey.impact), *shown(IMPACT)]
        for mode in survey.impact.modes:
            parts += _classes(survey.impact, mode, shown(classes_of(mode)))
        sections.append(Section(IMPACT, parts))
    if survey.companions is not None:
        sections.append(Section(OTHERS, [*_companions(survey.companions), *shown(OTHERS)]))
    if survey.beyond is not None:
        sections.append(Section(BEYOND, [*_beyond(survey.beyond), *shown(BEYOND)]))
    sections += [Section(PADDING, shown(PADDING)), Section("Layers", _layers(survey.report))]
    title = f"Padding aware neurons of {survey.about.get('model', 'a model')}"
    kept = with_definitions(section for section in sections if section.parts)
    return Page(title, f"pan_callbacks {__version__}", lead(survey), kept)


def _numbers(survey: Survey) -> list[Part]:
    parts: list[Part] = [Text(survey.summary())]
    for why, images in _reasons(survey.skipped).items():
        more = " …" * (len(images) > 5)
        parts.append(Text(f"{len(images)} images were left out, {why}: {', '.join(images[:5])}{more}", "note"))
    parts += [Text(sentence, "note") for sentence in survey.notes]
    return [*parts, ShownTable(Table.of(("surveyed", ""), survey.about.items()), sortable=False)]


def _types(report: PANReport) -> list[Part]:
    rows = [
        (by, value, count, f"{count / report.count:.1%}")
        for by in PANType._fields
        for value, count in counts(report, by).items()
    ]
    every = [(*kind, count) for kind, count in cross_table(report).most_common()]
    strongest = pan_table(report, _STRONGEST)
    return [
        ShownTable(Table.of(("by", "type", "PANs", "share"), rows, numbers=("PANs", "share"))),
        ShownTable(
            Table.of((*PANType._fields, "PANs"), every, numbers=("kernel", "stride", "PANs")),
            folded=f"The full cross-table: {len(every)} types",
        ),
        ShownTable(strongest, folded=f"The strongest {len(strongest.rows)} (pans.csv has all)"),
    ]


def _impact(impact: ImpactReport) -> list[Part]:
    intro = (
        "What changes when the PANs are masked: silenced (zero), fixed at their mean (mean), or blinded to the padding "
        "(neutral). Controls are as many other neurons of the same layers; what the PANs do beyond them is due to what "
        "they are, and not to how many they are."
    )
    head = ("model", "neurons", impact.metric, "change [95 %]", "KL", "flips")
    table = Table(head, impact.table.rows, numbers=head[1:])
    return [Text(intro), ShownTable(table), *(Text(sentence, "note") for sentence in impact.notes)]


def _classes(impact: ImpactReport, mode: Mode, shown: Iterable[Part]) -> list[Part]:
    """Return what a mode does to each class; nothing if the model is no classifier, or nothing was masked."""
    arm = impact.arm("pans", mode)
    if arm.classes is None or not arm.neurons:
        return []
    head = ("class", "images", "change of accuracy", "95 %", "change of probability", "95 %")
    table = Table(head, tuple(_class_rows(impact, arm.classes)), numbers=head[1:])
    reproducible = Text(_reproducible(impact, mode, arm.classes))
    return [reproducible, *shown, ShownTable(table, folded=f"Every class, PANs masked ({mode})")]


def _reproducible(impact: ImpactReport, mode: Mode, changes: ClassChanges) -> str:
    """Return what the split-half correlation says, and what it does not."""
    rho, accuracy = changes.split_half, changes.split_half_accuracy
    if math.isnan(rho):
        two = len(changes.shift) < 3
        why = "two classes are too few to compare halves of the images" if two else "no probability moves"
        return f"Mode {mode}: {why}."
    halves = [arm.classes.split_half for arm in impact.controls(mode) if arm.classes is not None]
    known = [half for half in halves if not math.isnan(half)]
    controls = f" (controls: {sum(known) / len(known):.2f})" if known else ""
    of_accuracy = "" if math.isnan(accuracy) else f", that of the change of accuracy is {accuracy:.2f}"
    likeness = impact.likeness(mode)
    own = (
        ""
        if math.isnan(likeness)
        else (f" The bias of the controls correlates with it at {likeness:.2f}: near 1 it is not the PANs' own.")
    )
    so_few = " With so few classes chance alone correlates." if len(changes.shift) < 20 else ""
    return (
        f"Mode {mode}: between two halves of the images the change of probability by class correlates at "
        f"{rho:.2f}{controls}{of_accuracy}: near 1 it is reproducible, near 0 noise.{so_few}{own}"
    )


def _class_rows(impact: ImpactReport, found: ClassChanges) -> list[tuple[str, ...]]:
    labelled = bool(found.images.any())
    return [
        (
            class_name(impact, i),
            str(int(found.images[i])) if labelled else "-",
            _number(found.change[i], "{:+.1%}"),
            _interval(found.low[i], found.high[i], "{:+.1%}"),
            _number(found.shift[i], "{:+.3%}"),
            _interval(found.shift_low[i], found.shift_high[i], "{:+.3%}"),
        )
        for i in range(len(found.shift))
    ]


def _companions(found: Companions) -> list[Part]:
    rows = [(a.measure, a.against, a.cases, _number(a.spearman, "{:+.2f}"), a.source) for a in found.agreements]
    head = ("measure", "against", "cases", "rank correlation", "source")
    axes = ("axes of strided layers", "number", "PANs near (top, left)", "PANs far (bottom, right)")
    by_axis = [
        ("with leftover padding" if name == "leftover" else "without", *values)
        for name, values in found.leftover.items()
    ]
    return [
        Text(f"What other work measures, on {found.images} images, and how far it agrees with the contrast."),
        ShownTable(Table.of(head, rows, numbers=("cases", "rank correlation"))),
        ShownTable(Table.of(axes, by_axis, numbers=axes[1:])),
    ]


#: Column of the table beyond the contrast, what it says, and how to read it.
_MEASURES = (
    (
        "over at 0 / 1 / 2 / 3",
        "Neurons over the threshold on some edge, in the outermost row or column and in the next three.",
        "What is felt farther in was read by a larger kernel, or handed on by earlier layers.",
    ),
    (
        "spread alone, constant",
        "Neurons that are no PANs, but vary at least twice or at most half as much on an edge as inside, in each half "
        "of the images; of these, those that vary a tenth at most.",
        "A threshold on their level misses them: what tells the border is how much they vary.",
    ),
    (
        "together",
        "How often a linear read-out of all channels at a position tells border from interior, on images that it was "
        "not fitted to.",
        "50 % is chance; near 100 % the layer tells the border, whatever its single neurons do.",
    ),
    (
        "pattern, SNR",
        "What padding adds in the outermost rows and columns on average over images, after Lin et al. 2022: its size "
        "in deviations of the interior, and its power over that of what differs from image to image; medians.",
        "At 0 padding changes nothing; with an SNR above 1 it mostly does the same in all images.",
    ),
)


def _beyond(found: Beyond) -> list[Part]:
    intro = f"Borders beside the same pixels seen inside, on {found.images} images."
    measures = Table.of(("column", "what it says", "how to read it"), _MEASURES)
    parts: list[Part] = [Text(intro), ShownTable(measures, sortable=False), ShownTable(found.table())]
    if found.skipped:
        left_out = Table.of(("layer", "why"), found.skipped.items())
        parts.append(ShownTable(left_out, folded=f"{len(found.skipped)} layers were left out of this"))
    return parts


def _layers(report: PANReport) -> list[Part]:
    by_layer = report.count_by("layer")
    rows = [
        (
            name,
            f"{by_layer[name]} of {line.channels}",
            _times(line.kernel_size),
            _times(line.stride),
            _times(line.output_size),
            _times(line.leftover),
            _images(line),
            _width(line),
            ", ".join(line.follows) or "-",
            _number(line.border_bias, "{:.2f}"),
            _number(line.drift, "{:.2f}"),
            f"{line.reference}: {line.reason}" if line.reason else line.reference,
        )
        for name, line in report.measured.items()
    ]
    what = ("layer", "PANs", "kernel", "stride", "map", "leftover", "images", "± contrast", "follows", "border bias")
    head = (*what, "drift", "reference")
    left_out = Table.of(("layer", "why"), report.skipped.items())
    parts: list[Part] = []
    if rows:
        table = Table.of(head, rows, numbers=("PANs", *head[2:-4], *head[-3:-1]))
        parts.append(ShownTable(table, caption="How each layer was measured"))
    if report.skipped:
        parts.append(ShownTable(left_out, folded=f"{len(report.skipped)} layers were left out"))
    return parts


def _images(line: LayerReport) -> str:
    """Return how many images a layer was measured on, and of how many groups if these are fewer."""
    clusters = max(line.clusters, default=line.images)
    return str(line.images) if clusters >= line.images else f"{line.images} in {clusters} groups"


def _width(line: LayerReport) -> str:
    """Return half the width of the 95 % interval of a contrast, the median over sides and channels."""
    return "-" if line.half_width is None else _number(line.half_width.nanmedian(), "{:.2f}")


def _reasons(skipped: Mapping[str, str]) -> dict[str, list[str]]:
    reasons: dict[str, list[str]] = {}
    for name, why in skipped.items():
        reasons.setdefault(why, []).append(name)
    return reasons


def _times(sizes: tuple[int, ...] | None) -> str:
    return "×".join(map(str, sizes or ()))


def _number(value: SupportsFloat, form: str) -> str:
    return "-" if math.isnan(float(value)) else form.format(float(value))


def _interval(low: SupportsFloat, high: SupportsFloat, form: str) -> str:
    return "-" if math.isnan(float(low)) else f"{form.format(float(low))} … {form.format(float(high))}"
