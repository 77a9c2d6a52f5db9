"""All cases, from the files that hold them."""

from __future__ import annotations

from tests.attack import cases_keeping, cases_random, cases_structure  # noqa: F401  # they enter themselves
from tests.attack.case import CASES, Case


def cases() -> list[Case]:
    return list(CASES.values())
