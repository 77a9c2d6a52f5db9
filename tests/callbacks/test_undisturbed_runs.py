"""A run with the monitor is, bit for bit, the run without it, whatever model, data and steps do; and is measured."""

from __future__ import annotations

import copy
import itertools
import math
import warnings

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
import torchmetrics
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset, random_split

from pan_callbacks import PANMonitor, scan
from tests.support.lightning_models import SmallModule, dataset, loaders, trainer
from tests.support.sampling import sampled


class KeepsFeatures(SmallModule):
    """Keeps features on itself, by a hook and in the forward, and reads them in the step."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []
        self.net[3].register_forward_hook(self.keep)
        self.average = torchmetrics.MeanMetric()

    def keep(self, module, args, output) -> None:
        self.feature = output
        self.shapes.append(tuple(output.shape))

    def validation_step(self, batch, batch_idx):
        self.average.update(self.net(batch[0]).mean())
        assert self.feature.shape == (len(batch[0]), 6, 8, 8)
        self.log("feature", self.feature.mean())
        self.log("average", self.average)


class ActNorm(nn.Module):
    """Initialises itself from the first images that it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(1, 6, 1, 1))
        self.register_buffer("ready", torch.tensor(False))
        self.register_buffer("average", torch.zeros(6))

    def forward(self, x):
        if not self.ready:
            self.shift.data.copy_(-x.mean((0, 2, 3), keepdim=True))
            self.ready.fill_(True)
        self.average.lerp_(x.detach().mean((0, 2, 3)), 0.1)  # also in evaluation
        return x + self.shift - self.average.clone()[None, :, None, None]


class InitialisedFromData(SmallModule):
    def __init__(self) -> None:
        super().__init__()
        self.net[1] = ActNorm()


class Bytes(SmallModule):
    """Makes floats of bytes in its steps."""

    def training_step(self, batch, batch_idx):
        return super().training_step((batch[0].float() / 255, batch[1]), batch_idx)

    def validation_step(self, batch, batch_idx):
        return super().validation_step((batch[0].float() / 255, batch[1]), batch_idx)


class Lists(SmallModule):
    """Takes lists of images, as detectors do."""

    def training_step(self, batch, batch_idx):
        return super().training_step((torch.stack(batch[0]), batch[1]), batch_idx)

    def validation_step(self, batch, batch_idx):
        return super().validation_step((torch.stack(batch[0]), batch[1]), batch_idx)


class Video(SmallModule):
    """Takes (videos, channels, frames, height, width)."""

    def training_step(self, batch, batch_idx):
        return super().training_step((batch[0].mean(2), batch[1]), batch_idx)

    def validation_step(self, batch, batch_idx):
        return super().validation_step((batch[0].mean(2), batch[1]), batch_idx)


