"""Pictures of padding aware neurons, as matplotlib figures that belong to nobody.

Every function returns a :class:`matplotlib.figure.Figure` made without pyplot: no window, no global list of open
figures, no change to ``rcParams``. Matplotlib is imported when the first figure is made.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pan_callbacks.padding import EDGES, SIDES
from pan_callbacks.report import PAN, PANReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure, SubFigure

#: Inhibited, neither, excited. Blue and orange stay apart in every common form of colour blindness.
_DIVERGING = ((0.0, "#08306b"), (0.12, "#2f7fbf"), (0.5, "#f7f7f7"), (0.88, "#ee8a2d"), (1.0, "#7f2f04"))
_BORDER, _REFERENCE, _LINE = "#d55e00", "#0072b2", "#8a8a8a"
_NO_BORDER = {"facecolor": "#ececec", "edgecolor": "#b5b5b5", "hatch": "////", "linewidth": 0}
_SMALL, _NORMAL, _LARGE = 8, 9, 11  # font sizes in points
_BINS = 40


@dataclass(frozen=True, eq=False)
class NeuronPicture:
    """What :func:`gallery` draws of one neuron.

    Args:
        pan: The neuron.
        kernel: Its kernel, mean over input channels (rows, columns).
        activation: Its mean activation map (height, width).
        border: Activations on the border of its strongest side (samples,).
        reference: Activations of the reference that the border is compared with (samples,).
    """

    pan: PAN
    kernel: Tensor
    activation: Tensor
    border: Tensor
    reference: Tensor


def timeline(history: Sequence[Mapping], limit: int = 120) -> Figure:
    """Which neurons were padding aware when: neurons × epochs, the number of PANs above.

    A row is a neuron that was a PAN in any probe. Layers stand in the order in which the history first names them (it
    may name layers without PANs, and so give the model's order), the neurons of a layer in the order in which they
    became PANs. A cell holds the signed contrast on the neuron's strongest side while it is a PAN, else it is blank.

    Args:
        history: A mapping for each probe, oldest first: ``"epoch"`` (-1 for the network before its first step),
            ``"count"``, and ``"pans"``, a mapping layer name -> channel -> signed contrast. Other keys are ignored.
        limit: Rows at most. Where there are more neurons, those that were PANs for longest are kept, the stronger ones
            first, and the title says so.

    Raises:
        ValueError: If ``limit`` is below 1.

    Example:
        >>> before = {"epoch": -1, "count": 0, "pans": {}}
        >>> figure = timeline([before, {"epoch": 0, "count": 1, "pans": {"conv1": {3: 0.9}}}])
        >>> [label.get_text() for label in figure.axes[1].get_xticklabels()]
        ['start', '0']
    """
    if limit < 1:
        raise ValueError(f"limit={limit}: a timeline has one row at least")
    if not history:
        return _note("Padding aware neurons by epoch", "no probe yet")
    rows, total = _timeline_rows(history, limit)
    body, named = _timeline_height(rows)
    width = min(13.0, max(7.0, 3.4 + 0.26 * len(history)))
    figure = _figure(width, 2.1 + body)
    top, main = figure.subplots(2, 1, sharex=True, height_ratios=(1.1, body))
    _count_panel(top, history)
    shown = f" ({len(rows)} of {total}, those that lasted longest)" if len(rows) < total else ""
    figure.suptitle(f"Padding aware neurons by epoch{shown}", fontsize=_LARGE)

    main.set_facecolor("white")
    if rows:
        grid = _timeline_grid(history, rows)
        image = main.imshow(grid, cmap=_diverging(), vmin=-1, vmax=1, aspect="auto", interpolation="nearest")
        bar = figure.colorbar(
            image, ax=[top, main], aspect=28, pad=0.02, shrink=min(1.0, 3.5 / body), anchor=(0.0, 0.0)
        )
        bar.set_label("contrast (− inhibited, + excited)", fontsize=_NORMAL)
        bar.ax.tick_params(labelsize=_SMALL)
        _label_rows(main, rows, body / len(rows), named)
    else:
        main.set_yticks([])
        _centred(main, f"no padding aware neuron in {len(history)} probe{'s' if len(history) > 1 else ''}")
    _label_epochs(main, history, most=int((width - 2.4) / 0.38))
    return figure


def layer_sides(report: PANReport) -> Figure:
    """How many PANs each measured layer has on each side, as a heat map.

    A hatched cell is a side where the layer has no border: none of its outputs reads padding there alone. At the right
    stands how many of the layer's channels are PANs on any side.

    Args:
        report: What was measured.
    """
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Patch, Rectangle

    title = f"Padding aware neurons by layer and side (|contrast| ≥ {report.threshold:g})"
    layers = [name for name, layer in report.layers.items() if layer.skipped is None]
    if not layers:
        return _note(title, "no layer was measured")
    contrasts = [report.contrast(name) for name in layers]
    counts = torch.stack([(contrast.abs() >= report.threshold).sum(1) for contrast in contrasts]).numpy()  # (layers, 8)
    borders = torch.stack([(~contrast.isnan()).any(1) for contrast in contrasts]).numpy()
    height = 0.3 if len(layers) <= 24 else 0.21 if len(layers) <= 60 else 0.15
    figure = _figure(9.0, min(40.0, 1.7 + height * len(layers)))
    axes = figure.subplots()
    image = axes.imshow(
        np.ma.masked_where(~borders, counts),
        cmap=_sequential(),
        vmin=0,
        vmax=max(1, counts.max()),
        aspect="auto",
        interpolation="nearest",
    )
    cells = [Rectangle((column - 0.5, row - 0.5), 1, 1) for row, column in np.argwhere(~borders).tolist()]
    axes.add_collection(PatchCollection(cells, **_NO_BORDER), autolim=False)
    if len(layers) <= 60:
        for row, column in np.argwhere(borders).tolist():
            count = counts[row, column]
            dark = np.dot(image.cmap(image.norm(count))[:3], (0.299, 0.587, 0.114)) < 0.55
            color = "#8c8c8c" if count == 0 else "white" if dark else "black"
            size = _NORMAL if height > 0.25 else _SMALL
            number = axes.text(column, row, str(count), ha="center", va="center", fontsize=size, color=color)
            number.set_in_layout(False)  # always inside the axes; asking each for its size doubles the time to draw
    axes.hlines(np.arange(1, len(layers)) - 0.5, -0.5, len(SIDES) - 0.5, color="white", linewidth=1)
    axes.vlines(np.arange(1, len(SIDES)) - 0.5, -0.5, len(layers) - 0.5, color="white", linewidth=1)
    axes.axvline(len(EDGES) - 0.5, color="black", linewidth=1.2)

    axes.set_xticks(range(len(SIDES)), [side.replace("-", "-\n") for side in SIDES], fontsize=_NORMAL)
    axes.xaxis.tick_top()
    every = max(1, math.ceil(len(layers) * 0.15 / 38))
    axes.set_yticks(range(0, len(layers), every), [_shorten(name) for name in layers[::every]], fontsize=_SMALL)
    by_layer = report.count_by_layer()
    right = axes.secondary_yaxis("right")
    totals = [f"{by_layer[name]} of {report.layers[name].channels}" for name in layers[::every]]
    right.set_yticks(range(0, len(layers), every), totals, fontsize=_SMALL)
    axes.annotate("any side", (1, 1), (5, 7), xycoords="axes fraction", textcoords="offset points", fontsize=_NORMAL)
    for axis in (axes, right):
        axis.tick_params(length=0)
    shrink = min(1.0, 3.5 / (height * len(layers) + 0.4))
    bar = figure.colorbar(image, ax=axes, aspect=28, pad=0.03, shrink=shrink, anchor=(0.0, 1.0))
    bar.set_label("PANs", fontsize=_NORMAL)
    bar.ax.tick_params(labelsize=_SMALL)
    bar.ax.yaxis.get_major_locator().set_params(integer=True)
    figure.suptitle(title, fontsize=_LARGE)
    if not borders.all():
        figure.legend(
            handles=[Patch(**_NO_BORDER, label="no border")], loc="outside lower center", fontsize=_SMALL, frameon=False
        )
    return figure


def gallery(pictures: Iterable[NeuronPicture]) -> Figure:
    """What neurons look like: a row for each, with kernel, mean activation map, and border against reference.

    The border's place is marked outside the map. The two distributions are densities on common bins. Values that are
    not finite are drawn as zeros in the maps and left out of the distributions.

    Args:
        pictures: The neurons, in the order in which they are drawn.
    """
    pictures = list(pictures)
    if not pictures:
        return _note("Strongest padding aware neurons", "no padding aware neuron")
    figure = _figure(10.0, 2.45 * len(pictures))
    for part, picture in zip(figure.subfigures(len(pictures), 1, squeeze=False)[:, 0], pictures, strict=True):
        pan = picture.pan
        side = pan.strongest
        contrast = f"contrast {pan.contrast[side]:+.2f}"
        heading = " · ".join((_shorten(pan.layer), f"channel {pan.channel}", pan.kind, contrast, pan.origin))
        part.suptitle(heading, fontsize=_LARGE, x=0.01, ha="left")
        kernel, activation, histogram = part.subplots(1, 3, width_ratios=(1, 1.25, 2.0))
        _kernel(part, kernel, picture.kernel)
        _activation(part, activation, picture.activation, side)
        _distributions(histogram, picture, side)
    return figure


# ---------------------------------------------------------------------------------------------------------- timeline


def _timeline_rows(history: Sequence[Mapping], limit: int) -> tuple[list[tuple[str, int]], int]:
    """The neurons to draw, (layer, channel) from top to bottom, and how many there were to choose from."""
    layers: dict[str, int] = {}
    born: dict[tuple[str, int], int] = {}
    alive: dict[tuple[str, int], int] = {}
    peak: dict[tuple[str, int], float] = {}
    for column, probe in enumerate(history):
        for layer, channels in probe["pans"].items():
            layers.setdefault(layer, len(layers))
            for channel, contrast in channels.items():
                neuron = (layer, int(channel))
                born.setdefault(neuron, column)
                alive[neuron] = alive.get(neuron, 0) + 1
                peak[neuron] = max(peak.get(neuron, 0.0), abs(contrast))
    kept = sorted(born, key=lambda neuron: (-alive[neuron], -peak[neuron]))[:limit]
    return sorted(kept, key=lambda neuron: (layers[neuron[0]], born[neuron], neuron[1])), len(born)


def _timeline_grid(history: Sequence[Mapping], rows: list[tuple[str, int]]) -> np.ma.MaskedArray:
    """Signed contrast (neurons, probes), masked where a neuron is no PAN."""
    where = {neuron: row for row, neuron in enumerate(rows)}
    grid = np.full((len(rows), len(history)), np.nan)
    for column, probe in enumerate(history):
        for layer, channels in probe["pans"].items():
            for channel, contrast in channels.items():
                row = where.get((layer, int(channel)))
                if row is not None:
                    grid[row, column] = contrast
    return np.ma.masked_invalid(grid)


def _timeline_height(rows: list[tuple[str, int]]) -> tuple[float, bool]:
    """Height of the rows in inches, and whether they are high enough to name each channel."""
    named = len(rows) <= 45
    layers = len({layer for layer, _ in rows})
    return max(1.3, len(rows) * (0.17 if named else 0.09), layers * 0.17), named


def _count_panel(axes: Axes, history: Sequence[Mapping]) -> None:
    counts = [probe["count"] for probe in history]
    axes.fill_between(range(len(counts)), counts, color=_REFERENCE, alpha=0.15, linewidth=0)
    marker = "o" if len(counts) <= 40 else None
    axes.plot(counts, color=_REFERENCE, linewidth=1.6, marker=marker, markersize=3.5, clip_on=False)
    axes.set_ylim(0, max(1, max(counts)) * 1.15)
    axes.yaxis.get_major_locator().set_params(integer=True, nbins=4)
    axes.set_ylabel("PANs", fontsize=_NORMAL)
    axes.tick_params(axis="x", length=0, labelbottom=False)
    axes.tick_params(axis="y", labelsize=_SMALL)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)


def _label_rows(axes: Axes, rows: list[tuple[str, int]], inches: float, named: bool) -> None:
    """Names each block of rows after its layer, far enough apart to be read, and draws the lines between blocks."""
    starts = [row for row in range(len(rows)) if row == 0 or rows[row][0] != rows[row - 1][0]]
    stops = [*starts[1:], len(rows)]
    centres = [(start + stop - 1) / 2 for start, stop in zip(starts, stops, strict=True)]
    places = _spread(centres, gap=0.15 / inches, low=-0.5, high=len(rows) - 0.5)
    axes.set_yticks(places, [_shorten(rows[start][0]) for start in starts], fontsize=_SMALL)
    axes.tick_params(axis="y", which="major", length=0, pad=34 if named else 18)
    for start in starts[1:]:
        axes.axhline(start - 0.5, color=_LINE, linewidth=0.7)
    if named:
        axes.yaxis.remove_overlapping_locs = False  # else the channel beside its layer's name goes unnamed
        channels = [str(channel) for _, channel in rows]
        axes.set_yticks(range(len(rows)), channels, minor=True, fontsize=_SMALL, color="#555555")
        axes.tick_params(axis="y", which="minor", length=0, pad=3)
        return
    for centre, place in zip(centres, places, strict=True):
        axes.annotate(
            "",
            xy=(0, centre),
            xycoords=axes.get_yaxis_transform(),
            xytext=(-17, place),
            textcoords=("offset points", "data"),
            arrowprops={"arrowstyle": "-", "color": _LINE, "linewidth": 0.7, "shrinkA": 0, "shrinkB": 2},
        )


def _spread(centres: list[float], gap: float, low: float, high: float) -> list[float]:
    """The nearest places to ``centres``, in order, that keep ``gap`` from one another and stay within the bounds."""
    places: list[float] = []
    for centre in centres:
        places.append(max(centre, places[-1] + gap) if places else max(centre, low))
    for index in reversed(range(len(places))):
        limit = high if index == len(places) - 1 else places[index + 1] - gap
        places[index] = min(places[index], limit)
    return places


def _label_epochs(axes: Axes, history: Sequence[Mapping], most: int) -> None:
    every = next(
        step * 10**power for power in range(9) for step in (1, 2, 5) if len(history) <= most * step * 10**power
    )
    first = int(history[0]["epoch"] < 0)
    ticks = [column for column in range(len(history)) if (column - first) % every == 0]
    if first and every > 1:
        ticks = [0, *ticks[1:]]  # the start instead of the epoch beside it
    labels = ["start" if history[tick]["epoch"] < 0 else str(history[tick]["epoch"]) for tick in ticks]
    axes.set_xticks(ticks, labels, fontsize=_SMALL)
    axes.set_xlabel("epoch", fontsize=_NORMAL)
    axes.set_xlim(-0.5, len(history) - 0.5)


# ------------------------------------------------------------------------------------------------------------ gallery


def _kernel(part: SubFigure, axes: Axes, kernel: Tensor) -> None:
    values = np.atleast_2d(_numbers(kernel))
    largest = float(np.abs(values).max()) or 1.0
    image = axes.imshow(values, cmap=_diverging(), vmin=-largest, vmax=largest, interpolation="nearest")
    axes.set_title("kernel, mean over inputs", fontsize=_NORMAL, pad=11)
    _map_frame(part, axes, image)


def _activation(part: SubFigure, axes: Axes, activation: Tensor, side: str) -> None:
    from matplotlib.patches import Rectangle

    values = np.atleast_2d(_numbers(activation))
    low, high = float(values.min()), float(values.max())
    spare = 0.0 if high > low else 0.5
    image = axes.imshow(values, cmap="viridis", vmin=low - spare, vmax=high + spare, interpolation="nearest")
    axes.set_title(f"mean activation, {side} marked", fontsize=_NORMAL, pad=11)
    _map_frame(part, axes, image)
    height, width = values.shape
    thick = 0.045 * max(height, width)
    for edge in side.split("-"):
        length = 0.2 if "-" in side else 1.0  # a corner is marked by the two ends that meet in it
        x = width * (1 - length) - 0.5 if "right" in side else -0.5
        y = height * (1 - length) - 0.5 if "bottom" in side else -0.5
        box = {
            "top": (x, -0.5 - thick, width * length, thick),
            "bottom": (x, height - 0.5, width * length, thick),
            "left": (-0.5 - thick, y, thick, height * length),
            "right": (width - 0.5, y, thick, height * length),
        }[edge]
        axes.add_patch(Rectangle(box[:2], *box[2:], color=_BORDER, linewidth=0, clip_on=False))


def _map_frame(part: SubFigure, axes: Axes, image) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    bar = part.colorbar(image, ax=axes, aspect=14, pad=0.06, shrink=0.85)
    bar.ax.yaxis.get_major_locator().set_params(nbins=3)
    bar.ax.tick_params(labelsize=_SMALL)


def _distributions(axes: Axes, picture: NeuronPicture, side: str) -> None:
    samples = {"border": _finite(picture.border), "reference": _finite(picture.reference)}
    pooled = np.concatenate(list(samples.values()))
    if pooled.size == 0:
        axes.set_axis_off()
        _centred(axes, "no samples")
        return
    low, high = float(pooled.min()), float(pooled.max())
    spare = 0.0 if high - low > 1e-6 * max(abs(low), abs(high), 1e-30) else max(abs(low), 1.0) / 2
    edges = np.linspace(low - spare, high + spare, _BINS + 1)
    for (name, values), color in zip(samples.items(), (_BORDER, _REFERENCE), strict=True):
        if values.size:
            density = np.histogram(values, bins=edges, density=True)[0]
            label = f"{side} border" if name == "border" else name
            axes.stairs(density, edges, fill=True, color=color, alpha=0.22)
            style = "-" if name == "border" else "--"
            axes.stairs(density, edges, color=color, linewidth=1.5, linestyle=style, label=label)
    axes.set_title(f"contrast {picture.pan.contrast[side]:+.2f}, {side}", fontsize=_NORMAL, pad=11)
    axes.set_xlabel("activation", fontsize=_NORMAL)
    axes.set_ylabel("density", fontsize=_NORMAL)
    axes.set_yticks([])
    axes.set_ylim(0, 1.3 * axes.dataLim.y1)
    axes.tick_params(axis="x", labelsize=_SMALL)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=_SMALL, frameon=False, loc="upper center", ncols=2)


# ------------------------------------------------------------------------------------------------------------- common


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _note(title: str, sentence: str) -> Figure:
    """A small figure that says why there is nothing to draw."""
    figure = _figure(6.4, 2.0)
    figure.suptitle(title, fontsize=_LARGE)
    axes = figure.subplots()
    axes.set_axis_off()
    _centred(axes, sentence)
    return figure


def _centred(axes: Axes, sentence: str) -> None:
    axes.text(0.5, 0.5, sentence, ha="center", va="center", fontsize=_LARGE, color="#555555", transform=axes.transAxes)


def _diverging() -> Colormap:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("blue_orange", _DIVERGING)


def _sequential() -> Colormap:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("white_orange", ("#fbfbfb", "#fdd9ae", "#f4a04c", "#c8590d", "#6b2a02"))


def _shorten(name: str, most: int = 34) -> str:
    """A name of at most ``most`` characters: the middle gives way, since both ends tell layers apart."""
    if len(name) <= most:
        return name
    tail = (most - 1) * 3 // 5
    return f"{name[: most - 1 - tail]}…{name[-tail:]}"


def _numbers(values: Tensor) -> np.ndarray:
    return torch.nan_to_num(values.detach().float(), nan=0.0, posinf=0.0, neginf=0.0).cpu().numpy()


def _finite(values: Tensor) -> np.ndarray:
    numbers = values.detach().double().flatten()
    return numbers[numbers.isfinite()].cpu().numpy()
