"""The padding aware neurons of a training, epoch by epoch, as a matplotlib figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pan_callbacks.figures.style import (
    LARGE,
    LINE,
    NORMAL,
    REFERENCE,
    SMALL,
    centred,
    diverging,
    few_ticks,
    new_figure,
    note,
    place,
    scale,
    shorten,
    widest,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


#: What an entry has of the interval of its count.
_ENDS = ("count_low", "count_high")
#: Points between rows and the names of their layers, where each row is named and where lines lead to the names.
_NAMED, _JOINED = 34, 18


def timeline(history: Sequence[Mapping[str, Any]], limit: int = 120) -> Figure:
    """Show which neurons were padding aware when: neurons × epochs, the number of PANs above.

    A row is a neuron that was a PAN in any probe. Layers stand in the order in which the history first names them (it
    may name layers without PANs, and so give the model's order), the neurons of a layer in the order in which they
    became PANs. A cell holds the signed contrast on the neuron's strongest side while it is a PAN, else it is blank.

    Args:
        history: A mapping for each probe, oldest first: ``"epoch"`` (-1 for the network before its first step),
            ``"count"`` (NaN where layers are missing), and ``"pans"``, a mapping layer name -> channel -> signed
            contrast; perhaps ``"count_low"`` and ``"count_high"``, the ends of the interval. Other keys are ignored.
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
        return note("Padding aware neurons by epoch", "no probe yet")
    rows, total = _timeline_rows(history, limit)
    body, named = _timeline_height(rows)
    names = [shorten(layer) for layer in dict.fromkeys(layer for layer, _ in rows)]
    width = min(13.0, max(7.0, 3.4 + 0.26 * len(history)))
    figure = new_figure(width, 2.1 + body, placed=True)
    left = max(0.7, 0.15 + (_NAMED if named else _JOINED) / 72 + widest(figure, names, SMALL))
    across = width - left - (0.95 if rows else 0.2)
    top = place(figure, (left, 0.64 + body, across, 0.9))
    main = place(figure, (left, 0.52, across, body), sharex=top)
    _count_panel(top, history)
    shown = f" ({len(rows)} of {total}, those that lasted longest)" if len(rows) < total else ""
    title = f"Padding aware neurons by epoch{shown}"
    figure.suptitle(title, fontsize=LARGE, y=1 - 0.08 / figure.get_figheight())

    main.set_facecolor("white")
    if rows:
        grid = _timeline_grid(history, rows)
        image = main.imshow(grid, cmap=diverging(), vmin=-1, vmax=1, aspect="auto", interpolation="nearest")
        box = width - 0.8, 0.52, 0.12, min(3.5, 1.02 + body)
        scale(figure, image, box, "contrast (− inhibited, + excited)")
        _label_rows(main, rows, body / len(rows), named)
    else:
        main.set_yticks([])
        centred(main, f"no padding aware neuron in {len(history)} probe{'s' if len(history) > 1 else ''}")
    _label_epochs(main, history, most=int((width - 2.4) / 0.38))
    return figure


def count_band(history: Sequence[Mapping[str, Any]]) -> Figure:
    """Show the number of PANs epoch by epoch, with the band that other images may give.

    Args:
        history: As :func:`timeline` takes it.
    """
    figure = new_figure(4.4, 2.35, placed=True)
    axes = place(figure, (0.55, 0.45, 3.7, 1.5))
    _count_panel(axes, history)
    axes.tick_params(axis="x", length=2, labelbottom=True)
    _label_epochs(axes, history, most=8)
    now = history[-1]
    ends = [now.get(key) for key in _ENDS]
    band = "" if None in ends else f", {ends[0]:.0f} to {ends[1]:.0f} with other images"
    figure.text(0.03, 0.915, f"now {now['count']:.0f} padding aware neurons{band}", fontsize=NORMAL)
    return figure


def _timeline_rows(history: Sequence[Mapping[str, Any]], limit: int) -> tuple[list[tuple[str, int]], int]:
    """Return the neurons to draw, (layer, channel) from top to bottom, and how many there were to choose from."""
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


def _timeline_grid(history: Sequence[Mapping[str, Any]], rows: list[tuple[str, int]]) -> np.ma.MaskedArray:
    """Signed contrast (neurons, probes), masked if a neuron is no PAN."""
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


def _count_panel(axes: Axes, history: Sequence[Mapping[str, Any]]) -> None:
    counts = np.array([probe["count"] for probe in history], dtype=float)  # NaN, a gap, where it is not complete
    low, high = (np.array([probe.get(key, np.nan) for probe in history], dtype=float) for key in _ENDS)
    if len(counts) == 1:  # a band of one point is none
        axes.errorbar([0], counts, [counts - low, high - counts], color=REFERENCE, capsize=4, linewidth=1.2)
    axes.fill_between(range(len(counts)), low, high, color=REFERENCE, alpha=0.25, linewidth=0, label="95 % interval")
    marker = "o" if len(counts) <= 40 else None
    axes.plot(counts, color=REFERENCE, linewidth=1.6, marker=marker, markersize=3.5, clip_on=False)
    if not np.isnan(high).all():
        axes.legend(fontsize=SMALL, frameon=False, loc="lower right", bbox_to_anchor=(1, 0.98), borderaxespad=0)
    axes.set_ylim(0, max(1.0, np.nan_to_num(counts).max(), np.nan_to_num(high).max()) * 1.15)
    few_ticks(axes.yaxis, 4, whole=True)
    axes.set_ylabel("PANs", fontsize=NORMAL)
    axes.tick_params(axis="x", length=0, labelbottom=False)
    axes.tick_params(axis="y", labelsize=SMALL)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)


