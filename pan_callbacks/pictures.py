"""What the gallery shows of a neuron: its kernel, where it fires, and its readings at border and reference."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pan_callbacks.figures import NeuronPicture
from pan_callbacks.measure import Measurement
from pan_callbacks.probes import run
from pan_callbacks.report import PAN, PANReport


def neuron_pictures(measurement: Measurement, report: PANReport, limit: int = 6) -> list[NeuronPicture]:
    """Pictures of the strongest PANs, one of each kind first.

    Args:
        measurement: What the report came from, still attached.
        report: The report.
        limit: Pictures at most.
    """
    pans = _varied(report, limit)
    if not pans or measurement.sample is None:
        return []
    activations = _mean_activations(measurement, pans)
    pictures = []
    for pan in pans:
        if (pan.layer, pan.channel) not in activations:
            continue
        conv = measurement.candidates[pan.layer]
        border, reference = measurement.statistics[pan.layer].awareness.samples(pan.strongest)
        pictures.append(
            NeuronPicture(
                pan,
                kernel=conv.weight[pan.channel].detach().float().mean(0).cpu(),
                activation=activations[pan.layer, pan.channel],
                border=border[:, pan.channel].cpu(),
                reference=reference[:, pan.channel].cpu(),
            )
        )
    return pictures


def _varied(report: PANReport, limit: int) -> list[PAN]:
    ranked = report.strongest()
    seen: set[tuple[str, bool]] = set()
    first, rest = [], []
    for pan in ranked:
        kind = (pan.kind, pan.contrast[pan.strongest] > 0)
        (rest if kind in seen else first).append(pan)
        seen.add(kind)
    return (first + rest)[:limit]


def _mean_activations(measurement: Measurement, pans: list[PAN]) -> dict[tuple[str, int], Tensor]:
    """Mean map of each neuron over the sample images, (rows, columns)."""
    channels: dict[str, list[int]] = {}
    for pan in pans:
        channels.setdefault(pan.layer, []).append(pan.channel)
    maps: dict[tuple[str, int], Tensor] = {}

    def listener(name: str):
        def listen(conv: nn.Module, x: Tensor, output: Tensor) -> None:
            for channel in channels[name]:
                maps.setdefault((name, channel), output[:, channel].detach().float().mean(0).cpu())

        return listen

    module, args, kwargs = measurement.sample
    with torch.no_grad(), measurement.running(module):
        measurement.probes.listen({name: listener(name) for name in channels})
        run(module, args, kwargs)
    return maps
