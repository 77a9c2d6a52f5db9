"""The table of the variants."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.runs import Row

PLAIN = "none"


def text(rows: Sequence[Row], earlier: Sequence[tuple[str, Sequence[Row]]], variants: Sequence[str]) -> str:
    """The page.

    Args:
        rows: Runs with the price as it is, and those without a penalty.
        earlier: What to say of a price as it was, and the runs with it.
        variants: Names of those that there are, in the order of the table.
    """
    plain = [row for row in rows if row["arm"] == PLAIN]
    page = _PAGE.format(told=_commits(rows), head=_HEAD, lines=_lines(rows, variants))
    for words, runs in earlier:
        names = list(dict.fromkeys(row["arm"] for row in runs))
        page += f"\n{words}: {_commits(runs)}\n\n{_HEAD}\n{_lines([*plain, *runs], names)}\n"
    return page


def _commits(rows: Sequence[Row]) -> str:
    commits = ", ".join(sorted({f"`{row['commit']}`" for row in rows if row["commit"]})) or "no commit"
    without = sum(not row["commit"] for row in rows)
    told = f"{len(rows)} runs, at commit {commits};\n{without} of them"
    return f"{told} by a script with the same changes, without a commit."


def _lines(rows: Sequence[Row], variants: Sequence[str]) -> str:
    there = {(row["task"], row["arm"], row["seed"]): row for row in rows}
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    return "\n".join(line for task in tasks for variant in variants if (line := _line(there, task, variant)))


def _line(there: dict[tuple[str, str, int], Row], task: str, variant: str) -> str | None:
    """One line; None where there is no run with a plain one of the same seed."""
    pairs = [
        (there[task, PLAIN, seed], row)
        for (of, arm, seed), row in sorted(there.items(), key=lambda item: item[0][2])
        if (of, arm) == (task, variant) and (task, PLAIN, seed) in there and variant != PLAIN
    ]
    if not pairs:
        return None
    seeds = ", ".join(str(row["seed"]) for _, row in pairs)
    pans = ", ".join(f"{plain['pans']} → {row['pans']}" for plain, row in pairs)
    changes = []
    for label in pairs[0][0]["accuracy"]:
        found = [100 * (row["accuracy"][label] - plain["accuracy"][label]) for plain, row in pairs]
        changes.append(f"{label} {', '.join(f'{one:+.2f}' for one in found)}")
    return f"| {task} | {variant} | {seeds} | {pans} | {'; '.join(changes)} |"


_HEAD = """| task | variant | seeds | PANs without → with | change of accuracy in points |
| --- | --- | --- | --- | --- |"""
_PAGE = """# Suppression: what else was tried

    python -m benchmarks.suppression.variants --seeds 1 2      # makes what is not there yet
    python -m benchmarks.suppression.variants --table          # writes this page alone

What a variant changes stands in `benchmarks/suppression/variants.py` and `ideas.py`; *as it is* is `PANPenalty()`. One
run differs from the next by about half a point whatever is done, so a line of one or two seeds says which variants are
far off, and not which of two close ones is better. `benchmarks/suppression/variants.jsonl` has {told}

{head}
{lines}
"""
