"""Writes what ``make test-attack`` found into a page: each promise, the cases that hold it, and what is refused.

usage: python tools/reliability_page.py RESULTS.json PAGE.md
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.attack.promises import Promise

COMMAND = "make test-attack"
SHOWN = 200  # characters of a message

Result = dict[str, Any]


def held(results: list[Result]) -> str:
    """How many of them passed, in words."""
    passed = sum(result["outcome"] == "passed" for result in results)
    return f"{passed} of {len(results)}"


def runs(results: list[Result]) -> int:
    """Runs with a callback of ours that were compared."""
    return sum(len(result.get("arms", ())) for result in results)


def one_line(text: str) -> str:
    """A message that fits a table: one line, no bars, no numbers that are of one case alone."""
    line = " ".join(text.split()).replace("|", "\\|")
    return line if len(line) <= SHOWN else line[: SHOWN - 1] + "…"


def overview(cases: list[Result]) -> list[str]:
    """The table of promises."""
    lines = ["| promise | cases held | runs compared |", "|---|---:|---:|"]
    for promise in Promise:
        of_it = [case for case in cases if case["promise"] == promise.name]
        if of_it:
            lines.append(f"| [{promise.value}](#{anchor(promise.value)}) | {held(of_it)} | {runs(of_it) or ''} |")
    lines.append(f"| all | {held(cases)} | {runs(cases)} |")
    return lines


def anchor(heading: str) -> str:
    """The name that a heading has in a link."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def section(promise: Promise, cases: list[Result]) -> list[str]:
    """A promise with the names of its cases."""
    lines = [f"## {promise.value}", "", f"{held(cases)} cases.", ""]
    broken = [case for case in cases if case["outcome"] != "passed"]
    if broken:
        lines += ["**Not held:** " + "; ".join(case["name"] for case in broken) + ".", ""]
    lines += ["; ".join(case["name"] for case in cases if case["outcome"] == "passed") + ".", ""]
    return lines


def refusals(cases: list[Result]) -> list[str]:
    """The messages of ours that stopped something, each once, with the cases that they stopped."""
    told: dict[str, list[str]] = {}
    for case in cases:
        for arm, message in case.get("refused", ()):
            told.setdefault(one_line(message), []).append(f"{case['name']}{f', {arm}' if arm else ''}")
    lines = ["## What is refused, with its message", ""]
    lines += ["| message | where |", "|---|---|"]
    for message, where in sorted(told.items(), key=lambda item: (-len(item[1]), item[0])):
        more = f"; and {len(where) - 2} more" if len(where) > 2 else ""
        lines.append(f"| {message} | {'; '.join(where[:2])}{more} |")
    return [*lines, ""]


def arms(cases: list[Result]) -> list[str]:
    """How often each of the callbacks was compared."""
    counts = Counter(arm for case in cases for arm in case.get("arms", ()))
    lines = ["| callbacks | runs |", "|---|---:|"]
    return [
        *lines,
        *(f"| `{arm}` | {count} |" if "(" in arm else f"| {arm} | {count} |" for arm, count in counts.items()),
    ]


def fuzzing(results: dict[str, Result]) -> list[str]:
    """Tests on random examples, with how many examples they passed."""
    fuzzed = {name: result for name, result in results.items() if "examples" in result}
    if not fuzzed:
        return []
    lines = ["## Random examples", "", "| test | examples | held |", "|---|---:|---|"]
    for name, result in sorted(fuzzed.items()):
        words = name.split("::")[-1].removeprefix("test_").replace("_", " ")
        lines.append(f"| {words} | {result['examples']} | {'yes' if result['outcome'] == 'passed' else 'no'} |")
    total = sum(result["examples"] for result in fuzzed.values())
    return [*lines, f"| all | {total} | {held(list(fuzzed.values()))} |", ""]


def page(results: dict[str, Result]) -> str:
    """The page in Markdown."""
    cases = [result for _, result in sorted(results.items()) if "promise" in result]
    lines = [
        "# What the package promises to a run, and the cases that hold it to that",
        "",
        f"Written by `{COMMAND}`. A case is run twice without a callback of ours, to see that it repeats, and once",
        "with each of those below. Compared are weights, gradients, buffers, optimizers and schedules, every batch",
        "that a step received, every value that it returned, logged metrics, the random states before every step and",
        "at the end (python, numpy, torch, generators, datasets and samplers), attributes, modes and hooks of all",
        "modules, and the exception that ended the run. With a callback that acts, the run ends or stops with an error",
        "of ours, and nothing of ours is left.",
        "",
        *overview(cases),
        "",
        *arms(cases),
        "",
    ]
    for promise in Promise:
        of_it = [case for case in cases if case["promise"] == promise.name]
        lines += section(promise, of_it) if of_it else []
    return "\n".join([*lines, *refusals(cases), *fuzzing(results)]).rstrip() + "\n"


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:])
    target.write_text(page(json.loads(source.read_text(encoding="utf-8"))), encoding="utf-8")
    print(f"{target}: {held([r for r in json.loads(source.read_text(encoding='utf-8')).values()])} tests held")
