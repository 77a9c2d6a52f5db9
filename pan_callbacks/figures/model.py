"""Pictures of a whole model: where its padding aware neurons are, and what of its padding is lopsided."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pan_callbacks.analysis.kernels import KernelSymmetry
from pan_callbacks.figures.style import (
    BORDER,
    LARGE,
    NO_BORDER,
    NORMAL,
    REFERENCE,
    SMALL,
    centred,
    diverging,
    few_ticks,
    new_figure,
    note,
    numbers,
    place,
    plain,
    scale,
    sequential,
    shorten,
    shorten_all,
    widest,
)
from pan_callbacks.padding import EDGES
from pan_callbacks.reports.layer_report import LayerReport
from pan_callbacks.reports.pan_report import PANReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

IntArray = np.ndarray[Any, np.dtype[np.integer[Any]]]
BoolArray = np.ndarray[Any, np.dtype[np.bool_]]

_EACH_LAYER, _DEPTHS = 16, 10  # layers up to which each has a bar of its own, and bars beyond
_KERNELS_IN_A_ROW = 4


def layer_sides(report: PANReport) -> Figure:
    """Show how many PANs each measured layer has on each side, as a heat map.

    A hatched cell is a side where the layer has no border: none of its outputs reads padding there alone. At the right
    stands how many of the layer's channels are PANs on any side.

    Args:
        report: What was measured.
    """
    from matplotlib.patches import Patch

    title = f"Padding aware neurons by layer and side (|contrast| ≥ {report.threshold:g})"
    layers = list(report.measured)
    if not layers:
        return note(title, "no layer was measured")
    counts = torch.stack([report.hits(name).sum(1) for name in layers]).numpy()  # (layers, 8)
    borders = torch.stack([(~report.contrast(name).isnan()).any(1) for name in layers]).numpy()
    by_layer, rows = report.count_by("layer"), range(0, len(layers), max(1, math.ceil(len(layers) * 0.15 / 38)))
    names = [shorten(layers[row]) for row in rows]
    totals = [f"{by_layer[layers[row]]} of {report.layers[layers[row]].channels}" for row in rows]
    height = 0.3 if len(layers) <= 24 else 0.21 if len(layers) <= 60 else 0.15
    figure = new_figure(9.0, min(40.0, 1.7 + height * len(layers)), placed=True)
    left, below = 0.15 + widest(figure, names, SMALL), 0.15 if borders.all() else 0.4
    box = left, below, 8.02 - left - widest(figure, totals, SMALL), figure.get_figheight() - 0.8 - below
    axes = place(figure, box)
    image = _draw_counts(axes, counts, borders)
    if len(layers) <= 60:
        _write_counts(axes, image, counts, borders, NORMAL if height > 0.25 else SMALL)
    _label_layers(axes, report.sides, rows, names, totals)
    bar = 8.27, below + max(0.0, box[3] - 3.5), 0.12, min(box[3], 3.5)
    few_ticks(scale(figure, image, bar, "PANs"), whole=True)
    figure.suptitle(title, fontsize=LARGE, y=1 - 0.08 / figure.get_figheight())
    if not borders.all():
        handles = [Patch(**NO_BORDER, label="no border")]
        figure.legend(handles=handles, loc="lower center", fontsize=SMALL, frameon=False)
    return figure


def _draw_counts(axes: Axes, counts: IntArray, borders: BoolArray) -> AxesImage:
    """Draw the cells of the heat map, hatched if there is no border."""
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    layers, sides = counts.shape
    image = axes.imshow(
        np.ma.masked_where(~borders, counts),
        cmap=sequential(),
        vmin=0,
        vmax=max(1, counts.max()),
        aspect="auto",
        interpolation="nearest",
    )
    cells = [Rectangle((column - 0.5, row - 0.5), 1, 1) for row, column in np.argwhere(~borders).tolist()]
    axes.add_collection(PatchCollection(cells, **NO_BORDER), autolim=False)
    axes.hlines(np.arange(1, layers) - 0.5, -0.5, sides - 0.5, color="white", linewidth=1)
    axes.vlines(np.arange(1, sides) - 0.5, -0.5, layers - 0.5, color="white", linewidth=1)
    axes.axvline(len(EDGES) - 0.5, color="black", linewidth=1.2)
    return image


def _write_counts(axes: Axes, image: AxesImage, counts: IntArray, borders: BoolArray, size: int) -> None:
    """Write the number into each cell, white on dark colours."""
    dark = np.dot(np.array(image.cmap(image.norm(counts)))[..., :3], (0.299, 0.587, 0.114)) < 0.55
    for row, column in np.argwhere(borders).tolist():
        count = counts[row, column]
        color = "#8c8c8c" if count == 0 else "white" if dark[row, column] else "black"
        axes.text(column, row, str(count), ha="center", va="center", fontsize=size, color=color)


def _label_layers(
    axes: Axes, sides: Sequence[str], rows: Sequence[int], names: Sequence[str], totals: Sequence[str]
) -> None:
    """Names of sides above, of layers at the left, and their PANs on any side at the right."""
    axes.set_xticks(range(len(sides)), [side.replace("-", "-\n") for side in sides], fontsize=NORMAL)
    axes.xaxis.tick_top()
    axes.set_yticks(rows, names, fontsize=SMALL)
    axes.tick_params(length=0)
    right: dict[str, Any] = {"textcoords": "offset points", "fontsize": SMALL, "va": "center"}
    for row, total in zip(rows, totals, strict=True):
        axes.annotate(total, (1, row), (4, 0), xycoords=axes.get_yaxis_transform(), **right)
    axes.annotate("any side", (1, 1), (5, 7), xycoords="axes fraction", textcoords="offset points", fontsize=NORMAL)


#: Colour and hatch of the bar of each origin; the first two are always named.
_ORIGINS = {
    "nascent": (REFERENCE, None),
    "inherited": (BORDER, "///"),
    "both": ("#8a6fb0", "..."),
    "neither": ("#999999", None),
}
_ALWAYS = ("nascent", "inherited")


def depth_share(report: PANReport) -> Figure:
    """Show which share of the neurons are PANs, by depth: their origins stacked, their number above.

    Up to 16 measured layers have a bar each; more are put, in the model's order, into 10 groups of as equal a number
    of layers as can be.

    Args:
        report: What was measured.
    """
    title = f"Padding aware neurons by depth (|contrast| ≥ {report.threshold:g})"
    layers = list(report.measured)
    if not layers:
        return note(title, "no layer was measured")
    groups = np.array_split(np.arange(len(layers)), len(layers) if len(layers) <= _EACH_LAYER else _DEPTHS)
    group_of = {layers[index]: number for number, group in enumerate(groups) for index in group}
    neurons = np.zeros(len(groups), int)
    shown = report.count_by("origin")
    counts: dict[str, IntArray] = {
        origin: np.zeros(len(groups), int) for origin, n in shown.items() if n or origin in _ALWAYS
    }
    for name, number in group_of.items():
        neurons[number] += report.layers[name].channels
    for pan in report.pans:
        counts[pan.origin][group_of[pan.layer]] += 1

    alone = len(groups) == len(layers)
    figure = new_figure(max(7.0, 1.2 + 0.52 * len(groups)), 4.4 if alone else 3.8)
    axes = figure.subplots()
    figure.suptitle(title, fontsize=LARGE)
    below = np.zeros(len(groups))
    for origin, count in counts.items():
        color, hatch = _ORIGINS[origin]
        share = 100 * count / np.maximum(neurons, 1)
        bars: dict[str, Any] = {"width": 0.72, "color": color, "hatch": hatch, "edgecolor": "white", "linewidth": 0.5}
        axes.bar(range(len(groups)), share, bottom=below, label=f"{origin} ({count.sum()})", **bars)
        below += share
    top = max(1.0, below.max())
    for number, (height, total) in enumerate(zip(below, np.sum(list(counts.values()), axis=0), strict=True)):
        axes.text(number, height + 0.075 * top, str(total), ha="center", fontsize=NORMAL)
        axes.text(number, height + 0.015 * top, f"of {neurons[number]}", ha="center", fontsize=SMALL, color="#555555")
    axes.set_ylim(0, 1.18 * top)
    middle, half = (len(groups) - 1) / 2, max(len(groups), 4) / 2 + 0.1  # else a single layer is a wall
    axes.set_xlim(middle - half, middle + half)
    few_ticks(axes.yaxis, 5)
    axes.set_ylabel("share of the neurons (%)", fontsize=NORMAL)
    if alone:
        names = shorten_all(layers, 24)
        axes.set_xticks(range(len(groups)), names, rotation=35, ha="right", rotation_mode="anchor", fontsize=SMALL)
        axes.set_xlabel("measured layers, in the model's order", fontsize=NORMAL)
    else:
        names = [f"{group[0] + 1}–{group[-1] + 1}" if len(group) > 1 else f"{group[0] + 1}" for group in groups]
        axes.set_xticks(range(len(groups)), names, fontsize=SMALL)
        axes.set_xlabel(f"depth: the {len(layers)} measured layers, in the model's order", fontsize=NORMAL)
    plain(axes, "y")
    if report.pans:
        axes.legend(fontsize=SMALL, frameon=False, loc="lower right", bbox_to_anchor=(1, 1), ncols=len(counts))
    else:
        centred(axes, f"no padding aware neuron among {report.neurons}")
    return figure


def leftover_padding(report: PANReport, next_size: tuple[int, int] | None = None) -> Figure:
    """Show how much of its padded input each strided layer leaves unread at the far end, at the size that was measured.

    Args:
        report: What was measured.
        next_size: The next larger input size without leftover padding, from
            :func:`pan_callbacks.analysis.input_size.next_size_without_leftover`; None if none was found.
    """
    found = {
        name: layer
        for name, layer in report.layers.items()
        if layer.leftover is not None and layer.output_size is not None and max(layer.stride) > 1
    }
    if not found:
        return note("Leftover padding", "no padded layer has a stride above 1")
    leftover = np.array([(0, *(layer.leftover or ()))[-2:] for layer in found.values()])  # (layers, rows and columns)
    if not leftover.any():
        answer = "this input size has none"
    elif next_size is None:
        answer = "no larger input size without any was found"
    else:
        answer = f"the next input size without any is {next_size[0]}×{next_size[1]}"
    height = 0.34 if len(found) <= 40 else 0.17
    figure = new_figure(8.0, min(40.0, 1.6 + height * len(found)))
    axes = figure.subplots()
    figure.suptitle(f"Leftover padding: {answer}", fontsize=LARGE)
    for axis, (what, color, marker) in enumerate((("rows", REFERENCE, "s"), ("columns", BORDER, "D"))):
        y, x = np.arange(len(found)) + (-0.16, 0.16)[axis], leftover[:, axis]
        axes.hlines(y, 0, x, color=color, linewidth=2)
        axes.plot(x, y, marker, color=color, markersize=6 if height > 0.2 else 3.5, linestyle="none", clip_on=False)
        axes.plot([], [], marker, color=color, markersize=6, linestyle="none", label=what)
    axes.set_ylim(len(found) - 0.5, -0.5)
    most = max(1, leftover.max(), max(max(layer.stride) for layer in found.values()) - 1)
    axes.set_xlim(-0.04 * most, 1.04 * most)
    few_ticks(axes.xaxis, whole=True)
    axes.set_xlabel("rows or columns at bottom and right that no window reaches", fontsize=NORMAL)
    every = max(1, math.ceil(len(found) * 0.15 / 38))
    ticks = range(0, len(found), every)
    axes.set_yticks(ticks, shorten_all(list(found)[::every]), fontsize=SMALL)
    right = axes.secondary_yaxis("right")
    right.set_yticks(ticks, [_geometry(layer) for layer in list(found.values())[::every]], fontsize=SMALL)
    right.spines["right"].set_visible(False)
    for each in (axes, right):
        each.tick_params(axis="y", length=0)
    plain(axes, "x")
    figure.legend(loc="outside lower center", fontsize=SMALL, frameon=False, ncols=2)
    return figure


def kernel_asymmetries(asymmetries: Mapping[str, KernelSymmetry], limit: int = 24) -> Figure:
    """Show the mean kernel of every layer, each in its own scale of colours, and how unlike its mirror images it is.

    Args:
        asymmetries: Layer name to its mean kernel and asymmetries, in the model's order, from
            :func:`pan_callbacks.analysis.kernels.model_asymmetries`.
        limit: Kernels at most. Where there are more, the most asymmetric are kept, and the title says so.

    Raises:
        ValueError: If ``limit`` is below 1.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    if limit < 1:
        raise ValueError(f"limit={limit}: the figure has one kernel at least")
    if not asymmetries:
        return note("Mean kernels", "no measured layer has a kernel of more than one tap")
    ranked = sorted(asymmetries, key=lambda name: -np.nan_to_num(max(asymmetries[name][1:])))[:limit]
    names = [name for name in asymmetries if name in ranked]
    across = min(len(names), _KERNELS_IN_A_ROW)
    lines = math.ceil(len(names) / across)
    figure = new_figure(max(5.0, 2.0 * across), 1.3 + 2.05 * lines)
    shown = f" ({limit} of {len(asymmetries)} layers, the most asymmetric)" if len(names) < len(asymmetries) else ""
    figure.suptitle(f"Mean kernels and their asymmetry{shown}", fontsize=LARGE)
    grid = figure.subplots(lines, across, squeeze=False)
    for axes, name, label in zip(grid.flat, names, shorten_all(names, 24), strict=False):
        kernel, vertical, horizontal = asymmetries[name]
        values = numbers(kernel)
        largest = float(np.abs(values).max()) or 1.0
        axes.imshow(values / largest, cmap=diverging(), vmin=-1, vmax=1, interpolation="nearest")
        axes.set_title(label, fontsize=NORMAL)
        axes.set_xlabel(f"vertical {vertical:.2f}\nhorizontal {horizontal:.2f}", fontsize=NORMAL)
        axes.set_xticks([])
        axes.set_yticks([])
    for axes in grid.flat[len(names) :]:
        axes.set_axis_off()
    colors = ScalarMappable(Normalize(-1, 1), diverging())
    bar = figure.colorbar(colors, ax=grid, location="bottom", shrink=0.5, aspect=30, ticks=(-1, 0, 1))
    bar.ax.set_xticklabels(["−", "0", "+"], fontsize=SMALL)
    bar.set_label("tap, relative to the largest of its kernel\nasymmetry: 0 mirror image, 1 opposite", fontsize=SMALL)
    return figure


def _geometry(layer: LayerReport) -> str:
    """Stride and output size of a layer in a few characters."""
    stride = "×".join(map(str, layer.stride[: len(set(layer.stride))]))  # one number if both are the same
    return f"stride {stride}, output {'×'.join(map(str, layer.output_size or ()))}"
