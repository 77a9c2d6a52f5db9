"""A report in a checkpoint: tensors stay tensors, all else is what ``torch.load(weights_only=True)`` takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from torch import Tensor

from pan_callbacks.layers import Reason, Skip
from pan_callbacks.reports.layer_report import LayerReport
from pan_callbacks.reports.pan_report import PANReport
from pan_callbacks.reports.reliance import Reliance


def report_state(report: PANReport | None) -> dict[str, Any] | None:
    """Return a report as dicts, lists, strings, numbers and tensors on the CPU.

    Args:
        report: The report; there may be none yet.
    """
    if report is None:
        return None
    return {
        "threshold": report.threshold,
        "reference": report.reference,
        "notes": list(report.notes),
        "reliance": None if report.reliance is None else report.reliance.to_dict(),
        "layers": {name: _line_state(line) for name, line in report.layers.items()},
    }


def report_from_state(state: Mapping[str, Any] | None) -> PANReport | None:
    """Make the report that :func:`report_state` described, bit for bit.

    Args:
        state: Its state; keys that a later release has added are ignored.
    """
    if state is None:
        return None
    lines = {name: _line(line) for name, line in state["layers"].items()}
    known = state.get("reliance")  # not in early checkpoints
    reliance = None if known is None else Reliance.from_dict(known)
    return PANReport(lines, state["threshold"], state["reference"], tuple(state["notes"]), reliance)


def _line_state(line: LayerReport) -> dict[str, Any]:
    state: dict[str, Any] = {}
    for item in fields(line):
        value = getattr(line, item.name)
        if isinstance(value, Tensor):
            value = value.detach().cpu().clone()  # not a view, with which all that it is a part of would be saved
        elif isinstance(value, str):
            value = str(value)
        state[item.name] = value
    return {**state, "skip": None if line.skip is None else line.skip.name}


def _line(state: Mapping[str, Any]) -> LayerReport:
    values = {item.name: state[item.name] for item in fields(LayerReport) if item.name in state}
    kind = Skip.__members__.get(state.get("skip") or "")
    if kind is not None:
        values["skipped"] = Reason(values["skipped"], kind)
    return LayerReport(**values)
