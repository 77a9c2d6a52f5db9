"""A small LightningModule and data for the tests of callbacks."""

from __future__ import annotations

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class SmallModule(pl.LightningModule):
    """Dropout, batch norm and a head of fixed size: what a careless callback would disturb."""

    def __init__(self, padding_mode: str = "zeros", width: int = 6) -> None:
        super().__init__()
        conv = {"padding": 1, "padding_mode": padding_mode}
        self.net = nn.Sequential(
            nn.Conv2d(1, width, 3, **conv),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, stride=2, **conv),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Conv2d(width, width, 3, **conv),
            nn.Flatten(),
            nn.Linear(width * 8 * 8, 3),
        )
        self.seen: list[float] = []

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        loss = F.cross_entropy(self.net(batch[0]), batch[1])
        self.log("val_loss", loss, add_dataloader_idx=False)
        if not self.trainer.sanity_checking:
            self.seen.append(float(loss))

    test_step = validation_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def in_namespace(library) -> pl.LightningModule:
    """The same network in a module of ``pytorch_lightning`` or ``lightning.pytorch``."""

    class Ours(library.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = SmallModule().net

        training_step = SmallModule.training_step

        def validation_step(self, batch, batch_idx):
            self.net(batch[0])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.01)

    return Ours()


class RandomlyFlipped(TensorDataset):
    """Draws from the global random state for every item, as augmentations do."""

    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        return (image.flip(-1) if torch.rand(()) < 0.5 else image), label


def dataset(images: int, kind: type[TensorDataset] = TensorDataset) -> TensorDataset:
    generator = torch.Generator().manual_seed(images)
    return kind(1 + torch.randn(images, 1, 16, 16, generator=generator), torch.arange(images) % 3)


def loaders(kind: type[TensorDataset] = TensorDataset, **kwargs) -> tuple[DataLoader, DataLoader]:
    train = DataLoader(dataset(48, kind), batch_size=16, shuffle=True)
    return train, DataLoader(dataset(40, kind), batch_size=16, **kwargs)


def trainer(tmp_path, callbacks=(), epochs: int = 2, library=pl, **kwargs):
    options = {
        "default_root_dir": tmp_path,
        "max_epochs": epochs,
        "accelerator": "cpu",
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "logger": False,
        "enable_checkpointing": False,
        "callbacks": callbacks if not isinstance(callbacks, tuple) else list(callbacks),
    }
    return library.Trainer(**{**options, **kwargs})
