"""Trains a module without a word; the network that comes out has its masks built in."""

from __future__ import annotations

from collections.abc import Sequence

import pytorch_lightning as pl
from torch import nn
from torch.utils.data import DataLoader, Dataset

from pan_callbacks import PANMask, PANMonitor

#: Arguments of a Trainer that trains and says nothing.
QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}


def fit(
    module: pl.LightningModule,
    train: Dataset,
    val: Dataset,
    epochs: int,
    callbacks: Sequence[pl.Callback] = (),
    batch: int = 64,
) -> nn.Module:
    """Trains a module, and puts it into evaluation mode; there is validation where a mask asks a monitor, only.

    Args:
        module: What is trained, in place.
        train: Training images.
        val: What the monitor looks at after every epoch.
        epochs: Epochs of training.
        callbacks: Callbacks, without a monitor.
        batch: Images in a batch.

    Returns:
        The module; where there is a mask, a copy that has it built in.
    """
    masks = [callback for callback in callbacks if isinstance(callback, PANMask)]
    monitors = [PANMonitor(figures=False) for mask in masks if mask.which == "pans"]
    trainer = pl.Trainer(
        max_epochs=epochs, **QUIET, limit_val_batches=1.0 if monitors else 0, callbacks=[*callbacks, *monitors]
    )
    trainer.fit(module, DataLoader(train, batch, shuffle=True, drop_last=True), DataLoader(val, batch))
    return (masks[0].permanent(module) if masks else module).eval()
