"""Which images a monitor probes, which of them belong together, and what it logs of how sure it is."""

from __future__ import annotations

import math

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from pan_callbacks import PANMonitor
from pan_callbacks.measurement.collector import LayerCollector
from tests.support.lightning_models import SmallModule, dataset, loaders, trainer


class Numbered(TensorDataset):
    """Counts how often each image is loaded."""

    def __init__(self, images: int) -> None:
        super().__init__(*dataset(images).tensors)
        self.loaded = [0] * images

    def __getitem__(self, index):
        self.loaded[index] += 1
        return super().__getitem__(index)


@pytest.fixture
def probed(monkeypatch) -> list[list[float]]:
    """Of every probe, the first pixel of each image whose reference was read in the first layer."""
    found: list[list[float]] = []
    add, begin = LayerCollector.add, LayerCollector.__init__

    def noting(self, role, site, call, passing):
        if role == "reference" and self.conv.in_channels == 1:
            self.noted += call.x[: len(passing.groups), 0, 0, 0].tolist()
        return add(self, role, site, call, passing)

    def starting(self, conv, *args):
        if conv.in_channels == 1:
            self.noted = []
            found.append(self.noted)
        begin(self, conv, *args)

    monkeypatch.setattr(LayerCollector, "add", noting)
    monkeypatch.setattr(LayerCollector, "__init__", starting)
    return found


def fit(tmp_path, monitor: PANMonitor, validation, epochs: int = 2, **options):
    torch.manual_seed(0)
    run = trainer(tmp_path, monitor, epochs=epochs, num_sanity_val_steps=0, **options)
    run.fit(SmallModule(), loaders()[0], validation)
    return run


def pixels(data: TensorDataset, indices) -> list[float]:
    return [float(data.tensors[0][i, 0, 0, 0]) for i in indices]


@pytest.mark.parametrize(
    "images, batch, most", [(65, 64, 64), (80, 16, 20), (80, 16, 5), (80, 16, 3), (70, 16, 24), (40, 16, 256)]
)
def test_images_come_evenly_from_all_batches_and_are_the_same_in_every_epoch(tmp_path, probed, images, batch, most):
    data = Numbered(images)
    fit(tmp_path, PANMonitor(max_images=most, figures=False), DataLoader(data, batch_size=batch))
    batches = [list(range(start, min(start + batch, images))) for start in range(0, images, batch)]
    expected, taken = [], 0
    for number, one in enumerate(batches, 1):
        take = min(len(one), math.ceil(most * min(1, number * batch / images)) - taken)
        expected += one[:take]
        taken += take
    seen = [probe for probe in probed if probe]
    assert len(expected) == min(most, images) and len(seen) == 3  # before the first step, and after each epoch
    assert all(probe == pytest.approx(pixels(data, expected)) for probe in seen)
    assert data.loaded == [2] * images  # by two validations, and by nobody else


def test_a_part_of_validation_is_all_that_there_is(tmp_path, probed):
    data = Numbered(80)
    fit(tmp_path, PANMonitor(max_images=8, figures=False), DataLoader(data, batch_size=16), limit_val_batches=2)
    assert [probe for probe in probed if probe][-1] == pytest.approx(pixels(data, [0, 1, 2, 3, 16, 17, 18, 19]))
    assert data.loaded == [2] * 32 + [0] * 48


def test_of_a_stream_of_unknown_length_the_first_images_are_probed(tmp_path, probed):
    data = dataset(80)

    class Stream(IterableDataset):
        def __iter__(self):
            return iter(zip(*data.tensors, strict=True))

    fit(tmp_path, PANMonitor(max_images=20, figures=False), DataLoader(Stream(), batch_size=16))
    assert [probe for probe in probed if probe][-1] == pytest.approx(pixels(data, range(20)))


def test_of_a_stream_that_a_limit_gives_a_length_all_images_are_probed(tmp_path, probed):
    data = dataset(64)

    class Stream(IterableDataset):
        def __iter__(self):
            return iter(zip(*data.tensors, strict=True))

    loader = DataLoader(Stream(), batch_size=16)
    fit(tmp_path, PANMonitor(figures=False), loader, limit_val_batches=1000)
    assert [probe for probe in probed if probe][-1] == pytest.approx(pixels(data, range(64)))


def test_the_sanity_check_and_a_test_are_spread_likewise(tmp_path, probed):
    data = Numbered(80)
    monitor = PANMonitor(max_images=8, figures=False)
    run = trainer(tmp_path, monitor, epochs=1)
    run.test(SmallModule(), DataLoader(data, batch_size=40))
    assert [probe for probe in probed if probe][-1] == pytest.approx(pixels(data, [*range(4), *range(40, 44)]))


def test_the_count_is_logged_with_its_interval_and_what_is_seen_of_it(tmp_path):
    monitor = PANMonitor()
    run = fit(tmp_path, monitor, loaders()[1])
    low, count, high = (run.callback_metrics[f"pan/{tag}"] for tag in ("count_low", "count", "count_high"))
    assert 0 <= low <= count <= high <= monitor.report.neurons
    assert (float(low), float(high)) == monitor.report.interval
    assert float(run.callback_metrics["pan/visible"]) == monitor.report.visible
    assert float(run.callback_metrics["pan/reads_padding"]) == monitor.report.readers
    assert [entry["count_low"] for entry in monitor.history] and monitor.history[-1]["count_high"] == float(high)


def test_groups_of_images_make_the_interval_that_of_groups(tmp_path):
    monitor = PANMonitor(figures=False, groups=lambda batch: [f"patient {int(label)}" for label in batch[1]])
    fit(tmp_path, monitor, loaders()[1], epochs=1)
    assert {max(line.clusters) for line in monitor.report.measured.values()} == {3}
    assert {group for line in monitor.report.measured.values() for group in line.groups if group} <= {2, 3}
    alone = PANMonitor(figures=False)
    fit(tmp_path, alone, loaders()[1], epochs=1)
    assert {max(line.clusters) for line in alone.report.measured.values()} == {40}


def test_groups_of_batches_of_the_users_choice_are_a_list(tmp_path):
    batches = list(dataset(40).tensors[0].split(16))
    monitor = PANMonitor(figures=False, batches=batches, groups=[number // 4 for number in range(40)])
    fit(tmp_path, monitor, None, epochs=1)
    assert {max(line.clusters) for line in monitor.report.measured.values()} == {10}


@pytest.mark.parametrize("groups", [lambda batch: ["one"], lambda batch: 1 / 0])
def test_groups_that_do_not_fit_end_the_measurement_and_not_the_training(tmp_path, groups):
    monitor = PANMonitor(figures=False, groups=groups)
    with pytest.warns(UserWarning, match=r"stopped measuring.*(groups names 1 images|division by zero)"):
        run = fit(tmp_path, monitor, loaders()[1], epochs=1)
    assert run.current_epoch == 1 and math.isnan(run.callback_metrics["pan/count"])


def test_a_list_of_groups_without_batches_is_refused():
    with pytest.raises(ValueError, match="groups is no function of a batch"):
        PANMonitor(groups=["a", "b"])


def test_a_monitor_with_one_image_knows_no_interval_and_logs_none(tmp_path):
    monitor = PANMonitor(max_images=1, figures=False)
    run = fit(tmp_path, monitor, loaders()[1], epochs=1)
    assert run.callback_metrics["pan/count"] >= 0 and math.isnan(run.callback_metrics["pan/count_low"])
    assert "count_low" not in monitor.history[-1]
