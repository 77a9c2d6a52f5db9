"""What the monitor logs of reliance is what the plain function finds in the network that validation calls."""

from __future__ import annotations

import math

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from pan_callbacks import PANMonitor, reliance

IMAGES = torch.rand(32, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class Network(nn.Module):
    """Convolutions in one part, and a head beside it, as VGG has it."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1))
        self.head = nn.Linear(6, classes)

    def forward(self, x):
        return self.head(self.features(x).mean((2, 3)))


class Module(pl.LightningModule):
    def __init__(self, way: str, classes: int = 4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net, self.way = Network(classes), way

    def forward(self, x):
        return self.net(x)

    def answer(self, x):
        if self.way == "forward":
            return self(x)
        return self.net(x) if self.way == "net" else self.net.head(self.net.features(x).mean((2, 3)))

    def training_step(self, batch, batch_idx):
        answer = self.answer(batch[0])
        return F.cross_entropy(answer, batch[1]) if answer.shape[1] > 1 else answer.square().mean()

    def validation_step(self, batch, batch_idx):
        self.answer(batch[0])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def fitted(module: Module, epochs: int = 1, **options) -> tuple[PANMonitor, pl.Trainer]:
    monitor = PANMonitor(figures=False, **options)
    switches = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    trainer = pl.Trainer(max_epochs=epochs, callbacks=[monitor], accelerator="cpu", **dict.fromkeys(switches, False))
    loader = DataLoader(TensorDataset(IMAGES, torch.arange(32) % 4), 8)
    trainer.fit(module, loader, loader)
    return monitor, trainer


@pytest.mark.parametrize("way, options", [("forward", {}), ("net", {}), ("net", {"batches": [IMAGES]})])
def test_the_answers_are_those_of_the_network_and_not_of_the_part_with_the_convolutions(way, options):
    module = Module(way)
    before = reliance(module.net, [IMAGES], progress=False)
    monitor, trainer = fitted(module, **options)
    after = reliance(module.net, [IMAGES], progress=False)
    assert [entry["reliance"] for entry in monitor.history] == pytest.approx([before.value, after.value], rel=1e-5)
    assert {entry["distance"] for entry in monitor.history} == {"total variation"}
    assert monitor.report.reliance.images == 32 and 0 < after.value != before.value
    assert float(trainer.callback_metrics["padding/reliance"]) == pytest.approx(after.value, rel=1e-5)
    assert float(trainer.callback_metrics["padding/flips"]) == after.flips


def test_a_part_that_is_called_by_itself_gives_features_and_the_report_says_so():
    monitor, trainer = fitted(Module("parts"))
    assert monitor.report.reliance.distance == "relative change" and monitor.report.reliance.flips is None
    assert any("reliance is that of what net.features gives" in note for note in monitor.report.notes)
    assert "padding/flips" not in trainer.callback_metrics


def test_the_key_is_there_in_epochs_that_are_not_due():
    monitor, trainer = fitted(Module("net"), epochs=3, every_n_epochs=2)
    assert [entry["epoch"] for entry in monitor.history] == [-1, 1]
    assert float(trainer.callback_metrics["padding/reliance"]) == pytest.approx(monitor.history[-1]["reliance"])


def test_answers_that_cannot_be_compared_are_nan_and_end_nothing():
    class Broken(Network):
        def forward(self, x):
            return super().forward(x) + (0 if self.training else math.nan)

    module = Module("net")
    module.net = Broken(1)
    monitor, trainer = fitted(module)
    assert monitor.report.reliance is None and any("NaN" in note for note in monitor.report.notes)
    assert math.isnan(float(trainer.callback_metrics["padding/reliance"])) and trainer.current_epoch == 1
    assert float(trainer.callback_metrics["pan/count"]) == monitor.report.count
