"""Networks of the study, and how they are trained."""

from __future__ import annotations

import pytorch_lightning as pl
from torch import nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.suppression import ARMS, QUIET, Arm, Classifier, callbacks_of
from examples.model import TimmClassifier
from pan_callbacks import PANMask, PANMonitor
from pan_callbacks.layers import convolutions

#: What is done in training: padding mode, and what against PANs.
TRAININGS = {
    "zero": ("zeros", ARMS["none"]),
    "penalty": ("zeros", ARMS["penalty"]),
    "effect penalty": ("zeros", ARMS["effect"]),
    "effect penalty ×10": ("zeros", Arm(penalty={"kind": "effect", "weight": 1.0})),
    "mask": ("zeros", ARMS["mask"]),
    "reflect": ("reflect", ARMS["none"]),
    "circular": ("circular", ARMS["none"]),
}

#: Small members of four families of timm: arguments of the model, epochs.
FAMILIES = {
    "resnet10t": ({"channels": [16, 32, 64, 128], "stem_width": 8}, 5),
    "regnetx_002": ({}, 5),
    "densenet121": ({"growth_rate": 8, "block_config": (2, 2, 2, 2)}, 5),
    "test_efficientnet": ({}, 7),
}


def family(name: str) -> TimmClassifier:
    """A model of timm for digits."""
    return TimmClassifier(name, 10, lr=4e-3, model_args=FAMILIES[name][0])


def red_green_net(classes: int) -> nn.Module:
    """Four convolutions of 3×3 with batch norm, 128 neurons, global average pooling; each sees 19 px of the image."""
    layers: list[nn.Module] = []
    for inputs, stride in ((3, 2), (32, 1), (32, 2), (32, 1)):
        layers += [nn.Conv2d(inputs, 32, 3, stride, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, classes))


def set_padding(net: nn.Module, mode: str) -> nn.Module:
    """Makes every convolution of a network pad as ``padding_mode`` says; the weights stay."""
    for conv in convolutions(net).values():
        conv.padding_mode = mode  # the amounts that F.pad needs are there in every mode
    return net


def trained(
    net: nn.Module, classes: dict[str, int], train: Dataset, val: Dataset, how: str, epochs: int, lr: float
) -> nn.Module:
    """Trains a network in one of TRAININGS; where that masks PANs, the masks are built in."""
    mode, arm = TRAININGS[how]
    module = Classifier(set_padding(net, mode), classes, lr)
    return fit(module, train, val, epochs, callbacks_of(arm))


def fit(module: pl.LightningModule, train: Dataset, val: Dataset, epochs: int, callbacks=()) -> nn.Module:
    """Trains a module, and puts it into evaluation mode."""
    masks = [callback for callback in callbacks if isinstance(callback, PANMask)]
    trainer = pl.Trainer(
        max_epochs=epochs,
        **QUIET,
        limit_val_batches=1.0 if masks else 0,
        callbacks=[*callbacks, *([PANMonitor(figures=False)] if masks else [])],
    )
    trainer.fit(module, DataLoader(train, 64, shuffle=True, drop_last=True), DataLoader(val, 64))
    return (masks[0].permanent(module) if masks else module).eval()
