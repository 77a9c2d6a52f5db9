"""Where the time of a measured epoch goes: each moment belongs to the nearest function of ours that is at work."""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType

import torch
from torch import nn

import pan_callbacks
from benchmarks.performance.subjects import noise, resnet50
from benchmarks.performance.words import number, table
from pan_callbacks.measurement.engine import Measurement
from pan_callbacks.measurement.settings import Settings

PACKAGE = str(Path(pan_callbacks.__file__).parent)
FORWARD, AGAIN, OUTSIDE = "the user's own forward", "forwards of a copy of the network", "outside"
LARGEST = 3
#: What this file, and the report's, gave before positions were chosen.
BEFORE = Path(__file__).with_name("before.json")


class Profile:
    """Seconds by who is at work.

    Args:
        network: Code of the network's forward: what runs below it is the network's, and not of the function of ours
            that called it.
        clock: What tells the time.
    """

    def __init__(self, network: CodeType, clock: Callable[[], float] = time.process_time) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._network, self._clock, self._stack, self._last = network, clock, [OUTSIDE], 0.0

    def run(self, function: Callable[[], object]) -> None:
        """Runs something and adds up its seconds."""
        self._last = self._clock()
        sys.setprofile(self._event)
        try:
            function()
        finally:
            sys.setprofile(None)
            self._count()

    def _event(self, frame: FrameType, event: str, argument: object) -> None:
        if event == "call":
            self._count()
            self._stack.append(self._of(frame.f_code))
        elif event == "return" and len(self._stack) > 1:
            self._count()
            self._stack.pop()

    def _count(self) -> None:
        now = self._clock()
        self.seconds[self._stack[-1]] += now - self._last
        self._last = now

    def _of(self, code: CodeType) -> str:
        if code.co_filename.startswith(PACKAGE):
            return f"{code.co_filename[len(PACKAGE) + 1 :]}: {code.co_qualname.removesuffix('.<locals>')}"
        if code is self._network:
            return AGAIN if any(".py: " in name for name in self._stack) else FORWARD
        return self._stack[-1]


def measure(quick: bool) -> dict:
    """An epoch and its report, the plan made before."""
    images, batch, size = (8, 4, 96) if quick else (64, 16, 224)
    model, batches = resnet50(), noise(images, size).split(batch)
    return {
        **{"images": images, "batch": batch, "size": size},
        "references": {reference: of_epoch(model, batches, reference) for reference in ("centre", "crop")},
    }


def of_epoch(model: nn.Module, batches: tuple[torch.Tensor, ...], reference: str) -> dict:
    """The user's own forward in seconds, and everything else by who did it, the largest first."""
    measurement = Measurement(model, Settings(None, reference, 0.8, sum(map(len, batches))))

    def run() -> None:
        measurement.start()
        for batch in batches:
            model(batch)
        measurement.report()

    profile = Profile(type(model).forward.__code__)
    with torch.no_grad():
        measurement.start()
        model(batches[0])
        profile.run(run)
    measurement.detach()
    forward = profile.seconds.pop(FORWARD, 0.0)
    files: dict[str, float] = defaultdict(float)
    for name, seconds in profile.seconds.items():
        files[name.split(": ")[0]] += seconds
    parts, files = (dict(sorted(one.items(), key=lambda item: -item[1])[:12]) for one in (profile.seconds, files))
    return {"forward": forward, "over": sum(profile.seconds.values()), "parts": parts, "files": files}


def section(found: dict) -> list[str]:
    """What the page says: now, and of the same command before positions were chosen."""
    before = json.loads(BEFORE.read_text(encoding="utf-8"))
    return [
        f"ResNet-50, {found['images']} images of {found['size']} px in batches of {found['batch']}, the plan made "
        "before, the report included. What torch does belongs to the function of ours that asked for it; shares are of "
        "all that is not the user's own forward. A profiler slows Python down a little, and torch not at all.",
        *largest(found),
        "",
        f"Before readings were taken at a few positions (the same command at {before['commit']}, {before['date']}, on "
        "such a machine, with others at work on it):",
        *largest(before["profile"]),
    ]


def largest(found: dict) -> list[str]:
    """The largest costs of every reference."""
    lines = []
    for reference, one in found["references"].items():
        rows = [
            [f"`{name}`" if ".py: " in name else name, number(part), f"{part / one['over']:.0%}"]
            for name, part in list(one["parts"].items())[:LARGEST]
        ]
        lines += [
            "",
            f"`{reference}`: {number(one['over'])} s beside {number(one['forward'])} s of the user's forward. "
            f"The {LARGEST} largest:",
            "",
            *table(["what", "s", "share"], rows),
            "",
            "By file: "
            + ", ".join(f"{name} {part / one['over']:.0%}" for name, part in list(one["files"].items())[:6])
            + ".",
        ]
    return lines
