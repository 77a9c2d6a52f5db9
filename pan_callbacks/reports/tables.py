"""Tables, laid out once and written as text, Markdown, CSV, or for a terminal."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import TYPE_CHECKING

from pan_callbacks.reports._text import csv_cell, visible
from pan_callbacks.reports.pans import PAN

if TYPE_CHECKING:
    import rich.table

    from pan_callbacks.reports.findings import Findings
    from pan_callbacks.reports.layer_report import LayerReport


@dataclass(frozen=True)
class Table:
    r"""A table of words and numbers.

    Args:
        head: Heading of each column.
        rows: Cells of each row, as they are shown.
        numbers: Headings of the columns that hold numbers, which stand at the right.
        notes: Sentences below it, which say what marks in its cells mean; a CSV file has none.

    Raises:
        ValueError: If a row has another number of cells than there are headings.

    Example:
        >>> table = Table(("layer", "PANs"), (("conv1", "3"), ("conv|2", "12")), numbers=("PANs",))
        >>> print(table.markdown())
        | layer | PANs |
        |---|---:|
        | conv1 | 3 |
        | conv\|2 | 12 |
        >>> print(table.csv(), end="")
        layer,PANs
        conv1,3
        conv|2,12
    """

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: Collection[str] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.head):
                raise ValueError(f"a row of {len(row)} cells in a table of {len(self.head)} columns: {row}")

    @classmethod
    def of(cls, head: Sequence[str], rows: Iterable[Iterable[object]], numbers: Collection[str] = ()) -> Table:
        """Make a table of whatever has a text."""
        return cls(tuple(head), tuple(tuple(map(str, row)) for row in rows), numbers)

    @property
    def is_number(self) -> tuple[bool, ...]:
        """Whether each column holds numbers."""
        return tuple(heading in self.numbers for heading in self.head)

    def known(self) -> Table:
        """Return the table without the columns of which nothing is known: a dash or nothing in every row.

        Example:
            >>> Table(("layer", "PANs", "after"), (("a", "3", "-"), ("b", "1", "-"))).known().head
            ('layer', 'PANs')
        """
        empty = {i for i in range(1, len(self.head)) if self.rows and all(row[i] in ("-", "") for row in self.rows)}
        head, *rows = (tuple(cell for i, cell in enumerate(line) if i not in empty) for line in (self.head, *self.rows))
        return replace(self, head=head, rows=tuple(rows))

    def turned(self) -> Table:
        """Return the table with a column for each row: for few rows of many quantities."""
        columns = list(zip(self.head, *self.rows, strict=True))
        head = ("", *columns[0][1:])
        return Table(head, tuple(columns[1:]), numbers=head[1:], notes=self.notes)

    def text(self) -> str:
        """Return the table as plain text, its columns two spaces apart."""
        lines = self._lines()
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.head))]

        def aligned(line: tuple[str, ...]) -> str:
            cells = zip(line, widths, self.is_number, strict=True)
            return "  ".join(cell.rjust(n) if number else cell.ljust(n) for cell, n, number in cells).rstrip()

        return "\n".join([*map(aligned, lines), *self.notes])

    def markdown(self) -> str:
        """Return the table in Markdown."""
        rule = "|" + "|".join("---:" if number else "---" for number in self.is_number) + "|"
        head, *rows = ("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in self._lines())
        return "\n".join([head, rule, *rows, *("\n" + note for note in self.notes)])

    def html(self) -> str:
        """Return the table in HTML."""
        styles = [' style="text-align: right"' if number else ' style="text-align: left"' for number in self.is_number]

        def row(tag: str, line: tuple[str, ...]) -> str:
            cells = (f"<{tag}{style}>{escape(cell)}</{tag}>" for cell, style in zip(line, styles, strict=True))
            return f"<tr>{''.join(cells)}</tr>"

        head, *rows = self._lines()
        body = "\n".join(row("td", line) for line in rows)
        notes = "".join(f"\n<p>{escape(note)}</p>" for note in self.notes)
        return f"<table>\n<thead>{row('th', head)}</thead>\n<tbody>\n{body}\n</tbody>\n</table>{notes}"

    def csv(self) -> str:
        """Return the table as comma separated values, none of which a spreadsheet takes for a formula."""
        file = io.StringIO()
        rows = (map(csv_cell, row) for row in (self.head, *self.rows))
        csv.writer(file, lineterminator="\n").writerows(rows)
        return file.getvalue()

    def rich(self, title: str | None = None, edge: bool = True) -> rich.table.Table:
        """Return the table as a :class:`rich.table.Table`, for ``rich.print``.

        Args:
            title: Sentence above it.
            edge: Whether it has a frame.
        """
        from rich import markup
        from rich.table import Table as RichTable

        head, *rows = (tuple(map(markup.escape, line)) for line in self._lines())
        notes = "\n".join(self.notes) or None
        table = RichTable(title=title, caption=notes, caption_justify="left", show_edge=edge, pad_edge=edge)
        for heading, number in zip(head, self.is_number, strict=True):
            table.add_column(heading, justify="right" if number else "left", overflow="fold")
        for row in rows:
            table.add_row(*row)
        return table

    def _lines(self) -> list[tuple[str, ...]]:
        """Head and rows, for whoever reads them."""
        return [tuple(map(visible, line)) for line in (self.head, *self.rows)]


#: Beside the name of a layer that was measured on enlarged images; whose control is high.
_ENLARGED, _DRIFTS = "†", "‡"


def pan_table(report: Findings, limit: int | None = None) -> Table:
    """Return a table with a row for each of the strongest PANs: where it is, and its figures on its strongest side.

    The contrast with its 95 % interval, with a star if it is certain; what is left of it after what follows
    (``after``); how consistently padding pushes the same pixels (``paired``); the padding effect, and the origin.
    Without a column of what is known of none. Marks beside the layer, and notes that explain them, name what was
    measured on enlarged images, and where the control is high.

    Args:
        report: The report that has them.
        limit: Rows at most; None for all.
    """
    pans = report.strongest(limit)
    meanings = {
        _ENLARGED: "measured on enlarged images, not on those that the network sees",
        _DRIFTS: f"control (drift) of {report.threshold / 2:g} or more: the comparison alone moves the layer's middle",
    }
    marks = {name: _marks(report.layers[name], report.threshold) for name in {pan.layer for pan in pans}}
    notes = tuple(f"{mark} {meaning}" for mark, meaning in meanings.items() if any(mark in m for m in marks.values()))
    rows = [_pan_row(pan, marks[pan.layer]) for pan in pans]
    numbers = ("channel", "contrast", "95 %", "after", "paired", "effect")
    head = ("layer", "channel", "sides", *numbers[1:], "origin")
    return Table(head, tuple(rows), numbers, notes).known()


def pan_title(report: Findings, shown: Table) -> str:
    """Return what stands above a table of some of the PANs of a report, or of all."""
    more = f" (strongest {len(shown.rows)} of {report.count})" if len(shown.rows) < report.count else ""
    return f"Padding aware neurons{more}"


def _marks(line: LayerReport, threshold: float) -> str:
    marks = _ENLARGED * line.enlarged + _DRIFTS * line.drifts(threshold)
    return marks and f"\xa0{marks}"  # a mark alone on a line is nobody's


def _pan_row(pan: PAN, marks: str) -> tuple[str, ...]:
    side = pan.strongest
    low, high = pan.interval.get(side, (math.nan, math.nan))
    interval = "-" if math.isnan(low) else f"{low:+.2f} … {high:+.2f}" + " *" * pan.certain
    known = (pan.after, pan.consistency, pan.effect)
    figures = [f"{values[side]:+.2f}" if side in values else "-" for values in known]
    contrast = f"{pan.strongest_contrast:+.2f}"
    return pan.layer + marks, str(pan.channel), pan.kind, contrast, interval, *figures, pan.origin
