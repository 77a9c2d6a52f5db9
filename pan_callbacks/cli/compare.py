"""One table over the reports of several models, and which neurons differ."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pan_callbacks import __version__
from pan_callbacks.cli.output import print_table
from pan_callbacks.cli.page import Page, Part, Section, ShownTable, Text
from pan_callbacks.errors import PANError, UsageError
from pan_callbacks.padding import ALL_EDGES, EDGES
from pan_callbacks.reports._fields import text, wrong
from pan_callbacks.reports._json import read_json, write_whole
from pan_callbacks.reports._text import visible
from pan_callbacks.reports.changes import Changes, changes_between
from pan_callbacks.reports.impact_report import ImpactReport
from pan_callbacks.reports.pan_report import PANReport
from pan_callbacks.reports.tables import Table
from pan_callbacks.reports.taxonomy import counts
from pan_callbacks.reports.words import ORIGINS, Mode

if TYPE_CHECKING:
    from rich.console import Console

#: Neurons that a terminal shows of each report, and letters that a column has at least.
SHOWN, LETTERS = 20, 10


@dataclass(frozen=True, eq=False)
class Entry:
    """One model of a comparison.

    Args:
        name: Folder or file of its report.
        model: What it is, as far as the folder says.
        report: Its padding aware neurons.
        impact: What masking did, if it was measured.
        about: What was surveyed, in words, as far as the folder says.
    """

    name: str
    model: str
    report: PANReport
    impact: ImpactReport | None
    about: Mapping[str, str] = field(default_factory=dict)


def read_entry(path: Path) -> Entry:
    """Read a folder that a survey was written to, or a ``pans.json`` alone.

    Raises:
        UsageError: If there is nothing of that name.
        PANError: If there is no report, or a file is none.
    """
    folder, file = (path, path / "pans.json") if path.is_dir() else (path.parent, path)
    if not file.is_file():
        kind = PANError if path.exists() else UsageError
        raise kind(f"{path} holds no pans.json: give folders that `pan-callbacks scan` or `impact` wrote")
    about, impact = folder / "about.json", folder / "impact.json"
    try:
        report = PANReport.load(file)
        known = read_json(about, _description, "a description of a survey") if about.is_file() else {}
        measured = ImpactReport.load(impact) if impact.is_file() else None
    except ValueError as error:  # which names the file
        raise PANError(str(error)) from error
    return Entry(str(path), known.get("model", ""), report, measured, known)


def _description(data: Any) -> dict[str, str]:
    """Return what ``about.json`` holds."""
    if not isinstance(data, dict):
        raise wrong("all of it", data, "an object, the description of a survey,")
    return {name: text(value, name) for name, value in data.items()}


_ABOUT = ("weights", "images", "preprocessing")


def table(entries: Sequence[Entry]) -> Table:
    """Return a table with a row for each report; columns about impact only if one of them has it.

    Args:
        entries: The reports.
    """
    modes = list(dict.fromkeys(mode for entry in entries if entry.impact for mode in entry.impact.modes))
    head = [
        *("report", "model", *_ABOUT, "PANs", "95 %", "certain", "visible", "neurons", "share"),
        *("reliance", "class changes"),
        *("read the padding", *ORIGINS, "excited", "inhibited"),
        *("mixed", "early", "middle", "late", "top", "bottom", "left", "right", "corner alone", "border bias"),
        *(f"masked, {mode}" for mode in modes),
    ]
    return Table.of(head, [_row(entry, modes) for entry in entries])


def _row(entry: Entry, modes: Sequence[Mode]) -> tuple[str, ...]:
    report = entry.report
    origins, signs, depths = report.count_by("origin"), report.count_by("sign"), counts(report, "depth")
    sides = report.count_by("side")
    corners = sum(not pan.sides & set(ALL_EDGES) for pan in report.pans)
    bias = report.border_bias
    cells = [entry.name, entry.model, *(str(entry.about.get(what, "-")) for what in _ABOUT)]
    low, high = report.interval
    cells += [str(report.count), "-" if math.isnan(low) else f"{low:.0f} … {high:.0f}"]
    certain = math.nan if math.isnan(low) else float(sum(pan.certain for pan in report.pans))
    cells += [_whole(certain), _whole(report.visible), str(report.neurons)]
    cells += [f"{report.fraction:.2%}", *_reliance(report), _whole(report.readers)]
    cells += [str(origins[name]) for name in ORIGINS]
    cells += [str(signs[name]) for name in ("excited", "inhibited", "mixed")]
    cells += [str(depths.get(name, 0)) for name in ("early", "middle", "late")]
    cells += [str(sides[side]) for side in EDGES]
    cells += [str(corners), f"{bias:.2f}" if bias == bias else "-"]
    for mode in modes:
        known = entry.impact is not None and mode in entry.impact.modes
        cells.append(_change(entry.impact, mode) if entry.impact is not None and known else "-")
    return tuple(cells)


def _reliance(report: PANReport) -> tuple[str, str]:
    """How far answers move with all padding neutral, by which distance, and how many classes change."""
    found = report.reliance
    if found is None:
        return "-", "-"
    interval = "" if found.interval is None else f" ({found.interval[0]:.2g} … {found.interval[1]:.2g})"
    return f"{found.value:.2g}{interval}, {found.distance}", "-" if found.flips is None else f"{found.flips:.1%}"


def _whole(number: float) -> str:
    return "-" if math.isnan(number) else f"{number:.0f}"


def _change(impact: ImpactReport, mode: Mode) -> str:
    """Change of the metric, or the divergence if there is no metric."""
    row = next(row for arm, row in zip(_single(impact), impact.rows(), strict=True) if arm == ("pans", mode))
    return row[3] if row[3] != "-" else f"KL {row[4]}"


def _single(impact: ImpactReport) -> list[tuple[str, str]]:
    """Kind and mode of every row of :meth:`ImpactReport.rows`."""
    return list(dict.fromkeys((arm.kind, arm.mode) for arm in impact.arms))


def notes(entries: Sequence[Entry]) -> list[str]:
    """Return what makes the reports hard to compare."""
    found = []
    for what, values in (
        ("thresholds", {f"{entry.report.threshold:g}" for entry in entries}),
        ("references", {entry.report.reference for entry in entries}),
        ("preprocessing", {str(entry.about.get("preprocessing", "-")) for entry in entries}),
        ("metrics", {entry.impact.metric for entry in entries if entry.impact is not None}),
    ):
        if len(values) > 1:
            found.append(f"the reports have different {what}: {', '.join(sorted(values))}")
    return found


def differences(entries: Sequence[Entry]) -> list[tuple[str, Changes]]:
    """Return how the neurons of each later report differ from those of the first; none at another threshold."""
    first, *others = entries
    same = [entry for entry in others if entry.report.threshold == first.report.threshold]
    return [(entry.name, changes_between(first.report, entry.report)) for entry in same]


def unequal(turned: Table) -> Table:
    """Return a table with a column for each report without the rows that are the same in all of several."""
    if len(turned.head) <= 2:
        return turned
    return replace(turned, rows=tuple(row for row in turned.rows if len(set(row[1:])) > 1))


def in_width(turned: Table, width: int) -> Iterator[Table]:
    """Yield the columns of a table side by side as far as each has room for a few letters, then the others below."""
    first = max((len(row[0]) for row in turned.rows), default=0)
    across = max(1, (width - first) // (LETTERS + 2))
    for start in range(1, len(turned.head), across):
        kept = [0, *range(start, min(start + across, len(turned.head)))]
        head, *rows = (tuple(line[i] for i in kept) for line in (turned.head, *turned.rows))
        yield Table(head, tuple(rows), numbers=head[1:])


def show(entries: Sequence[Entry], terminal: Console, everything: bool) -> None:
    """Print the table, and how neurons differ.

    Args:
        entries: The reports.
        terminal: Where to print.
        everything: Whether rows that are the same in all reports are shown, and every neuron that differs.
    """
    turned = table(entries).turned()
    kept = turned if everything else unequal(turned)
    for part in in_width(kept, terminal.width) if kept.rows else ():
        terminal.print(part.rich(edge=False))
    hidden = len(turned.rows) - len(kept.rows)
    same = f"{hidden} rows are" if hidden > 1 else "1 row is"
    sentences = [f"{same} the same in all reports (--all shows them)"] if hidden else []
    for sentence in [*sentences, *notes(entries)]:
        terminal.print(visible(sentence), markup=False, highlight=False)
    for name, changes in differences(entries):
        terminal.print(f"\n{visible(name)}: {changes.summary()}.", markup=False, highlight=False)
        rows = changes.table().rows
        few = replace(changes.table(), rows=rows if everything else rows[:SHOWN])
        if rows:
            print_table(few, terminal, edge=False)
        if len(few.rows) < len(rows):
            terminal.print(f"and {len(rows) - len(few.rows)} more (--all shows them)", highlight=False)


def write(entries: Sequence[Entry], folder: Path) -> None:
    """Write ``compare.csv``, ``changes.csv`` and ``report.html``.

    Args:
        entries: The reports.
        folder: Folder to write into; it is made if it is missing.
    """
    found, changed = table(entries), differences(entries)
    write_whole(folder / "compare.csv", found.csv().encode())
    head = ("report", *Changes((), 0, 0).table().head)
    rows = [(name, *row) for name, changes in changed for row in changes.table().rows]
    write_whole(folder / "changes.csv", Table.of(head, rows).csv().encode())
    write_whole(folder / "report.html", _page(found.turned(), notes(entries), changed).html().encode())


def _page(turned: Table, said: Sequence[str], changed: Sequence[tuple[str, Changes]]) -> Page:
    every = replace(turned, numbers=())  # a column holds words and numbers
    differing = unequal(every)
    lead: list[Part] = [Text(sentence, "note") for sentence in said]
    if differing.rows:
        lead.append(ShownTable(differing, sortable=False))
    if len(differing.rows) < len(every.rows):
        all_rows = "All rows, with those that are the same in all reports"
        lead.append(ShownTable(every, folded=all_rows, sortable=False))
    parts: list[Part] = []
    for name, changes in changed:
        parts.append(Text(f"{name}, against {turned.head[1]}: {changes.summary()}."))
        if changes.neurons:
            parts.append(ShownTable(changes.table()))
    sections = [Section("Which neurons differ", parts)] if parts else []
    return Page("Padding aware neurons, compared", f"pan_callbacks {__version__}", lead, sections)
