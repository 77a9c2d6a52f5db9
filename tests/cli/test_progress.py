"""Whatever takes long has a bar, which knows how much there is to do and reaches its end."""

from __future__ import annotations

import io
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest
import timm
import torch
from rich.console import Console
from torchvision.models import get_model

from pan_callbacks import impact
from pan_callbacks._runtime import progress_bar, waiting
from pan_callbacks.cli.arguments import parse
from pan_callbacks.cli.output import write
from pan_callbacks.cli.survey import look_at, pictures_of
from pan_callbacks.measurement.engine import Measurement
from pan_callbacks.measurement.reliance import reliance
from pan_callbacks.measurement.settings import Settings
from pan_callbacks.sources.models import load_model
from tests.support.synthetic import labelled, report_on, small_net

MODULES = ("cli.survey", "cli.output", "analysis.floor", "suppression.impact", "measurement.reliance")


@pytest.fixture
def bars(monkeypatch) -> dict[str, tuple[int, list[float]]]:
    """Every bar that was shown: how much there was to do, and each step."""
    found: dict[str, tuple[int, list[float]]] = {}

    @contextmanager
    def noted(what, total, show=True, unit="images"):
        steps: list[float] = []
        if show:
            found[what] = total, steps
        yield steps.append

    for name in MODULES:
        monkeypatch.setattr(f"pan_callbacks.{name}.progress_bar", noted)
    return found


def test_a_survey_has_a_bar_for_each_measure_and_for_its_figures(bars, tmp_path):
    net, batches = small_net(), [images for images, _ in labelled(12, 6, size=24)]
    survey = look_at(net, report_on(net, {"0": (0,), "3": (5,)}), {}, (24, 24), images=batches, progress=True)
    write(survey, tmp_path, progress=True)
    assert {"other measures", "measures beyond the contrast", "figures"} <= set(bars) and len(bars) >= 5
    for what, (total, steps) in bars.items():
        assert sum(steps) == pytest.approx(total), what
    assert bars["other measures"][0] == 12 and len(bars["other measures"][1]) > 2
    assert bars["figures"][0] == len(list((tmp_path / "figures").iterdir()))


def test_the_bar_of_an_impact_moves_with_every_arm(bars):
    net, batches = small_net(), labelled(8, 4)
    found = impact(net, batches, report_on(net, {"0": (0,), "3": (5,)}), ("zero", "neutral"), controls=2)
    assert len(bars["impact"][1]) == 2 * len(found.arms) and sum(bars["impact"][1]) == pytest.approx(8)


def test_the_bar_of_reliance_has_no_more_to_do_than_there_is(bars):
    class Loader(list):
        dataset = range(8)

    reliance(small_net(), Loader(images for images, _ in labelled(8, 4)), 1024, progress=True)
    assert bars["reliance"] == (8, [4, 4])


def test_the_bar_of_pictures_counts_the_neurons(bars):
    net = small_net()
    measurement = Measurement(net, Settings(reference="centre", threshold=0.1))
    measurement.start()
    with torch.no_grad():
        net(torch.randn(8, 3, 24, 24))
    found = pictures_of(measurement, measurement.report(), progress=True)
    total, steps = bars["pictures of neurons"]
    assert total == sum(steps) == len(found) > 0


@pytest.mark.parametrize("progress", [True, False])
def test_loading_of_a_model_is_shown_where_progress_is(monkeypatch, progress):
    shown = []

    @contextmanager
    def noted(what, show=True):
        shown.append((what, show))
        yield

    monkeypatch.setattr("pan_callbacks.sources.models.waiting", noted)
    load_model("timm:test_resnet", weights="none", progress=progress)
    assert shown == [("loading the model", progress)]


@pytest.mark.parametrize("progress", [True, False])
def test_a_download_has_the_bar_of_its_library_and_no_second_one(monkeypatch, tmp_path, progress):
    from huggingface_hub.utils import are_progress_bars_disabled

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    own, shown = {}, []
    make, get = timm.create_model, get_model

    def create(name, pretrained, **more):
        own["timm"] = not are_progress_bars_disabled()
        return make(name, pretrained=False)

    def built(name, weights, progress, **more):
        own["torchvision"] = progress
        return get(name)

    monkeypatch.setattr("pan_callbacks.sources.models.waiting", lambda what, show: shown.append(show) or nullcontext())
    for library in ("timm_models", "torchvision_models"):
        monkeypatch.setattr(f"pan_callbacks.sources.{library}.reachable", lambda url: True)
    monkeypatch.setattr(timm, "create_model", create)
    monkeypatch.setattr("torchvision.models.get_model", built)
    before = are_progress_bars_disabled()
    load_model("timm:test_resnet", progress=progress)
    load_model("torchvision:squeezenet1_1", progress=progress)
    assert own == {"timm": progress, "torchvision": progress} and shown == [False, False]
    assert are_progress_bars_disabled() is before


def test_a_wait_of_unknown_length_says_how_long_it_has_lasted(monkeypatch):
    screen = Console(file=io.StringIO(), force_terminal=True, width=100)
    monkeypatch.setattr("rich.console.Console", lambda **_: screen)
    with waiting("loading the model"):
        pass
    assert "loading the model" in screen.file.getvalue() and "0:00:00" in screen.file.getvalue()
    with waiting("nothing", show=False):
        pass
    assert "nothing" not in screen.file.getvalue()


@pytest.mark.parametrize(
    ("quiet", "terminal", "rank", "shown"),
    [(False, True, "0", True), (True, True, "0", False), (False, False, "0", False), (False, True, "1", False)],
)
def test_bars_are_for_terminals_that_do_not_want_quiet(monkeypatch, quiet, terminal, rank, shown):
    monkeypatch.setattr("sys.stderr", SimpleNamespace(isatty=lambda: terminal))
    monkeypatch.setenv("LOCAL_RANK", rank)
    words = ["scan", "timm:test_resnet", "--images", "sample", "--out", "x", *["--quiet"] * quiet]
    assert parse(words, from_shell=False).options.shows_progress is shown


def test_a_survey_without_progress_shows_no_bar(bars, tmp_path):
    net = small_net()
    write(look_at(net, report_on(net, {}), {}, (24, 24)), tmp_path)
    assert bars == {}


def test_a_bar_says_how_long_it_takes(monkeypatch):
    screen = Console(file=io.StringIO(), force_terminal=True, width=100)
    monkeypatch.setattr("rich.console.Console", lambda **_: screen)
    with progress_bar("figures", 4, unit="figures") as advance:
        for _ in range(2):
            advance(1)
    said = screen.file.getvalue()
    assert "figures" in said and "2/4" in said and ":" in said.split("2/4")[-1]
