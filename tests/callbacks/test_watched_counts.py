"""What ModelCheckpoint and EarlyStopping make of a count that lacks a layer."""

from __future__ import annotations

import math

import pytest
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from torch import nn

from pan_callbacks import PANMonitor
from tests.support.lightning_models import SmallModule, loaders, trainer

THRESHOLD = 0.3  # so low that the small network has something to find before it is trained


class Dies(SmallModule):
    """Trains well for some epochs, and is all NaN from then on."""

    dies_in = 1

    def on_train_epoch_start(self):
        if self.current_epoch == self.dies_in:
            with torch.no_grad():
                for parameter in self.parameters():
                    parameter.fill_(torch.nan)


def run(tmp_path, module, *callbacks, epochs=3):
    monitor = PANMonitor(threshold=THRESHOLD, figures=False)
    fitted = trainer(tmp_path, [monitor, *callbacks], epochs, enable_checkpointing=True)
    torch.manual_seed(1)
    fitted.fit(module, *loaders())
    return monitor, fitted


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dies_in", [0, 1, 2])
@pytest.mark.parametrize("top", [1, 2, -1])
def test_a_dead_network_is_never_kept_as_the_best(tmp_path, dies_in, top):
    module = SmallModule()
    module.__class__ = type("DiesThen", (Dies,), {"dies_in": dies_in})
    best = ModelCheckpoint(tmp_path, monitor="pan/count", mode="min", save_top_k=top, filename="{epoch}")
    monitor, fitted = run(tmp_path, module, best)
    assert monitor.history[0]["count"] > 0 and math.isnan(monitor.history[-1]["count"])
    assert math.isnan(fitted.callback_metrics["pan/count"])
    if dies_in:  # else every network was dead
        kept = torch.load(best.best_model_path, weights_only=True)
        assert kept["epoch"] < dies_in
        assert all(tensor.isfinite().all() for tensor in kept["state_dict"].values())
    assert not math.isfinite(best.best_model_score) if dies_in == 0 else best.best_model_score > 0


@pytest.mark.filterwarnings("ignore")
def test_early_stopping_stops_at_a_count_that_is_no_number_unless_told_otherwise(tmp_path):
    for check, epochs in ((True, 2), (False, 3)):
        stopping = EarlyStopping("pan/count", mode="min", patience=9, check_finite=check)
        _, fitted = run(tmp_path, Dies(), stopping)
        assert fitted.current_epoch == epochs


@pytest.mark.filterwarnings("ignore")
def test_a_layer_that_is_not_called_this_time_makes_the_count_no_number_and_not_a_lower_one(tmp_path):
    class SkipsALayer(SmallModule):
        def validation_step(self, batch, batch_idx):
            skipped = self.current_epoch == 1
            for index, part in enumerate(self.net):
                batch[0] = batch[0] if index == 6 and skipped else part(batch[0])

    best = ModelCheckpoint(tmp_path, monitor="pan/count", mode="min", save_top_k=-1, filename="{epoch}")
    monitor, _ = run(tmp_path, SkipsALayer(), best)
    assert [entry.get("missing") for entry in monitor.history] == [None, None, ["net.6"], None]
    scores = [float(score) for score in best.best_k_models.values()]
    assert scores == [monitor.history[1]["count"], math.inf, monitor.history[3]["count"]]


def test_a_network_that_never_had_a_padded_layer_has_a_count_of_zero(tmp_path):
    class Unpadded(SmallModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Conv2d(1, 4, 4, stride=4), nn.Flatten(), nn.Linear(64, 3))

    with pytest.warns(UserWarning, match="no padded"):
        _, fitted = run(tmp_path, Unpadded(), epochs=1)
    assert fitted.callback_metrics["pan/count"] == 0
