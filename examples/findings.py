"""Prints what a PANMonitor found, in the terminal."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from urllib.parse import quote

from pytorch_lightning import Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from rich.console import Console
from rich.table import Table

from pan_callbacks import PANMonitor
from pan_callbacks.callbacks._findings import find_monitor

_COLUMNS = ("epoch", "step", "count", "fraction", "nascent", "inherited", "born", "gone", "border_bias")
_FILE_WIDTH = 120
_WHY_NOT_THE_SUM = (
    "born and gone: over or under the threshold by more than their own standard error. Neurons near the threshold "
    "cross it without being either, so that these columns do not add up to the count."
)
#: TensorBoard's page of curves, of the PANs alone, and as they are: smoothing would show counts that there never were.
_PAGE = f"http://localhost:6006/?smoothing=0&tagFilter={quote('^(PANs|pan)/')}#timeseries"


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
    print(learned(monitor))
    print(monitor.report.summary())
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            print(f"\nSee them emerge:  {tensorboard_command(logger.save_dir)}\nand open          {_PAGE}")


def learned(monitor: PANMonitor) -> str:
    """How many PANs the network had before its first step, how many of these it still has, and how many it learned.

    Args:
        monitor: One that has probed the network before and after.
    """
    history, now = monitor.history, monitor.report.pans
    if not history or history[0]["epoch"] >= 0:
        return f"{len(now)} PANs; nobody looked before the first step."
    epochs = [monitor.births.get(pan.layer, {}).get(pan.channel) for pan in now]
    remain, unsure = sum(epoch == -1 for epoch in epochs), epochs.count(None)
    near = f"; {unsure} too close to the threshold to say" if unsure else ""
    return (
        f"{history[0]['count']} before training, of which {remain} remain; {len(now) - remain - unsure} learned{near}."
    )


def history_table(history: list[dict]) -> Table:
    """The count of PANs epoch by epoch.

    Args:
        history: ``PANMonitor.history``; epoch -1 is the model before its first step.
    """
    caption = _WHY_NOT_THE_SUM
    table = Table(title="PANs epoch by epoch", caption=caption, show_edge=False, pad_edge=False, caption_justify="left")
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
    """The command that opens runs in TensorBoard, with paths as short as they can be from here.

    Args:
        log_dir: Folder of the runs, so that each has a name, and a second one stands beside the first.
    """
    program = Path(sys.executable).with_name("tensorboard")
    return f"{_shortest(program)} --logdir {_shortest(Path(log_dir))}"


def _shortest(path: Path) -> str:
    relative = os.path.relpath(path)
    return str(path.absolute()) if relative.startswith(os.pardir) else relative
