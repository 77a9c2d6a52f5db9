"""What the contrast of the outermost line does not say: how far in, in spread, together, and as a pattern."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pan_callbacks._runtime import unseen
from pan_callbacks.analysis.border_profile import contrast_by_distance, inwards
from pan_callbacks.analysis.paired_maps import DISTANCES, PairedLines, paired_lines
from pan_callbacks.analysis.population import population_accuracy
from pan_callbacks.analysis.ppp import padding_pattern
from pan_callbacks.analysis.spread import in_halves, is_changed, is_constant, log_spread
from pan_callbacks.reports._json import finite
from pan_callbacks.reports.pan_report import PANReport
from pan_callbacks.reports.tables import Table

#: Of the upper end of what neurons do: a tenth of them do more.
UPPER = 0.9
_BOTH = (0.5, UPPER)


@dataclass(frozen=True, eq=False)
class BeyondLayer:
    """What was measured of one layer.

    Args:
        images: Number of images.
        edges: The edges that it has.
        pans: Which of its neurons are PANs, by the report (channels,).
        contrast: By distance (edges, distances, channels), see
            :func:`~pan_callbacks.analysis.border_profile.contrast_by_distance`.
        spread: (edges, channels), see :func:`~pan_callbacks.analysis.spread.log_spread`.
        constant: Which neurons are constant at the border (channels,).
        changed: Which change their spread (channels,).
        population: Accuracy of the linear read-out, see
            :func:`~pan_callbacks.analysis.population.population_accuracy`.
        size: Of the padding's pattern (channels,), see :class:`~pan_callbacks.analysis.ppp.PaddingPattern`.
        snr: Likewise.
    """

    images: int
    edges: tuple[str, ...]
    pans: Tensor = field(repr=False)
    contrast: Tensor = field(repr=False)
    spread: Tensor = field(repr=False)
    constant: Tensor = field(repr=False)
    changed: Tensor = field(repr=False)
    population: float
    size: Tensor = field(repr=False)
    snr: Tensor = field(repr=False)

    def over(self, threshold: float) -> list[int]:
        """Return how many neurons reach a contrast on some edge, at each distance."""
        reach: list[int] = (self.contrast.abs() >= threshold).any(0).sum(1).tolist()
        return reach


@dataclass(frozen=True, eq=False)
class Beyond:
    """What was measured of a model.

    Args:
        threshold: Contrast of a PAN.
        layers: Layer name to what was measured, in the model's order.
        skipped: Layer name to the reason why nothing was.
    """

    threshold: float
    layers: Mapping[str, BeyondLayer]
    skipped: Mapping[str, str]

    @property
    def images(self) -> int:
        """Number of images behind the layer that saw the most."""
        return max((layer.images for layer in self.layers.values()), default=0)

    def spread_alone(self, layer: str) -> tuple[int, int]:
        """Return how many neurons of a layer change their spread and are no PANs, and how many of these are constant.

        Args:
            layer: Name of the layer.
        """
        found = self.layers[layer]
        return int((found.changed & ~found.pans).sum()), int((found.constant & ~found.pans).sum())

    def inwards(self, pans: bool) -> list[tuple[float, float]]:
        """Return median and upper decile of the contrast at each distance, over the PANs or over all other neurons.

        Of each neuron it is followed along the edge where the outermost line has the most of it.

        Args:
            pans: Whether over the PANs.
        """
        kept = [inwards(layer.contrast)[:, layer.pans == pans] for layer in self.layers.values()]
        every = torch.cat(kept, 1) if kept else torch.empty(DISTANCES, 0)
        return [(quantile(row, 0.5), quantile(row, UPPER)) for row in every]

    def table(self) -> Table:
        """Return a line for each layer, for a reader."""
        head = ("layer", "PANs", "over at 0 / 1 / 2 / 3", "spread alone", "constant", "together", "pattern", "SNR")
        rows: list[list[object]] = []
        for name, layer in self.layers.items():
            row: list[object] = [name, int(layer.pans.sum()), " / ".join(map(str, layer.over(self.threshold)))]
            row += self.spread_alone(name)
            row += ["-" if math.isnan(layer.population) else f"{layer.population:.1%}"]
            row += [_shown(quantile(values, 0.5)) for values in (layer.size, layer.snr)]
            rows.append(row)
        return Table.of(head, rows, numbers=head[1:])

    def csv(self) -> str:
        """Return a line of comma separated values for each layer."""
        head = ["layer", "images", "channels", "PANs"]
        head += [f"{what} {i}" for what in ("over", "median", "upper") for i in range(DISTANCES)]
        head += [f"{what} of PANs {i}" for what in ("median", "upper") for i in range(DISTANCES)]
        head += ["spread alone", "constant alone", "population accuracy"]
        head += ["pattern median", "pattern upper", "SNR median", "SNR upper"]
        rows: list[list[object]] = []
        for name, layer in self.layers.items():
            followed = inwards(layer.contrast)
            quantiles = [quantile(row, q) for of in (followed, followed[:, layer.pans]) for q in _BOTH for row in of]
            last = [layer.population, *(quantile(values, q) for values in (layer.size, layer.snr) for q in _BOTH)]
            row: list[object] = [name, layer.images, len(layer.pans), int(layer.pans.sum())]
            row += [*layer.over(self.threshold), *map(_plain, quantiles)]
            row += [*self.spread_alone(name), *map(_plain, last)]
            rows.append(row)
        return Table.of(head, rows).csv()

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as dicts, lists, numbers and strings only; what is not finite is null."""
        plain: dict[str, Any] = finite(
            {
                "schema": "pan_callbacks.beyond",
                "version": 1,
                "threshold": self.threshold,
                "skipped": dict(self.skipped),
                "layers": {name: _as_dict(layer) for name, layer in self.layers.items()},
            }
        )
        return plain


