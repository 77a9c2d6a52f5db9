"""Several processes that share the batches keep together what one keeps, whatever the sizes of batches and maps."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pan_callbacks import impact, scan
from pan_callbacks._runtime import Shard
from pan_callbacks.measurement import positions
from pan_callbacks.measurement.scan import scanned
from pan_callbacks.measurement.settings import Settings
from pan_callbacks.padding import SIDES


def network() -> nn.Sequential:
    """A layer measured by crop, and one on a map so small that it is measured by zoom."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(8), nn.Conv2d(4, 4, 3, padding=1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()


@pytest.fixture(autouse=True)
def little_memory(monkeypatch):
    """Room for a few positions of each edge alone."""
    monkeypatch.setattr(positions, "MEMORY", 200_000)
    monkeypatch.setattr(positions, "MEMORY_OF_A_NEURON", 0)
    monkeypatch.setattr(positions, "LEAST_POSITIONS", 1)


def kept(batches, total: int, rank: int = 0, world: int = 1):
    """Readings kept of every layer, side and sample by one of several processes, and the report of its own part."""
    settings = Settings(max_images=total)
    shard = Shard(rank, world, total, batches[0][:1])
    with scanned(network(), batches[rank::world], settings, shard, progress=False) as (found, report):
        return {
            (name, side, kind): sample
            for name in found.layers
            for side in SIDES
            for kind, sample in enumerate(found.readings(name, side))
        }, report


@pytest.mark.parametrize(("total", "size"), [(40, 8), (37, 5), (64, 1), (219, 32)])
def test_two_processes_keep_what_one_keeps(total, size):
    batches = torch.rand(total, 1, 24, 24, generator=torch.Generator().manual_seed(1)).split(size)
    alone, _ = kept(batches, total)
    parts = [kept(batches, total, rank, 2)[0] for rank in (0, 1)]
    for key, sample in alone.items():
        together = torch.cat([part[key] for part in parts])
        assert torch.equal(together.sort(0).values, sample.sort(0).values), key


@pytest.mark.parametrize("size", [1, 3, 32])
def test_no_batch_is_too_small_to_leave_readings(size):
    total = 300
    batches = torch.rand(total, 1, 24, 24, generator=torch.Generator().manual_seed(1)).split(size)
    samples, report = kept(batches, total)
    assert report.layers["0"].reference == "crop" and report.layers["3"].reference == "zoom"
    for name in ("0", "3"):
        assert not report.contrast(name).isnan().any(), name
        counts = {side: len(samples[name, side, 0]) for side in SIDES}
        assert set(counts.values()) == {total}, counts  # one position of each side of each image


def test_what_is_kept_of_images_is_close_to_everything(monkeypatch):
    images = torch.rand(128, 1, 24, 24, generator=torch.Generator().manual_seed(1)).split(16)
    few = kept(images, 128)[1].layers["0"]
    monkeypatch.setattr(positions, "MEMORY", 10**9)
    everything = kept(images, 128)[1].layers["0"]
    # of an edge four positions of fourteen, which stand for all but for their own scatter
    assert few.error is not None and everything.error is not None
    assert float(few.error.mean()) < 1.5 * float(everything.error.mean())
    off = (few.contrast - everything.contrast).abs()  # cut at thresholds that chance chose a little otherwise
    assert off.mean() < 0.05 and (off <= 3 * few.error).float().mean() > 0.95


def test_a_loader_is_not_iterated_for_nothing():
    class Counted(list):
        passes = 0

        def __iter__(self):
            self.passes += 1
            return super().__iter__()

    batches = Counted(torch.rand(16, 1, 24, 24).split(8))
    report = scan(network(), batches, progress=False)
    assert batches.passes == 1
    impact(network(), batches, report, progress=False)
    assert batches.passes == 2
