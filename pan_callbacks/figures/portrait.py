"""One padding aware neuron in a picture of the shape of TensorBoard's cards, to be read without a click."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pan_callbacks.analysis.portraits import NeuronPicture
from pan_callbacks.figures.gallery import bin_edges, draw_activation, draw_kernel, fitted
from pan_callbacks.figures.style import (
    BORDER,
    LARGE,
    NORMAL,
    REFERENCE,
    SMALL,
    Box,
    few_ticks,
    finite,
    new_figure,
    numbers,
    place,
    shorten,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Where things stand, in inches.
_WIDTH, _HEIGHT = 4.4, 2.35
_KERNEL: Box = (0.15, 0.42, 1.05, 1.05)
_ACTIVATION: Box = (1.55, 0.42, 1.05, 1.05)
_DISTRIBUTIONS: Box = (2.95, 0.42, 1.35, 1.05)
_NO_TICKS: dict[str, Any] = {"xticks": [], "yticks": []}
_TITLE: dict[str, Any] = {"fontsize": NORMAL, "y": 1.0, "pad": 7}


def portrait(picture: NeuronPicture, rank: int, when: str) -> Figure:
    """Show a neuron: its kernel, its mean activation map, and border against reference.

    Args:
        picture: The neuron.
        rank: Its place among the strongest, from 1.
        when: The epoch, in words.
    """
    pan, side = picture.pan, picture.pan.strongest
    figure = new_figure(_WIDTH, _HEIGHT, placed=True)
    figure.text(0.03, 0.91, f"{shorten(pan.layer)}, channel {pan.channel}", fontsize=LARGE, weight="bold")
    words = f"{when}, number {rank}: contrast {pan.strongest_contrast:+.2f} {side}, {pan.origin}"
    figure.text(0.03, 0.82, words, fontsize=NORMAL)
    kernel, activation = (np.atleast_2d(numbers(values)) for values in (picture.kernel, picture.activation))
    maps = [place(figure, fitted(*shown), **_NO_TICKS) for shown in ((_KERNEL, kernel), (_ACTIVATION, activation))]
    draw_kernel(maps[0], kernel, picture.padding_taps)
    draw_activation(maps[1], activation, side)
    for axes, title in zip(maps, ("kernel", "mean map"), strict=True):  # there is less room than in the gallery
        axes.set_title(title, **_TITLE)
    maps[1].set_xlabel(picture.where.removeprefix("measured "), fontsize=SMALL, labelpad=6)
    maps[0].set_xlabel("framed: reads padding" if any(picture.padding_taps) else "", fontsize=SMALL, color=BORDER)
    _distributions(place(figure, _DISTRIBUTIONS, yticks=[]), picture)
    return figure


def _distributions(axes: Axes, picture: NeuronPicture) -> None:
    """Draw border against reference, without a legend, which would take as long as all the rest."""
    samples = finite(picture.border), finite(picture.reference)
    pooled = np.concatenate(samples)
    edges = bin_edges(pooled if pooled.size else np.zeros(1))
    for values, name, color, x in zip(samples, ("border", "reference"), (BORDER, REFERENCE), (0.0, 0.42), strict=True):
        if values.size:
            axes.stairs(np.histogram(values, edges, density=True)[0], edges, fill=True, color=color, alpha=0.6)
        axes.text(x, 1.06, name, color=color, fontsize=NORMAL, transform=axes.transAxes)
    few_ticks(axes.xaxis, 3)
    axes.tick_params(axis="x", labelsize=SMALL)
    axes.spines[["top", "right"]].set_visible(False)