def beyond(
    model: nn.Module, batches: Iterable[Tensor], report: PANReport, advance: Callable[[float], None] = unseen
) -> Beyond:
    """Measure contrast by distance, spread, population code and the pattern of padding, of every measured layer.

    Args:
        model: Model that the report is about; it is left as it was.
        batches: Images (images, channels, height, width), of which the first
            :data:`~pan_callbacks.analysis.paired_maps.MOST_IMAGES` are looked at.
        report: What :func:`pan_callbacks.scan` found.
        advance: Takes the number of images that were done since, or a part of one.

    Example:
        >>> from pan_callbacks import scan
        >>> net = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, bias=False)).eval()
        >>> _ = nn.init.ones_(net[0].weight)  # sums its window: darker where the window reads zeros
        >>> images = 1 + torch.rand(8, 1, 32, 32, generator=torch.Generator().manual_seed(0)) / 10
        >>> found = beyond(net, [images], scan(net, [images], progress=False)).layers["0"]
        >>> found.over(0.8), found.population
        ([1, 0, 0, 0], 1.0)
    """
    layers: dict[str, BeyondLayer] = {}
    skipped: dict[str, str] = {}
    for name, lines in paired_lines(model, batches, report, advance):
        if isinstance(lines, PairedLines):
            layers[name] = _layer(lines, report.margins[name] >= 0)
        else:
            skipped[name] = lines
    ordered = {name: layers[name] for name in report.measured if name in layers}
    return Beyond(report.threshold, ordered, {name: skipped[name] for name in report.measured if name in skipped})


def _layer(lines: PairedLines, pans: Tensor) -> BeyondLayer:
    pattern, spread = padding_pattern(lines), log_spread(lines)
    constant = changed = torch.zeros_like(pans)
    if lines.images > 1:
        halves = in_halves(lines)
        constant, changed = is_constant(halves), is_changed(halves)
    contrast, population = contrast_by_distance(lines), population_accuracy(lines)
    return BeyondLayer(
        *(lines.images, lines.edges, pans, contrast, spread, constant, changed, population),
        *(pattern.size, pattern.snr),
    )


def _as_dict(layer: BeyondLayer) -> dict[str, Any]:
    return {key: value.tolist() if isinstance(value, Tensor) else value for key, value in vars(layer).items()}


def quantile(values: Tensor, share: float) -> float:
    """Return a quantile of the values that are known, NaN if none is; an infinite one is larger than all others.

    Args:
        values: Any number of them.
        share: Share of them that is smaller.

    Example:
        >>> quantile(torch.tensor([3.0, torch.nan, torch.inf, 1.0]), 0.5)
        3.0
    """
    known = values[~values.isnan()].flatten().sort().values
    return float(known[round(share * (len(known) - 1))]) if len(known) else math.nan


def _shown(value: float) -> str:
    return "-" if math.isnan(value) else "∞" if math.isinf(value) else f"{value:.2f}"


def _plain(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6g}"
