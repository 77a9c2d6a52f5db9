"""What masking neurons did to a model: plain data, saved as JSON."""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from pan_callbacks.reports._impact_fields import impact_fields
from pan_callbacks.reports._json import check_schema, finite, read_json, write_json
from pan_callbacks.reports._text import paragraph, visible
from pan_callbacks.reports.tables import Table
from pan_callbacks.reports.words import ArmMode, Kind, Mode

SCHEMA, SCHEMA_VERSION = "pan_callbacks.impact", 1


@dataclass(frozen=True, eq=False)
class ClassChanges:
    """What a mask did to each class of a classifier; all tensors are (classes,), intervals cover 95 %.

    Args:
        images: Images of the class, 0 without labels.
        change: Change of accuracy on the images of the class, NaN if there are none.
        low: Lower end of its interval (:func:`~pan_callbacks.suppression.predictions.paired_interval`).
        high: Upper end.
        shift: Change of the mean probability that the model gives the class, over all images.
        shift_low: Lower end of its interval (:func:`~pan_callbacks.suppression.predictions.shift_interval`).
        shift_high: Upper end.
        split_half: Correlation of ``shift`` between two halves of the images: near 1 other images show the same bias,
            near 0 it is noise. NaN for fewer than three classes, or if nothing moves.
        split_half_accuracy: The same of ``change``, over the classes that both halves have.
    """

    images: Tensor
    change: Tensor = field(repr=False)
    low: Tensor = field(repr=False)
    high: Tensor = field(repr=False)
    shift: Tensor = field(repr=False)
    shift_low: Tensor = field(repr=False)
    shift_high: Tensor = field(repr=False)
    split_half: float = math.nan
    split_half_accuracy: float = math.nan


@dataclass(frozen=True, eq=False)
class Arm:
    """The model with some neurons masked.

    Args:
        kind: ``"baseline"``, ``"pans"``, ``"control"`` (as many other neurons of the same layers) or ``"padding"`` (all
            channels of all padded layers with neutral padding).
        mode: Mode of the mask, ``""`` for the baseline.
        neurons: Number of neurons masked.
        value: The metric.
        draw: Number of the random draw of a control.
        interval: Ends of the 95 % interval of the change of accuracy against the baseline; None for other metrics.
        kl: Mean Kullback-Leibler divergence ``sum p * log(p / q)`` in nats, p as predicted by the baseline and q by
            this arm; None if the model is no classifier, like all that follows.
        flips: Share of the images whose predicted class is another.
        classes: Changes by class.
    """

    kind: Kind
    mode: ArmMode
    neurons: int
    value: float
    draw: int | None = None
    interval: tuple[float, float] | None = None
    kl: float | None = None
    flips: float | None = None
    classes: ClassChanges | None = field(default=None, repr=False)


