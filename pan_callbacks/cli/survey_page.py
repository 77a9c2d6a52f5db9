"""The page of a survey."""

from __future__ import annotations

import math
from collections.abc import Mapping

from pan_callbacks import __version__
from pan_callbacks.analysis.agreement import Companions
from pan_callbacks.cli.page import Page
from pan_callbacks.cli.survey import Survey
from pan_callbacks.figures.impact import class_name
from pan_callbacks.reports.impact_report import Arm, ImpactReport
from pan_callbacks.reports.pan_report import PANReport
from pan_callbacks.reports.tables import pan_table
from pan_callbacks.reports.taxonomy import PANType, counts, cross_table

Drawn = Mapping[str, tuple[bytes, int, str, str]]
_STRONGEST = 50


def page_of(survey: Survey, drawn: Drawn) -> Page:
    """The page that shows a survey.

    Args:
        survey: The survey.
        drawn: Name of a figure to its PNG, its width, what is to be seen on it, and its caption.
    """
    page = Page(f"Padding aware neurons of {survey.about.get('model', 'a model')}", f"pan_callbacks {__version__}")
    page.text(survey.report.summary(), "lead")
    for why, images in _reasons(survey.skipped).items():
        page.text(
            f"{len(images)} images were left out, {why}: {', '.join(images[:5])}{' …' * (len(images) > 5)}", "note"
        )
    for sentence in survey.notes:
        page.text(sentence, "note")
    page.table(("surveyed", ""), survey.about.items())
    _types(page, survey.report)
    page.section("Where they are")
    for name in ("layer_sides", "depth_share"):
        page.figure(*drawn[name])
    page.section("What they look like")
    page.text(
        "The strongest of each kind (side, sign and origin), the kinds with the most members first. Taps of the "
        "kernel that read the padding are outlined; border and reference are the samples that the contrast compares."
        if survey.pictures
        else "No neuron was pictured."
    )
    for name in sorted(drawn):
        if name.startswith("pan_"):
            page.figure(*drawn[name])
    if survey.impact is not None:
        _impact(page, survey.impact, drawn)
    if survey.companions is not None:
        _companions(page, survey.companions, drawn)
    page.section("Padding and kernels")
    for name in ("leftover_padding", "kernel_asymmetry"):
        page.figure(*drawn[name])
    _layers(page, survey.report)
    return page


def _types(page: Page, report: PANReport) -> None:
    page.section("Types")
    rows = [
        (by, value, str(count), f"{count / report.count:.1%}")
        for by in PANType._fields
        for value, count in counts(report, by).items()
    ]
    page.table(("by", "type", "PANs", "share"), rows)
    every = [(*kind, str(count)) for kind, count in cross_table(report).most_common()]
    page.table((*PANType._fields, "PANs"), every, folded=f"The full cross-table: {len(every)} types")
    strongest = pan_table(report.strongest(_STRONGEST)).rows
    page.table(pan_table(()).head, strongest, folded=f"The strongest {len(strongest)} (pans.csv has all)")


def _impact(page: Page, impact: ImpactReport, drawn: Drawn) -> None:
    page.section("Impact")
    page.text(
        "What changes when the PANs are masked: silenced (zero), fixed at their mean (mean), or blinded to the padding "
        "(neutral). Controls are as many other neurons of the same layers; what the PANs do beyond them is due to what "
        "they are, and not to how many they are."
    )
    page.table(("", "neurons", impact.metric, "change [95 %]", "KL", "flips"), impact.rows())
    for sentence in impact.notes:
        page.text(sentence, "note")
    page.figure(*drawn["impact"])
    for mode in impact.modes:
        arm = impact.arm("pans", mode)
        if arm.classes is None or not arm.neurons:
            continue
        page.text(_reproducible(impact, arm))
        page.figure(*drawn[f"classes_{mode}"])
        head = ("class", "images", "change of accuracy", "95 %", "change of probability", "95 %")
        page.table(head, _class_rows(impact, arm), folded=f"Every class, PANs masked ({mode})")


