"""PANMonitor on ordinary Trainers."""

from __future__ import annotations

import warnings

import lightning.pytorch as other_pl
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.strategies import DDPStrategy
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from pan_callbacks import PANError, PANMonitor, scan
from pan_callbacks.padding import SIDES
from tests.support.lightning_models import RandomlyFlipped, SmallModule, dataset, loaders, trainer
from tests.support.processes import results_of_two

LAYERS = ["net.0", "net.3", "net.6"]


def fit(tmp_path, monitor, module=None, epochs=2, data=None, **kwargs):
    pl.seed_everything(1, verbose=False)
    module = module or SmallModule()
    run = trainer(tmp_path, [monitor] if monitor else [], epochs, **kwargs)
    run.fit(module, *(data or loaders()))
    return module, run


@pytest.mark.parametrize("sanity", [0, 2])
@pytest.mark.parametrize("kind", [RandomlyFlipped, torch.utils.data.TensorDataset])
def test_training_is_bit_identical_with_and_without_the_monitor(tmp_path, kind, sanity):
    outcomes = []
    for monitor in (None, PANMonitor()):
        module, run = fit(tmp_path, monitor, data=loaders(kind, shuffle=True), num_sanity_val_steps=sanity)
        outcomes.append((module.state_dict(), module.seen, torch.get_rng_state(), run.callback_metrics["val_loss"]))
    (weights, seen, rng, metric), (weights_too, seen_too, rng_too, metric_too) = outcomes
    assert all(torch.equal(weights[key], weights_too[key]) for key in weights)
    assert seen == seen_too
    assert torch.equal(rng, rng_too)
    assert torch.equal(metric, metric_too)


def test_generators_of_loaders_are_left_as_they_were(tmp_path):
    outcomes = []
    for monitor in (None, PANMonitor()):
        generator = torch.Generator().manual_seed(3)
        train, _ = loaders()
        val = DataLoader(dataset(40), batch_size=8, shuffle=True, generator=generator)
        module, _ = fit(tmp_path, monitor, data=(train, val))
        outcomes.append((module.seen, generator.get_state()))
    assert outcomes[0][0] == outcomes[1][0]
    assert torch.equal(outcomes[0][1], outcomes[1][1])


@pytest.mark.parametrize("sanity", [0, 2, -1])
def test_the_curve_begins_with_the_network_before_its_first_step(tmp_path, sanity):
    monitor = PANMonitor()
    fit(tmp_path, monitor, num_sanity_val_steps=sanity)
    assert [entry["epoch"] for entry in monitor.history] == [-1, 0, 1]
    assert [entry["step"] for entry in monitor.history] == [0, 3, 6]
    pl.seed_everything(1, verbose=False)
    untrained = scan(SmallModule(), loaders()[1], progress=False)
    assert monitor.history[0]["count"] == untrained.count
    assert monitor.history[0]["border_bias"] == pytest.approx(untrained.border_bias)


def test_scan_and_monitor_give_the_identical_report(tmp_path):
    monitor = PANMonitor()
    module = SmallModule()
    trainer(tmp_path, [monitor]).validate(module, loaders()[1], verbose=False)
    scanned = scan(module, loaders()[1], progress=False)
    assert list(scanned.layers) == LAYERS
    for name in LAYERS:
        assert torch.equal(
            scanned.contrast(name),
            monitor.report.contrast(name),
        ) or torch.allclose(scanned.contrast(name), monitor.report.contrast(name), rtol=0, atol=0, equal_nan=True)
    assert scanned.pans == monitor.report.pans


