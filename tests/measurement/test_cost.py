"""What measuring costs, counted and not timed: elements made in hooks, bytes kept; bounds follow from what is asked."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.performance.memory import storages
from pan_callbacks.measurement import positions
from pan_callbacks.measurement.collector import LayerCollector
from pan_callbacks.measurement.engine import Measurement
from pan_callbacks.measurement.settings import Settings

CHANNELS, SIZE, BATCH = 8, 48, 8
SMALL = 24  # of images that come by the thousand
LAYERS = 3


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3 if i == 0 else CHANNELS, CHANNELS, 3, padding=1) for i in range(LAYERS)]
    return nn.Sequential(*(part for layer in layers for part in (layer, nn.BatchNorm2d(CHANNELS), nn.ReLU()))).eval()


class Made(TorchDispatchMode):
    """Counts the elements of all tensors that are made anew, of which views are none."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        given = {one.untyped_storage().data_ptr() for one in _tensors((args, kwargs or {}))}
        out = function(*args, **(kwargs or {}))
        self.elements += sum(x.numel() for x in _tensors(out) if x.untyped_storage().data_ptr() not in given)
        return out


def _tensors(value) -> list[torch.Tensor]:
    return [one for one in torch.utils._pytree.tree_leaves(value) if isinstance(one, torch.Tensor)]


@pytest.fixture
def little_memory(monkeypatch):
    """So little that two positions of an edge are read, and no more."""
    images = 256
    monkeypatch.setattr(positions, "MEMORY", 4 * CHANNELS * LAYERS * images * 2 * (4 * 2 + 5))
    monkeypatch.setattr(positions, "MEMORY_OF_A_NEURON", 0)
    monkeypatch.setattr(positions, "LEAST_POSITIONS", 1)
    assert positions.Keep.of(CHANNELS * LAYERS, images).positions == 2


def images(count: int, size: int = SIZE) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("reference", ["centre", "crop"])
def test_a_hook_makes_a_few_times_the_readings_that_are_kept_and_never_a_map(monkeypatch, little_memory, reference):
    """Of an image: two positions of four edges, four corners, and the control or four of the shared reference.

    They are copied out of the map and looked at whether they are finite, which is one tensor of as many elements each;
    where they lie is an eighth of as many numbers for each axis, there being eight channels. To compare pairs takes ten
    steps, of half as many elements. So twelve times the readings are more than enough; a single pass over a map would
    be forty times as many.
    """
    made, add = Made(), LayerCollector.add

    def counting(self, *args):
        with made:
            add(self, *args)

    model = network()
    measurement = Measurement(model, Settings(reference=reference))
    measurement.start()
    with torch.no_grad():
        for batch in images(5 * BATCH).split(BATCH):  # on the first 32 images more is looked at
            model(batch)
        monkeypatch.setattr(LayerCollector, "add", counting)
        model(images(BATCH))
        model(images(BATCH))
    measurement.stop()
    readings = 2 * LAYERS * BATCH * CHANNELS * (2 * 4 + 4 + (4 if reference == "centre" else 2 * 4 + 4 + 2))
    maps = 2 * LAYERS * BATCH * CHANNELS * SIZE * SIZE
    assert readings < made.elements <= 12 * readings < maps / 3


def kept(epochs: int, count: int) -> int:
    """Bytes that a measurement holds after so many epochs of so many images, its copy of the model let go of."""
    model = network()
    measurement = Measurement(model, Settings(max_images=count))
    for _ in range(epochs):
        measurement.start()
        with torch.no_grad():
            for batch in images(64, SMALL).split(32) * (count // 64):
                model(batch)
        measurement.report()
    measurement.stop()
    return sum(storages(measurement, model).values())


def test_nothing_more_is_kept_after_more_epochs(little_memory):
    assert kept(epochs=5, count=256) <= 1.01 * kept(epochs=1, count=256)  # but for a number here and there


def test_what_is_kept_does_not_grow_with_the_images(little_memory):
    """Beyond what memory has room for; the images for pictures, and what is looked at of the first ones, stay alike."""
    room = positions.MEMORY + images(16, SMALL).nbytes
    some = kept(epochs=1, count=2048)
    assert some <= 1.3 * room
    assert kept(epochs=1, count=4096) <= 1.05 * some
