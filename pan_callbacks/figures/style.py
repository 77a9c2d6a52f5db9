"""What all figures share: colours, font sizes, and figures that belong to nobody.

Every function that draws returns a :class:`matplotlib.figure.Figure` made without pyplot: no window, no global list of
open figures, no change to ``rcParams``. Matplotlib is imported when the first figure is made.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from pan_callbacks.reports._text import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.image import AxesImage

FloatArray = np.ndarray[Any, np.dtype[np.floating[Any]]]
#: Left, bottom, width and height, in inches.
Box = tuple[float, float, float, float]
ByteArray = np.ndarray[Any, np.dtype[np.uint8]]
#: Blue and orange stay apart in every common form of colour blindness.
BORDER, REFERENCE, LINE = "#d55e00", "#0072b2", "#8a8a8a"
NO_BORDER: dict[str, Any] = {"facecolor": "#ececec", "edgecolor": "#b5b5b5", "hatch": "////", "linewidth": 0}
#: Font sizes in points.
SMALL, NORMAL, LARGE = 8, 9, 11
#: Inhibited, neither, excited.
_DIVERGING = ((0.0, "#08306b"), (0.12, "#2f7fbf"), (0.5, "#f7f7f7"), (0.88, "#ee8a2d"), (1.0, "#7f2f04"))


def new_figure(width: float, height: float, placed: bool = False) -> Figure:
    """Return an empty figure.

    Args:
        width: In inches.
        height: In inches.
        placed: Whether who draws it says where everything stands; else matplotlib finds out, which takes as long as to
            draw it.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=100)
    figure.set_layout_engine("none" if placed else "constrained")  # whatever the user's rcParams say
    FigureCanvasAgg(figure)
    return figure


def place(part: Figure | SubFigure, box: Box, size: tuple[float, float] | None = None, **kwargs: Any) -> Axes:
    """Return axes in a place.

    Args:
        part: A figure, or a part of one.
        box: Left, bottom, width and height, in inches.
        size: Width and height of the part in inches; None for those of a figure.
        kwargs: What :meth:`matplotlib.figure.Figure.add_axes` takes.
    """
    width, height = part.figure.get_size_inches() if size is None else size
    return part.add_axes((box[0] / width, box[1] / height, box[2] / width, box[3] / height), **kwargs)


def scale(figure: Figure, image: AxesImage, box: Box, label: str) -> Axis:
    """Draw the scale of colours of an image, and return its axis.

    Args:
        figure: Where to draw it.
        image: What the colours are those of.
        box: Its place.
        label: What they mean.
    """
    bar = figure.colorbar(image, cax=place(figure, box))
    bar.set_label(label, fontsize=NORMAL)
    bar.ax.tick_params(labelsize=SMALL)
    return bar.ax.yaxis


def widest(figure: Figure, lines: Iterable[str], size: float) -> float:
    """Return the width in inches of the widest of some lines of text.

    Args:
        figure: Where they are to stand.
        lines: The lines.
        size: Size of the font, in points.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.font_manager import FontProperties

    renderer, font = FigureCanvasAgg(figure).get_renderer(), FontProperties(size=size)  # type: ignore[no-untyped-call]
    return max((renderer.get_text_width_height_descent(line, font, False)[0] for line in lines), default=0) / figure.dpi


def pixels(figure: Figure, dpi: float | None = None) -> ByteArray:
    """Draw a figure, once: matplotlib's ``savefig`` draws it a second time, only to see how large everything is.

    Args:
        figure: What to draw.
        dpi: Dots an inch; None for its own.

    Returns:
        (height, width, 3) bytes.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas, before = FigureCanvasAgg(figure), figure.dpi
    try:
        figure.dpi = before if dpi is None else dpi
        canvas.draw()  # type: ignore[no-untyped-call]  # matplotlib's backends have no types
        return np.array(canvas.buffer_rgba())[..., :3]  # type: ignore[no-untyped-call]
    finally:
        figure.dpi = before


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