class OneByOne(SmallModule):
    """Calls its layers one by one in its steps; nothing that holds them all is ever called."""

    def network(self, x):
        for layer in self.net:
            x = layer(x)
        return x

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.network(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", F.cross_entropy(self.network(batch[0]), batch[1]))


class Lazy(SmallModule):
    """Has convolutions that get their weights with the first images."""

    def __init__(self) -> None:
        super().__init__()
        self.net[0], self.net[3] = nn.LazyConv2d(6, 3, padding=1), nn.LazyConv2d(6, 3, stride=2, padding=1)


class Counts(SmallModule):
    """Counts its forwards on its class, and scales by their number."""

    forwards = 0

    def validation_step(self, batch, batch_idx):
        return super().validation_step((self.counted(batch[0]), batch[1]), batch_idx)

    def counted(self, x):
        Counts.forwards += 1
        return x * (1 + 0.01 * Counts.forwards)


class Noise(nn.Module):
    def forward(self, weight):
        return weight + 0.01 * torch.randn_like(weight)


class Noisy(SmallModule):
    """Adds noise to a kernel whenever it is read."""

    def __init__(self) -> None:
        super().__init__()
        nn.utils.parametrize.register_parametrization(self.net[3], "weight", Noise())


def listed(items):
    return [image for image, _ in items], torch.stack([label for _, label in items])


def as_bytes(data):
    return TensorDataset((data.tensors[0] * 50).clamp(0, 255).to(torch.uint8), data.tensors[1])


def as_videos(data):
    return TensorDataset(data.tensors[0][:, :, None].repeat(1, 1, 2, 1, 1), data.tensors[1])


def data_for(kind):
    change = {Bytes: as_bytes, Video: as_videos}.get(kind, lambda data: data)
    collate = {"collate_fn": listed} if kind is Lists else {}
    return [DataLoader(change(loader.dataset), batch_size=16, **collate) for loader in loaders()]


def outcome(tmp_path, make, monitor=None, epochs=2, **kwargs):
    """Weights, buffers, metrics and random state after a training."""
    pl.seed_everything(3, verbose=False)
    Counts.forwards = 0
    module, data = make()
    run = trainer(tmp_path, [monitor] if monitor else [], epochs, **kwargs)
    run.fit(module, *data)
    metrics = {k: v for k, v in run.callback_metrics.items() if not k.startswith(("pan", "padding", "border_bias"))}
    return module, {**module.state_dict(), **metrics, "random": torch.get_rng_state()}


def assert_same(one, other):
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert torch.equal(value, other[key]), key


KINDS = [KeepsFeatures, InitialisedFromData, Bytes, Lists, Video, OneByOne, Counts]


@pytest.mark.parametrize(
    "kind, sanity", sampled(itertools.product(KINDS, [0, 2]), [(kind, 2 * (n % 2)) for n, kind in enumerate(KINDS)])
)
def test_training_is_bit_identical_and_measured_from_the_network_before_its_first_step_on(tmp_path, kind, sanity):
    def make():
        return kind(), data_for(kind)

    plain, before = outcome(tmp_path, make, num_sanity_val_steps=sanity)
    monitor = PANMonitor(figures=False)
    watched, after = outcome(tmp_path, make, monitor, num_sanity_val_steps=sanity)
    assert_same(before, after)
    assert getattr(plain, "shapes", None) == getattr(watched, "shapes", None)
    assert [entry["epoch"] for entry in monitor.history] == [-1, 0, 1]
    assert {(line.reference, line.images) for line in monitor.report.layers.values()} == {("crop", 40)}
    assert all(line.reason is None for line in monitor.report.layers.values())


def test_convolutions_that_get_their_weights_with_the_first_images_are_measured_after_that(tmp_path):
    def make():
        return Lazy(), loaders()

    _, before = outcome(tmp_path, make)
    monitor = PANMonitor(figures=False)
    _, after = outcome(tmp_path, make, monitor)
    assert_same(before, after)
    assert [entry["epoch"] for entry in monitor.history] == [-1, 0, 1]
    assert {(line.reference, line.images) for line in monitor.report.layers.values()} == {("crop", 40)}


@pytest.mark.parametrize("reference", ["crop", "centre"])
def test_a_kernel_that_draws_random_numbers_when_it_is_read_draws_none_for_us(tmp_path, reference):
    def make():
        return Noisy(), loaders()

    _, before = outcome(tmp_path, make)
    monitor = PANMonitor(figures=False, reference=reference)
    _, after = outcome(tmp_path, make, monitor)
    assert_same(before, after)
    assert "net.3" in monitor.report.measured


@pytest.mark.parametrize("kind", [pytest.param(KeepsFeatures, marks=pytest.mark.slow), Bytes, OneByOne])
def test_the_first_point_is_that_of_the_network_before_its_first_step(tmp_path, kind):
    monitor = PANMonitor(figures=False)
    outcome(tmp_path, lambda: (kind(), data_for(kind)), monitor, epochs=1)
    pl.seed_everything(3, verbose=False)
    module, (_, val) = kind(), data_for(kind)
    images = [batch[0].float() / 255 if kind is Bytes else batch[0] for batch in val]
    expected = scan(module.net, images, progress=False)
    assert monitor.history[0]["count"] == expected.count
    assert monitor.history[0]["border_bias"] == pytest.approx(expected.border_bias, rel=1e-5)


class Counting(Dataset):
    """Has random states and a counter of its own."""

    def __init__(self, images: int) -> None:
        self.data, self.reads = dataset(images), 0
        self.generator = torch.Generator().manual_seed(7)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index):
        self.reads += 1
        image, label = self.data[index]
        return image + torch.rand((), generator=self.generator) + self.reads / 1000, label


class OwnOrder(DataLoader):
    """Goes through its batches in an order of its own."""

    def __iter__(self):
        return iter(list(super().__iter__())[::-1])


def split(images):
    train, val = random_split(Counting(images), [48, images - 48], torch.Generator().manual_seed(0))
    return DataLoader(train, batch_size=16, shuffle=True), DataLoader(val, batch_size=16)


def shuffled(images):
    generator = torch.Generator().manual_seed(5)
    train, val = dataset(48), Counting(images - 48)
    return DataLoader(train, batch_size=16, shuffle=True, generator=generator), OwnOrder(val, 16, generator=generator)


@pytest.mark.parametrize("data", [split, shuffled])
def test_data_with_random_states_of_its_own_gives_the_same_batches(tmp_path, data):
    def make():
        return SmallModule(), data(88)

    _, before = outcome(tmp_path, make)
    monitor = PANMonitor(figures=False)
    _, after = outcome(tmp_path, make, monitor)
    assert_same(before, after)
    assert {line.images for line in monitor.report.layers.values()} == {40}


