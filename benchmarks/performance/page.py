"""Writes docs/performance.md and its figure from the results that are there."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.performance.bounds import BOUNDS
from benchmarks.performance.figures import costs
from benchmarks.performance.machine import sentence
from benchmarks.performance.rows import TITLES, command, module_of
from benchmarks.performance.words import table

PAGE = Path("docs/performance.md")


def render(results: dict[str, dict], page: Path) -> None:
    """Writes the page, and its figure beside it.

    Args:
        results: Row to what it gave, as :func:`~benchmarks.performance.results.load` reads it; rows that are not there
            are said not to be.
        page: File to write.
    """
    page.parent.mkdir(parents=True, exist_ok=True)
    figure = page.with_suffix(".png")
    costs(results).savefig(figure, dpi=110)
    page.write_text(text(results, figure.name), encoding="utf-8")


def text(results: dict[str, dict], figure: str) -> str:
    """The page; its figure is looked for beside it."""
    lines = [*_START, "", *machines(results), ""]
    if any(result["command"].endswith("--quick") for result in results.values()):
        lines += ["**Tried with `--quick`: few images, single rounds. These numbers are none to cite.**", ""]
    lines += ["## To reach", ""]
    head = ["", "to reach", "measured", "reached", "measured by"]
    lines += [*table(head, [bound.cells(results) for bound in BOUNDS]), ""]
    lines += [f"![Cost against images, layers, size and epochs]({figure})", ""]
    for row, title in TITLES.items():
        lines += [f'## <a id="{row}"></a>{title}', "", *section(row, results.get(row)), ""]
    return "\n".join(lines).rstrip() + "\n"


def section(row: str, result: dict | None) -> list[str]:
    """What a row gave, and the command that gives it."""
    if result is None:
        return [f"Not measured yet: `{command(row, False)}`."]
    if "failed" in result:
        return [f"**Failed**: {result['failed']}", "", f"<sub>`{result['command']}`</sub>"]
    took, date = f"{result['minutes']:.1f} minutes", result["machine"]["date"]
    return [*module_of(row).section(result["values"]), "", f"<sub>`{result['command']}`, {took}, {date}.</sub>"]


def machines(results: dict[str, dict]) -> list[str]:
    """Machine, versions, commit and date; more than one if the rows were not run on one."""
    found: dict[str, list[str]] = {}
    for row in (row for row in TITLES if row in results):
        machine = results[row]["machine"]
        of = json.dumps({key: value for key, value in machine.items() if key != "date"}, sort_keys=True)
        found.setdefault(of, []).append(row)
    lines = []
    for rows in found.values():
        machine = results[rows[0]]["machine"]
        dates = sorted({results[row]["machine"]["date"] for row in rows})
        where = "" if len(found) == 1 else f" ({', '.join(rows)})"
        at = f", commit {machine['commit']}" if machine["commit"] else ""
        lines.append(f"* {sentence(machine)}; {' to '.join(dict.fromkeys((dates[0], dates[-1])))}{at}{where}.")
    return lines


_START = """
# What it costs

    make bench          # all of it, 20 minutes on two cores
    python -m benchmarks.performance forward     # one row; --quick tries it, --help names them all
    python -m benchmarks.performance page        # this page, from what was measured

Numbers and sentences on this page are written by these commands from `runs/performance/`, one file a row. Ratios are
taken within one run, in turns (A B B A ...) after a warm-up, of CPU time in one thread; medians, with quartiles in
brackets. Two rows run at a time, on two cores; what is compared was measured together, within a row. Runs of one row
differ by some per cent between days and machines.
""".strip().splitlines()
