"""What a saved impact report has to look like, so that every table and figure can be made of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pan_callbacks.reports._fields import maybe, number, one_of, pair, record, row, several, text, whole
from pan_callbacks.reports.words import MODES, Kind

#: 1, and what rounding adds to it.
_ONE = 1 + 1e-6
_CLASSES = record(
    {
        "images": several(whole()),
        **{name: row(-_ONE, _ONE) for name in ("change", "low", "high", "shift")},
        **{name: row() for name in ("shift_low", "shift_high")},
        **{name: maybe(number(-_ONE, _ONE), math.nan) for name in ("split_half", "split_half_accuracy")},
    },
    closed=True,
)
_ARM = record(
    {
        "kind": one_of(*get_args(Kind)),
        "mode": one_of("", *MODES),
        "neurons": whole(),
        "value": maybe(number(), math.nan),
        "draw": maybe(whole()),
        "interval": maybe(pair(maybe(number(), math.nan))),
        "kl": maybe(number()),
        "flips": maybe(number(0, _ONE)),
        "classes": maybe(_CLASSES),
    },
    closed=True,
)
_REPORT = record(
    {
        "metric": text,
        "images": whole(),
        "class_names": maybe(several(text)),
        "notes": several(text),
        "arms": several(_ARM),
    }
)


def impact_fields(data: Any) -> dict[str, Any]:
    """Return the fields of a saved impact report, read and checked.

    Args:
        data: What the file holds.

    Raises:
        ValueError: If a field is missing or not what it should be, or the arms do not belong together.
    """
    values: dict[str, Any] = _REPORT(data, "")
    _check_order(values["arms"])
    _check_classes(values["arms"])
    if values["metric"] == "accuracy":
        for i, arm in enumerate(values["arms"]):
            if not (math.isnan(arm["value"]) or 0 <= arm["value"] <= _ONE):
                raise ValueError(f"arms[{i}].value is {arm['value']:g}: an accuracy is a number from 0 to 1")
    return values


def _check_order(arms: Sequence[Mapping[str, Any]]) -> None:
    """Raise ValueError unless there is a baseline, each arm is there once, and the draws of a control are in order."""
    seen: Counter[tuple[str, str]] = Counter()
    for i, arm in enumerate(arms):
        kind, mode, draw = arm["kind"], arm["mode"], arm["draw"]
        if (kind == "baseline") != (mode == ""):
            raise ValueError(f"arms[{i}].mode is {mode!r} of kind {kind!r}: the baseline, and it alone, has none")
        if kind == "control" and draw != seen[kind, mode]:
            raise ValueError(f"arms[{i}].draw is {draw!r} of kind {kind!r}: the draws of a control are 0, 1, 2, ...")
        if kind != "control" and draw is not None:
            raise ValueError(f"arms[{i}].draw is {draw!r} of kind {kind!r}: only controls have draws")
        if kind != "control" and seen[kind, mode]:
            raise ValueError(f"arms[{i}].kind is {kind!r} with mode {mode!r}, which another arm has")
        seen[kind, mode] += 1
    if not seen["baseline", ""]:
        raise ValueError("arms: there is no baseline")


def _check_classes(arms: Sequence[Mapping[str, Any]]) -> None:
    """Raise ValueError unless whatever is told by class is told of equally many classes."""
    lengths = {
        f"arms[{i}].classes.{name}": len(values)
        for i, arm in enumerate(arms)
        for name, values in (arm["classes"] or {}).items()
        if isinstance(values, (list, tuple))
    }
    for where, length in lengths.items():
        first, expected = next(iter(lengths.items()))
        if length != expected:
            raise ValueError(f"{where} is of {length} classes, {first} of {expected}")
