"""What a survey leaves: files in a folder, and words in the terminal."""

from __future__ import annotations

import io
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pan_callbacks._runtime import progress_bar
from pan_callbacks.cli.illustrations import NOT_ALWAYS, illustrations
from pan_callbacks.cli.survey import Survey
from pan_callbacks.cli.survey_page import page_of
from pan_callbacks.reports._json import write_json, write_whole
from pan_callbacks.reports._text import visible
from pan_callbacks.reports.tables import Table, pan_table, pan_title
from pan_callbacks.reports.taxonomy import PANType, type_of
from pan_callbacks.sources.images import FIGURES

if TYPE_CHECKING:
    from rich.console import Console


def write(survey: Survey, folder: Path, progress: bool = False) -> None:
    """Write a survey: ``pans.json``, ``pans.csv``, ``figures/*.png``, ``report.html``, and what else was measured.

    Args:
        survey: The survey.
        folder: Folder to write into; it is made if it is missing. Files of an earlier survey are replaced.
        progress: Whether to show a progress bar.
    """
    survey.report.save(folder / "pans.json")
    write_json(folder / "about.json", dict(survey.about))
    write_whole(folder / "pans.csv", csv_of(survey).encode())
    for name, data in (
        ("companions.json", survey.companions),
        ("beyond.json", survey.beyond),
        ("floor.json", survey.floor),
        ("impact.json", survey.impact),
    ):
        (folder / name).unlink(missing_ok=True)
        if data is not None:
            write_json(folder / name, data.to_dict())
    (folder / "layers.csv").unlink(missing_ok=True)
    if survey.beyond is not None:
        write_whole(folder / "layers.csv", survey.beyond.csv().encode())
    figures = folder / FIGURES
    figures.mkdir(exist_ok=True)
    for pattern in NOT_ALWAYS:
        for old in figures.glob(pattern):
            old.unlink()
    drawn = illustrations(survey)
    with progress_bar("figures", len(drawn), progress, "figures") as advance:
        for one in drawn:
            write_whole(figures / f"{one.name}.png", one.png)
            advance(1)
    write_whole(folder / "report.html", page_of(survey, drawn).html().encode())


#: PANs that a terminal shows, and a width that no table has.
_STRONGEST, _UNBOUNDED = 20, 10_000
#: What pans.csv has of every side, in the order of its columns.
_BY_SIDE = ("contrast", "effect", "consistency", "difference", "contrast after")


def csv_of(survey: Survey) -> str:
    """Return every PAN as a line of comma separated values, the model's first layer first."""
    flips = None if survey.companions is None else survey.companions.flip
    head = ["layer", "channel", "sides", *PANType._fields, "strongest"]
    sides = survey.report.sides
    head += ["low", "high", "certain", "visible", "reads the padding"]  # the interval of its strongest side
    head += ["reference", "drift"]  # how its layer was measured, and the control
    head += [f"{what} {side}" for what in _BY_SIDE for side in sides]
    rows: list[list[object]] = []
    for pan in survey.report.pans:
        row = [pan.layer, pan.channel, pan.kind, *type_of(pan, survey.report), pan.strongest]
        row += [f"{end:.6g}" for end in pan.interval.get(pan.strongest, ())] or ["", ""]
        row += ["" if one is None else "yes" if one else "no" for one in (pan.certain, pan.visible, pan.reads_padding)]
        line = survey.report.layers[pan.layer]
        row += [line.reference or "", "" if math.isnan(line.drift) else f"{line.drift:.6g}"]
        for values in (pan.contrast, pan.effect, pan.consistency, pan.shift, pan.after):
            row += [f"{values[side]:.6g}" if side in values else "" for side in sides]
        if flips is not None:
            row += [f"{score:.6g}" for score in flips[pan.layer][:, pan.channel].tolist()]
        rows.append(row)
    return Table.of(head + (["flip score horizontal", "flip score vertical"] if flips is not None else []), rows).csv()


def show(survey: Survey, folder: Path) -> None:
    """Print the strongest PANs, what goes beyond the contrast, what was measured, and where it lies.

    Args:
        survey: The survey.
        folder: Folder that it was written to.
    """
    terminal = console()
    if survey.report.count:
        strongest = pan_table(survey.report, _STRONGEST)
        print_table(strongest, terminal, pan_title(survey.report, strongest))
    if survey.beyond is not None and survey.beyond.layers:
        title = f"Beyond the contrast, {survey.beyond.images} images (report.html explains the columns)"
        print_table(survey.beyond.table().known(), terminal, title)
    terminal.print(survey.summary(), markup=False, highlight=False)
    if survey.impact is not None:
        terminal.print(f"\n{survey.impact.images} images", markup=False, highlight=False)
        print_table(survey.impact.table.known(), terminal, plain=True)
        for note in survey.impact.notes:
            terminal.print(visible(note), markup=False, highlight=False)
    if survey.skipped:
        name, why = next(iter(survey.skipped.items()))
        first = visible(f"{name} ({why})")
        terminal.print(f"{len(survey.skipped)} images were left out, the first: {first}", markup=False)
    terminal.print(f"\n{visible(str(folder / 'report.html'))}", markup=False, highlight=False, soft_wrap=True)


def print_table(table: Table, terminal: Console, title: str = "", edge: bool = True, plain: bool = False) -> None:
    """Print a table; where the terminal is too narrow for it, row by row with what each number is.

    Args:
        table: The table.
        terminal: Where to print.
        title: Sentence above it.
        edge: Whether it has a frame.
        plain: Whether it has no lines.
    """
    from rich.measure import Measurement
    from rich.padding import Padding
    from rich.text import Text

    drawn = Text(table.text()) if plain else table.rich(title or None, edge)
    wanted = Measurement.get(terminal, terminal.options.update(max_width=_UNBOUNDED), drawn).maximum
    if wanted <= terminal.width:
        terminal.print(drawn, highlight=False)
        return
    if title:
        terminal.print(title, markup=False, highlight=False, style="italic")
    for name, *cells in table.rows:
        terminal.print(visible(name), markup=False, highlight=False, style="bold")
        pairs = (f"{head}: {cell}" for head, cell in zip(table.head[1:], cells, strict=True) if cell)
        terminal.print(Padding(Text(visible("; ".join(pairs))), (0, 0, 0, 2)))
    for note in table.notes:
        terminal.print(note, markup=False, highlight=False)


def console() -> Console:
    """Return where to print: as wide as the terminal, and wide if there is none, since layer names are long."""
    from rich.console import Console

    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr does it, where the encoding knows few letters
    found = Console()
    return found if found.is_terminal else Console(width=160)
