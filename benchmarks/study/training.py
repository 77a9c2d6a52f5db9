"""Networks of the study, and how they are trained."""

from __future__ import annotations

from torch import nn
from torch.utils.data import Dataset

from benchmarks.suppression.arms import ARMS, Classifier
from benchmarks.suppression.networks import set_padding
from benchmarks.suppression.training import fit
from examples.model import TimmClassifier

#: What is done in training: padding mode, and what against PANs.
TRAININGS = {
    "zero": ("zeros", ARMS["none"]),
    "penalty": ("zeros", ARMS["penalty"]),
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


def trained(
    net: nn.Module, classes: dict[str, int], train: Dataset, val: Dataset, how: str, epochs: int, lr: float
) -> nn.Module:
    """Trains a network in one of TRAININGS; where that masks PANs, the masks are built in."""
    mode, arm = TRAININGS[how]
    module = Classifier(set_padding(net, mode), classes, lr)
    return fit(module, train, val, epochs, arm.callbacks())
