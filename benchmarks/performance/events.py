"""Row 8: what TensorBoard's file takes of ResNet-50 monitored for many epochs, and what each epoch costs."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import timm
import torch
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from pytorch_lightning.loggers import TensorBoardLogger
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.performance.subjects import noise
from benchmarks.performance.timing import spread
from benchmarks.performance.training import quiet
from benchmarks.performance.words import number
from pan_callbacks import PANMonitor

SIZE, IMAGES, BATCH = 64, 32, 16


class Drifting(LightningModule):
    """ResNet-50 whose weights move a little at random in place of a training, so that PANs come and go."""

    def __init__(self) -> None:
        super().__init__()
        self.model = timm.create_model("resnet50", pretrained=False)
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        with torch.no_grad():
            for weight in self.model.parameters():
                if weight.ndim == 4:
                    weight.add_(torch.randn_like(weight), alpha=0.05 * float(weight.std()))

    def validation_step(self, batch, batch_idx):
        self.model(batch[0])

    def configure_optimizers(self):
        return None


class Clock(Callback):
    """Seconds of CPU of every epoch."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.times.append(time.process_time())

    on_fit_end = on_train_epoch_start

    @property
    def epochs(self) -> list[float]:
        """The last one includes the end of the training."""
        return [after - before for before, after in zip(self.times, self.times[1:], strict=False)]


def run(callbacks: list[Callback], epochs: int) -> tuple[int, list[float]]:
    """Bytes that a run leaves in its folder, and seconds of its epochs."""
    seed_everything(0, verbose=False)
    clock, data = Clock(), DataLoader(TensorDataset(noise(IMAGES, SIZE)), BATCH)
    with tempfile.TemporaryDirectory() as folder:
        Trainer(
            max_epochs=epochs,
            limit_train_batches=1,
            callbacks=[clock, *callbacks],
            logger=TensorBoardLogger(folder),
            accelerator="cpu",
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        ).fit(Drifting(), data, data)
        return sum(file.stat().st_size for file in Path(folder).rglob("events*")), clock.epochs


def measure(quick: bool) -> dict:
    """A run with the monitor, and one without."""
    quiet()
    epochs, monitor = 3 if quick else 20, PANMonitor()
    size, seconds = run([monitor], epochs)
    without, plain = run([], epochs)
    history = monitor.history
    return {
        "epochs": epochs,
        "megabytes": (size - without) / 1e6 / epochs,
        "without": without / 1e6 / epochs,
        "seconds": seconds,
        "plain": spread(plain),
        "counts": [entry["count"] for entry in history],
        "moved": sum(entry["born"] + entry["gone"] for entry in history[1:]),
    }


def section(found: dict) -> list[str]:
    """What the page says."""
    return [
        f"ResNet-50 at {SIZE} px, {IMAGES} images, {found['epochs']} epochs in which its weights move at random in "
        f"place of a training ({min(found['counts']):.0f} to {max(found['counts']):.0f} PANs, {found['moved']:.0f} "
        f"born or gone): {number(found['megabytes'])} MB an epoch (10⁶ bytes), {number(found['without'])} MB without "
        f"the monitor. An epoch takes {number(spread(found['seconds'])['median'])} s with it and "
        f"{number(found['plain']['median'])} s without.",
    ]
