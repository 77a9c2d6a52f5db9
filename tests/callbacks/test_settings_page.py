"""TensorBoard's page of hyperparameters: our settings beside the user's, and nobody's description lost."""

from __future__ import annotations

import pytest
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.metadata import parse_experiment_plugin_data, parse_session_start_info_plugin_data
from torch.utils.data import DataLoader

from pan_callbacks import PANMonitor, PANPenalty
from pan_callbacks.callbacks._settings_page import SettingsPage, settings_of
from tests.support.lightning_models import SmallModule, dataset, trainer

pytestmark = pytest.mark.filterwarnings("ignore")


class WithHyperparameters(SmallModule):
    """One whose author saves them, as most do."""

    def __init__(self, lr: float = 0.1, optimizer: dict | None = None) -> None:
        super().__init__()
        self.save_hyperparameters()


class WithItsOwnMetrics(SmallModule):
    """One that describes its run itself, once training begins."""

    def on_train_start(self) -> None:
        self.logger.log_hyperparams({"mine": 1.5}, {"val_loss": 0.0})


def described(folder, module, *callbacks, **arguments) -> tuple[dict, list[str], EventAccumulator]:
    """What TensorBoard reads of a run: settings, names of metrics, and all the rest."""
    logger = TensorBoardLogger(folder, **arguments)
    loaders = DataLoader(dataset(16), batch_size=8), DataLoader(dataset(8), batch_size=8)
    trainer(folder, list(callbacks), 1, logger=logger).fit(module, *loaders)
    events = EventAccumulator(logger.log_dir).Reload()

    def content(tag: str) -> bytes:
        return events.SummaryMetadata(f"_hparams_/{tag}").plugin_data.content

    values = parse_session_start_info_plugin_data(content("session_start_info")).hparams
    settings = {name: getattr(value, value.WhichOneof("kind")) for name, value in values.items()}
    experiment = parse_experiment_plugin_data(content("experiment"))
    return settings, [info.name.tag for info in experiment.metric_infos], events


def test_a_run_of_a_module_without_hyperparameters_has_our_settings_and_the_count(tmp_path):
    settings, metrics, events = described(tmp_path, SmallModule(), PANMonitor(threshold=0.7), PANPenalty(0.05))
    assert settings["pan_monitor.threshold"] == pytest.approx(0.7)
    assert settings["pan_monitor.reference"] == "crop"
    assert settings["pan_penalty.weight"] == pytest.approx(0.05)
    assert "pan_monitor.layers" not in settings  # None says nothing
    assert metrics == ["pan/count", "padding/reliance"]
    # no figure is logged for it, which Lightning's log_hyperparams would do at a step of its own
    assert [point.step for point in events.Scalars("pan/count")] == [0, 1]


def test_hyperparameters_that_lightning_logs_stay_beside_ours(tmp_path):
    module = WithHyperparameters(lr=0.3, optimizer={"momentum": 0.9})
    settings, metrics, _ = described(tmp_path, module, PANMonitor())
    assert settings["lr"] == pytest.approx(0.3)
    assert settings["optimizer/momentum"] == pytest.approx(0.9)
    assert settings["pan_monitor.max_images"] == 64
    assert metrics == ["pan/count", "padding/reliance", "hp_metric"]


def test_a_description_of_the_users_own_is_not_replaced(tmp_path):
    settings, metrics, _ = described(tmp_path, WithItsOwnMetrics(), PANMonitor(), default_hp_metric=False)
    assert settings == {"mine": 1.5}
    assert metrics == ["val_loss"]


def test_hyperparameters_that_cannot_be_written_end_no_training(tmp_path):
    class Hostile:
        def __str__(self):
            raise RuntimeError("no words for it")

        __repr__ = __str__

    class Strange(SmallModule):
        """Has what our page cannot show; Lightning is told not to log it."""

        _log_hyperparams, hparams_initial = True, {"what": Hostile()}

    page = SettingsPage(enabled=True)

    class Run:
        callbacks, datamodule, loggers = [PANMonitor()], None, [TensorBoardLogger(tmp_path)]

    with pytest.warns(UserWarning, match="could not show its settings: RuntimeError: no words for it"):
        page.before_lightning(Run, Strange)


def test_without_figures_nothing_is_described(tmp_path):
    with pytest.raises(KeyError):
        described(tmp_path, SmallModule(), PANMonitor(figures=False))


def test_a_subclass_is_named_after_what_it_is_of_ours_and_others_are_left_out():
    class Mine(PANMonitor):
        """Of the kind as well."""

    class Run:
        callbacks = [Mine(max_images=8), object()]

    settings = settings_of(Run)
    assert settings["pan_monitor.max_images"] == 8
    assert {name.partition(".")[0] for name in settings} == {"pan_monitor"}
