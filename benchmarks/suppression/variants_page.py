"""The table of the variants."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.runs import Row

PLAIN = "none"


def text(rows: Sequence[Row], before: Sequence[Row], variants: Sequence[str]) -> str:
    """The page.

    Args:
        rows: Runs with the price as it is, and those without a penalty.
        before: Runs with the price as it was before.
        variants: Names of those that there are, in the order of the table.
    """
    plain = [row for row in rows if row["arm"] == PLAIN]
    names = list(dict.fromkeys(row["arm"] for row in before))
    return _PAGE.format(
        told=_commits(rows),
        lines=_lines(rows, variants),
        told_before=_commits(before),
        lines_before=_lines([*plain, *before], names),
    )


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


_PAGE = """# Suppression: what else was tried

    python -m benchmarks.suppression.variants --seeds 1 2      # makes what is not there yet
    python -m benchmarks.suppression.variants --table          # writes this page alone

Generated from `benchmarks/suppression/variants.jsonl`: {told}
What a variant changes stands in `benchmarks/suppression/variants.py` and `ideas.py`; *as it is* is `PANPenalty()`. One
run differs from the next by about half a point whatever is done, so a line of one or two seeds says which variants are
far off, and not which of two close ones is better.

| task | variant | seeds | PANs without → with | change of accuracy in points |
| --- | --- | --- | --- | --- |
{lines}

## With the price as it was before

What a layer's own padding does had a margin of 0.4 to 0.5, what is inherited did not count, and the gradient on a whole
kernel was as long as the task's at most. `git checkout 563b277` has the code, under the same names. From
`benchmarks/suppression/variants_before.jsonl`: {told_before}

| task | variant | seeds | PANs without → with | change of accuracy in points |
| --- | --- | --- | --- | --- |
{lines_before}
"""
