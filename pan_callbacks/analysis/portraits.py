"""What the gallery shows of a neuron: its kernel, where it fires, and its readings at border and reference."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pan_callbacks._runtime import halving, unseen
from pan_callbacks.analysis.kernels import padding_taps
from pan_callbacks.measurement.calls import LayerCall, StopForward
from pan_callbacks.measurement.engine import SAMPLE_IMAGES, Measurement
from pan_callbacks.measurement.views import InView
from pan_callbacks.reports.pan_report import PANReport
from pan_callbacks.reports.pans import PAN
from pan_callbacks.reports.taxonomy import place_of


@dataclass(frozen=True, eq=False)
class NeuronPicture:
    """What a picture of one neuron shows.

    Args:
        pan: The neuron.
        kernel: Its kernel, mean over input channels (rows, columns).
        activation: Its mean activation map (height, width).
        border: Activations on the border of its strongest side (samples,).
        reference: Activations of the reference that the border is compared with (samples,).
        padding_taps: Rows and columns of the kernel that read the padding on that side.
        examples: Images (3, height, width) in 0 to 1, each with its activation map (height, width).
        where: Where the border of the map was seen, in words; "" if in the images as they are.
    """

    pan: PAN
    kernel: Tensor
    activation: Tensor
    border: Tensor
    reference: Tensor
    padding_taps: tuple[Sequence[int], Sequence[int]] = ((), ())
    examples: tuple[tuple[Tensor, Tensor], ...] = ()
    where: str = ""


def neuron_pictures(
    measurement: Measurement,
    report: PANReport,
    limit: int = 6,
    examples: int = 0,
    pans: Iterable[PAN] | None = None,
    advance: Callable[[float], None] = unseen,
) -> list[NeuronPicture]:
    """Return pictures of the strongest PANs, one of each type first.

    The maps, and the images beside them, are those in which the border readings were taken: with ``crop`` the middle
    of the images, with ``zoom`` that of the enlarged ones.

    Args:
        measurement: What the report came from, still attached.
        report: The report.
        limit: Pictures at most.
        examples: Images to show with each neuron's activation; as many as were kept at most.
        pans: Neurons to picture, in this order, instead of the strongest; ``limit`` does not hold for them.
        advance: Is told of every neuron that was looked at.
    """
    pans = _varied(report, limit) if pans is None else list(pans)
    if not measurement.images:  # the report is of an earlier run
        return []
    samples = [measurement.readings(pan.layer, pan.strongest) for pan in pans]
    sites = {pan.layer: measurement.site(pan.layer) for pan in pans}
    by_view: dict[InView, list[PAN]] = {}
    for pan in pans:
        site = sites[pan.layer]
        if site is not None:
            by_view.setdefault((site.view.pair(pan.strongest).border, site.offset), []).append(pan)
    found: dict[tuple[str, int], _Activation] = {}
    for view, members in by_view.items():
        found |= _watch(measurement, members, view, examples)
        advance(len(members))
    pictures = []
    for pan, (border, reference) in zip(pans, samples, strict=True):
        activation, site = found.get((pan.layer, pan.channel)), sites[pan.layer]
        if activation is None or site is None:
            continue
        pictures.append(
            NeuronPicture(
                pan,
                kernel=activation.kernel,
                activation=activation.mean,
                border=border[:, pan.channel].cpu(),
                reference=reference[:, pan.channel].cpu(),
                padding_taps=padding_taps(site.geometry, pan.strongest),
                examples=tuple(activation.examples),
                where=site.view.where,
            )
        )
    return pictures


def by_type(report: PANReport, per_type: int = 1, limit: int = 12) -> list[PAN]:
    """Return the strongest PANs of each kind: the side, sign and origin (:mod:`pan_callbacks.reports.taxonomy`).

    Args:
        report: The report.
        per_type: PANs of each type at most.
        limit: PANs at most.

    Returns:
        The type with the most members first, within a type the strongest PAN first.
    """
    types: dict[tuple[str, str, str], list[PAN]] = {}
    for pan in report.strongest():
        types.setdefault((place_of(pan), pan.sign, pan.origin), []).append(pan)
    ranked = sorted(types.values(), key=len, reverse=True)
    return [pan for members in ranked for pan in members[:per_type]][:limit]


def displayed(image: Tensor) -> Tensor:
    """Return an image as it can be shown, however it was normalised: stretched from its 1st to its 99th percentile.

    The stretch is common to the channels, which keeps colours. Any number of channels but three is shown as grey.

    Args:
        image: (channels, height, width).

    Returns:
        (3, height, width) in 0 to 1, on the CPU.

    Example:
        >>> displayed(torch.tensor([[[-3.0, 1.0, 5.0]]]))[:, 0].tolist()
        [[0.0, 0.5, 1.0], [0.0, 0.5, 1.0], [0.0, 0.5, 1.0]]
    """
    values = image.detach().float().cpu()
    if len(values) != 3:
        values = values.mean(0, keepdim=True).expand(3, -1, -1)
    known = values[values.isfinite()]
    if known.numel() == 0:
        return torch.zeros_like(values)
    # by rank and not torch.quantile, which takes no more than 16 million values
    low, high = (known.kthvalue(1 + round(share * (known.numel() - 1))).values for share in (0.01, 0.99))
    return ((values.nan_to_num(0.0) - low) / (high - low if high > low else 1.0)).clamp(0, 1)


def flat(maps: Tensor, dims: int) -> Tensor:
    """Return maps as they can be drawn: as a row if they have one dimension, and the middle slice if they have three.

    Args:
        maps: (..., rows, columns), (..., columns) or (..., depth, rows, columns).
        dims: How many dimensions they have.

    Example:
        >>> flat(torch.zeros(3, 8), 1).shape, flat(torch.zeros(3, 5, 8, 9), 3).shape
        (torch.Size([3, 1, 8]), torch.Size([3, 8, 9]))
    """
    return maps.unsqueeze(-2) if dims == 1 else maps.select(-3, maps.shape[-3] // 2) if dims == 3 else maps


def _varied(report: PANReport, limit: int) -> list[PAN]:
    """One of each type, and then the strongest of the rest."""
    first = by_type(report, limit=limit)
    chosen = {(pan.layer, pan.channel) for pan in first}
    return (first + [pan for pan in report.strongest() if (pan.layer, pan.channel) not in chosen])[:limit]


@dataclass
class _Activation:
    """What a neuron answers to the sample images.

    Args:
        mean: Its mean map (rows, columns).
        kernel: The kernel that it convolves with, mean over input channels (rows, columns).
        examples: The first images, each with its map.
    """

    mean: Tensor
    kernel: Tensor
    examples: list[tuple[Tensor, Tensor]]


def _watch(
    measurement: Measurement, pans: list[PAN], view: InView, examples: int
) -> dict[tuple[str, int], _Activation]:
    """Return what each neuron answers to the sample images in a view, at its layer's first call."""
    channels: dict[str, list[int]] = {}
    for pan in pans:
        channels.setdefault(pan.layer, []).append(pan.channel)
    first: dict[tuple[str, int], Tensor] = {}
    found: dict[tuple[str, int], _Activation] = {}

    def listen(name: str, call: LayerCall) -> None:
        weight = call.layer().weight(call.x).detach().float()
        dims = call.output.ndim - 2
        for channel in channels[name]:
            maps, kernel = (
                flat(call.output[:, channel].detach().float(), dims),
                flat(weight[channel].mean(0), dims).cpu(),
            )
            if (name, channel) not in found:
                first[name, channel] = maps[:examples].clone().cpu()
                found[name, channel] = _Activation(maps.mean(0).cpu(), kernel, [])
        if len(found) == len(pans):
            raise StopForward  # a classifier of fixed size need not see the middle of an image

    def look(count: int) -> Tensor | None:
        found.clear()
        return measurement.watch_sample(channels, listen, count, view)

    images = halving(look, SAMPLE_IMAGES)
    shown = [] if images is None else [displayed(flat(image, image.ndim - 1)) for image in images[:examples]]
    for neuron, activation in found.items():
        activation.examples += zip(shown, first[neuron], strict=False)
    return found