def test_everything_that_design_names_is_logged(tmp_path):
    monitor = PANMonitor()
    logger = TensorBoardLogger(tmp_path)
    fit(tmp_path, monitor, logger=logger)
    events = EventAccumulator(logger.log_dir, size_guidance={"images": 0, "tensors": 0}).Reload()
    tags = events.Tags()
    scalars = {f"pan/{key}" for key in ("count", "fraction", "nascent", "inherited", "born", "gone")}
    scalars |= {f"pan_side/{side}" for side in SIDES} | {"border_bias/mean"}
    scalars |= {f"{group}/{layer}" for group in ("pan_layer", "border_bias_layer") for layer in LAYERS}
    assert scalars <= set(tags["scalars"])
    assert {"pan/timeline", "pan/layer_sides", "pan/gallery", "PANs/count"} <= set(tags["images"])
    assert any("pan/table" in tag for tag in tags["tensors"])
    assert "pan/contrast" in tags["histograms"]
    assert "custom_scalars__config__" in tags["tensors"]
    counts = events.Scalars("pan/count")
    assert [point.value for point in counts] == [entry["count"] for entry in monitor.history]
    assert counts[0].step == 0
    assert counts[-1].step > counts[0].step


def test_the_count_is_in_the_progress_bar_on_request(tmp_path):
    shown = []
    for asked in (False, True):
        monitor = PANMonitor(figures=False, prog_bar=asked)
        _, run = fit(tmp_path, monitor, epochs=1)
        shown.append({key: value for key, value in run.progress_bar_metrics.items() if "pan" in key or "bias" in key})
        assert run.callback_metrics["pan/count"] == monitor.report.count
    assert shown == [{}, {"pan/count": monitor.report.count}]


def test_model_checkpoint_and_early_stopping_can_watch_the_counts(tmp_path):
    checkpoint = ModelCheckpoint(tmp_path, monitor="pan/count", mode="min", save_top_k=1)
    stopping = EarlyStopping("border_bias/mean", mode="min", patience=10)
    monitor = PANMonitor()
    run = trainer(tmp_path, [monitor, checkpoint, stopping], enable_checkpointing=True)
    run.fit(SmallModule(), *loaders())
    trained = [entry["count"] for entry in monitor.history if entry["epoch"] >= 0]
    assert float(checkpoint.best_model_score) == min(trained)


def test_a_resumed_run_continues_the_curves_as_in_one_go(tmp_path):
    whole = PANMonitor()
    fit(tmp_path, whole, epochs=4)
    first, second = PANMonitor(), PANMonitor()
    _, run = fit(tmp_path, first, epochs=2)
    run.save_checkpoint(tmp_path / "half.ckpt")
    pl.seed_everything(1, verbose=False)
    resumed = trainer(tmp_path, [second], 4)
    resumed.fit(SmallModule(), *loaders(), ckpt_path=tmp_path / "half.ckpt")
    assert [e["epoch"] for e in second.history] == [e["epoch"] for e in whole.history] == [-1, 0, 1, 2, 3]
    assert second.history[:3] == first.history == whole.history[:3]
    assert second.births == whole.births


def test_every_n_epochs_probes_less_often_and_keeps_the_key(tmp_path):
    monitor = PANMonitor(every_n_epochs=2)
    checkpoint = ModelCheckpoint(tmp_path, monitor="pan/count", mode="min")
    run = trainer(tmp_path, [monitor, checkpoint], 4, enable_checkpointing=True)
    run.fit(SmallModule(), *loaders())
    assert [entry["epoch"] for entry in monitor.history] == [-1, 1, 3]
    assert float(run.callback_metrics["pan/count"]) == monitor.history[-1]["count"]


def test_max_images_bounds_what_is_probed(tmp_path):
    monitor = PANMonitor(max_images=20)
    fit(tmp_path, monitor)
    assert {line.images for line in monitor.report.layers.values()} == {20}


def test_validate_and_test_return_the_counts(tmp_path):
    monitor = PANMonitor()
    run, module = trainer(tmp_path, [monitor]), SmallModule()
    validated = run.validate(module, loaders()[1], verbose=False)
    tested = run.test(module, loaders()[1], verbose=False)
    expected = scan(module, [batch[0] for batch in loaders()[1]], progress=False)
    assert validated[0]["pan/count"] == tested[0]["pan/count"] == expected.count
    assert validated[0]["border_bias/mean"] == tested[0]["border_bias/mean"] == pytest.approx(expected.border_bias)
    assert monitor.history == []
    assert monitor.report is not None


