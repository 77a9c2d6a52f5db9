"""Two callbacks of a kind in one Trainer do not log over each other."""

from __future__ import annotations

import warnings

import pytest
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pan_callbacks import PANMask, PANMonitor, PANPenalty
from pan_callbacks.callbacks._tags import Tags
from tests.callbacks.test_suppression import build, fit
from tests.support.lightning_models import trainer


def test_each_penalty_logs_its_own_figures_and_the_first_under_the_public_names(tmp_path):
    alone = []
    for layer in ("net.0", "net.6"):
        _, run = fit(tmp_path, build(), [PANPenalty(1e-9, layers=layer, every_n_steps=1)], epochs=1)
        alone.append(float(run.callback_metrics["pan_penalty/loss"]))
    two = [PANPenalty(1e-9, layers="net.0", every_n_steps=1), PANPenalty(2e-9, layers="net.6", every_n_steps=1)]
    with pytest.warns(UserWarning, match=r"2 callbacks PANPenalty; number 2 logs its figures as pan_penalty2/loss"):
        _, run = fit(tmp_path, build(), two, epochs=1, logger=CSVLogger(tmp_path))
    found = run.callback_metrics
    assert float(found["pan_penalty/loss"]) == pytest.approx(alone[0], rel=1e-3)
    assert float(found["pan_penalty2/loss"]) == pytest.approx(alone[1], rel=1e-3)
    assert float(found["pan_penalty/weight"]) == pytest.approx(1e-9)
    assert float(found["pan_penalty2/weight"]) == pytest.approx(2e-9)
    assert alone[0] != pytest.approx(alone[1], rel=0.1)
    assert "pan_penalty2/loss" in next(tmp_path.rglob("metrics.csv")).read_text()


def test_one_penalty_has_the_public_names_and_is_told_nothing(tmp_path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _, run = fit(tmp_path, build(), [PANPenalty(), PANMonitor(figures=False)], epochs=1)
    assert {"pan_penalty/loss", "pan_penalty/weight"} <= set(run.callback_metrics)
    assert not any("callbacks PAN" in str(w.message) for w in caught)


def test_it_is_said_once_and_a_penalty_that_stands_alone_later_is_the_first_again(tmp_path):
    first, second = PANPenalty(layers="net.0"), PANPenalty(layers="net.3")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            fit(tmp_path, build(), [first, second], epochs=1)
        _, run = fit(tmp_path, build(), [second], epochs=1)
    assert sum("callbacks PANPenalty" in str(w.message) for w in caught) == 1
    assert "pan_penalty/loss" in run.callback_metrics and "pan_penalty2/loss" not in run.callback_metrics


@pytest.mark.filterwarnings("ignore")
def test_two_monitors_show_pictures_histograms_and_tables_of_their_own(tmp_path):
    logger = TensorBoardLogger(tmp_path)
    two = [PANMonitor(layers="net.0"), PANMonitor(layers="net.6")]
    fit(tmp_path, build(), two, epochs=1, logger=logger)
    tags = EventAccumulator(logger.log_dir, size_guidance={"images": 0, "tensors": 0}).Reload().Tags()
    for kind, names in (("images", ("timeline", "layer_sides", "gallery")), ("histograms", ("contrast",))):
        assert {f"{group}/{name}" for group in ("pan", "pan2") for name in names} <= set(tags[kind])
    assert {"PANs/count", "PANs2/count"} <= set(tags["images"])
    assert {"border_bias_layer/net.0", "border_bias2_layer/net.6"} <= set(tags["scalars"])
    assert {"pan/table/text_summary", "pan2/table/text_summary"} <= set(tags["tensors"])


def test_two_masks_are_refused_by_the_trainer(tmp_path):
    with pytest.raises(RuntimeError, match="PANMask"):
        trainer(tmp_path, [PANMask("zero"), PANMask("mean")])


def test_a_number_goes_behind_the_group_of_every_tag():
    class Own(PANPenalty):
        """Of the kind as well."""

    class Fake:
        callbacks = [PANMonitor(), PANPenalty(), Own(), PANPenalty()]

    tags = Tags(PANPenalty, "pan/count")
    with pytest.warns(UserWarning, match="3 callbacks PANPenalty; number 3 logs its figures as pan3/count"):
        tags.take_number(Fake, Fake.callbacks[3])
    assert tags.of_all({"pan/count": 1, "pan_layer/a/b": 2}) == {"pan3/count": 1, "pan_layer3/a/b": 2}
    tags.take_number(Fake, Fake.callbacks[1])
    assert tags.of_all({"pan/count": 1}) == {"pan/count": 1}
    tags.take_number(Fake, PANPenalty())
    assert tags.number == 1
