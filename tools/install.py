"""Installs into a virtual environment, and shows one line of what pip is at in the place of all that it says.

python3 tools/install.py .venv -c constraints.txt -e '.[demo]'

Makes the environment if there is none. All that pip says is in ``install.log`` in its folder.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import IO

OLDEST_PYTHON = (3, 11)
WIDTH = 79
#: Seconds between two lines where no line can be written over, as in a log.
SELDOM = 30.0


def main(folder: str, *arguments: str) -> int:
    """Runs pip in the environment of a folder, and returns its exit status."""
    python = Path(folder) / "bin" / "python"
    check_version(python if python.exists() else Path(sys.executable))
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    log = Path(folder) / "install.log"
    print(f"Installing into {folder}; what pip says is in {log}", flush=True)
    pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar", "off", *arguments]
    status = watch(pip, log, sys.stdout)
    if status:
        print("".join(log.read_text(encoding="utf-8").splitlines(keepends=True)[-20:]), file=sys.stderr)
        print(f"pip failed; all that it said is in {log}", file=sys.stderr)
    return status


def check_version(python: Path) -> None:
    """Ends with a sentence if a Python is too old: pip would end in its resolver, with pages."""
    told = subprocess.run([str(python), "--version"], capture_output=True, text=True, check=True)
    version = (told.stdout or told.stderr).split()[1]
    if tuple(map(int, version.split(".")[:2])) < OLDEST_PYTHON:
        least = ".".join(map(str, OLDEST_PYTHON))
        sys.exit(
            f"pan_callbacks needs Python {least} or newer, and {python} is {version}.\n"
            f"If this machine has a newer one, name it: make clean demo PYTHON=python{least}"
        )


def watch(command: list[str], log: Path, out: IO[str]) -> int:
    """Runs a command that writes into a file, shows its seconds and its last line, and returns its exit status."""
    begun = shown = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as running:
        assert running.stdout is not None
        says = [""]
        reader = threading.Thread(target=copy, args=(running.stdout, log, says), daemon=True)
        reader.start()
        while reader.is_alive():
            reader.join(0.5)
            if out.isatty():
                out.write("\r" + sign_of_life(time.monotonic() - begun, says[0]))
            elif time.monotonic() - shown > SELDOM:
                shown = time.monotonic()
                out.write(sign_of_life(shown - begun, says[0]).rstrip() + "\n")
            out.flush()
    end = f"{time.monotonic() - begun:.0f} s: " + ("failed" if running.returncode else "installed")
    out.write(("\r" + end.ljust(WIDTH) if out.isatty() else end) + "\n")
    return running.returncode


def copy(lines: Iterable[str], log: Path, says: list[str]) -> None:
    """Writes lines into a file as they come, and keeps the last one."""
    with log.open("w", encoding="utf-8") as file:
        for line in lines:
            file.write(line)
            file.flush()
            if line.strip() and not line.startswith("WARNING"):  # those are for the file
                says[0] = line.strip()


def sign_of_life(seconds: float, line: str) -> str:
    """One line of a fixed width: since when, and at what."""
    return f"{seconds:4.0f} s  {line.split(' (from')[0]}"[:WIDTH].ljust(WIDTH)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
