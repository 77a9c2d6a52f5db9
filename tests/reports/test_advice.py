"""An advice says what its numbers say, in one paragraph, and survives its file."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from pan_callbacks import Advice
from pan_callbacks.reports.estimate import Estimate
from pan_callbacks.reports.reliance import Reliance
from pan_callbacks.reports.verdict import Evidence

STILL = Reliance("total variation", 0.001, (0.0005, 0.0015), 0.002, (0.0005, 0.007), 1024)
MOVED = Reliance("total variation", 0.07, (0.06, 0.08), 0.083, (0.065, 0.098), 1024)
PANS = Evidence(
    images=1024,
    neurons=208,
    pans=Estimate(12, 9, 15),
    surely_visible=8,
    floor=Estimate(1, 0, 2),
    floor_visible=1,
    reliance=MOVED,
    pans_flips=Estimate(0.05, 0.04, 0.06),
)
LABELLED = replace(PANS, accuracy=Estimate(0.7, 0.67, 0.73), pans_change=Estimate(0.001, -0.002, 0.004))
FEW = replace(PANS, surely_visible=0, pans=Estimate(1, 0, 2))
CASES = {
    "keep": replace(FEW, reliance=STILL),
    "blind the PANs, answers still": replace(PANS, reliance=STILL, pans_flips=Estimate(0.001, 0, 0.006)),
    "blind": replace(LABELLED, padding_change=Estimate(0.002, -0.006, 0.008)),
    "blind without labels": replace(PANS, reliance=replace(STILL, value=0.03, interval=(0.02, 0.04))),
    "retrain": replace(LABELLED, padding_change=Estimate(-0.052, -0.07, -0.03)),
    "retrain without labels": FEW,
    "retrain without classes": replace(FEW, reliance=Reliance("relative change", 0.5, (0.4, 0.6), None, None, 1024)),
    "blind the PANs": replace(LABELLED, padding_change=Estimate(-0.005, -0.015, 0.005)),
    "undecided": replace(FEW, padding_change=Estimate(-0.005, -0.015, 0.005)),
    "undecided without labels": replace(FEW, reliance=replace(STILL, flips=0.008, flips_interval=(0.004, 0.015))),
    "one image": replace(FEW, images=1, reliance=Reliance("total variation", 0.1, None, 0.0, None, 1)),
    "no padding": Evidence(images=0, unpadded="the model has no convolution", without_padding=True),
    "nothing measured": Evidence(images=0, unpadded="2 were left out", without_padding=False),
}


def paragraph(case: str) -> str:
    return Advice.of(CASES[case]).paragraph()


@pytest.mark.parametrize("case", CASES)
class TestEveryCase:
    def test_is_one_paragraph_of_whole_sentences(self, case):
        text = paragraph(case)
        assert "\n" not in text and "  " not in text and ".." not in text.replace("...", "") and text.endswith(".")

    def test_begins_with_its_verdict(self, case):
        advice = Advice.of(CASES[case])
        assert advice.paragraph().startswith(advice.verdict.capitalize() if advice.decided else "Undecided")

    def test_survives_its_file(self, case, tmp_path):
        advice = replace(Advice.of(CASES[case]), notes=("a note",))
        advice.save(tmp_path / "advice.json")
        again = Advice.load(tmp_path / "advice.json")
        assert again.to_dict() == advice.to_dict() and again.summary() == advice.summary()


@pytest.mark.parametrize(
    ("case", "parts"),
    [
        ("keep", ["0.2% of the images", "0.1% to 0.7%", "exceeds 1%"]),
        ("blind the PANs, answers still", ["mask_permanently(model, report)", "12 of 208", "9 to 15", "0.0% to 0.6%"]),
        ("blind", ["neutralise(model)", "+0.2 points", "-0.6 to +0.8", "no loss of more than 1 point", "8.3%"]),
        ("blind without labels", ["neutralise(model)", "0.02 to 0.04", "At most 1% of the classes", "without labels"]),
        ("retrain", ["PaddingDropout", "PANPenalty()", "-5.2 points", "-7.0 to -3.0", "12 of 208", "+0.1 points"]),
        ("retrain", ["Keeping it is right if your images always have this size"]),
        ("retrain without labels", ["PaddingDropout", "8.3%", "6.5% to 9.8%", "without labels", "is not certain"]),
        ("retrain without classes", ["0.4 to 0.6", "metric=..."]),
        ("blind the PANs", ["mask_permanently(model, report)", "-0.2 to +0.4", "-1.5 to +0.5", "is open", "4,100"]),
        ("undecided", ["-0.5 points", "a loss of more than 1 point is open", "4,100 images in place of 1,024"]),
        ("undecided without labels", ["more than 1% of the classes change is open"]),
        ("one image", ["several hundred"]),
        ("no padding", ["the model has no convolution"]),
        ("nothing measured", ["2 were left out"]),
    ],
)
def test_a_paragraph_has_its_numbers_with_their_intervals(case, parts):
    text = paragraph(case)
    assert [part for part in parts if part not in text] == []


@pytest.mark.parametrize("case", [case for case in CASES if "labels" in case or "classes" in case])
def test_nothing_is_said_of_an_accuracy_that_nobody_knows(case):
    assert "ccuracy" not in paragraph(case)


def test_the_table_has_what_was_measured_and_no_more():
    rows = dict(row[::2] for row in Advice.of(CASES["retrain"]).table.rows)
    assert rows["all padding neutral: change of accuracy"] == "[-7.0, -3.0]" and rows["PANs"] == "[9, 15]"
    assert not [name for name in dict(row[::2] for row in Advice.of(FEW).table.rows) if "accuracy" in name]


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("decision.verdict", "leave"),
        ("decision.blind", None),
        ("decision.decided", 1),
        ("decision.images", -1),
        ("evidence.pans", [1, 2]),
        ("evidence.pans", [5, 6, 7]),
        ("evidence.tolerance", 0),
        ("evidence.without_padding", "no"),
        ("evidence.reliance", {"distance": "total variation"}),
        ("evidence.neurons", 1.5),
        ("notes", "a note"),
    ],
)
def test_a_damaged_file_is_refused_by_its_field(where, value, tmp_path):
    data = Advice.of(CASES["retrain"]).to_dict()
    *path, last = where.split(".")
    place = data
    for key in path:
        place = place[key]
    place[last] = value
    (tmp_path / "advice.json").write_text(json.dumps(data))
    with pytest.raises(ValueError, match=rf"advice\.json: a damaged advice: {where}"):
        Advice.load(tmp_path / "advice.json")


def test_a_file_of_something_else_is_refused(tmp_path):
    (tmp_path / "advice.json").write_text('{"schema": "pan_callbacks.report", "version": 1}')
    with pytest.raises(ValueError, match="not an advice"):
        Advice.load(tmp_path / "advice.json")
