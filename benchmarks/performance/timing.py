"""Seconds of CPU of several ways to do the same, in turns, so that a machine that slows down slows all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

Step = Callable[[], object]
#: Of each arm: of each round: seconds of each step.
Seconds = dict[str, list[list[float]]]


def interleave(
    arms: Mapping[str, Sequence[Step]],
    rounds: int,
    warm_steps: int | None = None,
    clock: Callable[[], float] = time.process_time,
) -> Seconds:
    """Runs the steps of all arms in turns: A1 B1 B2 A2 A3 B3 ..., so that no arm always goes first.

    Args:
        arms: Name to the steps that make one round of it (the batches of an epoch, or a single run).
        rounds: Rounds that count.
        warm_steps: Steps of the round that goes before and does not count; None for all of them, 0 for no such round.
        clock: What tells the time.
    """
    names, found = list(arms), {name: [] for name in arms}
    longest = max(map(len, arms.values()))
    warm = longest if warm_steps is None else warm_steps
    for number in range(-1 if warm else 0, rounds):
        seconds = {name: [] for name in names}
        for step in range(warm if number < 0 else longest):
            for name in names if (number + step) % 2 else names[::-1]:
                if step < len(arms[name]):
                    start = clock()
                    arms[name][step]()
                    seconds[name].append(clock() - start)
        for name in names if number >= 0 else ():
            found[name].append(seconds[name])
    return found


def once(step: Step, clock: Callable[[], float] = time.process_time) -> float:
    """Seconds of one call."""
    start = clock()
    step()
    return clock() - start


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and quartiles, and of how many values; of one value they are that value."""
    values = list(values)
    low, median, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return {"median": median, "low": low, "high": high, "n": len(values)}


def totals(seconds: Seconds, arm: str) -> list[float]:
    """Seconds of each round of an arm."""
    return [sum(steps) for steps in seconds[arm]]


def ratios(seconds: Seconds, arm: str, base: str, first: int | None = None) -> list[float]:
    """How many times the rounds of one arm cost those of another, of the first steps of each round or of all."""
    rounds = zip(seconds[arm], seconds[base], strict=True)
    return [sum(one[:first]) / sum(other[:first]) for one, other in rounds]


def step_ratios(seconds: Seconds, arm: str, base: str, skip: int = 2) -> list[float]:
    """How many times single steps of one arm cost those of another; the first ones of each round are left out."""
    rounds = zip(seconds[arm], seconds[base], strict=True)
    return [one / other for a, b in rounds for one, other in zip(a[skip:], b[skip:], strict=False)]


def differences(seconds: Seconds, arm: str, base: str) -> list[float]:
    """By how many seconds the rounds of one arm are longer than those of another."""
    return [one - other for one, other in zip(totals(seconds, arm), totals(seconds, base), strict=True)]
