"""Pictures of single padding aware neurons: kernel, activation, border against reference."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pan_callbacks.analysis.portraits import NeuronPicture
from pan_callbacks.figures.style import (
    BORDER,
    LARGE,
    NORMAL,
    REFERENCE,
    SMALL,
    Box,
    FloatArray,
    centred,
    diverging,
    few_ticks,
    finite,
    new_figure,
    note,
    numbers,
    place,
    shorten,
)
from pan_callbacks.padding import SIDES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.image import AxesImage

_BINS = 40
_EXAMPLES_IN_A_ROW = 3

#: Where things stand, in inches: the pictures of a neuron have one size, so that nothing has to be asked for its own.
_WIDTH, _ROW, _LINE = 10.0, 2.45, 1.75
_KERNEL: Box = (0.35, 0.45, 1.6, 1.47)
_ACTIVATION: Box = (3.2, 0.45, 1.6, 1.47)
_DISTRIBUTIONS: Box = (6.0, 0.45, 3.85, 1.47)
_EXAMPLE, _FIRST_EXAMPLE, _NEXT_EXAMPLE = 1.29, 0.2, 1.55
_BAR, _BEFORE_BAR = 0.09, 0.11
_NO_TICKS: dict[str, Any] = {"xticks": [], "yticks": []}
_TITLE: dict[str, Any] = {"fontsize": NORMAL, "y": 1.0, "pad": 11}


def gallery(pictures: Iterable[NeuronPicture]) -> Figure:
    """Show what neurons look like: a row for each, with kernel, mean activation map, and border against reference.

    The taps of the kernel that read padding are outlined. The border's place is marked outside the map. The two
    distributions are densities on common bins. Examples follow in a second row, their activations in one scale of
    colours, which leaves out the most extreme 1 %. Values that are not finite are drawn as zeros in the maps and left
    out of the distributions.

    Args:
        pictures: The neurons, in the order in which they are drawn.
    """
    pictures = list(pictures)
    if not pictures:
        return note("Strongest padding aware neurons", "no padding aware neuron")
    lines = [-(-len(picture.examples) // _EXAMPLES_IN_A_ROW) for picture in pictures]
    heights = [_ROW + _LINE * more for more in lines]
    figure = new_figure(_WIDTH, sum(heights), placed=True)
    parts = figure.subfigures(len(pictures), 1, squeeze=False, height_ratios=heights, hspace=0)[:, 0]
    for part, picture, more in zip(parts, pictures, lines, strict=True):
        pan = picture.pan
        side = pan.strongest
        contrast = f"contrast {pan.strongest_contrast:+.2f}"
        heading = " · ".join((shorten(pan.layer), f"channel {pan.channel}", pan.kind, contrast, pan.origin))
        part.suptitle(heading, fontsize=LARGE, x=0.01, y=1 - 0.04 / (_ROW + _LINE * more), ha="left")
        if more:
            part, below = part.subfigures(2, 1, height_ratios=(_ROW, _LINE * more), hspace=0)
            _examples(below, picture, more, side)
        _row(part, picture, side)
    return figure


def _row(part: SubFigure, picture: NeuronPicture, side: str) -> None:
    """Kernel, mean activation and distributions of a neuron."""
    kernel, activation = (np.atleast_2d(numbers(values)) for values in (picture.kernel, picture.activation))
    boxes = fitted(_KERNEL, kernel), fitted(_ACTIVATION, activation)
    maps = [place(part, box, (_WIDTH, _ROW), **_NO_TICKS) for box in boxes]
    draw_kernel(maps[0], kernel, picture.padding_taps)
    draw_activation(maps[1], activation, side)
    maps[1].set_xlabel(picture.where, fontsize=SMALL, labelpad=8)  # below the mark of the bottom
    _distributions(place(part, _DISTRIBUTIONS, (_WIDTH, _ROW)), picture, side)
    for one, (left, bottom, width, height) in zip(maps, boxes, strict=True):
        _bar(part, one.images[0], (left + width + _BEFORE_BAR, bottom + 0.075 * height, _BAR, 0.85 * height), _ROW)


def fitted(box: Box, values: FloatArray) -> Box:
    """Return the middle of a box where a map has square cells."""
    left, bottom, width, height = box
    rows, cols = values.shape[:2]
    cell = min(width / cols, height / rows)
    own = max(cell * cols, 0.1), max(cell * rows, 0.1)  # a row of a hundred is no hair
    return left + (width - own[0]) / 2, bottom + (height - own[1]) / 2, *own


def draw_kernel(axes: Axes, values: FloatArray, padding_taps: tuple[Sequence[int], Sequence[int]]) -> None:
    """Draw a kernel, and outline the taps that read the padding."""
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import withStroke

    largest = float(np.abs(values).max()) or 1.0
    _show(axes, values, cmap=diverging(), vmin=-largest, vmax=largest)
    axes.set_title("kernel, mean over inputs", **_TITLE)
    rows, cols = padding_taps
    height, width = values.shape
    boxes = [((-0.5, min(rows) - 0.5), width, max(rows) - min(rows) + 1)] if rows else []
    boxes += [((min(cols) - 0.5, -0.5), max(cols) - min(cols) + 1, height)] if cols else []
    halo = [withStroke(linewidth=5, foreground="white")]  # on brown, orange alone is hard to see
    line: dict[str, Any] = {"fill": False, "edgecolor": BORDER, "linewidth": 2.5, "path_effects": halo, "zorder": 3}
    for box in boxes:
        axes.add_patch(Rectangle(*box, **line, clip_on=False))
    if boxes:
        axes.set_xlabel("outlined: reads the padding", fontsize=SMALL, color=BORDER)


def draw_activation(axes: Axes, values: FloatArray, side: str) -> None:
    """Draw a map, and mark a side outside it."""
    low, high = _limits(values)
    _show(axes, values, cmap="viridis", vmin=low, vmax=high)
    marked = f"{side} marked" if side in SIDES else "middle slice"
    axes.set_title(f"mean activation, {marked}", **_TITLE)
    _mark(axes, values.shape, side)


def _show(axes: Axes, values: FloatArray, **how: Any) -> AxesImage:
    """Draw a map that fills its axes."""
    return axes.imshow(values, interpolation="nearest", aspect="auto", **how)


def _examples(part: SubFigure, picture: NeuronPicture, lines: int, side: str) -> None:
    """Images with their activations beside them, in one scale of colours."""
    examples, all_lines = picture.examples, _LINE * lines
    maps = [np.atleast_2d(numbers(activation)) for _, activation in examples]
    # one freak position in one image must not take all the colours, what the mean shows must keep its own
    pooled = np.concatenate([values.ravel() for values in maps])
    low, high = _limits(np.append(np.percentile(pooled, (0.5, 99.5)), numbers(picture.activation)))
    beyond = bool(pooled.min() < low), bool(pooled.max() > high)
    extend = {(True, True): "both", (True, False): "min", (False, True): "max"}.get(beyond, "neither")
    for number, ((image, _), values) in enumerate(zip(examples, maps, strict=True)):
        line, column = divmod(number, _EXAMPLES_IN_A_ROW)
        pixels = numbers(image).transpose(1, 2, 0).clip(0, 1)
        bottom = all_lines - _LINE * (line + 1) + 0.12
        for right, shown in enumerate((pixels, values)):
            left = _FIRST_EXAMPLE + _NEXT_EXAMPLE * (2 * column + right)
            box = fitted((left, bottom, _EXAMPLE, _EXAMPLE), shown)
            axes = place(part, box, (_WIDTH, all_lines), **_NO_TICKS)
            axes.set_title(("image", "activation")[right], fontsize=NORMAL, y=1.0)
            if right == 0:
                axes.imshow(pixels, interpolation="antialiased", aspect="auto")
            else:
                drawn = _show(axes, values, cmap="viridis", vmin=low, vmax=high)
                _mark(axes, values.shape, side)
    height = 0.85 * (all_lines - 0.42)
    _bar(part, drawn, (9.36, 0.12 + (all_lines - 0.42 - height) / 2, _BAR, height), all_lines, extend)


def _limits(values: FloatArray) -> tuple[float, float]:
    """Limits of a scale of colours."""
    low, high = float(values.min()), float(values.max())
    spare = 0.0 if high > low else 0.5
    return low - spare, high + spare


def _mark(axes: Axes, shape: tuple[int, ...], side: str) -> None:
    """Mark a side outside a map."""
    from matplotlib.patches import Rectangle

    height, width = shape
    thick = 0.045 * max(height, width)
    for edge in side.split("-") if side in SIDES else ():  # front and back lie before and behind the map
        length = 0.2 if "-" in side else 1.0  # a corner is marked by the two ends that meet in it
        x = width * (1 - length) - 0.5 if "right" in side else -0.5
        y = height * (1 - length) - 0.5 if "bottom" in side else -0.5
        box = {
            "top": (x, -0.5 - thick, width * length, thick),
            "bottom": (x, height - 0.5, width * length, thick),
            "left": (-0.5 - thick, y, thick, height * length),
            "right": (width - 0.5, y, thick, height * length),
        }[edge]
        axes.add_patch(Rectangle(box[:2], *box[2:], color=BORDER, linewidth=0, clip_on=False))


def _bar(part: SubFigure, image: AxesImage, box: Box, height: float, extend: str = "neither") -> None:
    """Draw the scale of colours of an image into a box, which is made high enough for its numbers."""
    left, bottom, width, own = box
    most = max(own, 0.5)
    place_of_it = place(part, (left, bottom - (most - own) / 2, width, most), (_WIDTH, height))
    bar = part.colorbar(image, cax=place_of_it, extend=extend)
    few_ticks(bar.ax.yaxis, 3)
    bar.ax.tick_params(labelsize=SMALL)


def bin_edges(pooled: FloatArray) -> FloatArray:
    """Return the edges of bins that samples have in common, of some width where they are all (nearly) the same."""
    low, high = float(pooled.min()), float(pooled.max())
    spare = 0.0 if high - low > 1e-6 * max(abs(low), abs(high), 1e-30) else max(abs(low), 1.0) / 2
    return np.linspace(low - spare, high + spare, _BINS + 1)


def _distributions(axes: Axes, picture: NeuronPicture, side: str) -> None:
    """Draw border against reference, as densities on common bins."""
    samples = {"border": finite(picture.border), "reference": finite(picture.reference)}
    pooled = np.concatenate(list(samples.values()))
    if pooled.size == 0:
        axes.set_axis_off()
        centred(axes, "no samples")
        return
    edges = bin_edges(pooled)
    for (name, values), color in zip(samples.items(), (BORDER, REFERENCE), strict=True):
        if values.size:
            density = np.histogram(values, bins=edges, density=True)[0]
            label = f"{side} border" if name == "border" else name
            axes.stairs(density, edges, fill=True, color=color, alpha=0.22)
            style = "-" if name == "border" else "--"
            axes.stairs(density, edges, color=color, linewidth=1.5, linestyle=style, label=label)
    axes.set_title(f"contrast {picture.pan.strongest_contrast:+.2f}, {side}", **_TITLE)
    axes.set_xlabel("activation", fontsize=NORMAL)
    axes.set_ylabel("density", fontsize=NORMAL)
    axes.set_yticks([])
    axes.set_ylim(0, 1.3 * axes.dataLim.y1)
    axes.tick_params(axis="x", labelsize=SMALL)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=SMALL, frameon=False, loc="upper center", ncols=2)
