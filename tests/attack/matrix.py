"""All cases, from the files that hold them."""

from __future__ import annotations

from tests.attack import (  # noqa: F401  # they enter themselves
    cases_batches,
    cases_faults,
    cases_keeping,
    cases_loaders,
    cases_random,
    cases_structure,
    cases_trainer,
)
from tests.attack.case import CASES, Case


def cases() -> list[Case]:
    return list(CASES.values())
