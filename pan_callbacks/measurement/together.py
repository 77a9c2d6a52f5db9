"""What several processes collected, as one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pan_callbacks._runtime import ALONE, Shard, several
from pan_callbacks.errors import PANError
from pan_callbacks.layers import Convolution
from pan_callbacks.measurement.answering import Answering, said
from pan_callbacks.measurement.coding import Code
from pan_callbacks.measurement.collector import LayerCollector
from pan_callbacks.measurement.exchange import of_all
from pan_callbacks.measurement.findings import Images
from pan_callbacks.measurement.grouping import Grouping, found
from pan_callbacks.reports.reliance import Reliance


@dataclass(frozen=True, eq=False)
class Part:
    """What this process has.

    Args:
        collectors: What collected, by layer.
        grouping: Which of its images belong together.
        answers: What is known of the answers, of :class:`~pan_callbacks.measurement.answering.Answering`.
        notes: What a reader of the report should know.
        failed: Whether its measurement ended early.
    """

    collectors: Mapping[str, LayerCollector]
    grouping: Grouping
    answers: Answering
    notes: tuple[str, ...] = ()
    failed: bool = False

    def state(self, shared: bool) -> dict[str, Any]:
        """Return what another process has to know, whatever is wrong here: it waits for it."""
        state: dict[str, Any] = {"notes": self.notes, "failed": self.failed, "wrong": ""}
        try:
            state["images"], state["answers"] = self.grouping.state(), self.answers.state()
            state["layers"] = {name: one.state() for name, one in self.collectors.items()} if shared else {}
        except Exception as error:  # memory that runs out, say
            wrong = str(error) if isinstance(error, PANError) else f"{type(error).__name__}: {error}"
            state |= {"wrong": wrong, "images": Grouping(ALONE).state(), "answers": Answering().state(), "layers": {}}
        return state


@dataclass(frozen=True, eq=False)
class Together:
    """What all processes have.

    Args:
        collectors: What they collected, by layer.
        images: What is known of their images.
        reliance: How far the answers to them rely on padding, None if that is not known.
        notes: What a reader of the report should know, each once.
        failed: Whether a measurement ended early in any of them.
    """

    collectors: Mapping[str, LayerCollector]
    images: Images
    reliance: Reliance | None
    notes: tuple[str, ...]
    failed: bool


def together(part: Part, layers: Mapping[str, Convolution], shard: Shard, device: torch.device | str) -> Together:
    """Put together what all processes have; every process calls it, and gets the same.

    Args:
        part: What this one has.
        layers: The layers, by name.
        shard: This process's part of the work.
        device: Its device.

    Raises:
        PANError: If the images of a process are not named as groups should be, in every process.
    """
    shared = shard.shared and several()
    states = [part.state(shared)]
    collectors = part.collectors
    if shared:
        states = of_all(states[0], device)
    wrong = [state["wrong"] for state in states if state["wrong"]]
    if wrong:
        raise PANError(wrong[0])
    if shared:
        merged: dict[str, LayerCollector] = {}
        for name, conv in layers.items():
            parts = [state["layers"][name] for state in states]
            code: list[Tensor] = next((one["code"] for one in parts if one["code"]), [])
            merged[name] = LayerCollector(conv, Code.of(code, torch.device(device)))
            for one in parts:
                merged[name].merge(one)
        collectors = merged
    images = found(state["images"] for state in states)
    reliance, remarks = said([state["answers"] for state in states], images)
    notes = dict.fromkeys([*(note for state in states for note in state["notes"]), *remarks])
    return Together(collectors, images, reliance, tuple(notes), any(state["failed"] for state in states))
