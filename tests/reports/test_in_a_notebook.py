"""A report in a notebook: as HTML, in which nothing of the user's acts, and as a pandas frame."""

from __future__ import annotations

import math
import sys
from html.parser import HTMLParser

import pytest
import torch

from pan_callbacks.errors import PANError
from pan_callbacks.padding import SIDES
from pan_callbacks.reports.advice import Advice
from pan_callbacks.reports.estimate import Estimate
from pan_callbacks.reports.impact_report import Arm, ImpactReport
from pan_callbacks.reports.layer_report import LayerReport
from pan_callbacks.reports.pan_report import PANReport
from pan_callbacks.reports.reliance import Reliance
from pan_callbacks.reports.verdict import Evidence

EVIL = "<script>alert(1)</script>&\x1b[2J"


class Cells(HTMLParser):
    """The tags of a page, the text of its cells, and all of its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags, self.cells, self.text, self._inside = set(), [], "", False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self._inside = tag in ("td", "th")
        self.cells += [""] * self._inside

    def handle_endtag(self, tag):
        self._inside = False

    def handle_data(self, data):
        self.text += data
        if self._inside:
            self.cells[-1] += data


def report(channels: int = 3, name: str = "conv", notes: tuple[str, ...] = ()) -> PANReport:
    """A report of which all channels are PANs on top, the last the strongest."""
    contrast = torch.zeros(8, channels)
    contrast[0] = -torch.linspace(0.8, 1.0, channels)
    known = {"groups": (16,) * 8, "clusters": (64,) * 8, "error": torch.full((8, channels), 0.01)}
    after = torch.full((8, channels), math.nan)
    after[0] = 0.5
    line = LayerReport(channels, (3, 3), reference="crop", images=64, contrast=contrast, after=after, **known)
    return PANReport({name: line}, notes=notes)


IMPACT = ImpactReport("accuracy", 64, (Arm("baseline", "", 0, 0.75), Arm("pans", "zero", 2, 0.5)), notes=(EVIL,))
SAME = Reliance("total variation", 0.001, (0.0, 0.002), 0.0, (0.0, 0.004), 1000)
ADVICE = Advice.of(Evidence(images=1000, neurons=8, pans=Estimate(1, 0, 2), reliance=SAME), notes=(EVIL,))


@pytest.mark.parametrize(
    "shown", [report(name=EVIL, notes=(EVIL,)), IMPACT, ADVICE], ids=lambda one: type(one).__name__
)
def test_what_others_named_is_seen_and_does_nothing(shown):
    page = shown._repr_html_()
    assert page.isprintable() or set(filter(lambda char: not char.isprintable(), page)) == {"\n"}
    seen = Cells(page)
    assert seen.tags <= {"p", "br", "table", "thead", "tbody", "tr", "td", "th"}
    assert "<script>alert(1)</script>&\\x1b[2J" in seen.text


def test_a_report_shows_its_summary_and_its_strongest_first():
    found = report()
    seen = Cells(found._repr_html_())
    assert all(line in seen.text for line in found.summary().splitlines())
    at = seen.cells.index("channel")
    columns = seen.cells.index("origin") + 1
    assert seen.cells[columns + at :: columns] == ["2", "1", "0"]


def test_a_thousand_pans_stay_small():
    page = report(1000)._repr_html_()
    assert len(page) < 20_000
    assert "The strongest 20 of 1000" in page and page.count("<tr>") == 21


def test_the_numbers_of_an_impact_are_those_of_its_summary():
    cells = Cells(IMPACT._repr_html_()).cells
    assert cells == [*IMPACT.table.head, *(cell for row in IMPACT.rows() for cell in row)]
    assert "-25.00%" in cells


def test_an_advice_says_its_paragraph():
    assert ADVICE.paragraph() in Cells(ADVICE._repr_html_()).text


def test_nothing_found_is_shown_as_well():
    assert "0 of 0 neurons" in PANReport({})._repr_html_()


def test_a_frame_has_a_row_for_each_pan():
    found = report()
    frame = found.to_pandas()
    assert frame["channel"].tolist() == [pan.channel for pan in found.pans]
    assert frame["contrast"].tolist() == pytest.approx([-0.8, -0.9, -1.0])
    assert frame["low"].tolist() == [pan.interval["top"][0] for pan in found.pans]
    assert set(frame["sides"]) == {"top"} and set(frame["sign"]) == {"inhibited"}
    assert frame["certain"].tolist() == [pan.certain for pan in found.pans]
    assert frame["after"].tolist() == [0.5] * 3 and frame["effect"].isna().all()
    assert frame["visible"].tolist() == [False] * 3  # 0.5 is below the threshold
    assert frame["reads_padding"].isna().all()


def test_a_frame_of_nothing_has_the_same_columns_and_types():
    full, empty = report().to_pandas(), PANReport({}).to_pandas()
    assert len(empty) == 0 and empty.dtypes.equals(full.dtypes)


def test_the_strongest_side_is_the_one_whose_numbers_stand_in_the_frame():
    contrast = torch.zeros(8, 1)
    contrast[SIDES.index("left")], contrast[SIDES.index("top")] = 0.95, -0.85
    row = PANReport({"conv": LayerReport(1, (3, 3), contrast=contrast)}).to_pandas().iloc[0]
    assert (row["strongest"], row["sides"], row["sign"]) == ("left", "top+left", "mixed")
    assert row["contrast"] == pytest.approx(0.95)


def test_without_pandas_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(PANError, match="pip install pandas"):
        report().to_pandas()
    assert "<table>" in report()._repr_html_()
