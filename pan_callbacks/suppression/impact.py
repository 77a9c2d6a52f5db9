"""Measures what the padding aware neurons of a model are worth to it, by masking them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from pan_callbacks._runtime import (
    ALONE,
    Shard,
    give_up_together,
    in_smaller_batches,
    of_all_processes,
    progress_bar,
    sum_of_processes,
)
from pan_callbacks.errors import PANError
from pan_callbacks.layers import Convolution, check_fits, convolutions, image_axes, why_unpadded
from pan_callbacks.measurement.batches import (
    answer_of,
    describe_batch,
    device_of,
    first_images,
    image_count,
    labels_of,
)
from pan_callbacks.measurement.hooks import quietly
from pan_callbacks.reports.impact_report import Arm, ImpactReport
from pan_callbacks.reports.pan_report import PANReport
from pan_callbacks.reports.words import Kind, Mode
from pan_callbacks.suppression.masks import ChannelMask, MaskHook, build_masks, check_mode, hooked
from pan_callbacks.suppression.predictions import Outcome
from pan_callbacks.suppression.targets import draw_controls, padded_channels, targets

#: Is noted of a report without PANs.
NO_PANS = "the report has no PANs: nothing was masked"


def impact(
    model: nn.Module,
    batches: Iterable[Any],
    report: PANReport,
    mode: Mode | Sequence[Mode] = "neutral",
    controls: int = 5,
    seed: int = 0,
    metric: Metric | None = None,
    class_names: Sequence[str] | None = None,
    progress: bool = True,
    shard: Shard = ALONE,
) -> ImpactReport:
    """Measure what changes when the padding aware neurons of a model are masked.

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
        shard: This process's part of the work; all that share it get one report together.

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
    outcome, failure, device = Outcome(len(plans), metric), None, device_of(model)
    try:
        masked = {conv: None for plan in plans for conv in plan.masks}
        with quietly(model), hooked(model, masked) as hooks:
            work = partial(_measure, model, batches, plans, hooks, outcome, progress=progress, shard=shard)
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
    masks: Mapping[Convolution, ChannelMask]


def _plan(
    model: nn.Module, report: PANReport, modes: Sequence[Mode], controls: int, seed: int
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
        notes.append(NO_PANS)

    def plan(kind: Kind, mode: Mode | None, neurons: Mapping[str, Sequence[int]], draw: int | None = None) -> _Plan:
        arm = Arm(kind, mode or "", sum(map(len, neurons.values())), math.nan, draw)
        return _Plan(arm, build_masks(model, targets(report, neurons), mode) if mode else {})

    plans = [plan("baseline", None, {})]
    for mode in modes:
        plans.append(plan("pans", mode, pans))
        plans += [plan("control", mode, neurons, draw) for draw, neurons in enumerate(draws)]
    padded = padded_channels(model, report)
    plans.append(plan("padding", "neutral", padded))
    others = sum(why_unpadded(conv) is None for name, conv in found.items() if name not in padded)
    if others:
        notes.append(f"neutral padding is that of the {len(padded)} surveyed layers: {others} others keep theirs")
    return plans, notes


def _apply(hooks: Mapping[Convolution, MaskHook], plan: _Plan) -> None:
    """Apply the masks of a plan, and no others."""
    for conv, hook in hooks.items():
        hook.mask = plan.masks.get(conv)


def _measure(
    model: nn.Module,
    batches: Iterable[Any],
    plans: Sequence[_Plan],
    hooks: Mapping[Convolution, MaskHook],
    outcome: Outcome,
    largest: int | None,
    progress: bool,
    shard: Shard,
) -> Iterator[int]:
    """One pass over the batches; yields the size of each forward before it is made."""
    outcome.reset()
    device = device_of(model)
    with progress_bar("impact", image_count(batches), progress) as advance:
        for number, batch in enumerate(batches):
            images = first_images(batch, image_axes(model))
            if images is None:
                raise PANError(f"batches holds no images: {describe_batch(batch)}")
            labels = labels_of(batch)
            if labels is not None and (not isinstance(labels, Tensor) or len(labels) != len(images)):
                raise PANError(f"{len(images)} images need a tensor of as many labels, not {describe_batch(labels)}")
            # which half an image belongs to does not depend on how many processes share the batches
            halves = (torch.arange(len(images)) + shard.number(number)) % 2
            step = largest or len(images) or 1
            for start in range(0, len(images), step):
                part = slice(start, start + step)
                yield len(images[part])
                answers = []
                for plan in plans:
                    _apply(hooks, plan)
                    answers.append(answer_of(model(images[part].to(device))))
                    advance(len(images[part]) / len(plans))
                outcome.add(answers, None if labels is None else labels[part].to(device), halves[part].to(device))
