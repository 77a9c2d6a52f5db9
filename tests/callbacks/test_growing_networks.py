"""PANMask and PANPenalty on a network that grows layers while it is trained."""

from __future__ import annotations

import itertools
import warnings

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import nn

from pan_callbacks import PANMask, PANMonitor, PANPenalty, scan
from pan_callbacks.measurement.hooks import replaced_channels
from tests.support.lightning_models import SmallModule, dataset, loaders, trainer
from tests.support.sampling import sampled

HOOKS = ["on_train_batch_start", "on_train_epoch_end", "on_validation_epoch_end"]
#: Arguments of the mask, and whether it takes PANs that are found after the network grew.
OPTIONS = [
    ({}, True),
    ({"mode": "mean", "start_epoch": 1}, True),
    ({"start_epoch": 3}, True),
    ({"refresh": "once", "start_epoch": 3}, True),
    ({"refresh": "once"}, False),
    ({"refresh": "once", "mode": "zero"}, False),
    ({"report": True}, False),
]
#: Every third has each option once, and each hook with several.
GROWN = [
    (HOOKS[(number + turn) % 3], options, later) for number, (options, later) in enumerate(OPTIONS) for turn in range(3)
]


class Growing(SmallModule):
    """Two padded convolutions, and a third from the second epoch on."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1))
        self.last = nn.Linear(4, 3)
        self.masked = {}

    def logits(self, x):
        for name, layer in self.net.named_children():
            channels = replaced_channels(layer)
            self.masked[name] = None if channels is None else channels.tolist()
        return self.last(self.net(x).mean((2, 3)))

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.logits(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", F.cross_entropy(self.logits(batch[0]), batch[1]))

    def grow(self):
        if self.current_epoch == 1 and len(self.net) == 3:
            torch.manual_seed(7)
            self.net.append(nn.ReLU())
            self.net.append(nn.Conv2d(4, 4, 3, padding=1))
            self.trainer.optimizers[0].add_param_group({"params": list(self.net[4].parameters())})


def built(hook):
    pl.seed_everything(3, verbose=False)
    return type("Grown", (Growing,), {hook: lambda self, *args: self.grow()})()


def fit(tmp_path, module, callbacks):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = trainer(tmp_path, callbacks, 5, num_sanity_val_steps=0)
        run.fit(module, *loaders())
    return run


@pytest.mark.filterwarnings("ignore:mode=")
@pytest.mark.parametrize("hook, options, later", sampled(GROWN, GROWN[::3]), ids=str)
def test_a_layer_that_is_added_is_masked_once_pans_are_found_in_it_or_left_alone(tmp_path, hook, options, later):
    module, monitor = built(hook), PANMonitor(threshold=0.1)
    if "report" in options:
        options = {"report": scan(module, [dataset(16).tensors[0]], threshold=0.1, progress=False)}
    mask = PANMask(**options)
    run = fit(tmp_path, module, [monitor, mask])
    assert "net.4" in monitor.report.layers
    assert ("net.4" in mask.channels) is later
    applied = {f"net.{name}": channels for name, channels in module.masked.items() if channels is not None}
    assert applied == mask.channels
    run.validate(module, loaders()[1], verbose=False)
    assert {f"net.{name}": channels for name, channels in module.masked.items() if channels is not None} == applied


@pytest.mark.parametrize(
    "hook, only_pans", sampled(itertools.product(HOOKS, [False, True]), [(hook, hook != HOOKS[0]) for hook in HOOKS])
)
def test_a_layer_that_is_added_is_penalised(tmp_path, hook, only_pans):
    seen = []

    class Spy(PANPenalty):
        def _added(self, pl_module, loss, take):
            seen.append({name for name in self._penalty.layers if self._penalty.holds(name)})
            return super()._added(pl_module, loss, take)

    callbacks = [PANMonitor(threshold=0.1), Spy(every_n_steps=1, only_pans=only_pans)]
    fit(tmp_path, built(hook), callbacks)
    assert seen[-1] == {"net.0", "net.2", "net.4"}
