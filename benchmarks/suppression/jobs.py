"""What is to be run, what is there, and running the rest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.suppression.arms import ARMS
from benchmarks.suppression.tasks import TASKS

#: Task, arm, seed.
Job = tuple[str, str, int]
Row = dict[str, Any]

FIRST = ("digit", "digit and place", "mnist")
COMPARED = ("none", "penalty")


def seeds_of(task: str, arm: str) -> int:
    """How many seeds a task is run with under an arm."""
    if arm in COMPARED:
        return 10 if task in FIRST else 5
    if task == "red-green":
        return 5
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


def read(results: Path) -> list[Row]:
    """Reads the runs that are there; a line that was cut off is none."""
    rows = []
    for line in results.read_text(encoding="utf-8").splitlines() if results.exists() else ():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            print(f"{results}: left out a line that was cut off: {line[:60]}", file=sys.stderr)
    return rows


def append(row: Row, results: Path) -> None:
    """Puts a run on a line of its own, also behind one that was cut off."""
    text = results.read_bytes() if results.exists() else b""
    cut_off = bool(text) and not text.endswith(b"\n")
    with results.open("a", encoding="utf-8") as file:
        file.write("\n" * cut_off + json.dumps(row) + "\n")


def in_a_process(job: Job) -> Row:
    """Runs one job in a process of its own, in one thread.

    Raises:
        RuntimeError: If it fails; with the end of what it said.
    """
    command = [sys.executable, "-m", "benchmarks.suppression", "--one", *map(str, job)]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=one_thread)
    if done.returncode:
        raise RuntimeError(f"{job} ended with {done.returncode}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def run_missing(
    jobs: Sequence[Job],
    results: Path,
    processes: int = 2,
    minutes: float | None = None,
    work: Callable[[Job], Row] = in_a_process,
) -> tuple[list[Job], list[str]]:
    """Runs what is not there yet; what fails does not keep the rest from running.

    Args:
        jobs: What is wanted, in this order.
        results: File of the runs, one line of JSON each.
        processes: How many run at the same time.
        minutes: Minutes after which no run starts any more; None for no end.
        work: What runs a job.

    Returns:
        What was not started in time, and what went wrong.
    """
    results.parent.mkdir(parents=True, exist_ok=True)
    there = {(row["task"], row["arm"], row["seed"]) for row in read(results)}
    end = float("inf") if minutes is None else time.monotonic() + 60 * minutes
    late: list[Job] = []
    failed: list[str] = []
    writing = threading.Lock()

    def do(job: Job) -> None:
        if time.monotonic() >= end:
            late.append(job)
            return
        try:
            row = work(job)
        except Exception as error:
            failed.append(str(error))
            print(*job, "failed", flush=True)
            return
        with writing:
            append(row, results)
            right = ", ".join(f"{label} {100 * value:.2f} %" for label, value in row["accuracy"].items())
            print(*job, f"{row['pans']} PANs of {row['neurons']}, {right}, {row['seconds']:.0f} s", flush=True)

    with ThreadPoolExecutor(processes) as pool:
        list(pool.map(do, [job for job in jobs if job not in there]))
    return late, failed