@pytest.mark.parametrize("workers", [0, 1])
def test_the_training_loader_may_be_what_is_probed(tmp_path, workers):
    loader = []

    def make():
        options = {"num_workers": workers, "persistent_workers": workers > 0}
        generator = torch.Generator().manual_seed(9)
        loader[:] = [DataLoader(Counting(48), batch_size=16, shuffle=True, generator=generator, **options)]
        if monitor is not None:
            monitor.batches = loader[0]
        return SmallModule(), (loader[0], loaders()[1])

    monitor = None
    _, before = outcome(tmp_path, make)
    monitor = PANMonitor(figures=False, batches=[])
    _, after = outcome(tmp_path, make, monitor)
    assert_same(before, after)
    assert {line.images for line in monitor.report.layers.values()} == {48}
    assert [entry["epoch"] for entry in monitor.history] == [-1, 0, 1]


def test_nothing_of_another_model_or_of_a_validation_before_gets_into_a_curve(tmp_path):
    monitor = PANMonitor(figures=False, threshold=0.3)
    first, second = SmallModule(), SmallModule()
    trainer(tmp_path, [monitor]).validate(first, loaders()[1], verbose=False)
    run = trainer(tmp_path, [monitor], 1)
    run.fit(second, *loaders())
    fresh = PANMonitor(figures=False, threshold=0.3)
    trainer(tmp_path, [fresh], 1).fit(copy.deepcopy(first), *loaders())
    alone = PANMonitor(figures=False, threshold=0.3)
    trainer(tmp_path, [monitor], 1).fit(first, *loaders())
    pl.seed_everything(0, verbose=False)
    assert [entry["epoch"] for entry in monitor.history] == [-1, 0]
    assert monitor.history[0]["count"] == fresh.history[0]["count"]
    assert monitor.births.keys() == fresh.births.keys()
    assert alone.history == []


def test_a_validation_afterwards_changes_nothing_that_a_checkpoint_holds(tmp_path):
    monitor, module = PANMonitor(figures=False, threshold=0.3), SmallModule()
    run = trainer(tmp_path, [monitor], 1)
    run.fit(module, *loaders())
    before = copy.deepcopy(monitor.state_dict())
    trainer(tmp_path, [monitor]).validate(module, DataLoader(dataset(16), batch_size=8), verbose=False)
    after = monitor.state_dict()
    assert before["scalars"] == after["scalars"]
    assert before["entries"] == after["entries"]


def test_a_validation_that_calls_no_model_is_no_measurement(tmp_path):
    class Idle(SmallModule):
        def validation_step(self, batch, batch_idx):
            if self.current_epoch == 0:
                super().validation_step(batch, batch_idx)

    monitor, module = PANMonitor(figures=False), Idle()
    checkpoint = ModelCheckpoint(tmp_path, monitor="pan/count", mode="min", save_top_k=1)
    run = trainer(tmp_path, [monitor, checkpoint], 2, enable_checkpointing=True)
    with pytest.warns(UserWarning, match="saw no image pass through the monitored layers"):
        run.fit(module, *loaders())
    assert math.isnan(run.callback_metrics["pan/count"])
    assert [entry["epoch"] for entry in monitor.history] == [-1, 0]
    assert float(checkpoint.best_model_score) == monitor.history[1]["count"]


def test_a_logger_that_fails_ends_no_training(tmp_path):
    from pytorch_lightning.loggers import TensorBoardLogger

    class Full(TensorBoardLogger):
        full = False

        @property
        def experiment(self):
            if self.full:
                raise OSError(28, "No space left on device")
            return super().experiment

        def log_metrics(self, metrics, step=None):
            if step == 0:  # ours
                self.full = True
                raise OSError(28, "No space left on device")

        def save(self):
            pass

        def finalize(self, status):
            pass

    monitor = PANMonitor()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run = trainer(tmp_path, [monitor], 2, logger=Full(tmp_path), log_every_n_steps=1)
        run.fit(SmallModule(), *loaders())
    assert [entry["epoch"] for entry in monitor.history] == [-1, 0, 1]
    told = [str(w.message) for w in caught if "PANMonitor could not" in str(w.message)]
    assert any("log its figures" in text for text in told) and any("show its pictures" in text for text in told)


def test_layers_that_are_replaced_are_measured_from_then_on(tmp_path):
    class Growing(SmallModule):
        def on_train_epoch_start(self):
            if self.current_epoch == 1:
                self.net[3] = nn.Conv2d(6, 6, 3, stride=2, padding=1)

    monitor = PANMonitor(figures=False)
    outcome(tmp_path, lambda: (Growing(), loaders()), monitor, epochs=2)
    assert [sorted(entry["layers"]) for entry in monitor.history] == [["net.0", "net.3", "net.6"]] * 3
