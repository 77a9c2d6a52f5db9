"""How numbers and tables are written on the page."""

from __future__ import annotations

from collections.abc import Sequence


def number(value: float | None) -> str:
    """Three digits that count, and no exponent.

    Example:
        >>> [number(value) for value in (1.0264, 0.0312, 37.26, 412.0, 12345.6, None)]
        ['1.026', '0.031', '37.3', '412', '12,346', '–']
    """
    if value is None:
        return "–"
    places = 3 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:,.{places}f}"


def quartiles(spread: dict) -> str:
    """Median and quartiles: ``1.026 (1.021 … 1.030)``; of one value, that."""
    if spread["n"] < 2:
        return number(spread["median"])
    return f"{number(spread['median'])} ({number(spread['low'])} … {number(spread['high'])})"


def times(spread: dict) -> str:
    """A ratio with its quartiles."""
    return quartiles(spread) if spread["n"] > 1 else f"{quartiles(spread)} (once)"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table in Markdown, numbers to the right."""
    lines = [f"| {' | '.join(head)} |", "|---|" + "---:|" * (len(head) - 1)]
    return lines + [f"| {' | '.join(row)} |" for row in rows]
