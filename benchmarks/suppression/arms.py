"""What is done against PANs, and the classifier that it is done to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn

from benchmarks.suppression.networks import set_padding
from examples.model import TimmClassifier
from pan_callbacks import PaddingDropout, PANMask, PANPenalty


@dataclass(frozen=True)
class Arm:
    """What is done against PANs.

    Args:
        penalty: Arguments of PANPenalty, None for no penalty.
        mask: Arguments of PANMask, None for no mask.
        dropout: Arguments of PaddingDropout, None for no dropout.
        padding: Padding mode of every convolution.
    """

    penalty: dict[str, Any] | None = None
    mask: dict[str, Any] | None = None
    dropout: dict[str, Any] | None = None
    padding: str = "zeros"

    def callbacks(self) -> list[pl.Callback]:
        """New callbacks, without a monitor."""
        kinds = ((PANPenalty, self.penalty), (PANMask, self.mask), (PaddingDropout, self.dropout))
        return [kind(**arguments) for kind, arguments in kinds if arguments is not None]

    def prepared(self, net: nn.Module) -> nn.Module:
        """Changes a network before training."""
        return set_padding(net, self.padding)


ARMS = {
    "none": Arm(),
    "penalty": Arm(penalty={}),
    "mask": Arm(mask={}),
    "mask all": Arm(mask={"which": "all"}),
    "mask all, means": Arm(mask={"which": "all", "mode": "neutral-mean"}),
    "dropout": Arm(dropout={}),
    "penalty+mask": Arm(penalty={}, mask={}),
    "penalty+dropout": Arm(penalty={}, dropout={}),
    "circular": Arm(padding="circular"),
}


class Classifier(TimmClassifier):
    """The examples' classifier around any network.

    Args:
        net: The network.
        classes: Number of classes by label.
        lr: Largest learning rate of the one-cycle schedule.
        optimizer: ``"adamw"``, or ``"sgd"``: momentum 0.9 throughout, weight decay 1e-4.
    """

    def __init__(self, net: nn.Module, classes: dict[str, int], lr: float, optimizer: str = "adamw") -> None:
        super().__init__("resnet10t", classes, 1, lr, small_images=False, model_args={"channels": [8] * 4})
        self.net, self.optimizer = net, optimizer

    def configure_optimizers(self) -> dict[str, Any]:
        if self.optimizer == "adamw":
            return super().configure_optimizers()
        sgd = torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9, weight_decay=1e-4)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(sgd, self.lr, steps, cycle_momentum=False)
        return {"optimizer": sgd, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
