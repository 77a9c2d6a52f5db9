"""An ordinary image classifier: any model of timm in a LightningModule."""

from __future__ import annotations

import itertools
from typing import Any

import timm
import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

_STEM_CONVOLUTIONS = 3  # timm's deepest stems have three before their pool


def remove_stem_stride(net: nn.Module) -> nn.Module:
    """Makes a timm model fit for small images: its stem no longer shrinks them.

    Models for 224 pixels divide the image by four before the first block sees it, which leaves nothing of a digit. The
    convolution that reads the image gets stride 1, and the max-pool after it, if there is one, is left out; the weights
    are not touched. A model that takes its first step at full size already stays as it is.

    Args:
        net: A convolutional model of ``timm.create_model``; it is changed in place.

    Returns:
        The same model.

    Raises:
        ValueError: If the first convolution cuts the image into patches, whose stride cannot be taken away.

    Example:
        >>> net = remove_stem_stride(timm.create_model("resnet18", in_chans=1))
        >>> net.forward_features(torch.zeros(1, 1, 32, 32)).shape
        torch.Size([1, 512, 4, 4])
    """
    convolutions = [module for module in net.modules() if isinstance(module, nn.Conv2d)]
    channels = convolutions[0].in_channels
    # several where the stem has parallel branches
    readers = list(itertools.takewhile(lambda convolution: convolution.in_channels == channels, convolutions))
    if all(max(convolution.stride) == 1 for convolution in readers):
        return net
    for convolution in readers:
        if convolution.kernel_size == convolution.stride != (1, 1):
            raise ValueError(
                f"the stem of {type(net).__name__} cuts the image into patches of {convolution.stride} pixels, so its "
                "stride cannot be removed; choose another model, or set small_images to false"
            )
        convolution.stride = (1, 1)
    seen = 0
    for name, module in net.named_modules():
        seen += isinstance(module, nn.Conv2d)
        if isinstance(module, nn.MaxPool2d) and seen <= _STEM_CONVOLUTIONS:
            net.set_submodule(name, nn.Identity())
            break
    return net


class TimmClassifier(LightningModule):
    """Trains a model of timm with cross-entropy and AdamW under a one-cycle schedule.

    Args:
        model_name: A name from ``timm.list_models()``.
        num_classes: Number of classes; or, where an image has several labels, the number of classes of each by name.
            Targets are then (images, labels) in that order.
        in_chans: Channels of an image.
        lr: Largest learning rate of the schedule.
        weight_decay: Weight decay of AdamW.
        small_images: Whether the stem keeps the size of the image; see :func:`remove_stem_stride`.
        model_args: More arguments for ``timm.create_model``, for instance ``{"drop_rate": 0.1}``.
    """

    def __init__(
        self,
        model_name: str = "resnet10t",
        num_classes: int | dict[str, int] = 10,
        in_chans: int = 1,
        lr: float = 3e-3,
        weight_decay: float = 0.01,
        small_images: bool = True,
        model_args: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.labels = num_classes if isinstance(num_classes, dict) else {"": num_classes}
        self.lr = lr
        self.weight_decay = weight_decay
        total = sum(self.labels.values())
        self.net = timm.create_model(model_name, in_chans=in_chans, num_classes=total, **(model_args or {}))
        if small_images:
            remove_stem_stride(self.net)
        self.accuracies = nn.ModuleList(MulticlassAccuracy(n, average="micro") for n in self.labels.values())

    def forward(self, images: Tensor) -> Tensor:
        """Logits (images, classes of all labels side by side) of images (images, channels, height, width)."""
        return self.net(images)

    def _logits_and_targets(self, batch: tuple[Tensor, Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Logits (images, classes) and targets (images,) of each label."""
        images, targets = batch
        logits = self(images).split(list(self.labels.values()), dim=1)
        return list(zip(logits, targets.reshape(len(images), -1).unbind(1), strict=True))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Cross-entropy, summed over the labels."""
        loss = sum(F.cross_entropy(logits, target) for logits, target in self._logits_and_targets(batch))
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Logs the loss, the accuracy of each label where there are several, and their mean ``val/accuracy``."""
        pairs = self._logits_and_targets(batch)
        self.log("val/loss", sum(F.cross_entropy(*pair) for pair in pairs), prog_bar=True, batch_size=len(batch[0]))
        for accuracy, (logits, target) in zip(self.accuracies, pairs, strict=True):
            accuracy.update(logits, target)

    def on_validation_epoch_end(self) -> None:
        """Computes the accuracies of the epoch."""
        values = torch.stack([accuracy.compute() for accuracy in self.accuracies])
        self.log("val/accuracy", values.mean(), prog_bar=True)
        for name, value in zip(self.labels, values, strict=True):
            if name:
                self.log(f"val/accuracy_{name}", value)
        for accuracy in self.accuracies:
            accuracy.reset()

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW; the learning rate rises and falls once over the whole training."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr, weight_decay=self.weight_decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.lr, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
