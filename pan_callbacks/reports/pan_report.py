"""The report: what was found, in words, tables, and as JSON."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from pan_callbacks.padding import ALL_SIDES, SIDES
from pan_callbacks.reports._fields import maybe, number, one_of, record, several, shown, text, wrong
from pan_callbacks.reports._json import check_schema, read_json, write_json
from pan_callbacks.reports._text import paragraph
from pan_callbacks.reports.findings import Findings
from pan_callbacks.reports.frame import frame_of
from pan_callbacks.reports.layer_report import LayerReport
from pan_callbacks.reports.reliance import Reliance
from pan_callbacks.reports.summary import summary_of
from pan_callbacks.reports.tables import pan_table, pan_title
from pan_callbacks.reports.words import REFERENCES

if TYPE_CHECKING:
    import pandas
    import rich.table

SCHEMA_VERSION = 1
#: Rows in a notebook.
_IN_NOTEBOOK = 20


class PANReport(Findings):
    """The padding aware neurons of a model, and how every layer was measured.

    Args:
        layers: Layer name to :class:`LayerReport`, in the model's order.
        threshold: Absolute contrast from which a neuron is a PAN.
        reference: The reference that was asked for.
        notes: Sentences a reader of the figures should know, for instance that few images were seen.
        reliance: How far the network's answers move with all padding neutral; None if that is not known.
    """

    def summary(self) -> str:
        """Return a few lines in plain words: how many and how sure, where, of which kind, and what was left out."""
        return summary_of(self)

    def markdown(self, limit: int | None = 50) -> str:
        """Return the summary and the strongest PANs as a Markdown table, for loggers that show text.

        Args:
            limit: Rows at most; None for all.
        """
        return self.summary().replace("\n", "  \n") + "\n\n" + pan_table(self, limit).markdown()

    def table(self, limit: int | None = 20) -> rich.table.Table:
        """Return the strongest PANs as a :class:`rich.table.Table`, for ``rich.print``.

        Args:
            limit: Rows at most; None for all.
        """
        shown = pan_table(self, limit)
        return shown.rich(title=pan_title(self, shown))

    def _repr_html_(self) -> str:
        """Return the summary and the strongest PANs, as a notebook shows them."""
        shown = pan_table(self, _IN_NOTEBOOK)
        more = f"The strongest {len(shown.rows)} of {self.count}:" if len(shown.rows) < self.count else ""
        return "\n".join([paragraph(self.summary()), *([paragraph(more)] if more else []), shown.html()])

    def to_pandas(self) -> pandas.DataFrame:
        """Return a row for each PAN, by layer and channel in the model's order.

        ``contrast`` with its 95 % interval ``low`` to ``high``, ``effect``, ``shift``, ``consistency`` and ``after``
        are those of its ``strongest`` side, NaN if nobody knows; :class:`PAN` has them of every side.

        Raises:
            PANError: If pandas is not installed.
        """
        return frame_of(self.pans)

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
            "reliance": None if self.reliance is None else self.reliance.to_dict(),
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
        return cls(layers, values["threshold"], values["reference"], values["notes"], values["reliance"])

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
        "reliance": maybe(Reliance.from_dict),
        "layers": several(_line_from_dict),
    },
    later={"sides": list(SIDES), "reliance": None},
)
