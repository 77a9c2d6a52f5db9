"""The four experiments; each run returns plain numbers, their names are paths."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytorch_lightning as pl
from torch import Tensor, nn

from benchmarks.study import tasks
from benchmarks.study.imagenet import ARMS, imagenet
from benchmarks.study.measures import (
    accuracy,
    by_label,
    census,
    mean_movement,
    patch_movement,
    probabilities,
    removal,
    under,
    worth,
)
from benchmarks.study.training import FAMILIES, TRAININGS, family, trained
from benchmarks.suppression.networks import red_green_net, set_padding
from benchmarks.suppression.tasks import TASKS, placed
from benchmarks.suppression.training import fit
from examples.data import PLACED_MEAN, PLACED_STD, PlacedDigitsData
from pan_callbacks import PANReport, masked, scan
from pan_callbacks.suppression.targets import padded_channels

Numbers = dict[str, float]
SIZES = (32, 48, 64)
#: Each digit of the validation set at one place.
RESPECTS_TASKS = {
    "digit": replace(TASKS["digit"], data=placed("digit", normalised=False, draws=1)),
    "both": replace(TASKS["digit and place"], data=placed("both", normalised=True, draws=1)),
}


def look(model: nn.Module, images: Tensor) -> PANReport:
    """The PANs, seen on at most 256 images."""
    return scan(model, images.split(64), progress=False)


def variants(model: nn.Module, report: PANReport, masks: bool = True) -> dict[str, dict[str, list[int]]]:
    """Which neurons are blind to the padding: none, the PANs, and all of the network."""
    blind = {"PANs": report.neurons_by_layer(), "padding": padded_channels(model, report)}
    return {"as is": {}, **(blind if masks else {})}


# --- families ------------------------------------------------------------------------------------------------------


def families(arm: str, seed: int) -> Numbers:
    """PANs of a model of timm before its first step and when it has learned the digits."""
    name, padding = arm.split("/")
    module = family(name)
    set_padding(module, padding)
    data = PlacedDigitsData("digit", canvas=tasks.SIZE, digit_size=tasks.DIGIT, seed=seed)
    data.setup()
    for part in (data.train_set, data.val_set):
        part.images = part.images * PLACED_STD + PLACED_MEAN  # so that zeros are black, and not grey
    images, labels = data.val_set.images[:, None], data.val_set.targets
    before = census(look(module, images))
    module = fit(module, data.train_set, data.val_set, FAMILIES[name][1])
    report = look(module, images)
    return {
        **under("before", before),
        **under("after", census(report)),
        **under("worth", worth(module, images[:500], labels[:500], report, ("neutral", "zero"), controls=3)),
        "accuracy": accuracy(module, images, labels),
    }


# --- red and green -------------------------------------------------------------------------------------------------


def red_green(arm: str, seed: int) -> Numbers:
    """Accuracy where position tells the class, and where it tells the other one."""
    train, val = tasks.red_green_sets(seed)
    module = trained(red_green_net(2), {"order": 2}, train, val, arm, epochs=12, lr=2e-3)
    similar, swapped = (tasks.red_green(1000, 3 * seed + 2, exchanged) for exchanged in (False, True))
    report = look(module, val.images)
    found = census(report)
    for name, neurons in variants(module, report, TRAININGS[arm][0] == "zeros").items():
        with masked(module, report, "neutral", neurons=neurons):
            pair = {"similar": accuracy(module, *similar), "swapped": accuracy(module, *swapped)}
        found |= under(name, pair | {"gap": pair["similar"] - pair["swapped"]})
    return found


# --- four respects -------------------------------------------------------------------------------------------------


def respects(arm: str, seed: int) -> Numbers:
    """What PANs cost or give: accuracy, at the border and in other sizes, when taken out, when the image moves."""
    short, how = arm.split("/")
    task = RESPECTS_TASKS[short]
    train, val, classes = task.data(seed)
    module = trained(task.network(sum(classes.values())), classes, train, val, how, task.epochs, task.lr)
    images, targets = val.images[:, None], val.targets.reshape(len(val), -1)
    labels = dict(zip(classes, targets.unbind(1), strict=True))
    models = by_label(module.net, classes)
    report = look(models["digit"], images)
    found = census(report)
    probes = Probes(seed, normalised=short == "both")
    for variant, neurons in variants(module, report, how == "zero").items():
        with masked(models["digit"], report, "neutral", neurons=neurons):
            for label, model in models.items():
                found[f"{variant}/{label}/accuracy"] = accuracy(model, images, labels[label])
            found |= under(variant, probes.generalisation(models["digit"]) | probes.safety(models["digit"]))
    if how == "zero":
        for label, model in models.items():
            found |= under(f"worth/{label}", worth(model, images, labels[label], report))
            found |= under(f"removal/{label}", removal(model, images[:500], labels[label][:500], report))
    return found


class Probes:
    """Images made of the held-out digits of a seed.

    Args:
        seed: The seed.
        normalised: Whether the network was trained on normalised images.
    """

    def __init__(self, seed: int, normalised: bool) -> None:
        self.digits = tasks.held_out(seed)
        self.labels = tasks.mnist_digits()[1][self.digits]
        self.seed, self.normalised = 1000 + seed, normalised

    def _ready(self, images: Tensor) -> Tensor:
        return ((images - PLACED_MEAN) / PLACED_STD if self.normalised else images)[:, None]

    def generalisation(self, model: nn.Module) -> Numbers:
        """Accuracy next to the border and in the middle, and in images of other sizes."""
        near, central = map(self._ready, tasks.near_and_central(self.digits, self.seed))
        sizes = {f"size {size}": self._ready(tasks.of_size(self.digits, size, self.seed)) for size in SIZES}
        sets = {"near": near, "central": central, **sizes}
        return {name: accuracy(model, images, self.labels) for name, images in sets.items()}

    def safety(self, model: nn.Module) -> Numbers:
        """How far answers move when the camera does, and when a patch is put at the border or inside."""
        digits, found = self.digits[:500], {}
        large = self._ready(tasks.shiftable(digits, self.seed))
        for shift in tasks.SHIFTS:
            before, *afters = (probabilities(model, part) for part in tasks.windows(large, shift, max(tasks.SHIFTS)))
            found |= under(f"shift {shift}", mean_movement(before, afters))
        for name in ("strip", "noise"):
            sets = tasks.patched(digits, self.seed, name == "noise")
            found |= patch_movement(model, name, tasks.Patched(*map(self._ready, vars(sets).values())))
        return found


# --- what there is to run ------------------------------------------------------------------------------------------

#: Function, arms, and number of seeds; the longest first, so that no process waits at the end.
EXPERIMENTS: dict[str, tuple[Callable[[str, int], Numbers], tuple[str, ...], int]] = {
    "imagenet": (imagenet, ARMS, 1),
    "families": (
        families,
        (*(f"{name}/zeros" for name in FAMILIES), "resnet10t/circular", "resnet10t/reflect"),
        2,
    ),
    "respects": (
        respects,
        tuple(f"{task}/{how}" for task in RESPECTS_TASKS for how in ("zero", "penalty", "mask", "circular")),
        3,
    ),
    "red_green": (red_green, tuple(TRAININGS), 5),
}


def run(experiment: str, arm: str, seed: int) -> Numbers:
    """Runs once, in this process."""
    pl.seed_everything(seed, verbose=False)
    return EXPERIMENTS[experiment][0](arm, seed)
