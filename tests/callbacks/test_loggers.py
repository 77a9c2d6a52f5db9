"""Loggers: what is shown can be read back from what the logger wrote."""

from __future__ import annotations

import re
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2

from pan_callbacks.callbacks import _loggers as loggers
from pan_callbacks.callbacks import _tensorboard as board
from pan_callbacks.callbacks._tensorboard import scalar_layout
from pan_callbacks.padding import SIDES

lightning = pytest.importorskip("lightning.pytorch")
pytorch_lightning = pytest.importorskip("pytorch_lightning")
namespaces = pytest.mark.parametrize(
    "namespace", [pytorch_lightning, lightning], ids=["pytorch_lightning", "lightning"]
)


def figure() -> Figure:
    drawing = Figure(figsize=(3, 2), dpi=50)
    drawing.set_facecolor("#ff8000")
    return drawing


def read(folder: str | Path) -> EventAccumulator:
    return EventAccumulator(str(folder), size_guidance={"tensors": 0, "images": 0, "histograms": 0}).Reload()


def show_everything(logger) -> list[bool]:
    return [
        loggers.show_figure(logger, "pan/timeline", figure(), 5),
        loggers.show_contrasts(logger, "pan/contrast", torch.tensor([0.5, -0.5, 1.0, float("nan")]), 5, 0.75),
        loggers.show_text(logger, "pan/table", "| layer | pans |\n|---|---|\n| <conv1> | 3 |", 5),
        loggers.show_layout(logger, scalar_layout(["conv1"], SIDES)),
    ]


