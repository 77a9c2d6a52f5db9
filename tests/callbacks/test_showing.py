"""When a monitor draws: what arrives in TensorBoard, and how often."""

from __future__ import annotations

import pytest
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader

from pan_callbacks import PANMonitor
from pan_callbacks.callbacks import _loggers
from pan_callbacks.callbacks._showing import Show
from pan_callbacks.callbacks._tags import Tags
from pan_callbacks.figures import gallery, model, timeline
from tests.support.lightning_models import SmallModule, dataset, trainer

pytestmark = pytest.mark.filterwarnings("ignore")
EPOCHS = 6


@pytest.fixture
def drawn(monkeypatch) -> dict[str, int]:
    """How many figures of each kind are drawn."""
    counts: dict[str, int] = {}

    def counting(name, original):
        def draw(*args, **kwargs):
            counts[name] = counts.get(name, 0) + 1
            return original(*args, **kwargs)

        return draw

    for module, name in ((model, "layer_sides"), (timeline, "timeline"), (gallery, "gallery")):
        monkeypatch.setattr(module, name, counting(name, getattr(module, name)))
    return counts


def run(folder, epochs: int = EPOCHS, **arguments) -> tuple[PANMonitor, EventAccumulator]:
    monitor, logger = PANMonitor(max_images=8, threshold=0.2, **arguments), TensorBoardLogger(folder)
    train, val = (DataLoader(dataset(images), batch_size=8) for images in (16, 8))
    trainer(folder, [monitor], epochs, logger=logger, num_sanity_val_steps=0).fit(SmallModule(), train, val)
    events = EventAccumulator(logger.log_dir, size_guidance={"images": 0, "histograms": 0, "tensors": 0, "scalars": 0})
    return monitor, events.Reload()


def steps(events: EventAccumulator, tag: str) -> list[int]:
    return [event.step for event in events.Images(tag if "/" in tag else f"pan/{tag}")]


def points(events: EventAccumulator) -> dict[str, int]:
    return {
        "histogram": len(events.Histograms("pan/contrast")),
        "table": len(events.Tensors("pan/table/text_summary")),
        "scalars": len(events.Scalars("pan/count")),
    }


@pytest.mark.parametrize(
    ("every", "probes"), [(None, [0, 1, 2, 4, 6]), (1, [0, 1, 2, 3, 4, 5, 6]), (4, [0, 4, 6]), (100, [0, 6])]
)
def test_pictures_come_with_the_first_probe_every_so_many_and_the_last_and_each_is_drawn_once(
    tmp_path, drawn, every, probes
):
    monitor, events = run(tmp_path, figures_every=every)
    assert len(monitor.history) == EPOCHS + 1
    assert len(steps(events, "layer_sides")) == drawn["layer_sides"] == len(probes)
    assert len(set(steps(events, "layer_sides"))) == len(probes) and steps(events, "layer_sides")[0] == 0
    assert steps(events, "timeline") == steps(events, "layer_sides")[1:]  # one probe is no time
    assert drawn["timeline"] == len(probes) - 1
    assert len(steps(events, "gallery")) == drawn["gallery"] == 1
    counted = [point.step for point in events.Scalars("pan/count")]
    assert steps(events, "gallery") == counted[-1:]
    for tag in ("layer_sides", "PANs/count", "PANs/strongest_1"):
        assert steps(events, tag) == [counted[probe] for probe in probes]
    assert points(events) == dict.fromkeys(points(events), EPOCHS + 1)


def test_figures_false_draws_nothing_and_logs_the_numbers(tmp_path, drawn):
    _, events = run(tmp_path, epochs=2, figures=False)
    assert drawn == {} and events.Tags()["images"] == events.Tags()["histograms"] == []
    assert len(events.Scalars("pan/count")) == 3


@pytest.mark.parametrize("epochs", [20, 200])
def test_a_long_training_has_few_pictures(epochs, monkeypatch):
    """At their default they are drawn for the first probe, for powers of two after it, and at the end."""
    show, pictured = Show(True, Tags(PANMonitor, "pan/count")), []
    monkeypatch.setattr(show, "_on_loggers", lambda trainer, report, draw: draw())
    monkeypatch.setattr(show, "_pictures", lambda measurement, report, history: pictured.append(len(history) - 1))
    for probe in range(epochs + 1):
        show.epoch(None, None, None, [{"epoch": -1}] * (probe + 1))
    assert pictured == [0, *(2**n for n in range(epochs.bit_length()))]


def test_what_failed_to_be_shown_is_shown_at_the_end(tmp_path, monkeypatch):
    show, failures = _loggers._TABLE["TensorBoardLogger"]["figure"], [OSError("disk full")]

    def flaky(*args):
        if failures and args[1] == "pan/timeline" and args[3] > 2:  # in the last epoch
            raise failures.pop()
        show(*args)

    monkeypatch.setitem(_loggers._TABLE["TensorBoardLogger"], "figure", flaky)
    _, events = run(tmp_path, epochs=2)
    assert not failures
    assert len(steps(events, "timeline")) == 2
    assert len(steps(events, "gallery")) == 1


def test_a_resumed_run_without_validation_shows_the_report_that_it_has_and_no_neuron(tmp_path, recwarn):
    """There are readings of no neuron; an empty gallery would say that there is none."""
    train, val = (DataLoader(dataset(images), batch_size=8) for images in (16, 8))
    first = trainer(tmp_path, [PANMonitor(threshold=0.2)], 1)
    first.fit(SmallModule(), train, val)
    first.save_checkpoint(tmp_path / "one.ckpt")
    monitor, logger = PANMonitor(threshold=0.2), TensorBoardLogger(tmp_path)
    second = trainer(tmp_path, [monitor], 2, logger=logger, limit_val_batches=0)
    second.fit(SmallModule(), train, val, ckpt_path=tmp_path / "one.ckpt")
    assert monitor.report.count > 0
    tags = EventAccumulator(logger.log_dir, size_guidance={"images": 0}).Reload().Tags()["images"]
    assert set(tags) == {"PANs/count", "pan/layer_sides", "pan/timeline"}
    assert not any("could not" in str(warning.message) for warning in recwarn.list)
