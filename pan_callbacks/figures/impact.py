"""Pictures of what masking does: to the metric, to each class, and to what the network knows of position."""

from __future__ import annotations

import math
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np

from pan_callbacks.analysis.agreement import VARIANTS, Companions
from pan_callbacks.figures.style import (
    BORDER,
    LARGE,
    LINE,
    NORMAL,
    REFERENCE,
    SMALL,
    new_figure,
    note,
    shorten,
    shorten_all,
)
from pan_callbacks.reports.impact_report import Arm, ImpactReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def impact_changes(report: ImpactReport) -> Figure:
    """What masking PANs changes, against as many other neurons: the metric, KL divergence and flipped predictions.

    Args:
        report: What was measured.
    """
    percent = report.metric == "accuracy"
    change = f"change of {shorten(report.metric, 24)}" + (" (points)" if percent else "")
    panels = {
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
        _plain(axes)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    kinds = {"PANs": "PANs, or all padding", "others": "as many other neurons of the same layers, each draw"}
    named = {kinds[label]: handle for handle, label in zip(handles, labels, strict=True)}
    figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=2, fontsize=SMALL, frameon=False)
    return figure


def class_changes(report: ImpactReport, mode: str, limit: int = 20) -> Figure:
    """The classes whose mean predicted probability moves most when the PANs are masked, with 95 % intervals.

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
    _plain(axes)
    shown = f"{len(order)} of {len(shift)} classes, those that move most" if len(order) < len(shift) else "all classes"
    figure.suptitle(title, fontsize=LARGE)
    axes.set_title(f"{shown}; {_halves(arm)}", fontsize=NORMAL)
    return figure


def class_name(report: ImpactReport, index: int) -> str:
    """Name of a class, or its number."""
    names = report.class_names
    return names[index] if names is not None and index < len(names) else f"class {index}"


def _halves(arm: Arm) -> str:
    rho = arm.classes.split_half
    return "no split-half correlation" if math.isnan(rho) else f"split-half correlation {rho:.2f}"


def position_by_depth(found: Companions) -> Figure:
    """How well the position is read out of each layer: as it is, with the PANs masked, with all padding neutral.

    Args:
        found: What was measured.
    """
    layers = list(found.position[VARIANTS[0]])
    title = "Position read out of each layer"
    if not layers:
        return note(title, "no layer was measured")
    figure = new_figure(8.5, 4.6)
    axes = figure.subplots()
    styles = zip(VARIANTS, (BORDER, REFERENCE, "#009e73"), ("o-", "s--", "^:"), strict=True)
    for variant, color, style in styles:
        readouts = found.position[variant]
        values = [fmean(readouts[name].spearman) if name in readouts else math.nan for name in layers]
        axes.plot(values, style, color=color, markersize=4.5, linewidth=1.5, label=variant)
    every = max(1, math.ceil(len(layers) / 24))
    names = shorten_all(layers[::every], 24)
    axes.set_xticks(
        range(0, len(layers), every), names, rotation=35, ha="right", rotation_mode="anchor", fontsize=SMALL
    )
    axes.set_ylabel("rank correlation with the truth", fontsize=NORMAL)
    axes.set_ylim(min(0.0, axes.get_ylim()[0]), 1.02)
    axes.legend(fontsize=NORMAL, frameon=False)
    axes.set_title("mean over row, column and nearness to the centre, on images held out", fontsize=NORMAL)
    figure.suptitle(title, fontsize=LARGE)
    _plain(axes)
    return figure


def _known(values) -> bool:
    return all(value is not None and not math.isnan(value) for value in values)


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="x", labelsize=SMALL)
    axes.grid(color="#e4e4e4", linewidth=0.6)
    axes.set_axisbelow(True)
