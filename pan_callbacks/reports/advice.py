"""The advice about the padding of a network: plain data, in words, and as JSON."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any

from pan_callbacks.reports._fields import maybe, number, one_of, record, several, text, truth, whole
from pan_callbacks.reports._json import check_schema, read_json, write_json
from pan_callbacks.reports._text import paragraph, visible
from pan_callbacks.reports.advice_words import measured_table, paragraph_of
from pan_callbacks.reports.estimate import Estimate, estimate
from pan_callbacks.reports.reliance import Reliance
from pan_callbacks.reports.tables import Table
from pan_callbacks.reports.verdict import Decision, Evidence, Verdict, decide

SCHEMA, SCHEMA_VERSION = "pan_callbacks.advice", 1


@dataclass(frozen=True)
class Advice:
    """What to do about the padding of a network, and the numbers that say so.

    Args:
        decision: What to do, as :func:`~pan_callbacks.reports.verdict.decide` decided by the numbers.
        evidence: The numbers.
        notes: Sentences a reader should know.

    Example:
        >>> same = Reliance("total variation", 0.001, (0.0, 0.002), 0.0, (0.0, 0.004), 1000)
        >>> advice = Advice.of(Evidence(images=1000, neurons=8, pans=Estimate(1, 0, 2), reliance=same))
        >>> advice.verdict, advice.paragraph().split(":")[0]
        ('keep', 'Keep the network as it is')
    """

    decision: Decision
    evidence: Evidence
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, evidence: Evidence, notes: Iterable[str] = ()) -> Advice:
        """Decide by the numbers."""
        return cls(decide(evidence), evidence, tuple(notes))

    @property
    def verdict(self) -> Verdict:
        """``"keep"`` the network as it is, ``"blind"`` it to padding, or ``"retrain"`` it."""
        return self.decision.verdict

    @property
    def decided(self) -> bool:
        """Whether the intervals say so; if not, the verdict is to keep the network until more is known."""
        return self.decision.decided

    @property
    def table(self) -> Table:
        """Each number that was measured, with its 95 % interval."""
        return measured_table(self.evidence)

    def paragraph(self) -> str:
        """Return what to do and why, in one paragraph."""
        return paragraph_of(self.decision, self.evidence)

    def summary(self) -> str:
        """Return the numbers, the paragraph, and what was noted, as plain text."""
        table = self.table
        numbers = [table.text(), ""] if table.rows else []
        return "\n".join([*numbers, visible(self.paragraph()), *map(visible, self.notes)])

    def _repr_html_(self) -> str:
        """Return the summary as a notebook shows it."""
        numbers = [self.table.html()] if self.table.rows else []
        return "\n".join([*numbers, paragraph(self.paragraph()), *map(paragraph, self.notes)])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the advice as JSON, whole or not at all."""
        write_json(path, self.to_dict())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Advice:
        """Read an advice that :meth:`save` wrote.

        Raises:
            ValueError: If the file is no advice, one of a later schema version, or damaged; the message names the file,
                the field and its value.
        """
        return read_json(path, cls.from_dict, "an advice")

    def to_dict(self) -> dict[str, Any]:
        """Return the advice as dicts, lists, numbers and strings only."""
        return {
            "schema": SCHEMA,
            "version": SCHEMA_VERSION,
            "decision": asdict(self.decision),
            "evidence": {one.name: _plain(getattr(self.evidence, one.name)) for one in fields(Evidence)},
            "notes": list(self.notes),
        }

    @classmethod
    def from_dict(cls, data: Any) -> Advice:
        """Make the advice that :meth:`to_dict` described.

        Raises:
            ValueError: If the data are no advice, one of a later schema version, or damaged.
        """
        check_schema(data, "an advice", SCHEMA, SCHEMA_VERSION)
        try:
            values = _FIELDS(data, "")
        except ValueError as error:
            raise ValueError(f"a damaged advice: {error}") from error
        return cls(Decision(**values["decision"]), Evidence(**values["evidence"]), values["notes"])


def _plain(value: Any) -> Any:
    if isinstance(value, Estimate):
        return value.to_list()
    return value.to_dict() if isinstance(value, Reliance) else value


_EVIDENCE = {
    "images": whole(),
    "neurons": whole(),
    "pans": maybe(estimate),
    "surely_visible": whole(),
    "floor": maybe(estimate),
    "floor_visible": whole(),
    "reliance": maybe(Reliance.from_dict),
    **{name: maybe(estimate) for name in ("accuracy", "padding_change", "pans_change", "pans_flips")},
    "unpadded": text,
    "without_padding": truth,
    "tolerance": number(0, 1, ends=False),
}
_DECISION = {
    "verdict": one_of("keep", "blind", "retrain"),
    "blind": one_of("", "padding", "pans"),
    "decided": truth,
    "images": maybe(whole()),
}
_FIELDS = record({"decision": record(_DECISION), "evidence": record(_EVIDENCE), "notes": several(text)})
