"""What other work measures of padding and position, beside the contrast, and how far the two agree."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.functional.regression import spearman_corrcoef

from pan_callbacks._runtime import Counted, unseen
from pan_callbacks.analysis.flip import FLIPS, flip_scores
from pan_callbacks.analysis.kernels import model_asymmetries
from pan_callbacks.analysis.position import TARGETS, PositionReadout, position_readout
from pan_callbacks.padding import SIDES
from pan_callbacks.reports._json import finite
from pan_callbacks.reports.pan_report import PANReport
from pan_callbacks.suppression.masks import masked
from pan_callbacks.suppression.targets import padded_channels

#: The networks that the position is read out of.
VARIANTS = ("as it is", "PANs masked", "all padding neutral")
_TOP, _BOTTOM, _LEFT, _RIGHT = range(4)  # rows of a contrast


@dataclass(frozen=True)
class Agreement:
    """How far a measure agrees with the contrast.

    Args:
        measure: Name of the measure.
        source: Where it comes from.
        against: What it is compared with.
        cases: Number of neurons or layers.
        spearman: Rank correlation; over neurons, the mean of those within each layer, weighted by their channels.
    """

    measure: str
    source: str
    against: str
    cases: int
    spearman: float


@dataclass(frozen=True, eq=False)
class Companions:
    """Companion measures of a model.

    Args:
        images: Number of images.
        flip: Layer name to flip scores (2, channels), see :func:`pan_callbacks.analysis.flip.flip_scores`.
        position: :data:`VARIANTS` to layer name to the read-out of the position.
        leftover: Axes of layers with and without leftover padding, to PANs on the near and on the far side of them.
        agreements: Each measure against the contrast.
    """

    images: int
    flip: Mapping[str, Tensor] = field(repr=False)
    position: Mapping[str, Mapping[str, PositionReadout]] = field(repr=False)
    leftover: Mapping[str, tuple[int, int, int]]
    agreements: tuple[Agreement, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as dicts, lists, numbers and strings only."""
        plain: dict[str, Any] = finite(
            {
                "schema": "pan_callbacks.companions",
                "version": 1,
                "images": self.images,
                "flips": list(FLIPS),
                "flip": {name: scores.tolist() for name, scores in self.flip.items()},
                "targets": list(TARGETS),
                "position": {
                    variant: {
                        name: {"spearman": r.spearman, "error": r.error, "by_neuron": r.by_neuron.tolist()}
                        for name, r in readouts.items()
                    }
                    for variant, readouts in self.position.items()
                },
                "leftover": self.leftover,
                "agreements": [vars(agreement) for agreement in self.agreements],
            }
        )
        return plain


#: How often images are read: to fit and to judge the read-out of each variant, and for the flip scores.
_PASSES = 2 * len(VARIANTS) + 1


def companions(
    model: nn.Module, batches: Iterable[Tensor], report: PANReport, advance: Callable[[float], None] = unseen
) -> Companions:
    """Measure flip score, position read-out, leftover padding and kernel asymmetry, each against the contrast.

    Args:
        model: Model that the report is about; it is left as it was.
        batches: Images (images, channels, height, width), the same in every pass.
        report: What :func:`pan_callbacks.scan` found.
        advance: Takes the number of images that were done since, or a part of one.
    """
    images = list(batches)
    batches = Counted(images, _PASSES, advance)
    layers = [name for name, line in report.measured.items() if len(line.kernel_size) == 2]
    position = {VARIANTS[0]: position_readout(model, batches, layers)}
    for variant, neurons in zip(VARIANTS[1:], (report.neurons_by_layer(), padded_channels(model, report)), strict=True):
        with masked(model, report, "neutral", neurons):
            position[variant] = position_readout(model, batches, layers)
    flip = flip_scores(model, batches, layers)
    agreements = (
        *_flip_agreements(report, flip),
        *_position_agreements(report, position),
        *_kernel_agreements(model, report),
    )
    return Companions(sum(map(len, images)), flip, position, leftover_counts(report), agreements)


