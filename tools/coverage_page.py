"""Writes what ``make test-cov`` measured into a page: coverage of each folder of the package, and of all.

usage: python tools/coverage_page.py COVERAGE.json PAGE.md
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path

COMMAND = "make test-cov"


def folders(report: dict) -> dict[str, tuple[int, int, int, int]]:
    """Folder to its statements, those that ran, its branches, and those that were taken."""
    found: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for name, file in report["files"].items():
        parts = Path(name).parts
        folder = f"{parts[1]}/" if len(parts) > 2 else "root files"
        keys = ("num_statements", "covered_lines", "num_branches", "covered_branches")
        for index, key in enumerate(keys):
            found[folder][index] += file["summary"][key]
    return {folder: tuple(counts) for folder, counts in sorted(found.items())}


def share(counts: tuple[int, int, int, int]) -> str:
    """Share of statements and branches that ran, as coverage.py adds them up."""
    statements, ran, branches, taken = counts
    return f"{100 * (ran + taken) / max(1, statements + branches):.1f} %"


def page(report: dict) -> str:
    """The page in Markdown."""
    rows = folders(report)
    rows["all"] = tuple(map(sum, zip(*rows.values(), strict=True)))
    lines = [
        "# Coverage",
        "",
        f"Written by `{COMMAND}`: statements and branches of `pan_callbacks` that the test suite runs, those of",
        "processes that it starts included.",
        "",
        "| | statements | branches | covered |",
        "|---|---:|---:|---:|",
    ]
    lines += [f"| {name} | {c[0]} | {c[2]} | {share(c)} |" for name, c in rows.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:])
    target.write_text(page(json.loads(source.read_text(encoding="utf-8"))), encoding="utf-8")
    print(target.read_text(encoding="utf-8"))
