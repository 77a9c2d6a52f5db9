"""What the penalty costs: step time and peak memory on ResNet-18 at 64 px, with and without, alternating in one run.

python -m benchmarks.penalty_cost
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import timm
import torch
import torch.nn.functional as F

from pan_callbacks import PaddingBiasPenalty

BATCH, SIZE = 32, 64


def steps(model, optimizer, penalty, weight: float, images, labels, count: int) -> float:
    """Seconds of CPU for some training steps; without a penalty its hooks are there and look away."""
    start = time.process_time()
    for _ in range(count):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        if weight:
            loss = loss + weight * penalty()
        loss.backward()
        optimizer.step()
    return time.process_time() - start


def setup(kind: str | None, every: int):
    torch.manual_seed(0)
    model = timm.create_model("resnet18", num_classes=10)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    penalty = None if kind is None else PaddingBiasPenalty(model, kind, every_n_steps=every)
    return model, optimizer, penalty, torch.randn(BATCH, 3, SIZE, SIZE), torch.arange(BATCH) % 10


def time_ratio(kind: str, every: int, rounds: int, count: int) -> tuple[float, float, float]:
    """Median ratio of the step with the penalty to the step without, with its quartiles."""
    with_it, without = setup(kind, every), setup(None, 1)
    ratios = []
    for i in range(rounds + 1):
        runs = [
            lambda: steps(*with_it[:3], 0.1, *with_it[3:], count),
            lambda: steps(*without[:3], 0, *without[3:], count),
        ]
        order = (0, 1) if i % 2 else (1, 0)
        seconds = {which: runs[which]() for which in order}
        if i:  # the first round warms up
            ratios.append(seconds[0] / seconds[1])
    low, median, high = statistics.quantiles(ratios, n=4)
    return median, low, high


def peak_memory(kind: str | None, every: int) -> float:
    """Peak of resident memory while training, above what there was before, in MiB, in a fresh process."""
    code = f"from benchmarks.penalty_cost import measure_peak; measure_peak({kind!r}, {every})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout)


def measure_peak(kind: str | None, every: int) -> None:
    """Trains in this process while a thread reads its resident memory."""
    torch.set_num_threads(1)
    made, peak, done = setup(kind, every), [0], threading.Event()

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def watch() -> None:
        while not done.wait(0.001):
            peak[0] = max(peak[0], resident())

    before = resident()
    watcher = threading.Thread(target=watch)
    watcher.start()
    steps(*made[:3], 0.1 if kind else 0, *made[3:], every + 1)
    done.set()
    watcher.join()
    print((peak[0] - before) / 2**20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--count", type=int, default=8, help="steps in a round, a multiple of every_n_steps")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| kind | every_n_steps | step time | quartiles | peak memory |\n|---|---:|---:|---|---:|")
    plain = statistics.median(peak_memory(None, 1) for _ in range(3))
    for kind, every in (("both", 4), ("effect", 4), ("moments", 4), ("both", 1)):
        median, low, high = time_ratio(kind, every, args.rounds, args.count)
        memory = statistics.median(peak_memory(kind, every) for _ in range(3)) / plain
        print(f"| {kind} | {every} | {median:.3f} | {low:.3f} … {high:.3f} | {memory:.3f} |", flush=True)


if __name__ == "__main__":
    main()