def leftover_counts(report: PANReport) -> dict[str, tuple[int, int, int]]:
    """Return how many PANs are on near (top, left) and far sides (bottom, right), with and without leftover padding.

    Returns:
        ``"leftover"`` and ``"none"`` to the number of axes of strided layers, and PANs on the near and on the far
        side of them. Leftover padding (Mind the Pad, 2021) leaves the far side with less padding to read, or none.
    """
    found = {"leftover": [0, 0, 0], "none": [0, 0, 0]}
    for name, layer in report.measured.items():
        if layer.leftover is None or len(layer.leftover) != 2:
            continue
        over = report.hits(name).sum(1).tolist()
        for axis, (near, far) in enumerate(((_TOP, _BOTTOM), (_LEFT, _RIGHT))):
            if layer.stride[axis] == 1:
                continue
            entry = found["leftover" if layer.leftover[axis] else "none"]
            for i, value in enumerate((1, over[near], over[far])):
                entry[i] += value
    return {name: (number, near, far) for name, (number, near, far) in found.items()}


def _flip_agreements(report: PANReport, flip: Mapping[str, Tensor]) -> list[Agreement]:
    source = "Islam et al. 2021, arXiv 2108.07884"
    return [
        _by_neuron(report, {name: scores[row] for name, scores in flip.items()}, sides, f"flip score, {name}", source)
        for row, (name, sides) in enumerate(zip(FLIPS, ((_LEFT, _RIGHT), (_TOP, _BOTTOM)), strict=True))
    ]


def _position_agreements(report: PANReport, position: Mapping[str, Mapping[str, PositionReadout]]) -> list[Agreement]:
    source = "after PosENet, Islam et al. 2020, arXiv 2001.08248"
    own, none = position[VARIANTS[0]], position[VARIANTS[-1]]
    sides = ((_TOP, _BOTTOM), (_LEFT, _RIGHT), (_TOP, _BOTTOM, _LEFT, _RIGHT))
    found = [
        _by_neuron(
            report,
            {name: readout.by_neuron[row].abs() for name, readout in own.items()},
            sides[row],
            f"correlation with the {target}",
            source,
        )
        for row, target in enumerate(TARGETS)
    ]
    both = [name for name in own if name in none]
    gain = [sum(own[name].spearman) - sum(none[name].spearman) for name in both]
    return [*found, _by_layer(report, dict(zip(both, gain, strict=True)), "position that padding adds", source)]


def _kernel_agreements(model: nn.Module, report: PANReport) -> list[Agreement]:
    source = "after Mind the Pad, Alsallakh et al. 2021, arXiv 2010.02178"
    values = {name: kernel.vertical + kernel.horizontal for name, kernel in model_asymmetries(model, report).items()}
    return [_by_layer(report, values, "asymmetry of the mean kernel", source)]


def _by_neuron(
    report: PANReport, values: Mapping[str, Tensor], sides: tuple[int, ...], measure: str, source: str
) -> Agreement:
    """Agreement with the largest absolute contrast on some sides, within each layer."""
    total, cases = 0.0, 0
    for name, own in values.items():
        contrast = report.contrast(name)[list(sides)].abs()
        known = ~own.isnan() & (~contrast.isnan()).any(0)
        rho = _spearman(own[known], contrast.nan_to_num(0.0).amax(0)[known])
        if not math.isnan(rho):
            total, cases = total + rho * int(known.sum()), cases + int(known.sum())
    names = ", ".join(SIDES[side] for side in sides)
    return Agreement(measure, source, f"|contrast| of {names}, neurons", cases, total / cases if cases else math.nan)


def _by_layer(report: PANReport, values: Mapping[str, float], measure: str, source: str) -> Agreement:
    """Agreement with the share of PANs, over layers."""
    counts = report.count_by("layer")
    shares = torch.tensor([counts[name] / report.layers[name].channels for name in values])
    rho = _spearman(torch.tensor(list(values.values())), shares)
    return Agreement(measure, source, "share of PANs, layers", len(values), rho)


def _spearman(a: Tensor, b: Tensor) -> float:
    """Rank correlation; NaN if there are fewer than three values, or all are the same."""
    if len(a) < 3 or bool((a == a[0]).all()) or bool((b == b[0]).all()):
        return math.nan
    return float(spearman_corrcoef(a.float(), b.float()))
