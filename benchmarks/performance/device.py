"""The device that `forward` and `report` run on: the CPU, or what the environment variable PAN_BENCH_DEVICE names."""

from __future__ import annotations

import os
import time

import torch

DEVICE = torch.device(os.environ.get("PAN_BENCH_DEVICE", "cpu"))


def clock() -> float:
    """Seconds of CPU; of another device seconds of the wall, once all that was asked of it is done."""
    if DEVICE.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(DEVICE)
    return time.perf_counter()


def name() -> str | None:
    """What the device calls itself; None for the CPU, which is named anyway."""
    return torch.cuda.get_device_name(DEVICE) if DEVICE.type == "cuda" else None
