"""Row 6: what a hook of ours does when nobody listens, counted in instructions and not timed."""

from __future__ import annotations

import dis
import sys
from collections import Counter
from types import CodeType, FrameType

import torch
from torch import nn

from benchmarks.performance.subjects import noise, resnet50
from benchmarks.performance.words import table
from pan_callbacks.measurement.engine import Measurement
from pan_callbacks.measurement.hooks import LayerProbe

ATTRIBUTES, CALLS = ("LOAD_ATTR", "LOAD_METHOD"), ("CALL", "CALL_FUNCTION_EX")


def watched(function: object, *args: object) -> dict[str, dict[str, int]]:
    """Function of ours to what it did while something ran: calls of it, its attribute loads, and calls that it made.

    Args:
        function: What is run.
        args: Its arguments.
    """
    found: dict[str, Counter[str]] = {}
    names: dict[CodeType, dict[int, dis.Instruction]] = {}

    def trace(frame: FrameType, event: str, argument: object) -> object:
        if not frame.f_globals.get("__name__", "").startswith("pan_callbacks."):
            return None
        code = frame.f_code
        counts = found.setdefault(code.co_qualname, Counter(called=0, attributes=0, calls=0))
        if event == "call":
            counts["called"] += 1
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
            names.setdefault(code, {one.offset: one for one in dis.get_instructions(code)})
        elif event == "opcode":
            name = names[code][frame.f_lasti].opname
            counts["attributes"] += name in ATTRIBUTES
            counts["calls"] += name in CALLS
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function(*args)
    finally:
        sys.settrace(before)
    return {name: dict(counts) for name, counts in found.items()}


def idle(model: nn.Module, images: torch.Tensor) -> dict[str, dict[str, int]]:
    """What the hooks do in a forward of a model to which they are attached, and nobody listens."""
    measurement = Measurement(model)
    measurement.attach()
    try:
        with torch.no_grad():
            return watched(model, images)
    finally:
        measurement.detach()


def measure(quick: bool) -> dict:
    """A forward of ResNet-50."""
    found = idle(resnet50(), noise(1, 64))
    if LayerProbe.__call__.__qualname__ not in found:
        raise RuntimeError("no hook of a layer was called: there is nothing to count")
    most = {key: max(did[key] / did["called"] for did in found.values()) for key in ("attributes", "calls")}
    return {"functions": found, **most}


def section(found: dict) -> list[str]:
    """What the page says."""
    rows = [
        [f"`{name}`", str(did["called"]), f"{did['attributes'] / did['called']:g}", f"{did['calls'] / did['called']:g}"]
        for name, did in found["functions"].items()
    ]
    return [
        "A forward of ResNet-50 with all hooks attached and nobody who listens; instructions were traced.",
        "",
        *table(["function of ours", "times called", "attributes that it looks up", "calls that it makes"], rows),
    ]