@namespaces
class TestTensorBoard:
    @pytest.fixture
    def events(self, namespace, tmp_path):
        logger = namespace.loggers.TensorBoardLogger(tmp_path)
        assert loggers.can_show(logger)
        assert not loggers.is_silent(logger)
        assert show_everything(logger) == [True] * 4
        logger.finalize("success")
        return read(logger.log_dir)

    def test_the_image_has_the_pixels_of_the_figure(self, events):
        (image,) = events.Images("pan/timeline")
        assert (image.step, image.width, image.height) == (5, 150, 100)
        pixels = np.array(Image.open(BytesIO(image.encoded_image_string)))
        assert (pixels == (255, 128, 0)).all()

    def test_the_histogram_counts_finite_values(self, events):
        (histogram,) = events.Histograms("pan/contrast")
        value = histogram.histogram_value
        assert (histogram.step, value.num, value.min, value.max, value.sum) == (5, 3, -0.5, 1, 1)
        bars = dict(zip(np.round(value.bucket_limit, 2), value.bucket, strict=True))
        assert {edge: count for edge, count in bars.items() if count} == {-0.45: 1, 0.55: 1, 1.0: 1}

    def test_the_histogram_says_what_it_is_and_where_the_threshold_lies(self, events):
        words = events.SummaryMetadata("pan/contrast")
        assert words.display_name == "pan/contrast (PANs: beyond ±0.75)"
        assert "Beyond ±0.75, the threshold" in words.summary_description

    def test_the_text_is_the_markdown(self, events):
        (text,) = events.Tensors("pan/table/text_summary")
        assert b"| <conv1> | 3 |" in text.tensor_proto.string_val[0]

    def test_the_layout_holds_every_chart(self, events):
        layout = layout_pb2.Layout()
        layout.ParseFromString(events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
        titles = ["Padding aware neurons", "Padding aware neurons by layer", "Border bias"]
        assert [category.title for category in layout.category] == titles
        titles = [chart.title for chart in layout.category[0].chart]
        assert titles == [
            "count",
            "reliance on padding",
            "of these",
            "reads the padding",
            "born and gone",
            "at edges",
            "at corners",
        ]
        (band,) = layout.category[0].chart[0].margin.series
        assert (band.value, band.lower, band.upper) == ("pan/count", "pan/count_low", "pan/count_high")
        origins = [f"pan/{name}$" for name in ("count", "visible", "nascent", "inherited", "both", "neither")]
        assert list(layout.category[0].chart[1].multiline.tag) == ["padding/reliance$", "padding/flips$"]
        assert list(layout.category[0].chart[2].multiline.tag) == origins


def test_a_prefix_is_on_figures_texts_and_layout_as_it_is_on_numbers(tmp_path):
    logger = pytorch_lightning.loggers.TensorBoardLogger(tmp_path, prefix="run.1")
    logger.log_metrics({"pan/count": 3}, 5)
    show_everything(logger)
    logger.finalize("success")
    events = read(logger.log_dir)
    assert events.Tags()["images"] == ["run.1-pan/timeline"]
    layout = layout_pb2.Layout()
    layout.ParseFromString(events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    (tag,) = [tag for tag in events.Tags()["scalars"] if tag.endswith("pan/count")]
    assert re.match(layout.category[0].chart[2].multiline.tag[0], tag)
    assert layout.category[0].chart[0].margin.series[0].value == tag


def test_a_histogram_of_no_finite_value_is_nothing(tmp_path):
    logger = pytorch_lightning.loggers.TensorBoardLogger(tmp_path)
    assert loggers.show_contrasts(logger, "pan/contrast", torch.full((4,), float("nan")), 0, 0.8)
    logger.finalize("success")
    assert read(logger.log_dir).Tags()["histograms"] == []


def test_a_subclass_shows_what_its_base_shows(tmp_path):
    class OurLogger(pytorch_lightning.loggers.TensorBoardLogger):
        pass

    assert loggers.can_show(OurLogger(tmp_path))


@namespaces
def test_a_logger_of_numbers_shows_nothing_else(namespace, tmp_path):
    logger = namespace.loggers.CSVLogger(tmp_path)
    assert show_everything(logger) == [False] * 4
    assert not loggers.can_show(logger)
    assert not loggers.is_silent(logger)
    assert not any(tmp_path.iterdir())


@namespaces
def test_the_dummy_logger_of_fast_dev_run_is_silent(namespace):
    logger = namespace.loggers.logger.DummyLogger()
    assert loggers.is_silent(logger)
    assert not loggers.can_show(logger)
    assert show_everything(logger) == [False] * 4


@namespaces
def test_a_rank_other_than_zero_draws_nothing(namespace, tmp_path, monkeypatch):
    logger = namespace.loggers.TensorBoardLogger(tmp_path)
    rank_zero_only = namespace.utilities.rank_zero.rank_zero_only
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    monkeypatch.setattr(board, "pixels", lambda figure: pytest.fail("drawn for nobody"))
    assert loggers.is_silent(logger)
    assert show_everything(logger) == [False] * 4
    assert not any(tmp_path.iterdir())


def test_no_logger_at_all_shows_nothing():
    assert not loggers.can_show(None)
    assert not loggers.is_silent(None)


class TestWandb:
    @pytest.fixture
    def wandb(self, monkeypatch, tmp_path):
        import wandb

        monkeypatch.chdir(tmp_path)
        for name, value in {
            "MODE": "offline",
            "SILENT": "true",
            "DIR": str(tmp_path),
            "DATA_DIR": str(tmp_path),
        }.items():
            monkeypatch.setenv(f"WANDB_{name}", value)
        yield wandb
        wandb.finish()

    @namespaces
    def test_figure_histogram_and_text_are_logged_at_the_trainers_step(self, namespace, wandb, tmp_path):
        logger = namespace.loggers.WandbLogger(save_dir=tmp_path, offline=True)
        assert loggers.can_show(logger)
        assert show_everything(logger) == [True, True, True, False]
        summary = logger.experiment.summary
        assert summary["trainer/global_step"] == 5
        assert (summary["pan/timeline"]["_type"], summary["pan/timeline"]["width"]) == ("image-file", 150)
        assert sum(summary["pan/contrast"]["values"]) == 3
        (page,) = tmp_path.glob("wandb/offline-run-*/files/media/html/pan/table*.html")
        assert "&lt;conv1&gt; | 3" in page.read_text()


@namespaces
def test_mlflow_gets_figures_as_a_series_and_the_text_as_a_file(namespace, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    store = tmp_path / "store"
    logger = namespace.loggers.MLFlowLogger("digits", tracking_uri=store.as_uri(), prefix="run")
    assert loggers.can_show(logger)
    assert show_everything(logger) == [True, False, True, False]
    (image,) = store.rglob("images/*.png")
    assert re.match(r"run-pan.timeline.step.5.timestamp", image.name)  # how MLflow writes a series
    assert (np.array(Image.open(image)) == (255, 128, 0)).all()
    (text,) = store.rglob("*.md")
    assert text.name == "step_5.md" and "| <conv1> | 3 |" in text.read_text()


class Recorder:
    """Stands for an experiment of a service: remembers what is called with what."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        return lambda *args, **kwargs: self.calls.append((name, args, kwargs))


def test_comet_is_called_as_its_own_library_can_be():
    """Without a server it logs nothing, so that its signatures are what can be checked."""
    import inspect

    from comet_ml.experiment import CometExperiment

    class CometLogger:
        experiment, _prefix, LOGGER_JOIN_CHAR = Recorder(), "run", "-"

    assert show_everything(CometLogger()) == [True, True, True, False]
    called = {}
    for name, args, kwargs in CometLogger.experiment.calls:
        called[name] = inspect.signature(getattr(CometExperiment, name)).bind(None, *args, **kwargs).arguments
    assert list(called) == ["log_image", "log_histogram_3d", "log_text"]
    assert {arguments["step"] for arguments in called.values()} == {5}
    assert called["log_image"]["name"] == "run-pan/timeline"
    assert (np.array(called["log_image"]["image_data"]) == (255, 128, 0)).all()
    assert sorted(called["log_histogram_3d"]["values"]) == [-0.5, 0.5, 1.0]
    assert called["log_histogram_3d"]["metadata"] == {"threshold": 0.75}
    assert "| <conv1> | 3 |" in called["log_text"]["text"]


@pytest.mark.filterwarnings("ignore")
def test_each_logger_has_its_names_and_callbacks_have_the_public_ones(tmp_path):
    """In TensorBoard a chart for each layer is no first screen; everything else is called alike everywhere."""
    from tests.callbacks.test_monitor import LAYERS, PANMonitor, fit

    both = [pytorch_lightning.loggers.TensorBoardLogger(tmp_path), pytorch_lightning.loggers.CSVLogger(tmp_path)]
    monitor = PANMonitor(figures=False)
    _, run = fit(tmp_path, monitor, logger=both)
    board, table = read(both[0].log_dir), pandas.read_csv(Path(both[1].log_dir) / "metrics.csv")
    public = {f"border_bias/{layer}" for layer in LAYERS}
    assert public | {"border_bias/mean", "pan/count"} <= set(run.callback_metrics)
    assert public <= set(table.columns) and not public & set(board.Tags()["scalars"])
    for layer in LAYERS:
        own = table[["step", f"border_bias/{layer}"]].dropna()
        points = board.Scalars(f"border_bias_layer/{layer}")
        assert [point.step for point in points] == list(own["step"])
        assert [point.value for point in points] == pytest.approx(list(own[f"border_bias/{layer}"]))
        assert len(points) == len(monitor.history)
    assert [point.step for point in board.Scalars("border_bias/mean")] == [point.step for point in points]


@pytest.mark.filterwarnings("ignore")
def test_a_logger_whose_server_is_away_is_said_and_the_training_goes_on(tmp_path):
    from tests.callbacks.test_monitor import PANMonitor, fit

    class Away(pytorch_lightning.loggers.TensorBoardLogger):
        """One that cannot log what we hand it."""

        def log_metrics(self, metrics, step=None):
            if any("border_bias_layer" in name for name in metrics):
                raise ConnectionError("no route to host")

    monitor = PANMonitor()
    with pytest.warns(UserWarning) as said:
        fit(tmp_path, monitor, logger=Away(tmp_path))
    told = {str(warning.message) for warning in said if "no route to host" in str(warning.message)}
    assert told == {"PANMonitor could not log its figures: ConnectionError: no route to host"}
    assert [entry["epoch"] for entry in monitor.history] == [-1, 0, 1]


class TestScalarLayout:
    def test_a_layer_does_not_take_in_another_whose_name_starts_alike(self):
        layout = scalar_layout(["conv1", "layer1.0"], SIDES)
        conv1, dotted = layout["Padding aware neurons by layer"]["all layers"][1]
        assert re.match(conv1, "pan_layer/conv1")
        assert not re.match(conv1, "pan_layer/conv10")
        assert not re.match(dotted, "pan_layer/layer1x0")

    def test_border_bias_has_its_mean_apart_from_its_layers(self):
        bias = scalar_layout(["conv1"], SIDES)["Border bias"]
        layers = ["Multiline", ["border_bias_layer/conv1$"]]
        assert bias == {"mean": ["Multiline", ["border_bias/mean$"]], "all layers": layers}

    def test_every_side_has_a_curve(self):
        charts = scalar_layout([], SIDES)["Padding aware neurons"]
        tags = charts["at edges"][1] + charts["at corners"][1]
        matched = [side for side in SIDES if any(re.match(tag, f"pan_side/{side}") for tag in tags)]
        assert matched == list(SIDES)
        assert sum(bool(re.match(tag, "pan_side/top-left")) for tag in tags) == 1

    def test_many_layers_are_spread_over_charts_and_none_is_lost(self):
        names = [f"layer{i}" for i in range(30)]
        charts = scalar_layout(names, SIDES)["Padding aware neurons by layer"]
        by_layer = {title: tags for title, (_, tags) in charts.items()}
        assert [len(tags) for tags in by_layer.values()] == [6] * 5  # as many as there are colours
        assert "layer0 … layer5" in by_layer
        assert [tag for tags in by_layer.values() for tag in tags] == [f"pan_layer/{name}$" for name in names]
