"""Models that reach themselves, swap their weights or run in ways of their own: measured, or with a word."""

from __future__ import annotations

import math

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.data import DataLoader

from pan_callbacks import PANMask, PANMonitor, scan
from tests.support import planted
from tests.support.lightning_models import trainer

IMAGES = planted.stationary(48, 32)
TRUTH = len(planted.chain(3).truth)
backbone: nn.Module  # a variable of this file, by the name of an attribute


class Lit(pl.LightningModule):
    """Trains a head on what a planted network gives, and so leaves the network as it is."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.head, self.answers = net.requires_grad_(False), nn.Linear(1, 1), []

    def mean(self, x):
        return self.net(x).float().flatten(1).mean(1, keepdim=True)

    def training_step(self, batch, batch_idx):
        return self.head(self.mean(batch)).square().mean()

    def validation_step(self, batch, batch_idx):
        self.answers.append(float(self.mean(batch).mean()))

    def configure_optimizers(self):
        return torch.optim.SGD(self.head.parameters(), 1e-3)


def fitted(tmp_path, module: Lit, *callbacks: pl.Callback) -> Lit:
    torch.manual_seed(0)
    data = DataLoader(IMAGES, 16)
    trainer(tmp_path, list(callbacks), epochs=1).fit(module, data, data)
    return module


def monitored(tmp_path, module: Lit) -> PANMonitor:
    monitor = PANMonitor(figures=False)
    fitted(tmp_path, module, monitor)
    return monitor


class NamesAGlobal(nn.Module):
    def __init__(self, body):
        super().__init__()
        self.backbone = body

    def forward(self, x):
        return self.backbone(x)


def by_a_global() -> nn.Module:
    globals()["backbone"] = planted.chain(3).model
    return NamesAGlobal(globals()["backbone"])


def by_a_registry() -> nn.Module:
    class Registered(NamesAGlobal):
        made = []

        def __init__(self, body):
            super().__init__(body)
            self.made.append(self)

    return Registered(planted.chain(3).model)


def by_a_closure() -> nn.Module:
    body = planted.chain(3).model

    class Closed(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = body

        def forward(self, x):
            return body(x)

    return Closed()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", [by_a_global, by_a_registry])
def test_a_model_that_its_own_code_reaches_is_measured(tmp_path, make):
    assert monitored(tmp_path, Lit(make())).report.count == TRUTH


@pytest.mark.filterwarnings("ignore")
def test_a_model_that_a_closure_runs_beside_its_copy_has_no_false_count(tmp_path):
    plain = fitted(tmp_path, Lit(by_a_closure()))
    module = Lit(by_a_closure())
    monitor = monitored(tmp_path, module)
    assert module.answers == plain.answers
    count = monitor.history[-1]["count"] if monitor.history else math.nan
    assert math.isnan(count) or count == TRUTH


class SwapsWeights(Lit):
    """Validates the weights, and then others in their place."""

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        with torch.no_grad():
            self.net.first.bias.data.add_(9.0)
            super().validation_step(batch, batch_idx)
            self.net.first.bias.data.sub_(9.0)


@pytest.mark.filterwarnings("ignore")
def test_weights_that_are_swapped_within_a_step_are_not_mixed_with_the_others(tmp_path):
    monitor = monitored(tmp_path, SwapsWeights(planted.chain(3).model))
    assert monitor.report.count == TRUTH
    assert any("was called with other weights, too" in note for note in monitor.report.notes)


class KeepsKernels(Lit):
    def validation_step(self, batch, batch_idx):
        with parametrize.cached():
            super().validation_step(batch, batch_idx)

    def configure_optimizers(self):
        return torch.optim.SGD(self.requires_grad_().parameters(), 1.0)


@pytest.mark.filterwarnings("ignore")
def test_kernels_that_torch_keeps_are_not_those_of_a_copy(tmp_path):
    def module():
        torch.manual_seed(1)
        return KeepsKernels(weight_norm(nn.Conv2d(4, 4, 3, padding=1)))

    plain, watched = module(), module()
    assert fitted(tmp_path, plain).answers == fitted(tmp_path, watched, PANMonitor(figures=False)).answers


@torch.compile(backend="eager")
def branch(x, weight):
    return F.conv2d(x, weight, padding=1)


class CallsCompiled(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.weight = planted.chain(3).model, nn.Parameter(torch.ones(4, 4, 3, 3))

    def forward(self, x):
        return self.body(x) + branch(x, self.weight).mean()


@pytest.mark.filterwarnings("ignore")
def test_a_compiled_function_in_a_forward_is_no_hindrance(tmp_path):
    assert scan(CallsCompiled(), [IMAGES], progress=False).count == TRUTH
    assert monitored(tmp_path, Lit(CallsCompiled())).report.count == TRUTH
    torch._dynamo.reset()


class ChannelsLast(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = planted.chain(3).model

    def forward(self, x):
        return self.body(x.permute(0, 3, 1, 2))


def test_images_with_their_channels_last_are_not_cut_through_their_channels():
    report = scan(ChannelsLast(), [IMAGES.permute(0, 2, 3, 1)], progress=False)
    assert {line.reference for line in report.measured.values()} == {"centre"}
    assert {line.reason for line in report.measured.values()} == {"the images have their channels last"}


class WithSound(nn.Module):
    """Has a convolution of another kind, which is registered first."""

    def __init__(self):
        super().__init__()
        self.sound, self.body = nn.Conv1d(1, 4, 3, padding=1), planted.chain(3).model

    def forward(self, x):
        return self.body(x) + self.sound(torch.ones(len(x), 1, 50)).mean()


def test_images_have_the_axes_that_most_convolutions_take():
    report = scan(WithSound(), [IMAGES], progress=False)
    assert report.count == TRUTH and "1-D convolution" in report.layers["sound"].skipped


class MadeOfBatches(Lit):
    """Draws its batches itself, so that nobody knows their size."""

    def training_step(self, dataloader_iter):
        batch, _, _ = next(dataloader_iter)
        return self.head(self.mean(batch)).square().mean()


@pytest.mark.filterwarnings("ignore")
def test_a_mask_is_logged_where_nobody_knows_the_size_of_a_batch(tmp_path):
    monitor, mask = PANMonitor(figures=False), PANMask()
    data = DataLoader(IMAGES, 16)
    run = trainer(tmp_path, [monitor, mask], epochs=2)
    run.fit(MadeOfBatches(planted.chain(3).model), data, data)
    assert run.callback_metrics["pan_mask/channels"] == TRUTH
