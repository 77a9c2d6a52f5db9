"""One table, however it is written."""

from __future__ import annotations

import csv
import io

import pytest
import torch
from rich.console import Console

from pan_callbacks.reports._text import csv_cell, visible
from pan_callbacks.reports.layer_report import LayerReport
from pan_callbacks.reports.pan_report import PANReport
from pan_callbacks.reports.tables import Table, pan_table


def line(effect: float = 0.0, **changes) -> LayerReport:
    """A layer of one neuron, which answers the top border."""
    contrast, effects = torch.zeros(8, 1), torch.zeros(8, 1)
    contrast[0], effects[0] = 0.9, effect
    return LayerReport(1, (3, 3), **{"reference": "crop", "contrast": contrast, "effect": effects} | changes)


TABLE = Table.of(("layer", "PANs"), [("conv1", 3), ("a|b [x]", 12)], numbers=("PANs",))


def test_markdown_has_a_line_for_each_row_and_numbers_at_the_right():
    assert TABLE.markdown().split("\n") == ["| layer | PANs |", "|---|---:|", "| conv1 | 3 |", "| a\\|b [x] | 12 |"]


def test_csv_is_read_back_as_it_was():
    assert [tuple(row) for row in csv.reader(io.StringIO(TABLE.csv()))] == [TABLE.head, *TABLE.rows]


def test_text_has_columns_that_line_up():
    assert TABLE.text().split("\n") == ["layer    PANs", "conv1       3", "a|b [x]    12"]


def test_rich_takes_brackets_for_what_they_are_and_puts_numbers_at_the_right():
    table = TABLE.rich("Title")
    assert [column.justify for column in table.columns] == ["left", "right"]
    console = Console(file=io.StringIO(), width=60)
    console.print(table)
    assert "a|b [x]" in console.file.getvalue() and "Title" in console.file.getvalue()


def test_turned_has_a_column_for_each_row():
    assert TABLE.turned() == Table(("", "conv1", "a|b [x]"), (("PANs", "3", "12"),), numbers=("conv1", "a|b [x]"))


def test_a_row_of_another_length_is_refused():
    with pytest.raises(ValueError, match="3 cells in a table of 2 columns"):
        Table(("a", "b"), (("1", "2", "3"),))


def test_a_layer_whose_name_is_a_number_is_no_number():
    table = pan_table(PANReport({"0": line(effect=1.0)}))
    assert dict(zip(table.head, table.is_number, strict=True))["layer"] is False
    assert table.rows == (("0", "0", "top", "+0.90", "+1.00", "nascent"),)


def test_layers_measured_on_enlarged_images_or_with_a_high_control_are_marked_and_the_marks_explained():
    lines = {
        "plain": line(drift=0.39),
        "small": line(reference="zoom"),
        "moved": line(drift=0.4),
        "worst": line(reference="windows", drift=1.0),
        "centre": line(reference="centre"),
    }
    table = pan_table(PANReport(lines))
    assert sorted(row[0] for row in table.rows) == ["centre", "moved\xa0‡", "plain", "small\xa0†", "worst\xa0†‡"]
    enlarged, drifts = table.notes
    assert enlarged.startswith("† measured on enlarged images") and drifts.startswith("‡ control (drift) of 0.4")
    assert pan_table(PANReport({"moved": line(drift=0.4)})).notes == (drifts,)
    assert pan_table(PANReport({"plain": line()})).notes == ()
    assert pan_table(PANReport({"moved": line(drift=0.4)}, threshold=0.85)).notes == ()


def test_a_note_stands_below_a_table_in_every_form_but_that_of_data():
    table = Table(("layer",), (("a †",),), notes=("† of <b>",))
    console = Console(file=io.StringIO(), width=40)
    console.print(table.rich())
    assert table.text().endswith("\n† of <b>") and table.markdown().endswith("\n\n† of <b>")
    assert table.html().endswith("<p>† of &lt;b&gt;</p>") and "† of <b>" in console.file.getvalue()
    assert table.csv() == "layer\na †\n" and table.known().notes == table.notes


@pytest.mark.parametrize("code", [*range(0x20), *range(0x7F, 0xA0), 0xAD, *range(0x200B, 0x200C), 0x200E, 0x200F])
def test_characters_that_act_are_written_out(code):
    assert visible(f"a{chr(code)}b") == f"a{repr(chr(code))[1:-1]}b".replace("\\\\", "\\")


@pytest.mark.parametrize(
    "code", [*range(0x2028, 0x202F), *range(0x2066, 0x206A), 0x61C, 0xFEFF, 0xD800, 0xDFFF, 0xE0041]
)
def test_marks_and_halves_of_characters_are_written_out(code):
    shown = visible(f"a{chr(code)}b")
    assert shown.startswith("a\\") and shown.endswith("b") and shown.isascii()


@pytest.mark.parametrize(
    "text", ["conv1", "größe ×1 ± 2", "日本\u3000語", "كلب", "🐕", "👩\u200d🔬", "می\u200cخواهم", "a\xa0b", "$x$ <b>"]
)
def test_what_is_only_seen_stays(text):
    assert visible(text) == csv_cell(text) == text


@pytest.mark.parametrize(
    "text", ["=1+1", "+1+1", "-1+1", "@x", "-x", "+", "=", "  =1", "＝1", "-1e", "--1", "-1 [=1, 2]", "-1 ± A1"]
)
def test_formulas_are_text_in_a_spreadsheet(text):
    assert csv_cell(text) == f"'{text}"


@pytest.mark.parametrize(
    "text", ["-0.83", "+0.90", "-1e-05", "3", "-", "-50.00%", "+1.00% ± 0.50%", "-0.5 [-0.6, +0.4]", ""]
)
def test_numbers_are_numbers_in_a_spreadsheet(text):
    assert csv_cell(text) == text


def test_every_form_of_a_table_shows_what_acts():
    table = Table.of(("\x1b[1mlayer", "[red]PANs"), [("a\nb\u202e", "=1")], numbers=("[red]PANs",))
    console = Console(file=io.StringIO(), width=80, color_system=None)
    console.print(table.rich())
    for text in (table.text(), table.markdown(), table.csv(), console.file.getvalue()):
        assert "\x1b" not in text and "\u202e" not in text and r"\x1b[1mlayer" in text and r"a\nb\u202e" in text
        assert "[red]PANs" in text
