"""Pictures of single padding aware neurons: kernel, activation, border against reference."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from pan_callbacks.analysis.portraits import NeuronPicture
from pan_callbacks.figures.style import (
    BORDER,
    LARGE,
    NORMAL,
    REFERENCE,
    SMALL,
    FloatArray,
    centred,
    diverging,
    few_ticks,
    finite,
    new_figure,
    note,
    numbers,
    shorten,
)
from pan_callbacks.padding import SIDES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.image import AxesImage

_BINS = 40
_EXAMPLES_IN_A_ROW = 3


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
    heights = [2.45 + 1.75 * more for more in lines]
    figure = new_figure(10.0, sum(heights))
    parts = figure.subfigures(len(pictures), 1, squeeze=False, height_ratios=heights)[:, 0]
    for part, picture, more in zip(parts, pictures, lines, strict=True):
        pan = picture.pan
        side = pan.strongest
        contrast = f"contrast {pan.contrast[side]:+.2f}"
        heading = " · ".join((shorten(pan.layer), f"channel {pan.channel}", pan.kind, contrast, pan.origin))
        part.suptitle(heading, fontsize=LARGE, x=0.01, ha="left")
        if more:
            part, below = part.subfigures(2, 1, height_ratios=(2.45, 1.75 * more))
            _examples(below, picture, more, side)
        kernel, activation, histogram = part.subplots(1, 3, width_ratios=(1, 1.25, 2.0))
        _kernel(part, kernel, picture.kernel, picture.padding_taps)
        _activation(part, activation, picture.activation, side)
        _distributions(histogram, picture, side)
    return figure


def _kernel(part: SubFigure, axes: Axes, kernel: Tensor, padding_taps: tuple[Sequence[int], Sequence[int]]) -> None:
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import withStroke

    values = np.atleast_2d(numbers(kernel))
    largest = float(np.abs(values).max()) or 1.0
    image = axes.imshow(values, cmap=diverging(), vmin=-largest, vmax=largest, interpolation="nearest")
    axes.set_title("kernel, mean over inputs", fontsize=NORMAL, pad=11)
    _map_frame(part, axes, image)
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


def _activation(part: SubFigure, axes: Axes, activation: Tensor, side: str) -> None:
    values = np.atleast_2d(numbers(activation))
    low, high = _limits(values)
    image = axes.imshow(values, cmap="viridis", interpolation="nearest", vmin=low, vmax=high)
    marked = f"{side} marked" if side in SIDES else "middle slice"
    axes.set_title(f"mean activation, {marked}", fontsize=NORMAL, pad=11)
    _map_frame(part, axes, image)
    _mark(axes, values.shape, side)


def _examples(part: SubFigure, picture: NeuronPicture, lines: int, side: str) -> None:
    """Images with their activations beside them, in one scale of colours."""
    examples = picture.examples
    grid = part.subplots(lines, 2 * _EXAMPLES_IN_A_ROW, squeeze=False)
    maps = [np.atleast_2d(numbers(activation)) for _, activation in examples]
    # one freak position in one image must not take all the colours, what the mean shows must keep its own
    pooled = np.concatenate([values.ravel() for values in maps])
    low, high = _limits(np.append(np.percentile(pooled, (0.5, 99.5)), numbers(picture.activation)))
    beyond = bool(pooled.min() < low), bool(pooled.max() > high)
    extend = {(True, True): "both", (True, False): "min", (False, True): "max"}.get(beyond, "neither")
    panels = grid.reshape(-1, 2)
    for (left, right), (image, _), values in zip(panels, examples, maps, strict=False):
        left.imshow(numbers(image).transpose(1, 2, 0).clip(0, 1), interpolation="antialiased")
        drawn = right.imshow(values, cmap="viridis", interpolation="nearest", vmin=low, vmax=high)
        left.set_title("image", fontsize=NORMAL)
        right.set_title("activation", fontsize=NORMAL)
        _mark(right, values.shape, side)
        for axes in (left, right):
            axes.set_xticks([])
            axes.set_yticks([])
    for axes in panels[len(maps) :].flat:
        axes.set_axis_off()
    _bar(part, drawn, grid, aspect=14 * lines, pad=0.015, extend=extend)


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


def _map_frame(part: SubFigure, axes: Axes, image: AxesImage) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    _bar(part, image, axes, aspect=14, pad=0.06)


def _bar(part: SubFigure, image: AxesImage, axes: Any, aspect: float, pad: float, extend: str = "neither") -> None:
    bar = part.colorbar(image, ax=axes, aspect=aspect, pad=pad, shrink=0.85, extend=extend)
    few_ticks(bar.ax.yaxis, 3)
    bar.ax.tick_params(labelsize=SMALL)


def _distributions(axes: Axes, picture: NeuronPicture, side: str) -> None:
    samples = {"border": finite(picture.border), "reference": finite(picture.reference)}
    pooled = np.concatenate(list(samples.values()))
    if pooled.size == 0:
        axes.set_axis_off()
        centred(axes, "no samples")
        return
    low, high = float(pooled.min()), float(pooled.max())
    spare = 0.0 if high - low > 1e-6 * max(abs(low), abs(high), 1e-30) else max(abs(low), 1.0) / 2
    edges = np.linspace(low - spare, high + spare, _BINS + 1)
    for (name, values), color in zip(samples.items(), (BORDER, REFERENCE), strict=True):
        if values.size:
            density = np.histogram(values, bins=edges, density=True)[0]
            label = f"{side} border" if name == "border" else name
            axes.stairs(density, edges, fill=True, color=color, alpha=0.22)
            style = "-" if name == "border" else "--"
            axes.stairs(density, edges, color=color, linewidth=1.5, linestyle=style, label=label)
    axes.set_title(f"contrast {picture.pan.contrast[side]:+.2f}, {side}", fontsize=NORMAL, pad=11)
    axes.set_xlabel("activation", fontsize=NORMAL)
    axes.set_ylabel("density", fontsize=NORMAL)
    axes.set_yticks([])
    axes.set_ylim(0, 1.3 * axes.dataLim.y1)
    axes.tick_params(axis="x", labelsize=SMALL)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=SMALL, frameon=False, loc="upper center", ncols=2)
