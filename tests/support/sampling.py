"""Matrices of cases, of which ``make test`` runs a sample and ``make test-slow`` the rest."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def sampled(cases: Iterable[tuple], kept: Iterable[tuple]) -> list[Any]:
    """Parameters for all cases; those that are not among the kept ones are left to ``make test-slow``."""
    cases, kept = list(cases), list(kept)
    strangers = [case for case in kept if case not in cases]
    assert not strangers, f"not in the matrix: {strangers}"
    return [pytest.param(*case, marks=() if case in kept else pytest.mark.slow) for case in cases]
