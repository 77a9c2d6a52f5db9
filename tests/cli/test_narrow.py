"""Terminals of any width: what does not fit stands below, and nothing is cut."""

from __future__ import annotations

import io
import re
from types import SimpleNamespace

import pytest
from rich.console import Console

from pan_callbacks._runtime import progress_bar
from pan_callbacks.cli import advise, output
from pan_callbacks.cli.output import print_table, show
from pan_callbacks.cli.survey import look_at
from pan_callbacks.reports.impact_report import Arm, ImpactReport
from pan_callbacks.reports.tables import Table, pan_table
from tests.support.synthetic import report_on, small_net

TABLE = Table(
    ("layer", "PANs", "over at 0 / 1", "note"),
    (("features.denseblock3.conv2 †", "3", "12 / 4", "a[b]"), ("stem", "0", "0 / 0", "")),
    numbers=("PANs",),
    notes=("† measured on enlarged images, not on those that the network sees",),
)


def screen(width: int) -> Console:
    return Console(file=io.StringIO(), width=width, color_system=None)


def words(text: str) -> list[str]:
    """The words of a text, wherever its lines were broken."""
    return re.sub(r"[\s│┃━─┏┓┗┛┡┩└┘┳╇┴]+", " ", text).split()


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("width", [30, 40, 60, 200])
def test_a_table_is_whole_at_any_width(width, plain):
    terminal = screen(width)
    print_table(TABLE, terminal, "Title [of] it", plain=plain)
    said = terminal.file.getvalue()
    assert max(map(len, said.splitlines())) <= width
    cells = [cell for line in (TABLE.head[1:], *TABLE.rows, TABLE.notes) for cell in line]
    joined = " ".join(words(said)).replace("; ", " ")
    assert all(" ".join(cell.split()) in joined for cell in cells)
    assert ("layer" in words(said)) == (width == 200)  # the heading of a table; a list needs none


def test_a_list_says_what_each_number_is_and_leaves_out_what_is_empty():
    terminal = screen(40)
    print_table(TABLE, terminal)
    lines = [line.rstrip() for line in terminal.file.getvalue().splitlines()]
    assert lines[:3] == ["features.denseblock3.conv2 †", "  PANs: 3; over at 0 / 1: 12 / 4; note:", "  a[b]"]
    assert lines[3:5] == ["stem", "  PANs: 0; over at 0 / 1: 0 / 0"]


def test_a_survey_with_an_impact_is_whole_in_forty_columns(monkeypatch, tmp_path):
    net = small_net()
    report = report_on(net, {"0": (0, 3), "3": (5,)})
    arms = Arm("baseline", "", 0, 0.75), Arm("pans", "neutral", 3, 0.5, None, (-0.4, -0.1), 0.25, 0.5)
    survey = look_at(net, report, {}, (24, 24), impact=ImpactReport("accuracy", 50, arms, notes=("a note",)))
    terminal = screen(40)
    monkeypatch.setattr(output, "console", lambda: terminal)
    show(survey, tmp_path)
    said = terminal.file.getvalue()
    table = pan_table(report)
    assert max(map(len, said.replace(str(tmp_path / "report.html"), "").splitlines())) <= 40
    for row in table.rows:
        expected = "; ".join(f"{head}: {cell}" for head, cell in zip(table.head[1:], row[1:], strict=True))
        assert expected in " ".join(words(said))
    assert "change: -25.00% [-40.00%, -10.00%]" in " ".join(words(said)) and "a note" in said and "50 images" in said


def test_an_advice_is_whole_in_forty_columns(monkeypatch):
    terminal = Console(file=io.StringIO(), width=40, force_terminal=True, color_system=None)
    monkeypatch.setattr(advise, "console", lambda: terminal)
    advice = SimpleNamespace(table=TABLE, paragraph=lambda: "Keep the network as it is. " * 4, notes=("few images",))
    advise.show(advice)
    said = terminal.file.getvalue()
    assert max(map(len, said.splitlines())) <= 40 and "few images" in said
    assert " ".join(words(said)).count("Keep the network as it is.") == 4 and "over at 0 / 1: 12 / 4" in said


@pytest.mark.parametrize("what", ["scan", "measures beyond the contrast"])
@pytest.mark.parametrize("width", [40, 60, 120])
def test_a_bar_has_its_numbers_at_any_width(monkeypatch, what, width):
    terminal = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    monkeypatch.setattr("rich.console.Console", lambda **_: terminal)
    with progress_bar(what, 1024) as advance:
        advance(512)
    said = terminal.file.getvalue()
    assert ("…" in said) == (len(what) > width - 20) and what[:18] in said
    assert "512/1024" in said and re.search(r"\d:\d\d:\d\d|-:--:--", said)
