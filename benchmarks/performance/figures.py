"""The figure of the page: what the cost depends on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pan_callbacks.figures.style import BORDER, LINE, NORMAL, REFERENCE, SMALL, centred, new_figure, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STYLES = {
    "centre": {"color": REFERENCE, "marker": "o", "label": "centre"},
    "crop": {"color": BORDER, "marker": "s", "label": "crop"},
}
BOUND = {"centre": 1.03, "crop": 1.60}


def costs(results: Mapping[str, dict]) -> Figure:
    """Four panels: images, layers, size and epochs; one whose row was not run says so."""
    figure = new_figure(10.5, 7.2)
    panels = figure.subplots(2, 2).flatten()
    values = {row: result.get("values") for row, result in results.items()}
    forward, sweeps, events = (values.get(row) for row in ("forward", "sweeps", "events"))
    _panel(panels[0], "images in the epoch, so far", by_images(forward), bounds=True)
    _panel(panels[1], f"layers measured, {sweeps['size']} px" if sweeps else "layers measured", by(sweeps, "layers"))
    _panel(panels[2], "height and width of the images in px", by(sweeps, "sizes"))
    _epochs(panels[3], events)
    handles = {label: handle for axes in panels[:3] for handle, label in zip(*axes.get_legend_handles_labels())}  # noqa: B905
    if handles:
        figure.legend(
            handles.values(), handles.keys(), loc="outside upper center", ncols=4, fontsize=NORMAL, frameon=False
        )
    return figure


def by_images(forward: dict | None) -> dict[str, dict[int, float]]:
    """Reference to the ratio after so many images."""
    if forward is None:
        return {}
    return {name: {int(n): ratio for n, ratio in forward[name]["by_images"].items()} for name in STYLES}


def by(sweeps: dict | None, key: str) -> dict[str, dict[int, float]]:
    """Reference to the ratio at each value of what is varied."""
    if sweeps is None:
        return {}
    return {name: {int(n): one[name]["median"] for n, one in sweeps[key].items()} for name in STYLES}


def _panel(axes: Axes, what: str, lines: Mapping[str, Mapping[int, float]], bounds: bool = False) -> None:
    axes.set_xlabel(what, fontsize=NORMAL)
    axes.set_ylabel("CPU time, of the plain forward", fontsize=NORMAL)
    if not lines:
        return _missing(axes)
    for name, points in lines.items():
        axes.plot(list(points), list(points.values()), linewidth=1.4, markersize=5, **STYLES[name])
        if bounds:
            style = {"color": STYLES[name]["color"], "linewidth": 1, "linestyle": ":"}
            axes.axhline(BOUND[name], label=f"{name}: to reach", **style)
        else:
            axes.set_xticks(list(points))
    axes.axhline(1, color=LINE, linewidth=1)
    axes.set_ylim(bottom=0.9)
    _finish(axes)


def _epochs(axes: Axes, events: dict | None) -> None:
    axes.set_xlabel("epoch (ResNet-50, 64 px, 32 images; the last one has the gallery)", fontsize=NORMAL)
    axes.set_ylabel("s of CPU in an epoch", fontsize=NORMAL)
    if events is None:
        return _missing(axes)
    seconds = events["seconds"]
    axes.plot(range(len(seconds)), seconds, color=BORDER, marker="s", markersize=5, linewidth=1.4)
    axes.annotate("with PANMonitor()", (len(seconds) - 1, seconds[-1]), (-6, 4), textcoords="offset points",
                  ha="right", fontsize=SMALL, color=BORDER)  # fmt: skip
    axes.axhline(events["plain"]["median"], color=LINE, linewidth=1)
    axes.text(0, events["plain"]["median"], "without", fontsize=SMALL, color="#555555", va="bottom")
    axes.set_ylim(bottom=0)
    axes.xaxis.get_major_locator().set_params(integer=True)
    _finish(axes)


def _finish(axes: Axes) -> None:
    plain(axes, "both")
    axes.tick_params(labelsize=SMALL)


def _missing(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    centred(axes, "not measured yet")
