"""What the cost depends on: the number of layers, and the size of the images."""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.performance.subjects import epoch, noise, plain_epoch, resnet50, sharing
from benchmarks.performance.timing import interleave, ratios, spread
from benchmarks.performance.words import quartiles, table
from pan_callbacks.measurement.engine import Measurement
from pan_callbacks.measurement.settings import Settings

REFERENCES = ("centre", "crop")


def ratio(plain: nn.Module, size: int, images: int, batch: int, layers: list[str] | None, rounds: int) -> dict:
    """Reference to the ratio of an epoch to the plain one."""
    batches = noise(images, size).split(batch)
    arms = {"plain": plain_epoch(plain, batches)}
    for reference in REFERENCES:
        model = sharing(plain)
        arms[reference] = epoch(Measurement(model, Settings(layers, reference, 0.8, images)), model, batches)
    with torch.no_grad():
        found = interleave(arms, rounds, warm_steps=1)
    return {reference: spread(ratios(found, reference, "plain")) for reference in REFERENCES}


def measure(quick: bool) -> dict:
    """Epochs in turns, for each size and for each number of layers."""
    images, batch, rounds = (8, 4, 1) if quick else (32, 8, 2)
    sizes, counts, size = ((64, 96), (1, 4), 96) if quick else ((96, 128, 192, 256), (1, 2, 4, 8, 17), 128)
    plain = resnet50()
    names = [name for name, module in plain.named_modules() if isinstance(module, nn.Conv2d) and any(module.padding)]
    by_layers = {}
    for count in counts:
        evenly = [names[index * len(names) // count] for index in range(count)]
        by_layers[count] = ratio(plain, size, images, batch, evenly, rounds)
    by_size = {one: ratio(plain, one, images, batch, None, rounds) for one in sizes}
    return {
        "layers": by_layers,
        "sizes": by_size,
        **{"images": images, "batch": batch, "rounds": rounds, "size": size},
    }


def section(found: dict) -> list[str]:
    """What the page says."""
    lines = [
        f"ResNet-50, epochs of {found['images']} images in batches of {found['batch']}, {found['rounds']} rounds, of "
        "the plain epoch. Layers are chosen evenly over the depth.",
    ]
    for key, head in (("layers", f"layers measured, at {found['size']} px"), ("sizes", "px, all padded layers")):
        rows = [[str(value), *(quartiles(one[name]) for name in REFERENCES)] for value, one in found[key].items()]
        lines += ["", *table([head, *(f"`{name}`" for name in REFERENCES)], rows)]
    return lines
