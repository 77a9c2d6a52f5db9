"""Keeps what came of every case, and leaves to ``make test`` a sample of them.

With ``PAN_ATTACK_RESULTS=FILE`` the outcome of every test is written there, for ``tools/reliability_page.py``.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

collect_ignore_glob = ["[!t]*.py"]  # cases are no tests of their own; a second import would enter them twice

EVERY = 100  # of the cases, so many in the sample is one
RESULTS = "PAN_ATTACK_RESULTS"
_outcomes: dict[str, dict] = {}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what ``make test`` leaves to ``make test-attack``: not every 100th case, nor the first of each promise.

    Heavy ones are left to it in any case.
    """
    cases = [item for item in items if "case" in getattr(getattr(item, "callspec", None), "params", {})]
    cases = [item for item in cases if item.path.parent == Path(__file__).parent]
    promises = set()
    for index, item in enumerate(cases):
        case = item.callspec.params["case"]
        if getattr(case, "heavy", False) or (index % EVERY and case.promise in promises):
            item.add_marker("attack")
        else:
            promises.add(case.promise)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keep the outcome of a test, and what it says of itself."""
    if report.when != "call" and report.passed:
        return
    told = dict(report.user_properties)
    kept = json.loads(told["attack"]) if "attack" in told else {}
    kept |= {"outcome": report.outcome, "seconds": round(report.duration, 2)}
    if "examples" in told:  # of a test on random examples, as tests/conftest.py counts them
        kept["examples"] = told["examples"]
    if report.failed:
        kept["why"] = str(getattr(report.longrepr, "reprcrash", None) and report.longrepr.reprcrash.message)[:1500]
    _outcomes[report.nodeid] = kept


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write them, in the process that heard of all."""
    if (path := os.environ.get(RESULTS)) and not hasattr(session.config, "workerinput"):
        Path(path).write_text(json.dumps(_outcomes, indent=1, ensure_ascii=False, sort_keys=True), encoding="utf-8")
