"""What was found in a model, and how many of what."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cached_property
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor

from pan_callbacks.padding import ALL_SIDES, SIDES
from pan_callbacks.reports.counts import interval, readers
from pan_callbacks.reports.layer_report import LayerReport
from pan_callbacks.reports.pans import PAN
from pan_callbacks.reports.reliance import Reliance
from pan_callbacks.reports.words import ORIGINS, Reference


class Findings:
    """What was found in a model: its padding aware neurons, and how every layer was measured.

    Args:
        layers: Layer name to :class:`LayerReport`, in the model's order.
        threshold: Absolute contrast from which a neuron is a PAN.
        reference: The reference that was asked for.
        notes: Sentences a reader of the figures should know, for instance that few images were seen.
        reliance: How far the network's answers move with all padding neutral; None if that is not known.

    Attributes:
        sides: Names of the sides, eight of them, and front and back if a layer is one in three dimensions.
    """

    sides: tuple[str, ...] = SIDES

    def __init__(
        self,
        layers: Mapping[str, LayerReport],
        threshold: float = 0.8,
        reference: Reference = "crop",
        notes: tuple[str, ...] = (),
        reliance: Reliance | None = None,
    ) -> None:
        self.layers: Mapping[str, LayerReport] = MappingProxyType(dict(layers))
        self.threshold = threshold
        self.reference = reference
        self.notes = tuple(notes)
        self.reliance = reliance
        if any(line.sides != SIDES for line in self.layers.values()):
            self.sides = ALL_SIDES

    def __reduce__(self) -> tuple[Any, ...]:
        """Say of what a copy is made: the lines cannot be written to, and so not be copied as they are."""
        return type(self), (dict(self.layers), self.threshold, self.reference, self.notes, self.reliance)

    def contrast(self, layer: str) -> Tensor:
        """Return the signed contrast of a layer (:attr:`sides`, channels), NaN if a side has no border."""
        return self._by_side(self._line(layer), self.layers[layer].contrast)

    def effect(self, layer: str) -> Tensor:
        """Return the padding effect of a layer (:attr:`sides`, channels), in standard deviations of the reference."""
        return self._by_side(self._line(layer), self.layers[layer].effect)

    def _by_side(self, line: LayerReport, values: Tensor | None) -> Tensor:
        if values is None:
            return torch.full((len(self.sides), line.channels), math.nan)
        missing = len(self.sides) - len(values)  # front and back, if another layer has them
        return values if not missing else torch.cat([values, values.new_full((missing, line.channels), math.nan)])

    def _line(self, layer: str) -> LayerReport:
        if layer not in self.layers:
            raise KeyError(f"no layer {layer!r} in this report; it has {', '.join(list(self.layers)[:8])} ...")
        return self.layers[layer]

    @cached_property
    def measured(self) -> Mapping[str, LayerReport]:
        """The layers that were measured, by name, in the model's order."""
        return {name: layer for name, layer in self.layers.items() if layer.skipped is None}

    @cached_property
    def skipped(self) -> Mapping[str, str]:
        """Name of every layer that was left out, to the reason."""
        return {name: layer.skipped for name, layer in self.layers.items() if layer.skipped is not None}

    @cached_property
    def margins(self) -> Mapping[str, Tensor]:
        """How far each neuron is beyond the threshold (channels,), by layer: :func:`pan_callbacks.reports.pans.margin`.

        This is the one place where it is decided what is a PAN; layers without a contrast are not in it.
        """
        found = ((name, layer) for name, layer in self.layers.items() if layer.contrast is not None)
        return {name: layer.margin(self.threshold) for name, layer in found}

    @cached_property
    def pans(self) -> tuple[PAN, ...]:
        """Every PAN, by layer and channel in the model's order."""
        return tuple(pan for name, line in self.layers.items() for pan in line.pans(name, self.threshold))

    @property
    def neurons(self) -> int:
        """Number of neurons in the layers that were measured."""
        return sum(layer.channels for layer in self.measured.values())

    @property
    def images(self) -> int:
        """Number of images behind the layer that saw the most."""
        return max((layer.images for layer in self.layers.values()), default=0)

    @property
    def count(self) -> int:
        """Number of PANs."""
        return len(self.pans)

    @cached_property
    def interval(self) -> tuple[float, float]:
        """95 % interval of :attr:`count`, (NaN, NaN) if nobody knows; see :mod:`pan_callbacks.reports.counts`."""
        return interval(self.measured.values(), self.threshold)

    @property
    def visible(self) -> float:
        """PANs that the next layer sees, see :attr:`PAN.visible`; NaN if that is not known of some."""
        seen = [pan.visible for pan in self.pans]
        return math.nan if None in seen else float(sum(map(bool, seen)))

    @cached_property
    def readers(self) -> float:
        """Neurons that padding pushes the same way at nearly all pixels of a side, over the threshold or not.

        :func:`~pan_callbacks.reports.counts.readers`; NaN if no pixels were paired.
        """
        return readers(self.measured.values(), self.threshold)

    @property
    def fraction(self) -> float:
        """PANs per measured neuron, 0 if nothing was measured."""
        return self.count / self.neurons if self.neurons else 0.0

    @property
    def border_bias(self) -> float:
        """Mean of the layers' border bias; NaN if nothing was measured."""
        values = [layer.border_bias for layer in self.layers.values() if math.isfinite(layer.border_bias)]
        return sum(values) / len(values) if values else math.nan

    def count_by(self, what: Literal["layer", "side", "origin", "sign"]) -> dict[str, int]:
        """Return the number of PANs by one of their properties, zeros included.

        Args:
            what: ``"layer"``: of every measured layer; ``"side"``: on each of the eight sides, and a neuron may count
                on several; ``"origin"`` or ``"sign"``.
        """
        known: dict[str, Iterable[str]] = {
            "layer": self.measured,
            "side": self.sides,
            "origin": ORIGINS,
            "sign": ("excited", "inhibited", "mixed"),
        }
        found = Counter(dict.fromkeys(known[what], 0))
        for pan in self.pans:
            found.update(pan.sides if what == "side" else [getattr(pan, what)])
        return dict(found)

    def count_by_layer(self) -> dict[str, int]:
        """Return the number of PANs of every measured layer, zeros included."""
        return self.count_by("layer")

    def count_by_side(self) -> dict[str, int]:
        """Return the number of neurons that are PANs on each of the eight sides; a neuron may count on several."""
        return self.count_by("side")

    def hits(self, layer: str) -> Tensor:
        """Return which PANs of a measured layer reach the threshold on which side, boolean (8 sides, channels)."""
        deciding = self._by_side(self._line(layer), self.layers[layer].deciding)
        return (deciding.abs() >= self.threshold) & (self.margins[layer] >= 0)

    def neurons_by_layer(self) -> dict[str, list[int]]:
        """Return layer name to the channels that are PANs, for the layers that have any."""
        neurons: dict[str, list[int]] = {}
        for pan in self.pans:
            neurons.setdefault(pan.layer, []).append(pan.channel)
        return neurons

    def strongest(self, limit: int | None = None) -> list[PAN]:
        """Return the PANs by falling absolute contrast, equal ones by falling effect; ``limit`` of them at most."""

        def strength(pan: PAN) -> tuple[float, float]:
            side = pan.strongest
            return abs(pan.contrast[side]), abs(pan.effect.get(side, 0.0))

        return sorted(self.pans, key=strength, reverse=True)[:limit]
