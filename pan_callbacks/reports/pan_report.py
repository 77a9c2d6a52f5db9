"""What was found: plain data, saved as JSON."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType

import torch
from torch import Tensor

from pan_callbacks.padding import EDGES, SIDES
from pan_callbacks.reports._json import check_schema, finite, read_json, with_nan, write_json

SCHEMA_VERSION = 1
#: Padding effect, in standard deviations of the reference, from which a PAN counts as reading the padding itself.
NASCENT_EFFECT = 0.5


@dataclass(frozen=True)
class PAN:
    """A padding aware neuron.

    Args:
        layer: Name of its convolution.
        channel: Output channel of that convolution.
        sides: Sides on which the absolute contrast reaches the threshold.
        contrast: Signed contrast of every side that has a border; + excited, - inhibited.
        effect: Padding effect of every side that has a border, in standard deviations of the reference.
        origin: ``"nascent"`` if it reads the padding itself on a side where it is a PAN, else ``"inherited"``.
    """

    layer: str
    channel: int
    sides: frozenset[str]
    contrast: Mapping[str, float]
    effect: Mapping[str, float]
    origin: str

    @property
    def strongest(self) -> str:
        """The side of largest absolute contrast among those in ``kind``: a corner just where no edge explains it."""
        edges = [side for side in EDGES if side in self.sides]
        return max(edges or sorted(self.sides), key=lambda side: abs(self.contrast[side]))

    @property
    def kind(self) -> str:
        """The sides in short: a corner is named only where no side that meets in it is.

        Example:
            >>> PAN("conv", 0, frozenset({"top", "top-left", "top-right"}), {"top": 0.9}, {}, "nascent").kind
            'top'
        """
        edges = [side for side in SIDES[:4] if side in self.sides]
        corners = [side for side in SIDES[4:] if side in self.sides and not set(side.split("-")) & set(edges)]
        return "+".join(edges + corners)


@dataclass(frozen=True, eq=False)
class LayerReport:
    """What was measured in one convolution layer.

    Args:
        channels: Number of output channels, the neurons.
        kernel_size: Rows and columns of the kernel.
        stride: Stride along rows and columns.
        reference: The reference used: ``"crop"``, ``"zoom"``, ``"mirror"`` or ``"centre"``; None if skipped.
        reason: Why this reference and not the one that was asked for; None if it is the one.
        skipped: Why the layer was left out; None if it was measured.
        output_size: Height and width of the output map at the probed image size.
        leftover: Leftover padding along rows and columns at that size.
        images: Number of images behind the figures.
        border_bias: Mean over channels and sides of ``|mean(border) - mean(reference)| / std(reference)``.
        drift: Largest absolute contrast of interior positions, the control: what the view alone changes.
        contrast: Signed contrast (8 sides, channels), NaN where a side has no border.
        effect: Padding effect (8 sides, channels) in standard deviations of the reference, NaN likewise.
        mean: Mean reference activation (channels,).
        pad: Name of the pad module that feeds the layer, None where it pads itself.
    """

    channels: int
    kernel_size: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    reference: str | None = None
    reason: str | None = None
    skipped: str | None = None
    output_size: tuple[int, int] | None = None
    leftover: tuple[int, int] | None = None
    images: int = 0
    border_bias: float = math.nan
    drift: float = math.nan
    contrast: Tensor | None = field(default=None, repr=False)
    effect: Tensor | None = field(default=None, repr=False)
    mean: Tensor | None = field(default=None, repr=False)
    pad: str | None = None


class PANReport:
    """The padding aware neurons of a model, and how every layer was measured.

    Args:
        layers: Layer name to :class:`LayerReport`, in the model's order.
        threshold: Absolute contrast from which a neuron is a PAN.
        reference: The reference that was asked for.
        notes: Sentences a reader of the figures should know, for instance that few images were seen.
    """

    sides = SIDES

    def __init__(
        self,
        layers: Mapping[str, LayerReport],
        threshold: float = 0.8,
        reference: str = "crop",
        notes: tuple[str, ...] = (),
    ) -> None:
        self.layers: Mapping[str, LayerReport] = MappingProxyType(dict(layers))
        self.threshold = threshold
        self.reference = reference
        self.notes = tuple(notes)

    def contrast(self, layer: str) -> Tensor:
        """Signed contrast of a layer, (8 sides in the order of ``sides``, channels), NaN where a side has no border."""
        return self._measured(layer, "contrast")

    def effect(self, layer: str) -> Tensor:
        """Padding effect of a layer, shaped like :meth:`contrast`, in standard deviations of the reference."""
        return self._measured(layer, "effect")

    def _measured(self, layer: str, what: str) -> Tensor:
        if layer not in self.layers:
            raise KeyError(f"no layer {layer!r} in this report; it has {', '.join(list(self.layers)[:8])} ...")
        entry = self.layers[layer]
        value = getattr(entry, what)
        return torch.full((len(SIDES), entry.channels), math.nan) if value is None else value

    @cached_property
    def pans(self) -> tuple[PAN, ...]:
        """Every PAN, by layer and channel in the model's order."""
        return tuple(
            pan
            for name, layer in self.layers.items()
            if layer.contrast is not None
            for pan in _pans(name, layer, self.threshold)
        )

    @cached_property
    def neurons(self) -> int:
        """Number of neurons in the layers that were measured."""
        return sum(layer.channels for layer in self.layers.values() if layer.skipped is None)

    @property
    def count(self) -> int:
        """Number of PANs."""
        return len(self.pans)

    @property
    def fraction(self) -> float:
        """PANs per measured neuron, 0 where nothing was measured."""
        return self.count / self.neurons if self.neurons else 0.0

    @property
    def border_bias(self) -> float:
        """Mean of the layers' border bias; NaN where nothing was measured."""
        values = [layer.border_bias for layer in self.layers.values() if math.isfinite(layer.border_bias)]
        return sum(values) / len(values) if values else math.nan

    def count_by_layer(self) -> dict[str, int]:
        """Number of PANs of every measured layer, zeros included."""
        counts = {name: 0 for name, layer in self.layers.items() if layer.skipped is None}
        for pan in self.pans:
            counts[pan.layer] += 1
        return counts

    def neurons_by_layer(self) -> dict[str, list[int]]:
        """Layer name to the channels that are PANs, for the layers that have any."""
        neurons: dict[str, list[int]] = {}
        for pan in self.pans:
            neurons.setdefault(pan.layer, []).append(pan.channel)
        return neurons

    def count_by_side(self) -> dict[str, int]:
        """Number of neurons that are PANs on each of the eight sides; a neuron may count on several."""
        return {side: sum(side in pan.sides for pan in self.pans) for side in SIDES}

    def summary(self) -> str:
        """A few lines in plain words: how many, where, of which kind, and what was left out."""
        nascent = sum(pan.origin == "nascent" for pan in self.pans)
        skipped = {name: layer.skipped for name, layer in self.layers.items() if layer.skipped is not None}
        lines = [
            f"{self.count} of {self.neurons} neurons are padding aware ({self.fraction:.1%}) "
            f"at |contrast| >= {self.threshold:g}: {nascent} nascent, {self.count - nascent} inherited.",
            "by side: " + ", ".join(f"{side} {n}" for side, n in self.count_by_side().items() if n)
            if self.pans
            else "",
            f"{len(self.layers) - len(skipped)} layers measured, {len(skipped)} left out"
            + (" (" + "; ".join(f"{n}× {why}" for why, n in _tally(skipped.values())) + ")" if skipped else "")
            + ".",
            *self.notes,
        ]
        return "\n".join(line for line in lines if line)

    def strongest(self, limit: int | None = None) -> list[PAN]:
        """PANs by falling absolute contrast, equal ones by falling effect; ``limit`` of them at most."""

        def strength(pan: PAN) -> tuple[float, float]:
            side = pan.strongest
            return abs(pan.contrast[side]), abs(pan.effect.get(side, 0.0))

        return sorted(self.pans, key=strength, reverse=True)[:limit]

    def markdown(self, limit: int | None = 50) -> str:
        """Summary and the strongest PANs as a Markdown table, for loggers that show text."""
        rows = ["| layer | channel | sides | contrast | effect | origin |", "|---|---:|---|---:|---:|---|"]
        rows += ["| " + " | ".join(cells(pan)) + " |" for pan in self.strongest(limit)]
        return self.summary().replace("\n", "  \n") + "\n\n" + "\n".join(rows)

    def table(self, limit: int | None = 20):
        """The strongest PANs as a :class:`rich.table.Table`, for ``rich.print``.

        Args:
            limit: Rows at most; None for all.
        """
        from rich.markup import escape
        from rich.table import Table

        shown = self.strongest(limit)
        more = f" (strongest {len(shown)} of {self.count})" if len(shown) < self.count else ""
        table = Table(title=f"Padding aware neurons{more}")
        for heading in ("layer", "channel", "sides", "contrast", "effect", "origin"):
            justify = "right" if heading in ("channel", "contrast", "effect") else "left"
            table.add_column(heading, justify=justify, overflow="fold")
        for pan in shown:
            table.add_row(*(escape(cell) for cell in cells(pan)))
        return table

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the report as JSON, whole or not at all.

        Args:
            path: File to write; its folder is made where it is missing.
        """
        write_json(path, self.to_dict())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> PANReport:
        """Reads a report that :meth:`save` wrote.

        Raises:
            ValueError: If the file is no PAN report, or one of a later schema version.
        """
        return read_json(path, cls.from_dict)

    def to_dict(self) -> dict:
        """The report as dicts, lists, numbers and strings only."""
        return {
            "schema": "pan_callbacks.report",
            "version": SCHEMA_VERSION,
            "threshold": self.threshold,
            "reference": self.reference,
            "notes": list(self.notes),
            "sides": list(SIDES),
            "layers": [{"name": name, **_layer_to_dict(layer)} for name, layer in self.layers.items()],
        }

    @classmethod
    def from_dict(cls, data: dict) -> PANReport:
        """The report that :meth:`to_dict` described.

        Raises:
            ValueError: If the data are no PAN report, or one of a later schema version.
        """
        check_schema(data, "a PAN report", "pan_callbacks.report", SCHEMA_VERSION)
        try:
            layers = {entry["name"]: _layer_from_dict(entry) for entry in data["layers"]}
            return cls(layers, data["threshold"], data["reference"], tuple(data["notes"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"a damaged PAN report: {error!r}") from error

    def __repr__(self) -> str:
        figures = f"count={self.count}, neurons={self.neurons}, threshold={self.threshold:g}"
        return f"PANReport({figures}, reference={self.reference!r})"


def cells(pan: PAN) -> tuple[str, ...]:
    """A PAN in a table: layer, channel, sides, contrast, effect, origin."""
    side = pan.strongest
    effect = f"{pan.effect[side]:+.2f}" if side in pan.effect else "-"
    return pan.layer, str(pan.channel), pan.kind, f"{pan.contrast[side]:+.2f}", effect, pan.origin


def padding_aware(contrast: Tensor, threshold: float, slack: float = 0.0) -> Tensor:
    """Which neurons are padding aware.

    Those whose absolute contrast reaches the threshold on an edge; or on a corner alone, while the two edges that meet
    there stay below half of it. A corner reads much more padding than an edge (5 taps of 9 against 3 for a 3×3 kernel),
    so that a neuron which an edge moves a little is nearly always far off in the corner: that is a weak response to
    edges, not a neuron that knows the corner (docs/references.md has the counts).

    Args:
        contrast: (8 sides, channels), NaN where a side has no border.
        threshold: In (0, 1).
        slack: How much both conditions are loosened, or tightened where it is negative.

    Returns:
        Boolean tensor (channels,).
    """
    size = contrast.abs().nan_to_num(0.0)
    vertical, horizontal = size[:2].repeat_interleave(2, 0), size[2:4].repeat(2, 1)  # in the order of the corners
    reach, quiet = threshold - slack, (threshold + slack) / 2
    corner_alone = (size[4:] >= reach) & (torch.maximum(vertical, horizontal) < quiet)
    return (size[:4] >= reach).any(0) | corner_alone.any(0)


def _pans(name: str, layer: LayerReport, threshold: float) -> list[PAN]:
    over = layer.contrast.abs() >= threshold  # NaN compares false: no border, no PAN
    pans = []
    for channel in padding_aware(layer.contrast, threshold).nonzero().flatten().tolist():
        sides = frozenset(side for side, hit in zip(SIDES, over[:, channel].tolist(), strict=True) if hit)
        contrast = _by_side(layer.contrast[:, channel])
        effect = {} if layer.effect is None else _by_side(layer.effect[:, channel])
        nascent = any(abs(effect.get(side, 0.0)) >= NASCENT_EFFECT for side in sides)
        pans.append(PAN(name, channel, sides, contrast, effect, "nascent" if nascent else "inherited"))
    return pans


def _by_side(values: Tensor) -> dict[str, float]:
    return {side: value for side, value in zip(SIDES, values.tolist(), strict=True) if not math.isnan(value)}


def _tally(reasons) -> list[tuple[str, int]]:
    counts: dict[str, int] = {}
    for reason in reasons:
        counts[reason] = counts.get(reason, 0) + 1
    return sorted(counts.items(), key=lambda item: -item[1])


_TENSORS = {"contrast": (len(SIDES),), "effect": (len(SIDES),), "mean": ()}  # their sizes before the channels
_LATER = {"mean": None, "pad": None}  # not in reports of the first release
_PAIRS = ("kernel_size", "stride", "output_size", "leftover")


def _layer_to_dict(layer: LayerReport) -> dict:
    entry = {}
    for key in LayerReport.__dataclass_fields__:
        value = getattr(layer, key)
        if isinstance(value, Tensor):
            value = value.tolist()
        entry[key] = value
    return finite(entry)


def _layer_from_dict(entry: dict) -> LayerReport:
    values = {key: {**_LATER, **entry}[key] for key in LayerReport.__dataclass_fields__}
    for key, sides in _TENSORS.items():
        if values[key] is not None:
            values[key] = torch.tensor(with_nan(values[key]), dtype=torch.float32)
            if values[key].shape != (*sides, entry["channels"]):
                wanted = "(8 sides, channels)" if sides else "(channels,)"
                raise ValueError(f"a damaged PAN report: {key} of {entry['name']} is not {wanted}")
    for key in _PAIRS:
        values[key] = None if values[key] is None else tuple(values[key])
    for key in ("border_bias", "drift"):
        values[key] = math.nan if values[key] is None else values[key]
    return LayerReport(**values)
