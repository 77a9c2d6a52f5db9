"""One table, however it is written."""

from __future__ import annotations

import csv
import io

import pytest
from rich.console import Console

from pan_callbacks.reports.pans import PAN
from pan_callbacks.reports.tables import Table, pan_table

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
    table = pan_table([PAN("0", 3, frozenset({"top"}), {"top": 0.9}, {}, "nascent")])
    assert dict(zip(table.head, table.is_number, strict=True))["layer"] is False
    assert table.rows == (("0", "3", "top", "+0.90", "-", "nascent"),)
