"""What all figures share: colours, font sizes, and figures that belong to nobody.

Every function that draws returns a :class:`matplotlib.figure.Figure` made without pyplot: no window, no global list of
open figures, no change to ``rcParams``. Matplotlib is imported when the first figure is made.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from pan_callbacks.reports._text import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

FloatArray = np.ndarray[Any, np.dtype[np.floating[Any]]]
#: Blue and orange stay apart in every common form of colour blindness.
BORDER, REFERENCE, LINE = "#d55e00", "#0072b2", "#8a8a8a"
NO_BORDER: dict[str, Any] = {"facecolor": "#ececec", "edgecolor": "#b5b5b5", "hatch": "////", "linewidth": 0}
#: Font sizes in points.
SMALL, NORMAL, LARGE = 8, 9, 11
#: Inhibited, neither, excited.
_DIVERGING = ((0.0, "#08306b"), (0.12, "#2f7fbf"), (0.5, "#f7f7f7"), (0.88, "#ee8a2d"), (1.0, "#7f2f04"))


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of the given inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def note(title: str, sentence: str) -> Figure:
    """Return a small figure that says why there is nothing to draw."""
    figure = new_figure(6.4, 2.0)
    figure.suptitle(title, fontsize=LARGE)
    axes = figure.subplots()
    axes.set_axis_off()
    centred(axes, sentence)
    return figure


def centred(axes: Axes, sentence: str) -> None:
    """Write a sentence into the middle of axes."""
    axes.text(0.5, 0.5, sentence, ha="center", va="center", fontsize=LARGE, color="#555555", transform=axes.transAxes)


def diverging() -> Colormap:
    """Return colours for signed values: blue below zero, white, orange above."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("blue_orange", _DIVERGING)


def sequential() -> Colormap:
    """Return colours for counts: white for none, orange to brown."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("white_orange", ("#fbfbfb", "#fdd9ae", "#f4a04c", "#c8590d", "#6b2a02"))


def shorten(name: str, most: int = 34) -> str:
    """Return a name of at most ``most`` characters: the middle gives way, since both ends distinguish layers.

    Example:
        >>> shorten("features.denseblock3.denselayer12.conv2", most=20)
        'features…yer12.conv2'
    """
    name = visible(name)
    if len(name) > most:
        tail = (most - 1) * 3 // 5
        name = f"{name[: most - 1 - tail]}…{name[-tail:]}"
    return name.replace("$", r"\$")  # matplotlib would take what stands between two of them for a formula


def shorten_all(names: Sequence[str], most: int = 34) -> list[str]:
    """Return names of at most ``most`` characters; if one is longer, all lose the modules that they lie in together.

    Example:
        >>> shorten_all(["backbone.encoder.stages.0.conv", "backbone.encoder.stages.1.conv"], most=20)
        ['…0.conv', '…1.conv']
    """
    if max(map(len, names), default=0) > most:
        shared = os.path.commonprefix([name.split(".")[:-1] for name in names])
        cut = len(".".join([*shared, ""]))
        names = [f"…{name[cut:]}" if cut else name for name in names]
    return [shorten(name, most) for name in names]


def numbers(values: Tensor) -> FloatArray:
    """Return a tensor as an array in which what is not finite is zero."""
    return torch.nan_to_num(values.detach().float(), nan=0.0, posinf=0.0, neginf=0.0).cpu().numpy()


def finite(values: Tensor) -> FloatArray:
    """Return the finite values of a tensor as a flat array."""
    flat = values.detach().double().flatten()
    return flat[flat.isfinite()].cpu().numpy()


def plain(axes: Axes, grid: Literal["both", "x", "y"]) -> None:
    """Give axes small labels, two spines, and grid lines along an axis or both."""
    axes.tick_params(axis="x" if grid == "both" else "both", labelsize=SMALL)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color="#e4e4e4" if grid == "both" else "#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)


def few_ticks(axis: Axis, most: int | None = None, whole: bool = False) -> None:
    """Have an axis tick at few places, or at whole numbers alone.

    Args:
        axis: The axis, whose locator is matplotlib's default.
        most: Ticks at most.
        whole: Whether ticks are whole numbers.
    """
    options: dict[str, Any] = ({} if most is None else {"nbins": most}) | ({"integer": True} if whole else {})
    locator: Any = axis.get_major_locator()
    locator.set_params(**options)
