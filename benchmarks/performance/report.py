"""Rows 4 and 5: what a report costs, and what is kept, after an epoch of ResNet-50."""

from __future__ import annotations

import torch

from benchmarks.performance.device import DEVICE, clock
from benchmarks.performance.memory import kept
from benchmarks.performance.subjects import noise, resnet50
from benchmarks.performance.timing import once, spread
from benchmarks.performance.words import number, quartiles, table
from pan_callbacks.measurement.engine import Measurement
from pan_callbacks.measurement.settings import Settings

BATCH, SIZE = 16, 224


def measure(quick: bool) -> dict:
    """Feeds images, and asks for reports in between."""
    counts, repeats = ((16, 32), 3) if quick else ((64, 256), 7)
    model, found = resnet50().to(DEVICE), {}
    measurement = Measurement(model, Settings(None, "crop", 0.8, counts[-1]))
    with torch.no_grad():
        measurement.start()
        for batch in noise(counts[-1], SIZE).split(BATCH):
            model(batch.to(DEVICE))
            if measurement.images in counts:
                first = once(measurement.report, clock)
                found[str(measurement.images)] = {
                    "first": first,
                    "again": spread([once(measurement.report, clock) for _ in range(repeats)]),
                }
        report = measurement.report()
    slowest = max(max(one["first"], one["again"]["median"]) for one in found.values())
    sides = sum(int((~line.contrast.isnan()).any(1).sum()) for line in report.measured.values())
    return {
        "by_images": found,
        "slowest": slowest,
        "kept": kept(measurement, model),
        "images": counts[-1],
        "layers": len(report.measured),
        "neurons": report.neurons,
        "sides": sides,
    }


def section(found: dict) -> list[str]:
    """What the page says."""
    rows = [[n, number(one["first"]), quartiles(one["again"])] for n, one in found["by_images"].items()]
    return [
        f"`Measurement.report()`, `crop`: {found['layers']} padded layers, {found['neurons']:,} neurons, "
        f"{found['sides']} sides of layers, with intervals. The first call after new images is what an epoch has; the "
        "bound is held against the slower of the two columns.",
        "",
        *table(["images", "first call, s", "again, s"], rows),
        "",
        f"What is kept after {found['images']} images: {number(found['kept']['going_on'])} MB, of which "
        f"{number(found['kept']['copies'])} MB are weights of copies of the network, and "
        f"{number(found['kept']['stopped'])} MB once the measurement has stopped.",
    ]