@pytest.mark.parametrize("bare", [False, True])
def test_the_other_namespace_takes_the_callback(tmp_path, bare):
    class Module(other_pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = SmallModule().net

        training_step = SmallModule.training_step
        configure_optimizers = SmallModule.configure_optimizers

        def validation_step(self, batch, batch_idx):
            self.log("val_loss", self.net(batch[0]).mean())

    monitor = PANMonitor()
    run = trainer(tmp_path, monitor if bare else [monitor], library=other_pl)
    run.fit(Module(), *loaders())
    assert len(monitor.history) == 3


def test_hooks_are_gone_after_fit_and_after_an_exception(tmp_path):
    class Failing(SmallModule):
        def on_train_epoch_end(self):
            raise RuntimeError("out of coffee")

    for module, expectation in ((SmallModule(), None), (Failing(), "out of coffee")):
        if expectation:
            with pytest.raises(RuntimeError, match=expectation):
                fit(tmp_path, PANMonitor(), module)
        else:
            fit(tmp_path, PANMonitor(), module)
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())


def test_an_error_of_ours_ends_the_measurement_and_not_the_training(tmp_path, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("broken on purpose")

    plain, _ = fit(tmp_path, None)
    monkeypatch.setattr("pan_callbacks.measurement.collector.LayerCollector._file", broken)
    with pytest.warns(UserWarning, match="stopped measuring, the model goes on: RuntimeError: broken on purpose"):
        module, _ = fit(tmp_path, PANMonitor())
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), module.parameters(), strict=True))


def test_a_trainer_without_validation_and_batches_is_refused_at_the_start(tmp_path):
    class TrainOnly(SmallModule):
        validation_step = pl.LightningModule.validation_step

    with pytest.raises(PANError, match=r"no images to probe.*PANMonitor\(batches=\.\.\.\)"):
        trainer(tmp_path, [PANMonitor()]).fit(TrainOnly(), loaders()[0])


def test_validation_that_is_switched_off_pauses_the_curve(tmp_path):
    monitor, module = PANMonitor(), SmallModule()
    run = trainer(tmp_path, [monitor], epochs=1, limit_val_batches=0)
    with pytest.warns(UserWarning, match=r"curve pauses: limit_val_batches=0.*PANMonitor\(batches=\.\.\.\)"):
        run.fit(module, *loaders())
    assert (monitor.history, monitor.report) == ([], None)
    again = trainer(tmp_path, [monitor], epochs=1)
    again.fit(module, *loaders())
    assert [entry["epoch"] for entry in monitor.history] == [-1, 0]


def test_batches_of_the_users_choice_are_probed_without_a_validation_loop(tmp_path):
    class TrainOnly(SmallModule):
        validation_step = pl.LightningModule.validation_step

    images = [dataset(40).tensors[0]]
    monitor = PANMonitor(batches=images)
    run = trainer(tmp_path, [monitor])
    run.fit(TrainOnly(), loaders()[0])
    assert [entry["epoch"] for entry in monitor.history] == [-1, 0, 1]
    assert {line.images for line in monitor.report.layers.values()} == {40}


def test_batches_take_the_place_of_validation_images(tmp_path):
    monitor = PANMonitor(batches=[(dataset(24).tensors[0], torch.zeros(24))])
    fit(tmp_path, monitor)
    assert {line.images for line in monitor.report.layers.values()} == {24}
    assert len(monitor.history) == 3


def test_batches_without_images_are_named(tmp_path):
    with pytest.raises(PANError, match=r"holds no images: a tensor of shape \(4, 3\)"):
        fit(tmp_path, PANMonitor(batches=[torch.zeros(4, 3)]))


