"""Measures what the padding aware neurons of a model are worth to it, by masking them."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from pan_callbacks._runtime import (
    give_up_together,
    in_smaller_batches,
    of_all_processes,
    progress_bar,
    sum_of_processes,
)
from pan_callbacks.errors import PANError
from pan_callbacks.layers import check_fits, convolutions, pad_modules, why_unpadded
from pan_callbacks.measurement.batches import describe_batch, device_of, first_images
from pan_callbacks.measurement.hooks import quietly
from pan_callbacks.reports.impact_report import Arm, ClassChanges, ImpactReport
from pan_callbacks.reports.pan_report import PANReport
from pan_callbacks.suppression.masks import ChannelMask, MaskHook, build_masks, check_mode, hooked, targets
from pan_callbacks.suppression.predictions import PredictionTally


def impact(
    model: nn.Module,
    batches: Iterable[Any],
    report: PANReport,
    mode: str | Sequence[str] = "neutral",
    controls: int = 5,
    seed: int = 0,
    metric: Metric | None = None,
    class_names: Sequence[str] | None = None,
    progress: bool = True,
    share: tuple[int, int] = (0, 1),
) -> ImpactReport:
    """Measures what changes when the padding aware neurons of a model are masked.

    The model is run on each batch as it is, with the report's PANs masked, with as many other neurons of the same
    layers masked in their place (several random draws, so that there is a spread to compare with), and with neutral
    padding in every padded layer. It is left as it was, also after an exception.

    Args:
        model: Model that the report is about.
        batches: Yields images with their labels, as (images, labels); images alone show what happens to the
            predictions, and nothing of their accuracy.
        report: What :func:`pan_callbacks.scan` found.
        mode: A mode of :func:`pan_callbacks.masked`, or several.
        controls: Random draws of other neurons.
        seed: Seed of these draws.
        metric: Any torchmetrics metric of (answer of the model, labels), for regression, dense answers, or anything
            else; accuracy by default. It is copied, once for each mask.
        class_names: Names of the classes, for the report.
        progress: Whether to show a progress bar.
        share: Number of this process and of all, where each has batches of its own and all get one report together.

    Raises:
        ValueError: If a mode is unknown or ``controls`` is negative.
        PANError: If the report was made for another model, there is no batch, the answer is no answer of a classifier
            and there is no metric, there is a metric and no labels, or a classifier answers with NaN.

    Example:
        >>> from pan_callbacks import scan
        >>> conv = nn.Conv2d(1, 2, 3, padding=1, bias=False).eval()  # the first sums its window, the second copies
        >>> _ = conv.weight.data.zero_(), conv.weight.data[0].fill_(1), conv.weight.data[1, 0, 1, 1].fill_(1)
        >>> net = nn.Sequential(conv, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> images = 1 + torch.rand(8, 1, 16, 16, generator=torch.Generator().manual_seed(0)) / 10
        >>> labels = torch.zeros(8, dtype=torch.long)
        >>> report = scan(net, [images], progress=False)
        >>> found = impact(net, [(images, labels)], report, mode="zero", progress=False)
        >>> found.baseline.value, found.arm("pans", "zero").value, found.arm("control", "zero").value
        (1.0, 0.0, 1.0)
    """
    modes = (mode,) if isinstance(mode, str) else tuple(dict.fromkeys(mode))
    for name in modes:
        check_mode(name)
    if controls < 0:
        raise ValueError(f"controls={controls!r} is negative; 0 leaves them out")
    plans, notes = _plan(model, report, modes, controls, seed)
    outcome, failure, device = _Outcome(len(plans), metric), None, device_of(model)
    try:
        masked = {conv: None for plan in plans for conv in plan.masks}
        with quietly(model), hooked(model, masked) as hooks:
            work = partial(_measure, model, batches, plans, hooks, outcome, progress=progress, share=share)
            notes += in_smaller_batches(work, restartable=not isinstance(batches, Iterator))
        if not outcome.images:
            raise PANError("batches is empty: nothing was measured")
    except Exception as error:  # the other processes wait for this one
        failure = error
    give_up_together(failure, device)
    outcome.images = sum_of_processes(outcome.images, device)
    notes = of_all_processes(notes)
    arms = [replace(plan.arm, **values) for plan, values in zip(plans, outcome.compute(), strict=True)]
    names = None if class_names is None else tuple(class_names)
    return ImpactReport(outcome.name, outcome.images, tuple(arms), names, tuple(notes))


@dataclass(frozen=True)
class _Plan:
    """An arm to be measured, and the masks that make it."""

    arm: Arm
    masks: Mapping[nn.Conv2d, ChannelMask]


def _plan(
    model: nn.Module, report: PANReport, modes: Sequence[str], controls: int, seed: int
) -> tuple[list[_Plan], list[str]]:
    pans, notes = report.neurons_by_layer(), []
    found = convolutions(model)
    for name, channels in pans.items():
        check_fits(found, name, channels)
    draws = [draw_controls(report, 1000 * seed + draw) for draw in range(controls)]
    short = report.count - sum(map(len, draws[0].values())) if draws else 0
    if short:
        notes.append(f"controls are {short} neurons fewer than PANs: a layer has more PANs than other neurons")
    if not pans:
        notes.append("the report has no PANs: nothing was masked")

    def plan(kind: str, mode: str, neurons: Mapping[str, Sequence[int]], draw: int | None = None) -> _Plan:
        arm = Arm(kind, mode, sum(map(len, neurons.values())), math.nan, draw)
        return _Plan(arm, build_masks(model, targets(report, neurons), mode) if mode else {})

    plans = [plan("baseline", "", {})]
    for mode in modes:
        plans.append(plan("pans", mode, pans))
        plans += [plan("control", mode, neurons, draw) for draw, neurons in enumerate(draws)]
    padded = padded_channels(model, report)
    plans.append(plan("padding", "neutral", padded))
    others = sum(why_unpadded(conv) is None for name, conv in found.items() if name not in padded)
    if others:
        notes.append(f"neutral padding is that of the {len(padded)} surveyed layers: {others} others keep theirs")
    return plans, notes


def draw_controls(report: PANReport, seed: int = 0) -> dict[str, list[int]]:
    """As many neurons of each layer that are no PANs as the layer has PANs, by chance.

    Args:
        report: Which neurons are PANs.
        seed: Seed of the draw.

    Returns:
        Layer name to channels; fewer in a layer that has more PANs than other neurons.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = {}
    for name, pans in report.neurons_by_layer().items():
        others = sorted(set(range(report.layers[name].channels)) - set(pans))
        order = torch.randperm(len(others), generator=generator)[: len(pans)]
        drawn[name] = sorted(others[i] for i in order.tolist())
    return drawn


def padded_channels(model: nn.Module, report: PANReport) -> dict[str, list[int]]:
    """All channels of every padded layer in a report: masked with ``"neutral"``, these layers have no padding.

    Where the report has all layers of the model, its padding is gone, but for that of a pad module before a layer that
    was not measured.
    """
    found, pads = convolutions(model), pad_modules(model)
    return {
        name: list(range(line.channels))
        for name, line in report.layers.items()
        if name in found and why_unpadded(found[name], pads.get(line.pad)) is None
    }


def _wear(hooks: Mapping[nn.Conv2d, MaskHook], plan: _Plan) -> None:
    """Puts on the masks of a plan, and takes off all others."""
    for conv, hook in hooks.items():
        hook.mask = plan.masks.get(conv)


def _measure(
    model: nn.Module,
    batches: Iterable[Any],
    plans: Sequence[_Plan],
    hooks: Mapping[nn.Conv2d, MaskHook],
    outcome: _Outcome,
    largest: int | None,
    progress: bool,
    share: tuple[int, int],
) -> Iterator[int]:
    """One pass over the batches; yields the size of each forward before it is made."""
    outcome.reset()
    device = device_of(model)
    with progress_bar("impact", image_count(batches), progress) as advance:
        for number, batch in enumerate(batches):
            images = first_images(batch)
            if images is None:
                raise PANError(f"batches holds no images: {describe_batch(batch)}")
            labels = labels_of(batch)
            if labels is not None and (not isinstance(labels, Tensor) or len(labels) != len(images)):
                raise PANError(f"{len(images)} images need a tensor of as many labels, not {describe_batch(labels)}")
            # which half an image belongs to does not depend on how many processes share the batches
            halves = (torch.arange(len(images)) + number * share[1] + share[0]) % 2
            step = largest or len(images) or 1
            for start in range(0, len(images), step):
                part = slice(start, start + step)
                yield len(images[part])
                answers = []
                for plan in plans:
                    _wear(hooks, plan)
                    answers.append(answer_of(model(images[part].to(device))))
                outcome.add(answers, None if labels is None else labels[part].to(device), halves[part].to(device))
                advance(len(images[part]))


def image_count(batches: Iterable[Any]) -> int | None:
    """Number of images in a loader, None where it does not say."""
    images = getattr(batches, "dataset", None)
    return len(images) if hasattr(images, "__len__") else None


def labels_of(batch: Any) -> Any:
    """The second item of a batch, or what a dict has under ``"label"``, ``"target"`` or a plural; None if nothing."""
    if isinstance(batch, Mapping):
        return next((batch[key] for key in ("label", "labels", "target", "targets") if key in batch), None)
    return batch[1] if isinstance(batch, (tuple, list)) and len(batch) > 1 else None


def answer_of(output: Any) -> Tensor:
    """The tensor in what a model returns: itself, ``"out"`` or ``"logits"`` of a dict, or the first of a tuple."""
    if isinstance(output, Mapping):
        output = next((output[key] for key in ("out", "logits") if key in output), next(iter(output.values()), None))
    if isinstance(output, (tuple, list)):
        output = output[0] if output else None
    if not isinstance(output, Tensor):
        output = getattr(output, "logits", output)
    if not isinstance(output, Tensor):
        raise PANError(
            f"the model answers with a {type(output).__name__}, and not with a tensor: wrap it so that it does"
        )
    return output.detach()


class _Outcome:
    """What accumulates for every arm."""

    def __init__(self, arms: int, metric: Metric | None) -> None:
        self.arms, self.metric = arms, metric
        self.name = "accuracy" if metric is None else type(metric).__name__
        self.reset()

    def reset(self) -> None:
        """Forgets everything."""
        self.images = 0
        self.tallies: list[PredictionTally] = []
        self.metrics: list[Metric] = []

    def add(self, answers: list[Tensor], labels: Tensor | None, halves: Tensor) -> None:
        """Adds the answers of all arms to the same images."""
        first = answers[0]
        classifier = first.ndim == 2 and first.shape[1] > 1 and first.is_floating_point()
        classifier = classifier and (labels is None or labels.ndim == 1 and not labels.is_floating_point())
        if not classifier and self.metric is None:
            about = "no labels" if labels is None else f"labels of shape {tuple(labels.shape)} and {labels.dtype}"
            raise PANError(
                f"an answer of shape {tuple(first.shape)} with {about} is no classification: give a metric=, "
                "any torchmetrics metric of (answer, labels)"
            )
        if self.metric is not None and labels is None:
            raise PANError(
                f"batches hold no labels, which {self.name} needs: yield (images, labels), or leave out metric="
            )
        if self.metric is not None and not self.metrics:
            self.metrics = [copy.deepcopy(self.metric).to(first.device) for _ in answers]
            for metric in self.metrics:
                metric.reset()
        for metric, answer in zip(self.metrics, answers, strict=False):
            try:
                metric.update(answer, labels)
            except (IndexError, RuntimeError, TypeError, ValueError) as error:
                shapes = f"an answer of shape {tuple(answer.shape)} and labels of shape {tuple(labels.shape)}"
                raise PANError(f"{self.name} does not take {shapes}: {error}") from error
        if classifier:
            self._tally(answers, labels, halves)
        self.images += len(first)

    def _tally(self, answers: list[Tensor], labels: Tensor | None, halves: Tensor) -> None:
        classes = answers[0].shape[1]
        if labels is not None and len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
            raise PANError(f"labels from {int(labels.min())} to {int(labels.max())} for a model of {classes} classes")
        if not self.tallies:
            self.tallies = [PredictionTally(classes).to(answers[0].device) for _ in answers]
        ready = are_probabilities(answers[0])
        before, *afters = (probabilities(answer, ready) for answer in answers)
        for tally, answer, after in zip(self.tallies, answers, (before, *afters), strict=True):
            if bool(after.isnan().any()):
                whose = "the model" if answer is answers[0] else "the masked model"
                raise PANError(f"{whose} answers with NaN, of which there is no prediction: run it in float32")
            tally.update(before, after, None if labels is None else labels.long(), halves)

    def compute(self) -> list[dict[str, Any]]:
        """Values of every arm, the fields of :class:`Arm`; in several processes all of them call it."""
        found: list[dict[str, Any]] = [{} for _ in range(self.arms)]
        for values, tally in zip(found, self.tallies, strict=False):
            counted = tally.compute()
            interval = None if math.isnan(counted["low"]) else (counted["low"], counted["high"])
            values.update(value=counted["accuracy"], interval=interval, kl=counted["kl"], flips=counted["flips"])
            values.update(classes=ClassChanges(**counted["classes"]))
        for values, metric in zip(found, self.metrics, strict=False):
            value = metric.compute()
            if not isinstance(value, Tensor) or value.numel() != 1:
                raise PANError(f"{self.name} does not give one number, which a table of changes needs")
            values.update(value=float(value), interval=None)
        return found


def probabilities(answer: Tensor, ready: bool | None = None) -> Tensor:
    """Probabilities (images, classes) from logits, or from probabilities themselves.

    Args:
        answer: What a classifier answers (images, classes).
        ready: Whether these are probabilities; told by their sums, within the rounding of bfloat16, if None.
    """
    answer = answer.double()
    if ready is None:
        ready = are_probabilities(answer)
    return answer if ready else answer.softmax(1)


def are_probabilities(answer: Tensor) -> bool:
    """Whether no value is negative and each image's sum to one, within the rounding of bfloat16."""
    return bool((answer >= 0).all()) and bool(((answer.double().sum(1) - 1).abs() < 0.01).all())
