"""One table over several reports, by hand."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from pathlib import Path

import pytest
import torch
from rich.console import Console

from pan_callbacks import PANError
from pan_callbacks.cli.compare import Entry, differences, in_width, notes, read_entry, show, table, unequal, write
from pan_callbacks.reports.impact_report import Arm, ImpactReport
from pan_callbacks.reports.layer_report import LayerReport
from pan_callbacks.reports.pan_report import PANReport
from pan_callbacks.reports.reliance import Reliance
from tests.support.synthetic import layer


def report(**options) -> PANReport:
    """4 PANs of 40 neurons: three of the first layer, one of the last, which alone is a corner's and inherited."""
    pans = {0: {"top": 0.9}, 1: {"top": -0.9, "left": -1.0}, 2: {"top": 0.9, "bottom": -0.9}}
    layers = {
        "first": layer(10, pans, border_bias=0.5),
        "second": layer(10, border_bias=1.0),
        "third": layer(20, {5: {"bottom-right": -0.95}}, effect=0.0, border_bias=0.0),
        "pointwise": LayerReport(100, (1, 1), skipped="1×1 kernel"),
    }
    return PANReport(layers, **options)


def measured(*modes: str, accuracy: float = 0.5, kl: float | None = 0.25) -> ImpactReport:
    interval = None if math.isnan(accuracy) else (-0.4, -0.1)
    arms = [Arm("baseline", "", 0, accuracy + 0.25)]
    for mode in modes:
        arms += [Arm("pans", mode, 4, accuracy, None, interval, kl, 0.5)]
        arms += [Arm("control", mode, 4, accuracy + 0.2, draw, interval, 0.01, 0.5) for draw in range(3)]
    return ImpactReport("accuracy", 50, (*arms, Arm("padding", "neutral", 9, 0.1, None, interval, 2.0, 1.0)))


def rows(*entries: Entry) -> list[dict[str, str]]:
    found = table(entries)
    return [dict(zip(found.head, row, strict=True)) for row in found.rows]


class TestTable:
    def test_row_by_hand(self):
        assert rows(Entry("runs/a", "resnet18", report(), None)) == [
            {
                **{"report": "runs/a", "model": "resnet18", "weights": "-", "images": "-", "preprocessing": "-"},
                **{"PANs": "4", "95 %": "-", "certain": "-", "visible": "-", "neurons": "40", "share": "10.00%"},
                **{"reliance": "-", "class changes": "-"},
                **{"read the padding": "-", "both": "0", "neither": "0"},
                **{"nascent": "3", "inherited": "1", "excited": "1", "inhibited": "2", "mixed": "1"},
                **{"early": "3", "middle": "0", "late": "1"},
                **{"top": "3", "bottom": "1", "left": "1", "right": "0", "corner alone": "1", "border bias": "0.50"},
            }
        ]

    def test_reliance_stands_beside_the_count_with_its_distance(self):
        of_classes = Reliance("total variation", 0.125, (0.1, 0.15), 0.25, (0.2, 0.3), 64)
        of_numbers = Reliance("relative change", 0.5, None, None, None, 1)
        found = rows(*(Entry("a", "", report(reliance=one), None) for one in (of_classes, of_numbers)))
        cells = [(row["PANs"], row["reliance"], row["class changes"]) for row in found]
        assert cells == [("4", "0.12 (0.1 … 0.15), total variation", "25.0%"), ("4", "0.5, relative change", "-")]

    def test_nothing_measured_is_no_error(self):
        row = rows(Entry("a", "", PANReport({"fc": LayerReport(4, (1, 1), skipped="1×1 kernel")}), None))[0]
        assert (row["PANs"], row["neurons"], row["share"], row["border bias"]) == ("0", "0", "0.00%", "-")

    def test_impact_has_a_column_for_each_mode_of_any_report(self):
        found = rows(
            Entry("a", "", report(), measured("zero")),
            Entry("b", "", report(), measured("neutral", "zero", accuracy=0.25)),
            Entry("c", "", report(), None),
        )
        change = "-25.00% [-40.00%, -10.00%]"
        assert [(row["masked, zero"], row["masked, neutral"]) for row in found] == [
            (change, "-"),
            (change, change),
            ("-", "-"),
        ]

    def test_without_any_impact_there_is_no_column_for_it(self):
        assert not any(name.startswith("masked") for name in table([Entry("a", "", report(), None)]).head)

    def test_without_labels_the_divergence_stands_there(self):
        found = rows(Entry("a", "", report(), measured("zero", "neutral", accuracy=math.nan)))[0]
        assert found["masked, neutral"] == "KL 0.2500"


