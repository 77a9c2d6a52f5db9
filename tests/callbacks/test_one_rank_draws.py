"""Of several processes that train together the first alone draws and writes; all of them know what was found."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.strategies import DDPStrategy

from pan_callbacks import PANMonitor
from pan_callbacks.callbacks._showing import Show
from tests.support.lightning_models import SmallModule, loaders, trainer
from tests.support.processes import results_of_two


def train(rank: int, folder: str) -> dict:
    """What one of two processes does, each with a folder of its own to write to."""
    drawn: list[list[str]] = []
    draw = Show._pictures

    def noted(*args):
        figures = draw(*args)
        drawn.append(sorted(figures))
        return figures

    Show._pictures = noted
    torch.manual_seed(0)
    monitor, own = PANMonitor(), Path(folder) / f"rank{rank}"
    strategy = DDPStrategy(process_group_backend="gloo")
    run = trainer(own, [monitor], epochs=1, strategy=strategy, devices=2, logger=TensorBoardLogger(own))
    run.fit(SmallModule(), *loaders())
    files = sorted(file.name.split(".")[0] for file in own.rglob("*") if file.is_file())
    count = float(run.callback_metrics["pan/count"])
    return {"drawn": drawn, "files": files, "history": monitor.history, "logged": count}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict]:
    """Results of two processes."""
    return results_of_two(train, tmp_path_factory.mktemp("ranks"))


def test_the_first_rank_alone_draws(ranks):
    first, second = ranks
    # the start, an epoch, and at the end nothing that was not shown
    shown = [[tag for tag in tags if not tag.startswith("PANs/strongest")] for tags in first["drawn"]]
    assert shown == [["PANs/count", "pan/layer_sides"], ["PANs/count", "pan/layer_sides", "pan/timeline"], []]
    assert second["drawn"] == []


def test_the_first_rank_alone_writes(ranks):
    first, second = ranks
    assert "events" in first["files"]
    assert second["files"] == []


def test_all_ranks_know_what_was_found(ranks):
    first, second = ranks
    assert first["history"] == second["history"] and len(first["history"]) == 2
    assert first["logged"] == second["logged"] == first["history"][-1]["count"]