def _reproducible(impact: ImpactReport, arm: Arm) -> str:
    """What the split-half correlation says, and what it does not."""
    rho, accuracy = arm.classes.split_half, arm.classes.split_half_accuracy
    if math.isnan(rho):
        few = len(arm.classes.shift) < 3
        why = "two classes are too few to compare halves of the images" if few else "no probability moves"
        return f"Mode {arm.mode}: {why}."
    known = [c.classes.split_half for c in impact.controls(arm.mode) if not math.isnan(c.classes.split_half)]
    controls = f" (controls: {sum(known) / len(known):.2f})" if known else ""
    of_accuracy = "" if math.isnan(accuracy) else f", that of the change of accuracy is {accuracy:.2f}"
    likeness = impact.likeness(arm.mode)
    own = (
        ""
        if math.isnan(likeness)
        else (f" The bias of the controls correlates with it at {likeness:.2f}: near 1 it is not the PANs' own.")
    )
    few = " With so few classes chance alone correlates." if len(arm.classes.shift) < 20 else ""
    return (
        f"Mode {arm.mode}: between two halves of the images the change of probability by class correlates at "
        f"{rho:.2f}{controls}{of_accuracy}: near 1 it is reproducible, near 0 noise.{few}{own}"
    )


def _class_rows(impact: ImpactReport, arm: Arm) -> list[tuple[str, ...]]:
    found = arm.classes
    return [
        (
            class_name(impact, i),
            str(int(found.images[i])),
            _number(found.change[i], "{:+.1%}"),
            _interval(found.low[i], found.high[i], "{:+.1%}"),
            _number(found.shift[i], "{:+.3%}"),
            _interval(found.shift_low[i], found.shift_high[i], "{:+.3%}"),
        )
        for i in range(len(found.shift))
    ]


def _companions(page: Page, found: Companions, drawn: Drawn) -> None:
    page.section("Other measures")
    page.text(f"What other work measures, on {found.images} images, and how far it agrees with the contrast.")
    rows = [(a.measure, a.against, str(a.cases), _number(a.spearman, "{:+.2f}"), a.source) for a in found.agreements]
    page.table(("measure", "against", "cases", "rank correlation", "source"), rows)
    rows = [
        ("with leftover padding" if name == "leftover" else "without", *map(str, values))
        for name, values in found.leftover.items()
    ]
    page.table(("axes of strided layers", "number", "PANs near (top, left)", "PANs far (bottom, right)"), rows)
    page.figure(*drawn["position"])


def _layers(page: Page, report: PANReport) -> None:
    page.section("Layers")
    by_layer = report.count_by_layer()
    rows = [
        (
            name,
            f"{by_layer[name]} of {line.channels}",
            "×".join(map(str, line.kernel_size)),
            "×".join(map(str, line.stride)),
            "×".join(map(str, line.output_size or ())),
            "×".join(map(str, line.leftover or ())),
            str(line.images),
            _number(line.border_bias, "{:.2f}"),
            _number(line.drift, "{:.2f}"),
            f"{line.reference}: {line.reason}" if line.reason else str(line.reference),
        )
        for name, line in report.layers.items()
        if line.skipped is None
    ]
    head = ("layer", "PANs", "kernel", "stride", "map", "leftover", "images", "border bias", "drift", "reference")
    page.table(head, rows, caption="How each layer was measured")
    skipped = [(name, line.skipped) for name, line in report.layers.items() if line.skipped is not None]
    page.table(("layer", "why"), skipped, folded=f"{len(skipped)} layers were left out")


def _reasons(skipped: Mapping[str, str]) -> dict[str, list[str]]:
    reasons: dict[str, list[str]] = {}
    for name, why in skipped.items():
        reasons.setdefault(why, []).append(name)
    return reasons


def _number(value, form: str) -> str:
    return "-" if math.isnan(value) else form.format(float(value))


def _interval(low, high, form: str) -> str:
    return "-" if math.isnan(low) else f"{form.format(float(low))} … {form.format(float(high))}"
