"""What is to be masked, as plain data that fits into a checkpoint."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pan_callbacks.errors import PANError
from pan_callbacks.layers import convolutions, named, pad_modules, why_unpadded
from pan_callbacks.measurement.pads import find_pad
from pan_callbacks.reports.pan_report import PANReport


@dataclass(frozen=True)
class Target:
    """What is masked in one layer: plain data, so that it fits into a checkpoint.

    Args:
        channels: Output channels of the convolution.
        pad: Name of the pad module that feeds the layer, or the call of ``F.pad``; None if it pads itself.
        mean: Reference mean of all the layer's channels, for mode ``"mean"``.
    """

    channels: tuple[int, ...]
    pad: str | None = None
    mean: Tensor | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the target as a dict, list, string and tensor only."""
        return {"channels": list(self.channels), "pad": self.pad, "mean": self.mean}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Target:
        """Make the target that :meth:`to_dict` described."""
        return cls(tuple(data["channels"]), data["pad"], data["mean"])


def targets(report: PANReport, neurons: Mapping[str, Sequence[int]] | None = None) -> dict[str, Target]:
    """Return what a mask needs to know of every layer, from a report.

    Args:
        report: The report.
        neurons: Layer name to channels; the report's PANs by default.
    """
    if neurons is None:
        neurons = report.neurons_by_layer()
        if not neurons:
            warnings.warn("the report has no PANs: nothing is masked", stacklevel=4)
    unknown = [name for name in neurons if name not in report.layers]
    if unknown:
        raise PANError(f"layer {unknown[0]!r} is not in the report; it has {named(list(report.layers))}")
    lines = report.layers
    return {
        name: Target(tuple(sorted({int(channel) for channel in channels})), lines[name].pad, lines[name].mean)
        for name, channels in neurons.items()
        if len(channels)
    }


def merge(old: Mapping[str, Target], new: Mapping[str, Target]) -> dict[str, Target]:
    """Return both together; a channel that was masked before keeps its mean, which it could not show since."""
    merged = {**old, **new}
    for name in old.keys() & new.keys():
        mean, mean_before, before = new[name].mean, old[name].mean, list(old[name].channels)
        if mean is not None and mean_before is not None:
            mean = mean.clone()
            mean[before] = mean_before[before]
        channels = sorted({*old[name].channels, *new[name].channels})
        merged[name] = Target(tuple(channels), new[name].pad, mean)
    return merged


def draw_controls(report: PANReport, seed: int = 0) -> dict[str, list[int]]:
    """Draw as many neurons of each layer that are no PANs as the layer has PANs, by chance.

    Args:
        report: Which neurons are PANs.
        seed: Seed of the draw.

    Returns:
        Layer name to channels; fewer in a layer that has more PANs than other neurons.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = {}
    for name, pans in report.neurons_by_layer().items():
        others = sorted(set(range(report.layers[name].channels)) - set(pans))
        order = torch.randperm(len(others), generator=generator)[: len(pans)]
        drawn[name] = sorted(others[i] for i in order.tolist())
    return drawn


def padded_channels(model: nn.Module, report: PANReport) -> dict[str, list[int]]:
    """Return all channels of every padded layer in a report: masked with ``"neutral"``, these layers have no padding.

    Where the report has all layers of the model, its padding is gone, but for that of a pad module before a layer that
    was not measured.
    """
    found, pads = convolutions(model), pad_modules(model)
    return {
        name: list(range(line.channels))
        for name, line in report.layers.items()
        if name in found and why_unpadded(found[name], None if line.pad is None else find_pad(pads, line.pad)) is None
    }
