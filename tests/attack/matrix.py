"""All cases and checks, from the files that hold them."""

from __future__ import annotations

from tests.attack import (  # noqa: F401  # they enter themselves
    cases_batches,
    cases_families,
    cases_faults,
    cases_keeping,
    cases_loaders,
    cases_random,
    cases_structure,
    cases_trainer,
    checks_measured,
    checks_refused,
    checks_truth,
)
from tests.attack.case import CASES, Case
from tests.attack.check import CHECKS, Check


def cases() -> list[Case]:
    return list(CASES.values())


def checks() -> list[Check]:
    return list(CHECKS.values())
