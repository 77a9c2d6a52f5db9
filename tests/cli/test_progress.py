"""Whatever takes long has a bar, which knows how much there is to do and reaches its end."""

from __future__ import annotations

import io
from contextlib import contextmanager

import pytest
from rich.console import Console

from pan_callbacks import impact
from pan_callbacks._runtime import progress_bar
from pan_callbacks.cli.output import write
from pan_callbacks.cli.survey import look_at
from pan_callbacks.measurement.reliance import reliance
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
