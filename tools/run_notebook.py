"""Runs a notebook, and stores it with what it printed and showed.

usage: python tools/run_notebook.py examples/tour.ipynb
"""

from __future__ import annotations

import sys

import nbformat
from nbclient import NotebookClient


def run(path: str) -> None:
    """Runs it in a kernel of this Python; what changes from run to run without a reason, such as times, is left out."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=3600, record_timing=False, kernel_name="python3").execute()
    notebook.metadata.get("language_info", {}).pop("version", None)
    nbformat.write(notebook, path)


if __name__ == "__main__":
    run(*sys.argv[1:])
