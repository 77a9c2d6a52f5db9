"""Row 7: importing the package, to importing Lightning, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.performance.timing import spread
from benchmarks.performance.words import quartiles, table

ARMS = {
    "lightning": "import pytorch_lightning",
    "ours": "import pan_callbacks",
    "callback": "from pan_callbacks import PANMonitor",
}


def seconds(statement: str) -> float:
    """CPU time of a statement in a fresh process, without the start of Python itself."""
    code = f"import time; start = time.process_time(); {statement}; print(time.process_time() - start)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def measure(quick: bool) -> dict:
    """Imports in turns."""
    found: dict[str, list[float]] = {name: [] for name in ARMS}
    for number in range(-1, 2 if quick else 5):
        for name in list(ARMS)[:: 1 if number % 2 else -1]:
            took = seconds(ARMS[name])
            found[name] += [took] if number >= 0 else []
    base = found["lightning"]
    ratios = {name: spread([a / b for a, b in zip(found[name], base, strict=True)]) for name in ARMS}
    return {"seconds": {name: spread(values) for name, values in found.items()}, "ratios": ratios}


def section(found: dict) -> list[str]:
    """What the page says."""
    rows = [[f"`{ARMS[name]}`", quartiles(found["seconds"][name]), quartiles(found["ratios"][name])] for name in ARMS]
    return table(["in a fresh process", "s", "of Lightning's"], rows)
