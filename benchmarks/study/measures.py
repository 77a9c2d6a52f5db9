"""What is measured of a network: how many PANs of which type, how often it is right, how far its answer moves."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from benchmarks.study.tasks import Patched
from pan_callbacks import PANReport, impact, masked
from pan_callbacks.reports.taxonomy import type_of
from pan_callbacks.suppression.targets import draw_controls

BATCH = 125
FREE = 0.005  # loss of accuracy that counts as none
MODES = ("neutral", "mean", "zero")

Neurons = Mapping[str, Sequence[int]]


class OneLabel(nn.Module):
    """The logits of one label of a network that has several; its layers have the names that its Classifier gives them.

    Args:
        net: The network.
        start: First logit.
        classes: Number of logits.
    """

    def __init__(self, net: nn.Module, start: int, classes: int) -> None:
        super().__init__()
        self.net, self.logits = net, slice(start, start + classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)[:, self.logits]


def by_label(net: nn.Module, classes: Mapping[str, int]) -> dict[str, OneLabel]:
    """A network for each label."""
    starts = [sum(list(classes.values())[:i]) for i in range(len(classes))]
    return {label: OneLabel(net, start, n).eval() for start, (label, n) in zip(starts, classes.items(), strict=True)}


@torch.no_grad()
def probabilities(model: nn.Module, images: Tensor) -> Tensor:
    """What a model makes of images, (images, classes)."""
    model.eval()
    return torch.cat([model(part).softmax(1) for part in images.split(BATCH)])


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of the images whose class is found."""
    return (probabilities(model, images).argmax(1) == labels).double().mean().item()


def movement(before: Tensor, after: Tensor) -> dict[str, float]:
    """How far answers move: mean total variation distance, and share of the images with another class."""
    distance = (before - after).abs().sum(1).div(2).mean().item()
    return {"tv": distance, "flips": (before.argmax(1) != after.argmax(1)).double().mean().item()}


def mean_movement(before: Tensor, afters: Iterable[Tensor]) -> dict[str, float]:
    """The same, mean over several."""
    found = [movement(before, after) for after in afters]
    return {key: statistics.fmean(one[key] for one in found) for key in found[0]}


def under(path: str, numbers: Mapping[str, float]) -> dict[str, float]:
    """The numbers with a path before their names."""
    return {f"{path}/{name}": value for name, value in numbers.items()}


def patch_movement(model: nn.Module, name: str, sets: Patched) -> dict[str, float]:
    """Movement under a patch, at the border and inside."""
    before = probabilities(model, sets.plain)
    return {
        **under(f"{name}/border", movement(before, probabilities(model, sets.border))),
        **under(f"{name}/interior", movement(before, probabilities(model, sets.interior))),
    }


def census(report: PANReport) -> dict[str, float]:
    """PANs of a report: how many, of which origin, sign and side, in which third of the padded layers."""
    counts: Counter[str] = Counter()
    for pan in report.pans:
        edges = sum("-" not in side for side in pan.kind.split("+"))
        counts[pan.origin] += 1
        counts["excited" if pan.contrast[pan.strongest] > 0 else "inhibited"] += 1
        counts[type_of(pan, report).depth] += 1
        counts["corner" if edges == 0 else "one edge" if edges == 1 else "several edges"] += 1
    return {
        "pans": report.count,
        "neurons": report.neurons,
        "border bias": report.border_bias,
        **{kind: counts[kind] for kinds in TYPES.values() for kind in kinds},
    }


#: How PANs are sorted; each of these sorts all of them.
TYPES = {
    "origin": ("nascent", "inherited"),
    "sign": ("excited", "inhibited"),
    "depth": ("early", "middle", "late"),
    "side": ("one edge", "several edges", "corner"),
}


def worth(
    model: nn.Module,
    images: Tensor,
    labels: Tensor | None,
    report: PANReport,
    modes: Sequence[str] = MODES,
    controls: int = 5,
) -> dict[str, float]:
    """What impact() says of every mode: changes of accuracy, divergence and flips, of PANs and of controls."""
    parts = [(images[i : i + BATCH], *(() if labels is None else (labels[i : i + BATCH],))) for i in starts(images)]
    found = impact(model, parts, report, mode=modes, controls=controls, progress=False)
    numbers = {"images": found.images, "accuracy": found.baseline.value}
    for mode in modes:
        for kind, arms in (("pans", (found.arm("pans", mode),)), ("control", found.controls(mode))):
            numbers[f"{kind}/{mode}/change"] = statistics.fmean(map(found.change, arms))
            numbers[f"{kind}/{mode}/kl"] = statistics.fmean(arm.kl for arm in arms)
            numbers[f"{kind}/{mode}/flips"] = statistics.fmean(arm.flips for arm in arms)
    padding = found.arm("padding", "neutral")
    numbers |= {"padding/change": found.change(padding), "padding/kl": padding.kl, "padding/flips": padding.flips}
    return {key: value for key, value in numbers.items() if value == value}


def starts(images: Tensor) -> range:
    """First image of every batch."""
    return range(0, len(images), BATCH)


def removal(model: nn.Module, images: Tensor, labels: Tensor, report: PANReport) -> dict[str, float]:
    """What accuracy is lost where PANs are taken out, all of one origin, all together, or one by one.

    Returns:
        ``"<set>/<mode>/change"`` of accuracy and the same of controls, ``"<set>/neurons"``, and the share of neurons
        that cost less than half a point each ``"alone/pans"``, ``"alone/control"``.
    """
    sets = {"all": report.neurons_by_layer()}
    for origin in TYPES["origin"]:
        sets[origin] = {}
        for pan in report.pans:
            if pan.origin == origin:
                sets[origin].setdefault(pan.layer, []).append(pan.channel)
    controls = [draw_controls(report, draw) for draw in range(3)]
    before, found = accuracy(model, images, labels), {}

    def change(neurons: Neurons, mode: str) -> float:
        with masked(model, report, mode, neurons=neurons):
            return accuracy(model, images, labels) - before

    for name, neurons in sets.items():
        found[f"{name}/neurons"] = sum(map(len, neurons.values()))
        if not neurons:
            continue
        for mode in ("zero", "mean"):
            found[f"{name}/{mode}/change"] = change(neurons, mode)
            others = [{layer: draw[layer][: len(own)] for layer, own in neurons.items()} for draw in controls]
            found[f"{name}/{mode}/control"] = statistics.fmean(change(draw, mode) for draw in others)
    for kind, neurons in (("pans", sets["all"]), ("control", controls[0])):
        alone = [change({layer: [channel]}, "zero") for layer, channels in neurons.items() for channel in channels]
        if alone:
            found[f"alone/{kind}"] = statistics.fmean(loss > -FREE for loss in alone)
    return found
