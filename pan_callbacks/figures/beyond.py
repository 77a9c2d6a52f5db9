"""Pictures of what goes beyond the contrast of the outermost line: how far in, and layer by layer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from pan_callbacks.analysis.beyond import Beyond, quantile
from pan_callbacks.analysis.paired_maps import DISTANCES
from pan_callbacks.figures.style import (
    BORDER,
    LARGE,
    LINE,
    NORMAL,
    REFERENCE,
    SMALL,
    few_ticks,
    new_figure,
    note,
    plain,
    shorten_all,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def contrast_inwards(found: Beyond) -> Figure:
    """Show how the contrast falls from the outermost row or column inwards: of PANs, and of all other neurons.

    Args:
        found: What was measured.
    """
    title = "Contrast by distance from the border"
    if not found.layers:
        return note(title, "no layer has pixels seen both at a border and inside")
    figure = new_figure(6.4, 4.2)
    axes = figure.subplots()
    figure.suptitle(title, fontsize=LARGE)
    for pans, name, color, marker in ((True, "PANs", BORDER, "o"), (False, "other neurons", REFERENCE, "s")):
        number = sum(int((layer.pans == pans).sum()) for layer in found.layers.values())
        median, upper = np.array(found.inwards(pans)).T
        axes.plot(median, f"{marker}-", color=color, markersize=5, linewidth=1.8, label=f"{name} ({number}): median")
        axes.plot(upper, f"{marker}:", color=color, markersize=3.5, linewidth=1.4, label="a tenth has more")
    axes.axhline(found.threshold, color=LINE, linewidth=0.8)
    axes.annotate("threshold", (DISTANCES - 1, found.threshold), (0, 3), textcoords="offset points", fontsize=SMALL)
    axes.set_xticks(range(DISTANCES), ["0 (outermost)", *map(str, range(1, DISTANCES))], fontsize=NORMAL)
    axes.set_xlabel("rows or columns from the edge", fontsize=NORMAL)
    axes.set_ylabel("|contrast|", fontsize=NORMAL)
    axes.set_xlim(-0.2, DISTANCES - 0.5)
    axes.set_ylim(0, 1.04)
    figure.legend(fontsize=SMALL, frameon=False, ncols=2, loc="outside lower center")
    plain(axes, "y")
    return figure


def together_by_depth(found: Beyond) -> Figure:
    """Show, layer by layer, how well all channels together tell the border, and the pattern that padding adds.

    Args:
        found: What was measured.
    """
    title = "What a layer says of the border as a whole"
    if not found.layers:
        return note(title, "no layer has pixels seen both at a border and inside")
    layers = list(found.layers)
    figure = new_figure(8.5, 5.4)
    above, below = figure.subplots(2, 1, sharex=True)
    figure.suptitle(title, fontsize=LARGE)
    line = {"markersize": 4.5, "linewidth": 1.5}
    above.plot([100 * layer.population for layer in found.layers.values()], "o-", color=BORDER, **line)
    above.axhline(50, color=LINE, linewidth=0.8)
    above.annotate("chance", (0, 50), (0, 3), textcoords="offset points", fontsize=SMALL)
    above.set_ylim(min(45.0, above.get_ylim()[0]), 103)
    above.set_title("border told from interior by all channels at a position (%)", fontsize=NORMAL)
    for values, color, style, label in (
        ([layer.size for layer in found.layers.values()], REFERENCE, "s-", "size, in deviations of the interior"),
        ([layer.snr for layer in found.layers.values()], "#009e73", "^--", "signal to noise"),
    ):
        below.plot([quantile(one, 0.5) for one in values], style, color=color, label=label, **line)
    below.set_ylim(bottom=0)
    below.set_title("pattern that padding adds, after Lin et al. 2022: median over neurons", fontsize=NORMAL)
    below.legend(fontsize=SMALL, frameon=False)
    every = max(1, math.ceil(len(layers) / 24))
    names = shorten_all(layers[::every], 24)
    ticks = range(0, len(layers), every)
    below.set_xticks(ticks, names, rotation=35, ha="right", rotation_mode="anchor", fontsize=SMALL)
    for axes in (above, below):
        plain(axes, "both")
        axes.tick_params(axis="y", labelsize=SMALL)
        few_ticks(axes.yaxis, 5)
    return figure
