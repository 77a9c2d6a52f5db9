"""``--json``: the result on standard output, whole, and nothing else there."""

from __future__ import annotations

import json
import math

import pytest

from pan_callbacks import PANReport
from pan_callbacks.reports.impact_report import ImpactReport
from tests.cli.test_command import Ran, run
from tests.support.photos import photo, save
from tests.support.synthetic import layer

CHATTERS = """
from tests.support.factories import RedAtTheTop

def net():
    print("a model that says what it thinks")
    return RedAtTheTop()
"""


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> tuple[Ran, object]:
    """An impact of a network that prints something, as JSON."""
    folder = tmp_path_factory.mktemp("json")
    (folder / "models.py").write_text(CHATTERS)
    for i in range(8):
        array = photo(32, 32, seed=i)
        array[..., 0] = 255 * (i % 2)
        save(folder / "images" / ("red", "rest")[i % 2] / f"{i}.png", array)
    small = ("--size", 32, "--batch-size", 4, "--companion-images", 0, "--controls", 1, "--mode", "zero")
    command = ("impact", f"{folder / 'models.py'}:net", "--images", folder / "images")
    return run(*command, "--out", folder / "out", *small, "--json"), folder


def test_standard_output_is_one_line_of_json_whatever_else_is_printed(measured):
    ran, _ = measured
    assert ran.code == 0 and ran.out.count("\n") == 1 and json.loads(ran.out)["schema"] == "pan_callbacks.survey"
    assert "a model that says what it thinks" in ran.err


def test_the_result_is_that_of_the_files(measured):
    ran, folder = measured
    found, report = json.loads(ran.out), PANReport.load(folder / "out" / "pans.json")
    assert found["out"] == str(folder / "out") and found["neurons"] == report.neurons
    assert found["count"] == report.count == len(found["pans"]) > 0
    assert {(one["layer"], one["channel"]) for one in found["pans"]} == {(p.layer, p.channel) for p in report.pans}
    assert found["by"]["side"] == report.count_by("side")
    assert found["impact"] == ImpactReport.load(folder / "out" / "impact.json").to_dict()
    assert found["floor"] is None and not (folder / "out" / "floor.json").exists()  # no images were given for it


def test_an_advice_is_its_file(measured, tmp_path):
    _, folder = measured
    small = ("--size", 32, "--impact-images", 8, "--out", tmp_path / "out", "--json")
    ran = run("advise", f"{folder / 'models.py'}:net", "--images", folder / "images", *small)
    assert ran.code == 0 and json.loads(ran.out) == json.loads((tmp_path / "out" / "advice.json").read_text())


def test_a_comparison_has_its_reports_and_their_changes(tmp_path):
    sure = {"error": layer(4).contrast + 0.01, "groups": (16,) * 8, "clusters": (64,) * 8}
    for name, top in (("before", 0.2), ("after", 0.9)):
        PANReport({"first": layer(4, {2: {"top": top}}, **sure)}).save(tmp_path / name / "pans.json")
    ran = run("compare", tmp_path / "before", tmp_path / "after", "--json")
    found = json.loads(ran.out)
    assert ran.code == 0 and [row["PANs"] for row in found["reports"]] == ["0", "1"]
    (changes,) = found["changes"]
    assert changes["report"] == str(tmp_path / "after") and changes["went"] == changes["changed"] == []
    assert [(one["layer"], one["channel"], one["side"]) for one in changes["came"]] == [("first", 2, "top")]


def test_what_nobody_knows_is_null(tmp_path):
    unknown = layer(2, {0: {"top": 0.9}}, border_bias=math.nan)
    for name in "ab":
        PANReport({"first": unknown}).save(tmp_path / name / "pans.json")
    found = json.loads(run("compare", tmp_path / "a", tmp_path / "b", "--json").out)
    assert found["changes"][0]["came"] == [] and "NaN" not in json.dumps(found)


def test_an_error_leaves_standard_output_empty(tmp_path):
    ran = run("compare", tmp_path, "--json")
    assert ran.code == 1 and ran.out == "" and "holds no pans.json" in ran.err
