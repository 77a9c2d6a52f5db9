"""The notebook: its cells run, and what it is stored with is small and what it says."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
TOUR = ROOT / "examples" / "tour.ipynb"
CELLS = json.loads(TOUR.read_text(encoding="utf-8"))["cells"]
CODE = [cell for cell in CELLS if cell["cell_type"] == "code"]
FEW = "pictures, epochs = 60, 1"


def source(cell) -> str:
    """The lines of a cell, without those that speak to IPython."""
    return "".join(line for line in cell["source"] if not line.startswith("%"))


def run(cell: str, names: dict[str, object]) -> object:
    """What the last line of a cell is, if it is an expression, as a notebook shows it."""
    body = ast.parse(cell).body
    last = body.pop() if isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body, []), "tour", "exec"), names)
    return None if last is None else eval(compile(ast.Expression(last.value), "tour", "eval"), names)


def outputs() -> list[dict]:
    return [output for cell in CODE for output in cell["outputs"]]


def test_every_cell_runs_from_the_first_to_the_last(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("MPLBACKEND", "agg")
    assert sum("parameters" in cell["metadata"].get("tags", ()) for cell in CODE) == 1
    names, threads = {"__name__": "tour"}, torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        cells = [FEW if "parameters" in cell["metadata"].get("tags", ()) else source(cell) for cell in CODE]
        shown = [value for cell in cells if (value := run(cell, names)) is not None]
    finally:
        torch.set_num_threads(threads)
    assert sum(hasattr(value, "_repr_html_") for value in shown) == 2  # a report and a frame
    count, without = re.search(r"PANs (\d+) -> (\d+)", capsys.readouterr().out).groups()
    assert (int(count), int(without)) == (names["monitor"].report.count, names["watching"].report.count)


def test_it_is_stored_with_its_outputs_which_are_small():
    assert all(cell["execution_count"] == number for number, cell in enumerate(CODE, 1))
    assert not any(output["output_type"] == "error" for output in outputs())
    assert TOUR.stat().st_size < 100_000
    assert any("text/html" in output.get("data", ()) for output in outputs())
    assert any("image/png" in output.get("data", ()) for output in outputs())


def test_nothing_of_the_machine_that_ran_it_is_stored():
    text = TOUR.read_text(encoding="utf-8")
    assert not re.search(r"/(?:home|root|tmp|work|usr)/", text) and "Warning" not in text


@pytest.mark.slow
def test_a_kernel_runs_it():
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(TOUR, as_version=4)
    next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ())).source = FEW
    done = nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(ROOT)}}).execute()
    assert [cell.execution_count for cell in done.cells if cell.cell_type == "code"] == list(range(1, len(CODE) + 1))
