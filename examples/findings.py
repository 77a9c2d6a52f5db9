"""Prints what a PANMonitor found, in the terminal."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

from pytorch_lightning import Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from rich.console import Console
from rich.table import Table

from pan_callbacks.callbacks._findings import find_monitor

_COLUMNS = ("epoch", "step", "count", "fraction", "nascent", "inherited", "born", "gone", "border_bias")
_FILE_WIDTH = 120


def print_findings(trainer: Trainer) -> None:
    """Prints the PANs, their count epoch by epoch, and the line that opens TensorBoard.

    Args:
        trainer: A Trainer that has run. Without a :class:`~pan_callbacks.PANMonitor` among its callbacks, or before the
            monitor has looked at anything, there is nothing to print.
    """
    monitor = find_monitor(trainer)
    if monitor is None or monitor.report is None or not trainer.is_global_zero:
        return
    console = Console()
    if not console.is_terminal:  # a file has no width; layer names are long
        console = Console(width=_FILE_WIDTH)
    console.print(monitor.report.table())
    console.print(history_table(monitor.history))
    print(monitor.report.summary())
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            print(f"\nSee them emerge:  {tensorboard_command(logger.log_dir)}")


def history_table(history: list[dict]) -> Table:
    """The count of PANs epoch by epoch.

    Args:
        history: ``PANMonitor.history``; epoch -1 is the model before its first step.
    """
    table = Table(title="PANs epoch by epoch", show_edge=False, pad_edge=False)
    for column in _COLUMNS:
        table.add_column(column.replace("_", " "), justify="right")
    for entry in history:
        table.add_row(*(_cell(column, entry.get(column)) for column in _COLUMNS))
    return table


def _cell(column: str, value: float | None) -> str:
    if value is None:
        return ""
    if math.isnan(value):
        return "n/a"
    if column == "epoch":
        return "before" if value < 0 else str(value)
    if column == "fraction":
        return f"{value:.1%}"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def tensorboard_command(log_dir: str) -> str:
    """The command that opens a run in TensorBoard, with paths as short as they can be from here.

    Args:
        log_dir: Folder of the event files.
    """
    program = Path(sys.executable).with_name("tensorboard")
    return f"{_shortest(program)} --logdir {_shortest(Path(log_dir))}"


def _shortest(path: Path) -> str:
    relative = os.path.relpath(path)
    return str(path.absolute()) if relative.startswith(os.pardir) else relative
