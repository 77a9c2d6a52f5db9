"""The table of the variants."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.runs import Row

PLAIN = "none"


def text(rows: Sequence[Row], variants: Sequence[str]) -> str:
    """The page, from the runs; variants in this order."""
    there = {(row["task"], row["arm"], row["seed"]): row for row in rows}
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    commits = ", ".join(sorted({f"`{row['commit']}`" for row in rows if row["commit"]})) or "no commit"
    lines = [line for task in tasks for variant in variants if (line := _line(there, task, variant))]
    unnamed = sum(not row["commit"] for row in rows)
    return _PAGE.format(count=len(rows), unnamed=unnamed, commits=commits, lines="\n".join(lines))


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

Generated from `benchmarks/suppression/variants.jsonl`: {count} runs, at commit {commits}; {unnamed} of them were made
by a script with the same changes before these files were there, and have no commit. What a variant changes stands in
`benchmarks/suppression/variants.py` and `ideas.py`; *as it is* is `PANPenalty()`. One run differs from the next by
about half a point whatever is done, so a line of one or two seeds says which variants are far off, and not which of
two close ones is better.

| task | variant | seeds | PANs without → with | change of accuracy in points |
| --- | --- | --- | --- | --- |
{lines}
"""
