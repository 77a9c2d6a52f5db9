"""Runs that are kept in a file, one line of JSON each: what is there, and running the rest."""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

#: What is run, with which arm, and the seed.
Job = tuple[str, str, int]
Row = dict[str, Any]


def quietly() -> None:
    """Runs what follows in this process in one thread, without a word."""
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    torch.set_num_threads(1)


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


def in_a_process(module: str, job: Job) -> Row:
    """Runs one job in a process of its own, ``python -m module --one``, in one thread.

    Raises:
        RuntimeError: If it fails; with the end of what it said.
    """
    command = [sys.executable, "-m", module, "--one", *map(str, job)]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=one_thread)
    if done.returncode:
        raise RuntimeError(f"{job} ended with {done.returncode}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def run_missing(
    jobs: Sequence[Job],
    results: Path,
    work: Callable[[Job], Row],
    what: str,
    told: Callable[[Row], str],
    processes: int = 2,
    minutes: float | None = None,
) -> tuple[list[Job], list[str]]:
    """Runs what is not there yet; what fails does not keep the rest from running.

    Args:
        jobs: What is wanted, in this order.
        results: File of the runs, one line of JSON each.
        work: What runs a job.
        what: Key of a row that says what was run, beside ``arm`` and ``seed``.
        told: What to print of a row.
        processes: How many run at the same time.
        minutes: Minutes after which no run starts any more; None for no end.

    Returns:
        What was not started in time, and what went wrong.
    """
    results.parent.mkdir(parents=True, exist_ok=True)
    there = {(row[what], row["arm"], row["seed"]) for row in read(results)}
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
            print(*job, told(row), flush=True)

    with ThreadPoolExecutor(processes) as pool:
        list(pool.map(do, [job for job in jobs if job not in there]))
    return late, failed


def add_options(parser: argparse.ArgumentParser, results: Path, page: Path) -> None:
    """Adds what every command has that keeps runs and writes a page of them."""
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--minutes", type=float, help="start no run after so many")
    parser.add_argument("--table", action="store_true", help="write the page from the runs that are there")
    parser.add_argument("--results", type=Path, default=results, help="one line of JSON a run")
    parser.add_argument("--page", type=Path, default=page)


def tell(late: Sequence[Job], failed: Sequence[str]) -> None:
    """Says what was not started in time, and ends with what went wrong, if anything did."""
    if late:
        print(f"not started in time, {len(late)} runs:", *(", ".join(map(str, job)) for job in late), sep="\n  ")
    if failed:
        sys.exit("\n".join(failed))
