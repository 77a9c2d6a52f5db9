"""Reports made up by hand, so that what is found of them is known beforehand."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pan_callbacks.layers import convolutions
from pan_callbacks.padding import SIDES
from pan_callbacks.reports.layer_report import LayerReport
from pan_callbacks.reports.pan_report import PANReport

Sides = Mapping[str, float]


def layer(
    channels: int, pans: Mapping[int, Sides] | None = None, effect: float | Tensor = 1.0, **changes
) -> LayerReport:
    """A measured layer: channel to side to contrast; the padding effect is the same everywhere, or a tensor."""
    contrast = torch.zeros(len(SIDES), channels)
    for channel, sides in (pans or {}).items():
        for side, value in sides.items():
            contrast[SIDES.index(side), channel] = value
    values = {"reference": "crop", "contrast": contrast, "effect": torch.zeros_like(contrast) + effect}
    return LayerReport(channels, **({"kernel_size": (3, 3), "mean": torch.zeros(channels)} | values | changes))


def report_on(model: nn.Module, pans: Mapping[str, tuple[int, ...]]) -> PANReport:
    """A report that calls some channels of a model's convolutions PANs of the top, with random means."""
    generator = torch.Generator().manual_seed(0)
    layers = {
        name: layer(
            conv.out_channels,
            {channel: {"top": 1.0} for channel in pans.get(name, ())},
            mean=torch.randn(conv.out_channels, generator=generator),
            stride=conv.stride,
        )
        for name, conv in convolutions(model).items()
    }
    return PANReport(layers)


def small_net(classes: int = 5, seed: int = 0) -> nn.Sequential:
    """Two padded convolutions with batch normalisation and dropout, and a classifier; random, and sensitive."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1, stride=2),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, classes),
        )
        with torch.no_grad():
            net[-1].weight.mul_(20)
    return net.eval()


def labelled(count: int, batch: int, size: int = 12, classes: int = 5, seed: int = 0) -> list:
    """Batches of noise under a light of another colour for each image, with labels by chance."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 3, size, size, generator=generator) + torch.randn(count, 3, 1, 1, generator=generator)
    labels = torch.randint(classes, (count,), generator=generator)
    return list(zip(images.split(batch), labels.split(batch), strict=True))
