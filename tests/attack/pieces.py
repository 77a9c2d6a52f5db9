"""What the cases are made of: images, loaders, small networks and a LightningModule around any network."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from tests.attack.case import Setup

SIZE, CLASSES, WIDTH = 16, 3, 4


def pictures(count: int = 8, size: int | tuple[int, int] = SIZE, channels: int = 3, seed: int = 0) -> Tensor:
    """Noise around one: (count, channels, height, width)."""
    height, width = (size, size) if isinstance(size, int) else size
    generator = torch.Generator().manual_seed(seed)
    return 1 + torch.randn(count, channels, height, width, generator=generator)


def data(count: int = 8, size: int | tuple[int, int] = SIZE, channels: int = 3, seed: int = 0) -> TensorDataset:
    """Images with labels."""
    return TensorDataset(pictures(count, size, channels, seed), torch.arange(count) % CLASSES)


def loader(dataset: Dataset | None = None, batch: int = 4, **kwargs: Any) -> DataLoader:
    return DataLoader(dataset if dataset is not None else data(), batch_size=batch, **kwargs)


def convs(inputs: int = 3, width: int = WIDTH) -> nn.Sequential:
    """Two padded convolutions with a batch normalisation."""
    return nn.Sequential(
        nn.Conv2d(inputs, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1),
        nn.ReLU(),
    )


class Head(nn.Sequential):
    """Logits from a map."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, CLASSES))


class Net(nn.Module):
    """A small classifier that cases derive from; its padded layers lie in no smaller module than itself."""

    def __init__(self, inputs: int = 3) -> None:
        super().__init__()
        self.stem, self.body, self.head = nn.Conv2d(inputs, 3, 3, padding=1), convs(), Head()

    def features(self, x: Tensor) -> Tensor:
        return self.body(self.stem(x))

    def forward(self, x: Tensor) -> Any:
        return self.head(self.features(x))


class Module(pl.LightningModule):
    """Trains a classifier on pairs of images and labels, with momentum so that optimizers have a state."""

    def __init__(self, net: nn.Module | None = None) -> None:
        super().__init__()
        self.net = net if net is not None else Net()
        self.seen: list[float] = []

    def forward(self, x: Tensor) -> Any:
        return self.net(x)

    def logits(self, batch: Any) -> Tensor:
        return self.net(batch[0])

    def labels(self, batch: Any) -> Tensor:
        return batch[1]

    def loss(self, batch: Any) -> Tensor:
        return F.cross_entropy(self.logits(batch).float(), self.labels(batch))

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        loss = self.loss(batch)
        self.log("val_loss", loss, batch_size=len(self.labels(batch)))
        self.seen.append(float(loss))
        return loss

    test_step = validation_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


def setup(net: nn.Module | None = None, **kwargs: Any) -> Setup:
    """A run of a network on ordinary loaders; what differs is given."""
    module = kwargs.pop("module", None) or Module(net)
    given = {"train": loader(data(12, seed=1), shuffle=True), "val": loader()} | kwargs
    return Setup(module, **given)
