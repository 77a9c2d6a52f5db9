"""docs/reliability.md says what the results say, and is the page of results."""

from __future__ import annotations

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location("reliability_page", ROOT / "tools" / "reliability_page.py")
reliability_page = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reliability_page)

RESULTS = {
    "t[model: a]": {"promise": "MODEL", "name": "a", "arms": ["PANMonitor()", "PANPenalty()"], "outcome": "passed"},
    "t[model: b]": {"promise": "MODEL", "name": "b", "arms": ["PANMonitor()"], "outcome": "failed"},
    "t[refused: c]": {
        "promise": "REFUSED",
        "name": "c",
        "arms": [],
        "outcome": "passed",
        "refused": [["", "no images | at all"]],
    },
    "tests/fuzz/test_fuzz_x.py::test_it_holds": {"outcome": "passed", "examples": 120},
    "tests/attack/test_runner.py::test_a": {"outcome": "passed"},
}


def test_cases_are_counted_under_their_promises_and_what_does_not_hold_is_named():
    page = reliability_page.page(RESULTS)
    assert "| 1 of 2 | 3 |" in page
    assert "**Not held:** b." in page
    assert "| `PANMonitor()` | 2 |" in page
    assert "| all | 2 of 3 | 3 |" in page


def test_refusals_stand_with_their_messages_and_examples_are_counted():
    page = reliability_page.page(RESULTS)
    assert "| no images \\| at all | c |" in page
    assert "| it holds | 120 | yes |" in page


def test_headings_are_what_the_table_links_to():
    page = reliability_page.page(RESULTS)
    headings = {reliability_page.anchor(line[3:]) for line in page.splitlines() if line.startswith("## ")}
    links = {part.split(")")[0] for part in page.split("](#")[1:]}
    assert links and links <= headings