def shown(*entries: Entry, width: int = 80, everything: bool = False) -> str:
    terminal = Console(file=io.StringIO(), width=width)
    show(entries, terminal, everything)
    return terminal.file.getvalue()


def sure(top: float, channels: int = 30) -> PANReport:
    """Every neuron of one layer has this contrast at the top, give or take little."""
    line = layer(channels, {channel: {"top": top} for channel in range(channels)})
    errors = torch.full_like(line.contrast, 0.01)
    return PANReport(
        {
            "conv": layer(
                channels, {c: {"top": top} for c in range(channels)}, error=errors, groups=(16,) * 8, clusters=(64,) * 8
            )
        }
    )


class TestShow:
    def test_rows_that_are_the_same_are_hidden_unless_asked_for(self):
        entries = Entry("a", "net", report(), None), Entry("b", "net", report(threshold=0.95), None)
        every, differing = table(entries).turned(), unequal(table(entries).turned())
        same = {row[0] for row in every.rows} - {row[0] for row in differing.rows}
        assert {"model", "neurons", "border bias"} <= same and {row[0] for row in differing.rows} >= {"PANs", "share"}
        few, all_rows = shown(*entries), shown(*entries, everything=True)
        assert f"{len(same)} rows are the same in all reports" in few and "border bias" not in few
        assert "border bias" in all_rows and "are the same" not in all_rows

    def test_reports_that_are_the_same_have_no_empty_table(self, tmp_path):
        entries = Entry("a", "net", report(), None), Entry("b", "net", report(), None)
        said = shown(*entries)
        assert "━" not in said and re.search(r"\d+ rows are the same in all reports", said) and "0 PANs came" in said
        write(entries, tmp_path)
        assert (tmp_path / "report.html").read_text().count("<table") == 1  # all rows, folded

    def test_a_single_report_has_all_its_rows(self):
        assert "border bias" in shown(Entry("a", "net", report(), None))

    @pytest.mark.parametrize("number", [1, 2, 5])
    def test_it_fits_40_columns(self, number):
        of = [report(), report(threshold=0.95), report(reference="centre")]
        names = [f"runs/{'very/' * 8}long/{i}" for i in range(number)]
        entries = [Entry(name, "net" * 30, of[i % 3], measured("zero")) for i, name in enumerate(names)]
        found = shown(*entries, width=40, everything=True)
        assert max(map(len, found.splitlines())) <= 40
        assert found.count("border bias") == -(-number // 2)  # two reports side by side, the others below

    def test_of_wide_terminals_all_reports_stand_side_by_side(self):
        turned = table([Entry(str(i), "", report(), None) for i in range(6)]).turned()
        assert [part.head for part in in_width(turned, 120)] == [turned.head]
        assert [part.head[1:] for part in in_width(turned, 42)] == [("0", "1"), ("2", "3"), ("4", "5")]

    def test_neurons_that_came_are_listed_and_many_are_cut(self):
        entries = Entry("before", "", sure(0.1), None), Entry("after", "", sure(0.95), None)
        few, every = shown(*entries), shown(*entries, everything=True)
        assert "after: 30 PANs came, 0 went, 0 changed beyond their intervals." in few
        assert few.count("\ncame") == 20 and "and 10 more (--all shows them)" in few
        assert every.count("\ncame") == 30 and "more (" not in every

    def test_at_other_thresholds_neurons_are_not_compared(self):
        entries = Entry("a", "", report(), None), Entry("b", "", report(threshold=0.9), None)
        assert differences(entries) == [] and "came" not in shown(*entries)


class TestNotes:
    def test_reports_made_alike_need_none(self):
        assert notes([Entry("a", "", report(), None), Entry("b", "", report(), None)]) == []

    def test_different_thresholds_and_references_are_named(self):
        found = notes([Entry("a", "", report(threshold=0.9), None), Entry("b", "", report(reference="centre"), None)])
        assert found == [
            "the reports have different thresholds: 0.8, 0.9",
            "the reports have different references: centre, crop",
        ]


class TestReadEntry:
    def folder(self, path: Path, about: str | None = None, impact: bool = False) -> Path:
        report().save(path / "pans.json")
        if about is not None:
            (path / "about.json").write_text(about, encoding="utf-8")
        if impact:
            measured("zero").save(path / "impact.json")
        return path

    def test_of_a_folder_with_all(self, tmp_path):
        entry = read_entry(self.folder(tmp_path, json.dumps({"model": "resnet18"}), impact=True))
        assert (entry.name, entry.model, entry.report.count) == (str(tmp_path), "resnet18", 4)
        assert entry.impact.modes == ("zero",)

    def test_of_a_folder_with_a_report_alone(self, tmp_path):
        entry = read_entry(self.folder(tmp_path))
        assert (entry.model, entry.impact) == ("", None)

    def test_of_a_file(self, tmp_path):
        assert read_entry(self.folder(tmp_path) / "pans.json").report.count == 4

    @pytest.mark.parametrize("name", ["", "pans.json", "gone"])
    def test_without_a_report(self, tmp_path, name):
        with pytest.raises(PANError, match="holds no pans.json"):
            read_entry(tmp_path / name)

    @pytest.mark.parametrize("about", ["{", "[]", "3"])
    def test_a_damaged_description_is_an_error_that_names_the_folder(self, tmp_path, about):
        with pytest.raises(PANError, match=tmp_path.name):
            read_entry(self.folder(tmp_path, about))

    @pytest.mark.parametrize("name", ["pans.json", "impact.json"])
    def test_a_damaged_report_is_an_error_that_names_the_file(self, tmp_path, name):
        (self.folder(tmp_path, impact=True) / name).write_text('{"schema": 1}')
        with pytest.raises(PANError, match=name):
            read_entry(tmp_path)


class TestWrite:
    def entries(self) -> list[Entry]:
        name = "runs/<script>alert(1)</script>, 2"
        return [Entry(name, "a & b", report(), measured("zero")), Entry("b", "", report(threshold=0.9), None)]

    def test_the_csv_is_the_table(self, tmp_path):
        write(self.entries(), tmp_path / "new" / "folder")
        with (tmp_path / "new" / "folder" / "compare.csv").open(newline="", encoding="utf-8") as file:
            assert list(csv.DictReader(file)) == rows(*self.entries())

    def test_the_page_escapes_names(self, tmp_path):
        write(self.entries(), tmp_path)
        page = (tmp_path / "report.html").read_text(encoding="utf-8")
        assert page.count("<script") == 1  # ours
        assert "runs/&lt;script&gt;alert(1)&lt;/script&gt;, 2" in page
        assert "a &amp; b" in page

    def test_the_page_has_the_notes(self, tmp_path):
        write(self.entries(), tmp_path)
        assert "different thresholds: 0.8, 0.9" in (tmp_path / "report.html").read_text(encoding="utf-8")

    def test_every_neuron_that_differs_is_in_a_file_and_on_the_page(self, tmp_path):
        write([Entry("before", "", sure(0.1), None), Entry("after", "", sure(0.95), None)], tmp_path)
        with (tmp_path / "changes.csv").open(newline="", encoding="utf-8") as file:
            found = list(csv.DictReader(file))
        assert [(row["report"], row["layer"], row["channel"]) for row in found] == [
            ("after", "conv", str(channel)) for channel in range(30)
        ]
        page = (tmp_path / "report.html").read_text(encoding="utf-8")
        assert "after, against before: 30 PANs came" in page and page.count("<td>came</td>") == 30

    def test_twice_leaves_the_second(self, tmp_path):
        write(self.entries(), tmp_path)
        write(self.entries()[1:], tmp_path)
        assert len((tmp_path / "compare.csv").read_text().splitlines()) == 2


def test_border_bias_is_the_mean_over_measured_layers():
    values = [0.5, 1.0, 0.0]
    assert rows(Entry("a", "", report(), None))[0]["border bias"] == f"{torch.tensor(values).mean():.2f}"
