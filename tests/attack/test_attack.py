"""Every case is run without us and with each callback of ours; every check is run on its own."""

from __future__ import annotations

import json
import warnings

import pytest

from tests.attack import matrix
from tests.attack.case import Case
from tests.attack.check import Check
from tests.attack.outcome import judge


@pytest.mark.parametrize("case", matrix.cases(), ids=lambda case: case.id)
def test_the_run_is_what_it_is_without_us(case: Case, record_property):
    told = {"promise": case.promise.name, "name": case.name, "arms": [], "refused": []}
    record_property("attack", json.dumps(told))  # what is recorded last counts, and this if the case itself falls over
    verdict = judge(case)
    record_property("attack", json.dumps(told | {"arms": verdict.arms, "refused": verdict.refused}))
    assert not verdict.problems, "\n".join(verdict.problems)


@pytest.mark.parametrize("case", matrix.checks(), ids=lambda case: case.id)
def test_the_promise_is_kept(case: Check, record_property, tmp_path):
    told = {"promise": case.promise.name, "name": case.name, "arms": [], "refused": []}
    record_property("attack", json.dumps(told))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        refusal = case.run(tmp_path)
    assert refusal is None or isinstance(refusal, str)
    record_property("attack", json.dumps(told | {"refused": [["", refusal]] if refusal else []}))
