"""What suppression costs: step time and peak memory on ResNet-18 at 64 px, with and without, alternating in one run.

python -m benchmarks.penalty_cost                         # the penalty, which has a bound to keep to
python -m benchmarks.penalty_cost --of mask mask-all dropout
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pan_callbacks import PaddingBiasPenalty, masked, padding_dropout, scan
from pan_callbacks.callbacks._mask_all import MaskAllHooks

BATCH, SIZE = 32, 64
WEIGHT, EVERY = 0.1, 4  # the defaults of PANPenalty
BOUND = 1.05
NONE, WAYS = "none", ("penalty", "mask", "mask-all", "dropout")


@dataclass(frozen=True)
class Training:
    """A network, what trains it, and a batch."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    around: Callable[[nn.Module], AbstractContextManager[object]]
    penalty: PaddingBiasPenalty | None
    images: Tensor
    labels: Tensor

    def steps(self, count: int) -> float:
        """Seconds of CPU for some training steps."""
        with self.around(self.model):
            start = time.process_time()
            for _ in range(count):
                self.optimizer.zero_grad()
                loss = F.cross_entropy(self.model(self.images), self.labels)
                if self.penalty is not None:
                    loss = loss + WEIGHT * self.penalty()
                loss.backward()
                self.optimizer.step()
            return time.process_time() - start


def mask(model: nn.Module) -> Callable[[nn.Module], AbstractContextManager[object]]:
    """Masks the PANs that the network has before training, which are more than it will have."""
    report = scan(model.eval(), [torch.randn(BATCH, 3, SIZE, SIZE)], progress=False)
    model.train()
    print(f"mask: {report.count} of {report.neurons} neurons are masked", file=sys.stderr)
    return lambda model: masked(model, report)


@contextmanager
def mask_all(model: nn.Module) -> Iterator[None]:
    """What ``PANMask(which="all")`` does."""
    hooks = MaskAllHooks(model, 1.0, "neutral")
    yield
    hooks.take_off()


#: What a model trains within, where nothing has to be found out before.
AROUND = {"mask-all": mask_all, "dropout": padding_dropout}


def setup(way: str) -> Training:
    """A training with one of ``WAYS``, or none."""
    torch.manual_seed(0)
    model = timm.create_model("resnet18", num_classes=10)
    around = mask(model) if way == "mask" else AROUND.get(way, nullcontext)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    penalty = PaddingBiasPenalty(model, every_n_steps=EVERY, beside_task=True) if way == "penalty" else None
    return Training(model, optimizer, around, penalty, torch.randn(BATCH, 3, SIZE, SIZE), torch.arange(BATCH) % 10)


def time_ratios(way: str, rounds: int) -> list[float]:
    """Ratio of a block of steps with one of ``WAYS`` to one without, of each round; who begins alternates."""
    trainings = {name: setup(name) for name in (way, NONE)}
    ratios = []
    for number in range(rounds + 1):
        order = (way, NONE) if number % 2 else (NONE, way)
        seconds = {name: trainings[name].steps(EVERY) for name in order}
        if number:  # the first round warms up
            ratios.append(seconds[way] / seconds[NONE])
    return ratios


def memory_ratios(way: str, rounds: int) -> list[float]:
    """Ratio of the peaks of memory of two fresh processes, of each round."""
    return [peak_memory(way) / peak_memory(NONE) for _ in range(rounds)]


def peak_memory(way: str) -> float:
    """Peak of resident memory while training, above what there was before, in MiB, in a fresh process."""
    code = f"from benchmarks.penalty_cost import measure_peak; measure_peak({way!r})"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout)


def measure_peak(way: str) -> None:
    """Trains in this process while a thread reads its resident memory, and prints the peak."""
    torch.set_num_threads(1)
    training, peak, done = setup(way), [0], threading.Event()

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


def line(name: str, ratios: list[float], bound: float | None) -> str:
    """A row of the table: median, quartiles, and whether all but chance is within the bound, if there is one."""
    low, median, high = statistics.quantiles(ratios, n=4)
    numbers = f"| {name} | {median:.3f} | {low:.3f} … {high:.3f} |"
    if bound is None:
        return f"{numbers} | |"
    said = "not reached" if median > bound else "reached" if high <= bound else "the median, not the upper quartile"
    return f"{numbers} ≤ {bound} | {said} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--of", nargs="+", choices=WAYS, default=["penalty"], help="what suppresses")
    parser.add_argument("--rounds", type=int, default=31, help=f"blocks of {EVERY} steps with and without, at least 2")
    parser.add_argument("--processes", type=int, default=5, help="fresh processes with and without, at least 2")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| with / without | median | quartiles | asked | verdict |\n|---|---:|---|---:|---|")
    for way in args.of:
        bound = BOUND if way == "penalty" else None
        print(line(f"{way}: CPU time of {EVERY} steps", time_ratios(way, args.rounds), bound), flush=True)
        if way != "mask":  # finding what to mask leaves more memory behind than training takes
            print(line(f"{way}: peak memory", memory_ratios(way, args.processes), bound), flush=True)


if __name__ == "__main__":
    main()
