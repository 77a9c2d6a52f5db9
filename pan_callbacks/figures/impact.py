"""Pictures of what masking does: to the metric, and to each class."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from pan_callbacks.figures.style import BORDER, LARGE, LINE, NORMAL, REFERENCE, SMALL, new_figure, note, plain, shorten
from pan_callbacks.reports.impact_report import Arm, ClassChanges, ImpactReport
from pan_callbacks.reports.words import Mode

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def impact_changes(report: ImpactReport) -> Figure:
    """Show what masking PANs changes, against as many other neurons: the metric, KL divergence and flipped predictions.

    Args:
        report: What was measured.
    """
    percent = report.metric == "accuracy"
    change = f"change of {shorten(report.metric, 24)}" + (" (points)" if percent else "")
    panels: dict[str, Callable[[Arm], Any]] = {
        change: lambda arm: report.change(arm) * (100 if percent else 1),
        "KL divergence (nats)": lambda arm: arm.kl,
        "flipped predictions (%)": lambda arm: None if arm.flips is None else 100 * arm.flips,
    }
    rows = [(f"PANs, {mode}", report.arm("pans", mode), report.controls(mode)) for mode in report.modes]
    rows += [("all padding neutral", arm, ()) for arm in report.arms if arm.kind == "padding"]
    shown = {name: value for name, value in panels.items() if _known(value(row[1]) for row in rows)}
    title = f"What masking changes, {report.images} images"
    if not shown or not rows:
        return note(title, "nothing was measured")
    figure = new_figure(9.5, 1.5 + 0.55 * len(rows))
    figure.suptitle(title, fontsize=LARGE)
    for axes, (name, value) in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown.items(), strict=True):
        for row, (_, arm, controls) in enumerate(rows):
            drawn = [value(arm) for arm in controls]
            if drawn:
                heights = [row + 0.18] * len(drawn)
                axes.plot(drawn, heights, "o", color=REFERENCE, markersize=5, alpha=0.7, label="others")
            axes.plot(value(arm), row - 0.12, "D", color=BORDER, markersize=6, label="PANs")
            if name == change and percent and arm.interval is not None:
                axes.hlines(row - 0.12, 100 * arm.interval[0], 100 * arm.interval[1], color=BORDER, linewidth=1.5)
        axes.axvline(0, color=LINE, linewidth=0.8)
        axes.set_title(name, fontsize=NORMAL)
        first = axes is figure.axes[0]
        axes.set_yticks(range(len(rows)), [row[0] for row in rows] if first else [""] * len(rows), fontsize=NORMAL)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        plain(axes, "both")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    kinds = {"PANs": "PANs, or all padding", "others": "as many other neurons of the same layers, each draw"}
    named = {kinds[label]: handle for handle, label in zip(handles, labels, strict=True)}
    figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=2, fontsize=SMALL, frameon=False)
    return figure


def class_changes(report: ImpactReport, mode: Mode, limit: int = 20) -> Figure:
    """Show the classes whose mean predicted probability moves most when the PANs are masked, with 95 % intervals.

    Args:
        report: What was measured.
        mode: Mode of the mask.
        limit: Classes at most.
    """
    arm = report.arm("pans", mode)
    title = f"Bias by class: change of the mean predicted probability, PANs masked ({mode})"
    if arm.classes is None:
        return note(title, "the model is no classifier")
    shift = arm.classes.shift
    order = shift.abs().argsort(descending=True)[:limit]
    order = order[shift[order].argsort(descending=True)]
    figure = new_figure(8.0, 1.5 + 0.24 * len(order))
    axes = figure.subplots()
    middle, low, high = (100 * t[order].numpy() for t in (shift, arm.classes.shift_low, arm.classes.shift_high))
    rows = np.arange(len(order))
    axes.hlines(rows, low, high, color=REFERENCE, linewidth=1.5)
    axes.plot(middle, rows, "o", color=REFERENCE, markersize=5)
    axes.axvline(0, color=LINE, linewidth=0.8)
    axes.set_yticks(rows, [shorten(class_name(report, i)) for i in order.tolist()], fontsize=SMALL)
    axes.set_ylim(len(order) - 0.4, -0.6)
    axes.set_xlabel("points of probability; bars are 95 % intervals over images", fontsize=NORMAL)
    plain(axes, "both")
    shown = f"{len(order)} of {len(shift)} classes, those that move most" if len(order) < len(shift) else "all classes"
    figure.suptitle(title, fontsize=LARGE)
    axes.set_title(f"{shown}; {_halves(arm.classes)}", fontsize=NORMAL)
    return figure


def class_name(report: ImpactReport, index: int) -> str:
    """Return the name of a class, or its number."""
    names = report.class_names
    return names[index] if names is not None and index < len(names) else f"class {index}"


def _halves(changes: ClassChanges) -> str:
    rho = changes.split_half
    return "no split-half correlation" if math.isnan(rho) else f"split-half correlation {rho:.2f}"


def _known(values: Iterable[float | None]) -> bool:
    return all(value is not None and not math.isnan(value) for value in values)
