"""On what it was measured: the machine and the versions, which stand beside every number."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.performance.device import name

PACKAGES = ("torch", "pytorch-lightning", "timm", "numpy", "scipy", "torchinstruments")


def describe() -> dict:
    """The machine, the versions, the commit, and the date."""
    return {
        "cpu": processor(),
        "cores": os.cpu_count(),
        "device": name(),
        "python": platform.python_version(),
        "versions": {name: installed(name) for name in PACKAGES},
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
    }


def processor() -> str:
    """What the processor calls itself."""
    cpus = Path("/proc/cpuinfo")
    lines = cpus.read_text(encoding="utf-8").splitlines() if cpus.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def installed(package: str) -> str | None:
    """Version of a package, None if it is not there."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def commit() -> str | None:
    """What was measured: the commit, with a + if files of the package differ from it; None outside of git."""
    try:
        head, changed = (
            subprocess.run(["git", *words], capture_output=True, text=True, check=True).stdout.strip()
            for words in (("rev-parse", "--short", "HEAD"), ("status", "--porcelain", "pan_callbacks"))
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+" if changed else "")


def sentence(machine: dict) -> str:
    """The same in a line of the page."""
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items() if number)
    device = f"{machine['device']}; " if machine.get("device") else ""
    return f"{device}{machine['cpu']}, {machine['cores']} cores, one thread; Python {machine['python']}, {versions}"