@dataclass(frozen=True, eq=False)
class ImpactReport:
    """What the padding aware neurons of a model are worth to it.

    Args:
        metric: Name of the metric.
        images: Number of images.
        arms: The baseline, then every mask.
        class_names: Names of the classes, if they are known.
        notes: Sentences a reader of the figures should know.
    """

    metric: str
    images: int
    arms: tuple[Arm, ...]
    class_names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()

    @property
    def baseline(self) -> Arm:
        """The model as it is."""
        return self.arm("baseline", "")

    @property
    def modes(self) -> tuple[Mode, ...]:
        """Modes that the PANs were masked with."""
        return tuple(arm.mode for arm in self.arms if arm.kind == "pans" and arm.mode)

    def arm(self, kind: Kind, mode: ArmMode) -> Arm:
        """Return the arm of a kind and mode; of controls the first draw.

        Raises:
            KeyError: If there is none.
        """
        for arm in self.arms:
            if (arm.kind, arm.mode) == (kind, mode):
                return arm
        raise KeyError(f"no arm {kind!r} with mode {mode!r} in this report; it has the modes {', '.join(self.modes)}")

    def controls(self, mode: ArmMode) -> tuple[Arm, ...]:
        """Every draw of as many other neurons of the same layers, masked with a mode."""
        return tuple(arm for arm in self.arms if (arm.kind, arm.mode) == ("control", mode))

    def likeness(self, mode: Mode) -> float:
        """Correlation over classes of the PANs' shift with the controls' mean shift.

        If it is high, masking any neurons of these layers has this bias; if it is low, it is the PANs' own.
        """
        controls = [arm.classes.shift for arm in self.controls(mode) if arm.classes is not None]
        own = self.arm("pans", mode).classes
        if own is None or not controls or len(own.shift) < 3:
            return math.nan
        pair = torch.stack([own.shift, torch.stack(controls).mean(0)]).double()
        return float(torch.corrcoef(pair)[0, 1]) if bool((pair.std(1) > 0).all()) else math.nan

    def change(self, arm: Arm) -> float:
        """Change of the metric against the baseline."""
        return arm.value - self.baseline.value

    @property
    def table(self) -> Table:
        """What is masked, neurons, metric, change, KL divergence and flips; the draws of a control in one row."""
        rows = []
        for arm in self.arms:
            if arm.kind != "control":
                rows.append(self._row(arm))
            elif arm.draw == 0:
                rows.append(self._control_row(self.controls(arm.mode)))
        head = ("", "neurons", self.metric, "change", "KL", "flips")
        return Table(head, tuple(rows), numbers=head[1:])

    def rows(self) -> list[tuple[str, ...]]:
        """Return the rows of :attr:`table`."""
        return list(self.table.rows)

    def _row(self, arm: Arm) -> tuple[str, ...]:
        cells = (LABELS[arm.kind].format(mode=arm.mode), str(arm.neurons), self._number(arm.value))
        if arm.kind == "baseline":
            return *cells, "", "", ""
        change = self._number(self.change(arm), signed=True)
        if arm.interval is not None:
            change += f" [{', '.join(self._number(end, signed=True) for end in arm.interval)}]"
        return *cells, change, _optional(arm.kl, "{:.4f}"), _optional(arm.flips, "{:.1%}")

    def _control_row(self, draws: tuple[Arm, ...]) -> tuple[str, ...]:
        changes = [self.change(arm) for arm in draws]
        about = [
            spread([getattr(arm, name) for arm in draws], form)
            for name, form in (("kl", "{:.4f}"), ("flips", "{:.1%}"))
        ]
        form = "{:+.2%}" if self.metric == "accuracy" else "{:+.4g}"
        value = statistics.fmean(arm.value for arm in draws)
        name = LABELS["control"].format(mode=draws[0].mode) + f" ({len(draws)} draws)"
        return name, str(draws[0].neurons), self._number(value), spread(changes, form), *about

    def _number(self, value: float, signed: bool = False) -> str:
        if math.isnan(value):
            return "-"
        if self.metric == "accuracy":
            return f"{value:+.2%}" if signed else f"{value:.2%}"
        return f"{value:+.4g}" if signed else f"{value:.4g}"

    def summary(self) -> str:
        """Return the table as plain text, and what was noted."""
        return "\n".join([f"{self.images} images", self.table.text(), *map(visible, self.notes)])

    def _repr_html_(self) -> str:
        """Return the summary as a notebook shows it."""
        return "\n".join([paragraph(f"{self.images} images"), self.table.html(), *map(paragraph, self.notes)])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the report as JSON, whole or not at all."""
        write_json(path, self.to_dict())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ImpactReport:
        """Read a report that :meth:`save` wrote.

        Raises:
            ValueError: If the file is no impact report, one of a later schema version, or damaged; the message names
                the file, the field and its value.
        """
        return read_json(path, cls.from_dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as dicts, lists, numbers and strings only."""
        return {
            "schema": SCHEMA,
            "version": SCHEMA_VERSION,
            "metric": self.metric,
            "images": self.images,
            "class_names": None if self.class_names is None else list(self.class_names),
            "notes": list(self.notes),
            "arms": [_arm_to_dict(arm) for arm in self.arms],
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ImpactReport:
        """Make the report that :meth:`to_dict` described.

        Raises:
            ValueError: If the data are no impact report, one of a later schema version, or damaged.
        """
        check_schema(data, "an impact report", SCHEMA, SCHEMA_VERSION)
        try:
            values = impact_fields(data)
        except ValueError as error:
            raise ValueError(f"a damaged impact report: {error}") from error
        arms = tuple(_arm(arm) for arm in values["arms"])
        return cls(values["metric"], values["images"], arms, values["class_names"], values["notes"])


#: What each kind of arm is called in tables.
LABELS = {
    "baseline": "as it is",
    "pans": "PANs masked, {mode}",
    "control": "as many others, {mode}",
    "padding": "all padding neutral",
}


def spread(values: Sequence[float | None], form: str) -> str:
    """Return mean and standard deviation of some numbers, or a dash if one is missing.

    Example:
        >>> spread([0.01, 0.03], "{:+.1%}")
        '+2.0% ± 1.4%'
    """
    known = [value for value in values if value is not None and not math.isnan(value)]
    if not known or len(known) < len(values):
        return "-"
    deviation = f" ± {form.replace('+', '').format(statistics.stdev(known))}" if len(known) > 1 else ""
    return form.format(statistics.fmean(known)) + deviation


def _optional(value: float | None, form: str) -> str:
    return "-" if value is None or math.isnan(value) else form.format(value)


def _arm_to_dict(arm: Arm) -> dict[str, Any]:
    data = {name: getattr(arm, name) for name in (f.name for f in fields(arm)) if name != "classes"}
    data["interval"] = None if arm.interval is None else list(arm.interval)
    data["classes"] = (
        None
        if arm.classes is None
        else {
            name: value.tolist() if isinstance(value, Tensor) else value for name, value in asdict(arm.classes).items()
        }
    )
    plain: dict[str, Any] = finite(data)
    return plain


def _arm(values: dict[str, Any]) -> Arm:
    classes = values["classes"]
    return Arm(**{**values, "classes": None if classes is None else _classes(classes)})


def _classes(values: dict[str, Any]) -> ClassChanges:
    tensors = {n: torch.tensor(value, dtype=torch.float32) for n, value in values.items() if isinstance(value, list)}
    images = torch.tensor(values["images"], dtype=torch.long)
    return ClassChanges(**{**values, **tensors, "images": images})
