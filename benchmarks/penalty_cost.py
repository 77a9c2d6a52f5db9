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
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pan_callbacks import PaddingBiasPenalty

BATCH, SIZE = 32, 64
WEIGHT, EVERY = 0.1, 4  # the defaults of PANPenalty
BOUND = 1.05


@dataclass(frozen=True)
class Training:
    """A network, what trains it, and a batch."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    penalty: PaddingBiasPenalty | None
    images: Tensor
    labels: Tensor

    def steps(self, count: int) -> float:
        """Seconds of CPU for some training steps."""
        start = time.process_time()
        for _ in range(count):
            self.optimizer.zero_grad()
            loss = F.cross_entropy(self.model(self.images), self.labels)
            if self.penalty is not None:
                loss = loss + WEIGHT * self.penalty()
            loss.backward()
            self.optimizer.step()
        return time.process_time() - start


def setup(penalised: bool) -> Training:
    torch.manual_seed(0)
    model = timm.create_model("resnet18", num_classes=10)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    penalty = PaddingBiasPenalty(model, every_n_steps=EVERY, beside_task=True) if penalised else None
    return Training(model, optimizer, penalty, torch.randn(BATCH, 3, SIZE, SIZE), torch.arange(BATCH) % 10)


def time_ratios(rounds: int) -> list[float]:
    """Ratio of a block of steps with the penalty to one without, of each round; who begins alternates."""
    trainings = {penalised: setup(penalised) for penalised in (True, False)}
    ratios = []
    for number in range(rounds + 1):
        order = (True, False) if number % 2 else (False, True)
        seconds = {penalised: trainings[penalised].steps(EVERY) for penalised in order}
        if number:  # the first round warms up
            ratios.append(seconds[True] / seconds[False])
    return ratios


def memory_ratios(rounds: int) -> list[float]:
    """Ratio of the peaks of memory of two fresh processes, of each round."""
    return [peak_memory(penalised=True) / peak_memory(penalised=False) for _ in range(rounds)]


def peak_memory(penalised: bool) -> float:
    """Peak of resident memory while training, above what there was before, in MiB, in a fresh process."""
    code = f"from benchmarks.penalty_cost import measure_peak; measure_peak({penalised})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout)


def measure_peak(penalised: bool) -> None:
    """Trains in this process while a thread reads its resident memory, and prints the peak."""
    torch.set_num_threads(1)
    training, peak, done = setup(penalised), [0], threading.Event()

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def watch() -> None:
        while not done.wait(0.001):
            peak[0] = max(peak[0], resident())

    before = resident()
    watcher = threading.Thread(target=watch)
    watcher.start()
    training.steps(EVERY + 1)
    done.set()
    watcher.join()
    print((peak[0] - before) / 2**20)


def line(name: str, ratios: list[float]) -> str:
    """A row of the table: median, quartiles, and whether all but chance is within the bound."""
    low, median, high = statistics.quantiles(ratios, n=4)
    said = "not reached" if median > BOUND else "reached" if high <= BOUND else "the median, not the upper quartile"
    return f"| {name} | {median:.3f} | {low:.3f} … {high:.3f} | ≤ {BOUND} | {said} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=31, help=f"blocks of {EVERY} steps with and without, at least 2")
    parser.add_argument("--processes", type=int, default=5, help="fresh processes with and without, at least 2")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| with the penalty / without | median | quartiles | asked | verdict |\n|---|---:|---|---:|---|")
    print(line(f"CPU time of {EVERY} steps", time_ratios(args.rounds)), flush=True)
    print(line("peak memory", memory_ratios(args.processes)), flush=True)


if __name__ == "__main__":
    main()
