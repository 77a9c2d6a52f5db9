"""What processes exchange for a probe, and how long it takes to merge it: docs/scaling.md has what this prints.

python -m benchmarks.scaling           # three minutes of one core

Ranks are made in one process, one after the other: each has the readings of its part of the images, made up, in
collectors of the sizes of ResNet-50's padded layers. What it keeps is packed into the bytes that it would send,
unpacked, and merged with what all others have.
"""

from __future__ import annotations

import time
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pan_callbacks.measurement.coding import Code
from pan_callbacks.measurement.collector import LayerCollector
from pan_callbacks.measurement.exchange import packed, unpacked
from pan_callbacks.measurement.findings import Images, finding_of
from pan_callbacks.measurement.lines import HowMeasured
from pan_callbacks.measurement.positions import Keep, Layout
from pan_callbacks.reports.pans import GROUPS

#: Channels of a padded layer of ResNet-50, how many layers have them, and outputs of an edge.
LAYERS = ((64, 1, 110), (64, 3, 54), (128, 4, 26), (256, 6, 12), (512, 3, 5))
RANKS = (8, 64, 256, 1024)


def main() -> None:
    torch.set_num_threads(1)
    print("| images | positions | bytes of a neuron and image | all ranks together |")
    print("|---:|---:|---:|---:|")
    for images in (64, 256, 1024):
        keep = Keep.of(neurons(), images)
        each = 2 * sum(slots for _, slots, _ in layout(keep, 54)) * keep.dtype.itemsize
        total = sum(len(packed({"layers": one.state()})) for one in rank(images, keep, 0, 1))
        print(f"| {images} | {keep.positions} | {each} | {total / 1e6:.1f} MB |", flush=True)
    images = 1024
    keep = Keep.of(neurons(), images)._replace(values=10**9)  # nothing is thinned, so that all must agree
    head = ("ranks", "a rank sends, 16 bits", "seconds to merge all", "in 32 bits, the report of one")
    print(f"\n| {' | '.join(head)} | in 16 bits, sizes of contrasts differ by (mean, most) |")
    print("|---:|---:|---:|---|---:|")
    expected = {dtype: found(images, keep._replace(dtype=dtype), 1) for dtype in (torch.float32, torch.float16)}
    for ranks in RANKS:
        exact = found(images, keep._replace(dtype=torch.float32), ranks)
        coded = found(images, keep, ranks)
        same = all(torch.equal(a, b) for a, b in zip(exact.figures, expected[torch.float32].figures, strict=True))
        pairs = zip(coded.figures[::2], expected[torch.float16].figures[::2], strict=True)
        off = torch.cat([(a.abs() - b.abs()).abs().flatten() for a, b in pairs])
        words = "to the bit" if same else "no"
        line = f"| {ranks:,} | {coded.sent / 1e6:.2f} MB | {coded.seconds:.1f} | {words} |"
        print(f"{line} {float(off.mean()):.4f}, {float(off.max()):.3f} |", flush=True)


class Found(NamedTuple):
    """What came of a number of ranks.

    Args:
        figures: Contrast and error of each layer, in turns, without NaN.
        sent: Bytes that a rank sends, at most.
        seconds: Of CPU, to merge all.
    """

    figures: list[Tensor]
    sent: int
    seconds: float


def found(images: int, keep: Keep, ranks: int) -> Found:
    """Let so many ranks measure, exchange, and one of them merge and report."""
    parts = [[one.state() for one in rank(images, keep, number, ranks)] for number in range(ranks)]
    sent = [packed({"layers": part}) for part in parts]
    start = time.process_time()
    merged = merge([unpacked(data)["layers"] for data in sent])
    seconds = time.process_time() - start
    lines = [finding_of(one, HowMeasured(), 0.8, Images(images, images))[0] for one in merged]
    figures = [one.nan_to_num(9.0) for line in lines for one in (line.contrast, line.error) if one is not None]
    return Found(figures, max(map(len, sent)), seconds)


def neurons() -> int:
    return sum(channels * layers for channels, layers, _ in LAYERS)


def layout(keep: Keep, outputs: int) -> Layout:
    """What is read of a map whose edges have so many outputs."""
    slots = min(keep.positions, outputs)
    edges = tuple((side, slots, outputs) for side in ("top", "bottom", "left", "right"))
    corners = tuple((side, 1, 1) for side in ("top-left", "top-right", "bottom-left", "bottom-right"))
    return (*edges, *corners, ("interior", 1, 4))


def rank(images: int, keep: Keep, number: int, ranks: int) -> list[LayerCollector]:
    """The layers of one of several ranks, which has every so-manieth image; what they read depends on that alone."""
    mine = torch.arange(images)[number::ranks]
    collectors = []
    for index, (channels, layers, outputs) in enumerate(LAYERS):
        for layer in range(layers):
            one = LayerCollector(nn.Conv2d(1, channels, 1))
            generator = torch.Generator().manual_seed(100 * index + layer)
            base = torch.randn(3, channels, generator=generator)
            where = layout(keep, outputs)
            slots = sum(n for _, n, _ in where)
            waves = torch.arange(slots * channels).view(slots, channels)
            # numbers that scatter, without a generator that would have to be wound forward
            content = torch.sin(mine[:, None, None] * 12.9898 + waves * 78.233) * 43758.5453
            reference = content.frac() + base[0]
            border = reference + base[1].clamp_min(0) + (content * 7).frac() * base[2] / 4
            one.border.add(where, border, mine % GROUPS, keep)
            one.reference.add(where, reference, mine % GROUPS, keep)
            one.seen += torch.tensor([len(mine), len(mine), 0])
            collectors.append(one)
    return collectors


def merge(states: list[list[dict]]) -> list[LayerCollector]:
    """What :func:`pan_callbacks.measurement.together.together` does with what was exchanged."""
    merged = []
    for number, (channels, layers, _) in enumerate(LAYERS):
        before = sum(count for _, count, _ in LAYERS[:number])
        for index in range(before, before + layers):
            one = LayerCollector(nn.Conv2d(1, channels, 1), Code.of(states[0][index]["code"], torch.device("cpu")))
            for state in states:
                one.merge(state[index])
            merged.append(one)
    return merged


if __name__ == "__main__":
    main()