def _label_rows(axes: Axes, rows: list[tuple[str, int]], inches: float, named: bool) -> None:
    """Names each block of rows after its layer, far enough apart to be read, and draws the lines between blocks."""
    starts = [row for row in range(len(rows)) if row == 0 or rows[row][0] != rows[row - 1][0]]
    stops = [*starts[1:], len(rows)]
    centres = [(start + stop - 1) / 2 for start, stop in zip(starts, stops, strict=True)]
    places = _spread(centres, gap=0.15 / inches, low=-0.5, high=len(rows) - 0.5)
    axes.set_yticks(places, [shorten(rows[start][0]) for start in starts], fontsize=SMALL)
    axes.tick_params(axis="y", which="major", length=0, pad=_NAMED if named else _JOINED)
    for start in starts[1:]:
        axes.axhline(start - 0.5, color=LINE, linewidth=0.7)
    if named:
        axes.yaxis.remove_overlapping_locs = False  # else the channel beside its layer's name goes unnamed
        channels = [str(channel) for _, channel in rows]
        axes.set_yticks(range(len(rows)), channels, minor=True, fontsize=SMALL, color="#555555")
        axes.tick_params(axis="y", which="minor", length=0, pad=3)
        return
    for centre, at in zip(centres, places, strict=True):
        axes.annotate(
            "",
            xy=(0, centre),
            xycoords=axes.get_yaxis_transform(),
            xytext=(-17, at),
            textcoords=("offset points", "data"),
            arrowprops={"arrowstyle": "-", "color": LINE, "linewidth": 0.7, "shrinkA": 0, "shrinkB": 2},
        )


def _spread(centres: list[float], gap: float, low: float, high: float) -> list[float]:
    """Return the nearest places to ``centres``, in order, that keep ``gap`` from one another, within the bounds."""
    places: list[float] = []
    for centre in centres:
        places.append(max(centre, places[-1] + gap) if places else max(centre, low))
    for index in reversed(range(len(places))):
        limit = high if index == len(places) - 1 else places[index + 1] - gap
        places[index] = min(places[index], limit)
    return places


def _label_epochs(axes: Axes, history: Sequence[Mapping[str, Any]], most: int) -> None:
    every = next(
        step * 10**power for power in range(9) for step in (1, 2, 5) if len(history) <= most * step * 10**power
    )
    first = int(history[0]["epoch"] < 0)
    ticks = [column for column in range(len(history)) if (column - first) % every == 0]
    if first and every > 1:
        ticks = [0, *ticks[1:]]  # the start instead of the epoch beside it
    labels = ["start" if history[tick]["epoch"] < 0 else str(history[tick]["epoch"]) for tick in ticks]
    axes.set_xticks(ticks, labels, fontsize=SMALL)
    axes.set_xlabel("epoch", fontsize=NORMAL)
    axes.set_xlim(-0.5, len(history) - 0.5)
