"""Tests with examples that hypothesis makes up: as many as ``$PAN_FUZZ_EXAMPLES`` says, and counted."""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import SearchStrategy

#: Name of a test to the examples that it passed so far in this process.
COUNTS: Counter[str] = Counter()


def fuzzed(
    *strategies: SearchStrategy[Any], examples: int = 60
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Run a test on made-up examples, the same ones in every run, and count those that it passes.

    Args:
        strategies: What the examples are drawn from, an argument of the test each.
        examples: How many, unless ``$PAN_FUZZ_EXAMPLES`` says otherwise.
    """
    count = int(os.environ.get("PAN_FUZZ_EXAMPLES", examples))
    slow = list(HealthCheck)  # the examples are large on purpose

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(test)
        def counted(**arguments: Any) -> None:
            test(**arguments)
            COUNTS[test.__name__] += 1

        run = settings(
            max_examples=count,
            deadline=None,
            derandomize=True,
            database=None,
            report_multiple_bugs=False,
            suppress_health_check=slow,
        )(given(*strategies)(counted))
        return run

    return decorate
