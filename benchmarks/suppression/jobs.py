"""What is to be run, and running what is not there yet."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from benchmarks import runs
from benchmarks.runs import Job, Row
from benchmarks.suppression.arms import ARMS
from benchmarks.suppression.tasks import TASKS

FIRST = ("digit", "digit and place", "mnist")
COMPARED = ("none", "penalty")
#: Where the penalty falls short: what the others do there.
BESIDES = {
    *(("fine-tune", arm) for arm in ("mask", "mask all", "mask all, means")),
    *(("digit, no batch norm", arm) for arm in ("mask", "mask all", "mask all, means")),
}


def seeds_of(task: str, arm: str) -> int:
    """How many seeds a task is run with under an arm."""
    if arm in COMPARED:
        return 10 if task in FIRST else 5
    if task == "red-green":
        return 5
    if (task, arm) in BESIDES:
        return 2
    return 3 if task in FIRST and arm != "circular" else 0


def planned(tasks: Iterable[str] = TASKS, arms: Iterable[str] = ARMS, seeds: int | None = None) -> list[Job]:
    """Lists what is run, seed by seed, so that whatever is done at any time is balanced.

    Of a seed, all tasks with and without the penalty come first, then the other arms.

    Args:
        tasks: Some of the tasks.
        arms: Some of the arms.
        seeds: Seeds at most.
    """
    tasks, arms = list(tasks), list(arms)
    most = max(seeds_of(task, arm) for task in TASKS for arm in ARMS)
    return [
        (task, arm, seed)
        for seed in range(most if seeds is None else min(most, seeds))
        for first in (True, False)
        for task in TASKS
        for arm in ARMS
        if (arm in COMPARED) == first and task in tasks and arm in arms and seed < seeds_of(task, arm)
    ]


def run_missing(
    jobs: Sequence[Job],
    results: Path,
    processes: int = 2,
    minutes: float | None = None,
    work: Callable[[Job], Row] | None = None,
) -> tuple[list[Job], list[str]]:
    """Runs what is not there yet, as :func:`benchmarks.runs.run_missing` does; in processes of their own by default."""
    work = partial(runs.in_a_process, "benchmarks.suppression") if work is None else work
    return runs.run_missing(jobs, results, work, "task", _told, processes, minutes)


def _told(row: Row) -> str:
    right = ", ".join(f"{label} {100 * value:.2f} %" for label, value in row["accuracy"].items())
    return f"{row['pans']} PANs of {row['neurons']}, {right}, {row['seconds']:.0f} s"
