"""What was found: plain data, saved as JSON."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from pan_callbacks.padding import ALL_SIDES, SIDES
from pan_callbacks.reports._fields import number, one_of, record, several, shown, text, wrong
from pan_callbacks.reports._json import check_schema, read_json, write_json
from pan_callbacks.reports._text import visible
from pan_callbacks.reports.layer_report import REFERENCES, LayerReport
from pan_callbacks.reports.pans import PAN, margin, pans_of_layer
from pan_callbacks.reports.tables import pan_table

if TYPE_CHECKING:
    import rich.table

SCHEMA_VERSION = 1


class PANReport:
    """The padding aware neurons of a model, and how every layer was measured.

    Args:
        layers: Layer name to :class:`LayerReport`, in the model's order.
        threshold: Absolute contrast from which a neuron is a PAN.
        reference: The reference that was asked for.
        notes: Sentences a reader of the figures should know, for instance that few images were seen.

    Attributes:
        sides: Names of the sides, eight of them, and front and back if a layer is one in three dimensions.
    """

    sides: tuple[str, ...] = SIDES

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
        if any(line.sides != SIDES for line in self.layers.values()):
            self.sides = ALL_SIDES

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
        found = {name: layer.contrast for name, layer in self.layers.items() if layer.contrast is not None}
        return {name: margin(contrast, self.threshold) for name, contrast in found.items()}

    @cached_property
    def pans(self) -> tuple[PAN, ...]:
        """Every PAN, by layer and channel in the model's order."""
        return tuple(
            pan
            for name, margins in self.margins.items()
            for pan in pans_of_layer(name, self.contrast(name), self.layers[name].effect, self.threshold, margins)
        )

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
        known = {
            "layer": list(self.measured),
            "side": list(self.sides),
            "origin": ["nascent", "inherited"],
            "sign": ["excited", "inhibited", "mixed"],
        }[what]
        found: Counter[str] = Counter(dict.fromkeys(known, 0))
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
        return (self.contrast(layer).abs() >= self.threshold) & (self.margins[layer] >= 0)

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

    def summary(self) -> str:
        """Return a few lines in plain words: how many and how sure, where, of which kind, and what was left out."""
        origins, reasons = self.count_by("origin"), Counter(self.skipped.values()).most_common()
        count = [
            f"{self.count} of {self.neurons} neurons are padding aware ({self.fraction:.1%}) "
            f"at |contrast| >= {self.threshold:g}: {origins['nascent']} nascent, {origins['inherited']} inherited"
        ]
        unsure = sum(line.channels for line in self.measured.values() if line.reference == "centre")
        if unsure and self.reference != "centre":
            which = f"all {unsure}" if unsure == self.neurons else f"{unsure} of the {self.neurons}"
            count.append(f"{which} were compared with the centre of their own map, where content deceives")
        lines = [
            "; ".join(count) + ".",
            "by side: " + ", ".join(f"{side} {n}" for side, n in self.count_by("side").items() if n)
            if self.pans
            else "",
            f"{len(self.measured)} layers measured, {len(self.skipped)} left out"
            + (" (" + "; ".join(f"{n}× {visible(why)}" for why, n in reasons) + ")" if reasons else "")
            + ".",
            *map(visible, self.notes),
        ]
        return "\n".join(line for line in lines if line)

    def markdown(self, limit: int | None = 50) -> str:
        """Return the summary and the strongest PANs as a Markdown table, for loggers that show text.

        Args:
            limit: Rows at most; None for all.
        """
        return self.summary().replace("\n", "  \n") + "\n\n" + pan_table(self.strongest(limit)).markdown()

    def table(self, limit: int | None = 20) -> rich.table.Table:
        """Return the strongest PANs as a :class:`rich.table.Table`, for ``rich.print``.

        Args:
            limit: Rows at most; None for all.
        """
        shown = self.strongest(limit)
        more = f" (strongest {len(shown)} of {self.count})" if len(shown) < self.count else ""
        return pan_table(shown).rich(title=f"Padding aware neurons{more}")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the report as JSON, whole or not at all.

        Args:
            path: File to write; its folder is made if it is missing.
        """
        write_json(path, self.to_dict())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> PANReport:
        """Read a report that :meth:`save` wrote.

        Raises:
            ValueError: If the file is no PAN report, one of a later schema version, or damaged; the message names the
                file, the field and its value.
        """
        return read_json(path, cls.from_dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as dicts, lists, numbers and strings only."""
        return {
            "schema": "pan_callbacks.report",
            "version": SCHEMA_VERSION,
            "threshold": self.threshold,
            "reference": self.reference,
            "notes": list(self.notes),
            "sides": list(self.sides),
            "layers": [{"name": name, **layer.to_dict()} for name, layer in self.layers.items()],
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> PANReport:
        """Make the report that :meth:`to_dict` described.

        Raises:
            ValueError: If the data are no PAN report, one of a later schema version, or damaged.
        """
        check_schema(data, "a PAN report", "pan_callbacks.report", SCHEMA_VERSION)
        try:
            values = _FIELDS(data, "")
            layers: dict[str, LayerReport] = {}
            for i, (name, line) in enumerate(values["layers"]):
                if name in layers:
                    raise ValueError(f"layers[{i}].name is {shown(name)}, which another layer has")
                layers[name] = line
        except ValueError as error:
            raise ValueError(f"a damaged PAN report: {error}") from error
        return cls(layers, values["threshold"], values["reference"], values["notes"])

    def __repr__(self) -> str:
        figures = f"count={self.count}, neurons={self.neurons}, threshold={self.threshold:g}"
        return f"PANReport({figures}, reference={self.reference!r})"


def _line_from_dict(data: Any, where: str) -> tuple[str, LayerReport]:
    line = LayerReport.from_dict(data, where)
    return data["name"], line


def _the_sides(value: Any, where: str) -> list[str]:
    if value not in (list(SIDES), list(ALL_SIDES)):
        raise wrong(where, value, f"{list(SIDES)}, the order of the rows of a contrast,")
    return list(value)


#: A saved report, beside its schema.
_FIELDS = record(
    {
        "threshold": number(0, 1, ends=False),
        "reference": one_of(*REFERENCES),
        "notes": several(text),
        "sides": _the_sides,
        "layers": several(_line_from_dict),
    },
    later={"sides": list(SIDES)},
)