def test_images_that_the_validation_step_changes_are_probed_as_the_model_sees_them(tmp_path):
    class Normalising(SmallModule):
        def validation_step(self, batch, batch_idx):
            self.net((batch[0] - 1) * 5)

    monitor = PANMonitor()
    pl.seed_everything(1, verbose=False)
    fit(tmp_path, monitor, Normalising(), num_sanity_val_steps=2)
    images = [(batch[0] - 1) * 5 for batch in loaders()[1]]
    pl.seed_everything(1, verbose=False)
    expected = scan(SmallModule(), images, progress=False)
    assert monitor.history[0]["count"] == expected.count
    assert monitor.history[0]["border_bias"] == pytest.approx(expected.border_bias)


def test_a_stream_is_not_read_ahead(tmp_path):
    class Stream(IterableDataset):
        reads = 0

        def __iter__(self):
            Stream.reads += 1
            yield from zip(*dataset(32).tensors, strict=True)

    monitor = PANMonitor()
    fit(tmp_path, monitor, data=(loaders()[0], DataLoader(Stream(), batch_size=16)), num_sanity_val_steps=0)
    assert Stream.reads == 2  # once an epoch, by validation alone
    assert [entry["epoch"] for entry in monitor.history] == [-1, 0, 1]


def test_only_the_first_of_several_validation_loaders_is_probed(tmp_path):
    class TwoLoaders(SmallModule):
        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            self.net(batch[0])

    monitor = PANMonitor()
    val = [DataLoader(dataset(20), batch_size=10), DataLoader(dataset(30), batch_size=10)]
    fit(tmp_path, monitor, TwoLoaders(), data=(loaders()[0], val))
    assert {line.images for line in monitor.report.layers.values()} == {20}


def test_a_model_without_padded_layers_gets_one_notice_and_a_count_of_zero(tmp_path):
    class Unpadded(SmallModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Conv2d(1, 4, 4, stride=4), nn.Flatten(), nn.Linear(64, 3))

    class Attention(SmallModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Flatten(), nn.Linear(256, 3))

    for module in (Unpadded(), Attention()):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            _, run = fit(tmp_path, PANMonitor(), module)
        notices = [w for w in caught if "padded" in str(w.message)]
        assert len(notices) == 1
        assert float(run.callback_metrics["pan/count"]) == 0


def test_nan_activations_leave_out_the_layer_and_warn_once(tmp_path):
    class Poisoned(SmallModule):
        def on_train_epoch_start(self):
            with torch.no_grad():
                self.net[6].weight[0, 0] = torch.nan if self.current_epoch == 0 else 0.0

        def training_step(self, batch, batch_idx):
            return None

    monitor = PANMonitor()
    with pytest.warns(UserWarning, match=r"layer net\.6 has NaN") as caught:
        fit(tmp_path, monitor, Poisoned())
    assert sum("has NaN" in str(w.message) for w in caught) == 1
    assert "net.6" not in monitor.history[1]["layers"]
    assert "net.6" in monitor.history[2]["layers"]
    assert monitor.report.layers["net.6"].skipped is None


