"""The figures of the study, drawn from its results and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from benchmarks.study.imagenet_section import COUNTED
from benchmarks.study.measures import MODES, TYPES
from benchmarks.study.summary import BySeed, Results, error, mean
from pan_callbacks.figures.style import LINE, NORMAL, SMALL, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Okabe and Ito's colours, which stay apart in every common form of colour blindness.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def families(results: Results) -> Figure:
    """PANs before and after training, and the types of those after."""
    arms = results.arms("families")
    figure = new_figure(10.5, 1.6 + 0.42 * len(arms))
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1, 1.25))
    for row, arm in enumerate(arms):
        before, after = (results.get("families", arm, f"{when}/pans") for when in ("before", "after"))
        for seed in after:
            left.plot([before[seed], after[seed]], [row, row], color=LINE, linewidth=1, zorder=1)
        left.scatter(list(before.values()), [row] * len(before), facecolors="white", edgecolors=COLOURS[0], zorder=2)
        left.scatter(list(after.values()), [row] * len(after), color=COLOURS[1], marker="s", zorder=3)
        for block, kinds in enumerate(TYPES.values()):
            start, total = 0.0, mean(results.get("families", arm, "after/pans"))
            for index, kind in enumerate(kinds):
                share = mean(results.get("families", arm, f"after/{kind}")) / total if total else 0
                right.barh(row, share, left=1.12 * block + start, height=0.62, color=COLOURS[index])
                start += share
    _plain(left, "PANs: before the first step ○, trained ■", rows=arms)
    left.set_xlim(left=0)
    _plain(right, "types after training, as shares of all")
    right.set_xticks([])
    for block, kinds in enumerate(TYPES.values()):
        for index, kind in enumerate(kinds):
            place = {"x": 1.12 * block, "y": 1.02 + 0.05 * (len(kinds) - 1 - index)}
            right.text(**place, s=kind, color=COLOURS[index], fontsize=SMALL, transform=right.get_xaxis_transform())
    left.invert_yaxis()
    return figure


def red_green(results: Results, names: Mapping[str, str]) -> Figure:
    """Accuracy with blocks where they were in training, and with the halves exchanged.

    Args:
        results: The results.
        names: What an (arm, variant) is called, ``"arm: variant"`` to name.
    """
    figure = new_figure(7.5, 1.4 + 0.34 * len(names))
    axes = figure.subplots()
    for row, key in enumerate(names):
        arm, variant = key.split(": ")
        for index, where in enumerate(("similar", "swapped")):
            values = results.get("red_green", arm, f"{variant}/{where}")
            _dots(axes, values, row, index, 100, label=f"{where} positions" if row == 0 else None)
    axes.axvline(50, color=LINE, linewidth=1, linestyle=":")
    axes.set_xlim(-3, 103)
    _plain(axes, "accuracy in %; small: seeds, large: mean", rows=list(names.values()))
    axes.invert_yaxis()
    _legend(figure, axes)
    return figure


def performance(results: Results, tasks: Sequence[tuple[str, str, str]]) -> Figure:
    """Change of accuracy where PANs are masked, and where as many others are.

    Args:
        results: The results.
        tasks: (arm, label, title) of each panel.
    """
    figure = new_figure(3.4 * len(tasks), 2.9)
    for axes, (arm, label, title) in zip(
        figure.subplots(1, len(tasks), sharey=True, squeeze=False)[0], tasks, strict=True
    ):
        for row, mode in enumerate(MODES):
            for index, (kind, name) in enumerate((("pans", "PANs"), ("control", "as many others"))):
                values = results.get("respects", arm, f"worth/{label}/{kind}/{mode}/change")
                _dots(axes, values, row, index, 100, label=name if row == 0 else None)
        axes.axvline(0, color=LINE, linewidth=1)
        axes.set_title(title, fontsize=NORMAL)
        _plain(axes, "change of accuracy in points", rows=list(MODES))
    axes.invert_yaxis()
    _legend(figure, axes)
    return figure


def safety(results: Results, arms: Mapping[str, str], shifts: Sequence[int]) -> Figure:
    """How far answers move when the camera does, and under a patch at the border and inside.

    Args:
        results: The results.
        arms: ``"arm: variant"`` to name.
        shifts: Pixels.
    """
    figure = new_figure(10.5, 4.2)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.2))
    for index, (key, name) in enumerate(arms.items()):
        arm, variant = key.split(": ")
        values = [results.get("respects", arm, f"{variant}/shift {shift}/tv") for shift in shifts]
        offset = 0.06 * (index - (len(arms) - 1) / 2)
        style = {"color": COLOURS[index], "marker": MARKERS[index], "label": name, "markersize": 5, "linewidth": 1.2}
        left.errorbar([s + offset for s in shifts], [mean(v) for v in values], [error(v) for v in values], **style)
        for place, where in enumerate(("border", "interior")):
            for group, patch in enumerate(("strip", "noise")):
                moved = results.get("respects", arm, f"{variant}/{patch}/{where}/tv")
                x = 2.4 * group + place + 0.12 * (index - (len(arms) - 1) / 2)
                right.errorbar(x, mean(moved), error(moved), **{**style, "linestyle": "none", "label": None})
    left.set_xticks(list(shifts))
    _plain(left, "camera moved by pixels")
    left.set_ylabel("movement of the answer\n(mean total variation distance)", fontsize=NORMAL)
    right.set_xticks([0, 1, 2.4, 3.4], ["white,\nborder", "white,\ninside", "noise,\nborder", "noise,\ninside"])
    _plain(right, "patch")
    for axes in (left, right):
        axes.set_ylim(bottom=0)
    _legend(figure, left)
    return figure


def imagenet(results: Results) -> Figure:
    """PANs of EfficientNet-Lite0 by depth, and how far its answers move when they are masked."""
    figure = new_figure(10.5, 3.2)
    left, right = figure.subplots(1, 2)
    arms = {arm: name for arm, name in COUNTED.items() if arm in results.arms("imagenet")}
    for row, arm in enumerate(arms):
        start = 0.0
        for index, depth in enumerate(TYPES["depth"]):
            count = mean(results.get("imagenet", arm, depth))
            label = f"{depth} third of the layers" if row == 0 else None
            left.barh(row, count, left=start, height=0.6, color=COLOURS[index], label=label)
            start += count
        left.text(start, row, f" {start:.0f}", va="center", fontsize=NORMAL)
    _plain(left, "PANs", rows=[name.replace(", ", ",\n") for name in arms.values()])
    left.invert_yaxis()
    left.margins(x=0.12)
    left.legend(fontsize=SMALL, frameon=False, loc="best")
    for row, mode in enumerate(MODES):
        for index, (kind, name) in enumerate((("pans", "PANs"), ("control", "as many others"))):
            values = results.get("imagenet", "as is", f"worth/{kind}/{mode}/kl")
            _dots(right, values, row, index, 1, label=name if row == 0 else None)
    right.set_xscale("log")
    _plain(right, "mean KL divergence from the network as it is, nats", rows=list(MODES))
    right.tick_params(which="minor", labelsize=SMALL)
    right.invert_yaxis()
    right.legend(fontsize=SMALL, frameon=False, loc="best")
    return figure


def _dots(axes: Axes, values: BySeed, row: int, index: int, scale: float, label: str | None) -> None:
    """The seeds of one row, small, and their mean."""
    if not values:
        return
    y, style = row + 0.18 * (2 * index - 1), {"color": COLOURS[index], "marker": MARKERS[index]}
    axes.scatter([scale * v for v in values.values()], [y] * len(values), s=12, alpha=0.5, linewidths=0, **style)
    axes.scatter(scale * mean(values), y, s=48, label=label, **style)


def _plain(axes: Axes, title: str, rows: Sequence[str] | None = None) -> None:
    axes.set_xlabel(title, fontsize=NORMAL)
    axes.tick_params(labelsize=SMALL)
    axes.spines[["top", "right"]].set_visible(False)
    if rows is not None:
        axes.set_yticks(range(len(rows)), rows, fontsize=NORMAL)
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.grid(axis="x", color="#e5e5e5", linewidth=0.8)
        axes.set_axisbelow(True)


def _legend(figure: Figure, axes: Axes) -> None:
    """What stands in one of the axes, above all of them."""
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=SMALL, frameon=False)
