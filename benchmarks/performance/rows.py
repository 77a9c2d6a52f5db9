"""The rows that can be run alone, by name: each is a file with ``measure(quick)`` and ``section(values)``."""

from __future__ import annotations

import importlib
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

from benchmarks.performance.machine import describe
from benchmarks.performance.results import save

#: Name to its title on the page, in the order of the page.
TITLES = {
    "forward": "Forwards while a measurement collects",
    "training": "A training with the monitor",
    "report": "The report",
    "memory": "What is kept",
    "hooks": "Hooks that nobody listens to",
    "imports": "Importing",
    "events": "The event file",
    "scanning": "A scan from the command line",
    "others": "What one would do otherwise",
    "sweeps": "Layers and sizes",
    "profile": "Where the time goes",
}
#: Begin first, so that both cores end at about the same time.
LONG = ("memory", "scanning", "training", "forward")
FILES = {"profile": "profiling"}  # a file of that name would hide the standard library's


def module_of(row: str) -> ModuleType:
    """The file of a row."""
    return importlib.import_module(f"benchmarks.performance.{FILES.get(row, row)}")


def command(row: str, quick: bool) -> str:
    """What runs a row alone."""
    return f"python -m benchmarks.performance {row}{' --quick' if quick else ''}"


def run(row: str, quick: bool, folder: Path) -> dict:
    """Runs a row in this process, and keeps what it gave."""
    import torch

    torch.set_num_threads(1)
    start = time.perf_counter()
    values = module_of(row).measure(quick)
    result = {
        "values": values,
        "command": command(row, quick),
        "minutes": (time.perf_counter() - start) / 60,
        "machine": describe(),
    }
    save(row, result, folder)
    return result


def run_apart(row: str, quick: bool, folder: Path) -> str | None:
    """Runs a row in a process of its own; the message if it failed, which is kept in place of its numbers."""
    words = [sys.executable, "-m", "benchmarks.performance", row, "--results", str(folder)]
    done = subprocess.run([*words, *(["--quick"] if quick else [])], capture_output=True, text=True)
    if done.returncode == 0:
        return None
    lines = done.stderr.strip().splitlines()
    why = lines[-1] if lines else f"exit code {done.returncode}"
    save(row, {"failed": why, "command": command(row, quick), "machine": describe()}, folder)
    return why
