"""Every case is run without us and with each callback of ours, and all that a run leaves is compared."""

from __future__ import annotations

import json

import pytest

from tests.attack import matrix
from tests.attack.case import Case
from tests.attack.outcome import judge


@pytest.mark.parametrize("case", matrix.cases(), ids=lambda case: case.id)
def test_the_run_is_what_it_is_without_us(case: Case, record_property):
    verdict = judge(case)
    record_property("attack", json.dumps({"promise": case.promise.name, "arms": verdict.arms, "refused": verdict.refused}))
    assert not verdict.problems, "\n".join(verdict.problems)
