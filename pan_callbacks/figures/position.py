"""A picture of what a network knows of position, layer by layer."""

from __future__ import annotations

import math
from statistics import fmean
from typing import TYPE_CHECKING

from pan_callbacks.analysis.agreement import VARIANTS, Companions
from pan_callbacks.figures.style import BORDER, LARGE, NORMAL, REFERENCE, SMALL, new_figure, note, plain, shorten_all

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def position_by_depth(found: Companions) -> Figure:
    """Show how well the position is read out of each layer: as it is, with the PANs masked, with all padding neutral.

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
    plain(axes, "both")
    return figure
