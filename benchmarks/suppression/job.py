"""One run: trains once and measures what came out."""

from __future__ import annotations

import math
import subprocess
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import Subset

import pan_callbacks
from benchmarks.runs import quietly
from benchmarks.study.measures import accuracy, by_label
from benchmarks.suppression.arms import ARMS, Arm, Classifier
from benchmarks.suppression.tasks import TASKS, Task
from benchmarks.suppression.training import fit
from examples.data import LabelledImages
from pan_callbacks import reliance, scan
from pan_callbacks.layers import convolutions

SCANNED, MONITORED, ASKED = 256, 256, 512  # images for the count, for the monitor of a mask, and for reliance
BATCH = 64

Numbers = dict[str, Any]


def one(name: str, arm: str, seed: int) -> Numbers:
    """Runs a task with an arm in this process and one thread, without a word.

    Returns:
        What was run and by which commit, with the numbers of :func:`train_and_measure`.
    """
    quietly()
    numbers = train_and_measure(TASKS[name], ARMS[arm], seed)
    return {"task": name, "arm": arm, "seed": seed, "commit": commit(), **numbers}


def train_and_measure(task: Task, arm: Arm, seed: int) -> Numbers:
    """Trains once; weights, images and their order depend on the seed alone.

    Returns:
        ``pans`` of ``neurons`` with their ``interval`` (None where nobody knows); ``accuracy`` by label, or by test;
        ``reliance`` by label, each with ``value`` and ``flips`` in 0 ... 1; the largest absolute value of a
        convolution's kernel, ``kernel``, and of any parameter, ``parameter``; ``seconds`` of CPU in training.
    """
    pl.seed_everything(seed, verbose=False)
    train, val, classes = task.data(seed)
    module = Classifier(arm.prepared(task.network(sum(classes.values()))), classes, task.lr, task.optimizer)
    start = time.process_time()
    few = Subset(val, range(min(MONITORED, len(val))))
    trained = fit(module, train, few, task.epochs, arm.callbacks(), task.batch)
    seconds = time.process_time() - start
    tests = None if task.tests is None else task.tests(seed)
    return {**measure(trained.net, val, classes, tests), **largest(module.net), "seconds": seconds}


def measure(
    net: nn.Module, val: LabelledImages, classes: dict[str, int], tests: dict[str, tuple[Tensor, Tensor]] | None = None
) -> Numbers:
    """Counts PANs, and takes accuracy and reliance of each label; see :func:`train_and_measure`."""
    images = torch.stack([val[index][0] for index in range(len(val))])
    targets = dict(zip(classes, val.targets.reshape(len(val), -1).unbind(1), strict=True))
    models = by_label(net, classes)
    if tests is None:
        right = {label: accuracy(model, images, targets[label]) for label, model in models.items()}
    else:
        (model,) = models.values()
        right = {name: accuracy(model, *test) for name, test in tests.items()}
    report = scan(net, images.split(BATCH), max_images=SCANNED, progress=False)
    rests = {label: reliance(model, images.split(BATCH), ASKED, progress=False) for label, model in models.items()}
    return {
        "pans": report.count,
        "interval": None if any(map(math.isnan, report.interval)) else list(report.interval),
        "neurons": report.neurons,
        "accuracy": right,
        "reliance": {label: {"value": found.value, "flips": found.flips} for label, found in rests.items()},
    }


def largest(net: nn.Module) -> Numbers:
    """Largest absolute value of a convolution's kernel, and of any parameter."""
    kernels = [conv.weight for conv in convolutions(net).values()]
    return {
        "kernel": max(float(kernel.detach().abs().max()) for kernel in kernels),
        "parameter": max(float(parameter.detach().abs().max()) for parameter in net.parameters()),
    }


def commit() -> str:
    """Short hash of the commit that the package is of; ``""`` where there is none."""
    folder = Path(pan_callbacks.__file__).parent
    try:
        done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=folder, capture_output=True, text=True)
    except OSError:  # no git
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