def test_images_too_small_are_told_and_training_goes_on(tmp_path):
    class Tiny(SmallModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(
                nn.Conv2d(1, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
            )

    def tiny(n):
        return DataLoader(torch.utils.data.TensorDataset(torch.randn(n, 1, 2, 2), torch.arange(n) % 3), batch_size=8)

    with pytest.warns(UserWarning, match="too small for any reference: map of 2×2"):
        _, run = fit(tmp_path, PANMonitor(), Tiny(), data=(tiny(16), tiny(16)))
    assert float(run.callback_metrics["pan/count"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threshold": 0.0}, "threshold=0.0 is not in"),
        ({"threshold": 1.0}, "threshold=1.0 is not in"),
        ({"reference": "corner"}, "reference='corner' is unknown; choose one of crop"),
        ({"max_images": 0}, "max_images=0"),
        ({"every_n_epochs": 0}, "every_n_epochs=0"),
        ({"figures_every": 0}, "figures_every=0: at least 1 is needed"),
        ({"batches": iter([])}, "can be iterated once only"),
    ],
)
def test_arguments_out_of_range_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        PANMonitor(**arguments)


def test_a_glob_that_matches_nothing_is_named_at_the_start(tmp_path):
    with pytest.raises(PANError, match=r"layers='backbone\.\*' matches none of the 3 convolutions"):
        fit(tmp_path, PANMonitor(layers="backbone.*"))


def test_a_glob_selects_layers(tmp_path):
    monitor = PANMonitor(layers=["net.0", "net.6"])
    fit(tmp_path, monitor)
    assert list(monitor.report.layers) == ["net.0", "net.6"]


def test_fast_dev_run_and_no_logger_work(tmp_path):
    monitor = PANMonitor()
    fit(tmp_path, monitor, fast_dev_run=True)
    assert [entry["epoch"] for entry in monitor.history] == [-1, 0]


def test_a_logger_that_shows_no_pictures_is_told_of_once(tmp_path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(tmp_path, PANMonitor(), logger=CSVLogger(tmp_path))
    assert sum("cannot show pictures in a CSVLogger" in str(w.message) for w in caught) == 1
    assert "pan/count" in next(tmp_path.rglob("metrics.csv")).read_text()


def test_bf16_mixed_precision_works(tmp_path):
    monitor = PANMonitor()
    fit(tmp_path, monitor, precision="bf16-mixed")
    assert len(monitor.history) == 3
    assert monitor.report.neurons == 18


def test_circular_padding_learns_no_padding_aware_neuron(tmp_path):
    from examples.data import PlacedDigitsData

    counts = {}
    for mode in ("zeros", "circular"):
        pl.seed_everything(0, verbose=False)
        monitor = PANMonitor()
        run = trainer(tmp_path, [monitor], epochs=2, num_sanity_val_steps=0)
        module, data = placed_digits(
            PlacedDigitsData(label="place", canvas=32, digit_size=14, background="empty"), mode
        )
        run.fit(module, datamodule=data)
        counts[mode] = monitor.report.count
    assert counts["circular"] == 0
    assert counts["zeros"] > 0


def placed_digits(data, mode):
    """A small network with the given padding, and placed digits whose label is the place."""
    data.setup("fit")
    image, _ = next(iter(data.val_dataloader()))

    class Placed(SmallModule):
        def __init__(self):
            super().__init__(mode, width=8)
            self.net = nn.Sequential(
                *self.net[:5], self.net[6], nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 16)
            )
            self.net[0] = nn.Conv2d(image.shape[1], 8, 3, padding=1, padding_mode=mode)

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=3e-3)

    return Placed(), data


def validated(rank: int, folder: str, devices: int = 2) -> tuple[torch.Tensor, float]:
    """Contrasts and count of PANs after a validation, in one process or as one of two."""
    pl.seed_everything(1, verbose=False)
    monitor = PANMonitor(max_images=40)
    strategy = DDPStrategy(process_group_backend="gloo") if devices > 1 else "auto"
    run = trainer(folder, [monitor], devices=devices, strategy=strategy)
    run.validate(SmallModule(), DataLoader(dataset(40), batch_size=4), verbose=False)
    contrasts = [monitor.report.contrast(name).nan_to_num(9).flatten() for name in monitor.report.layers]
    return torch.cat(contrasts), run.callback_metrics["pan/count"].item()


def test_two_processes_find_what_one_finds(tmp_path):
    alone = validated(0, str(tmp_path), devices=1)
    for contrasts, count in results_of_two(validated, tmp_path):
        assert torch.equal(contrasts, alone[0])
        assert count == alone[1]
