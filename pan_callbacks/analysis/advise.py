"""Measures what there is to know about the padding of a network, and decides what to do about it."""

from __future__ import annotations

import glob
import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from pan_callbacks.layers import image_axes
from pan_callbacks.measurement.batches import first_images, image_count, labels_of
from pan_callbacks.measurement.grouping import Groups, names_of
from pan_callbacks.measurement.reliance import reliance
from pan_callbacks.measurement.scan import scan
from pan_callbacks.measurement.unseen import has_no_padding, why_nothing
from pan_callbacks.reports.advice import Advice
from pan_callbacks.reports.estimate import Estimate, share_of
from pan_callbacks.reports.impact_report import Arm, ImpactReport
from pan_callbacks.reports.pan_report import PANReport
from pan_callbacks.reports.reliance import CLASSES
from pan_callbacks.reports.verdict import Evidence
from pan_callbacks.suppression.impact import NO_PANS, impact
from pan_callbacks.suppression.masks import masked
from pan_callbacks.suppression.targets import padded_channels


def advise(
    model: nn.Module,
    batches: Iterable[Any],
    max_images: int = 256,
    threshold: float = 0.8,
    groups: Groups = None,
    progress: bool = True,
    impact_images: int = 1024,
    tolerance: float = 0.01,
) -> Advice:
    """Measure what a network's padding does, and advise to keep it, to blind the network to it, or to retrain.

    The network is scanned as it is and with all padding neutral; its answers are compared as it is, with its PANs
    neutral and with all padding neutral, image by image. :func:`~pan_callbacks.reports.verdict.decide` says what
    follows. The model is left as it was.

    Args:
        model: Model to advise on; it is called with a batch of images, on the device it is on.
        batches: Yields images (images, channels, height, width) with their labels, as (images, labels), or images
            alone: then it is known how answers change, and not whether they get worse. They are read several times; of
            an iterator, which cannot be, as many as are needed are kept in memory.
        max_images: Images to scan, at most.
        threshold: Absolute contrast from which a neuron is a PAN, see :func:`pan_callbacks.scan`.
        groups: Which images belong together, likewise. What blinding costs is then as uncertain as if each group were a
            single image.
        progress: Whether to show progress bars.
        impact_images: Images whose answers are compared, at most, up to the end of a batch. They are more than those of
            the scan, for a change of one in a hundred shows in several hundred images only.
        tolerance: What is small, from 0 to 1: of the share of images whose class changes, of a loss of accuracy, of
            what answers move by.

    Returns:
        The advice: ``verdict``, ``paragraph()``, ``summary()``, and ``evidence`` with all numbers.

    Raises:
        ValueError: If an argument is out of range.
        PANError: If a batch holds no images, there is no batch, the images are too small for any reference, labels do
            not fit the answers, or these cannot be compared.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
        >>> _ = net[0].weight.data.zero_(), net[0].weight.data[:, 0, 1, 1].copy_(torch.tensor([9.0, -9.0]))
        >>> images = torch.rand(500, 1, 12, 12, generator=torch.Generator().manual_seed(0)) - 0.5
        >>> advice = advise(net, images.split(100), progress=False)  # reads the centre of its windows alone
        >>> advice.verdict, advice.evidence.reliance.flips
        ('keep', 0.0)
    """
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance={tolerance!r} is not in (0, 1); 0.01, one in a hundred, is the default")
    if impact_images < 1:
        raise ValueError(f"impact_images={impact_images!r}: at least one image is needed")
    names = _Names(groups, image_axes(model))
    images = _First(batches, max(max_images, impact_images), image_axes(model))
    report = scan(model, images, threshold=threshold, max_images=max_images, progress=progress, groups=names.groups)
    if not report.neurons:
        why, none = why_nothing(model, report), has_no_padding(model, report)
        return Advice.of(Evidence(images=0, unpadded=why, without_padding=none, tolerance=tolerance))
    floor, notes = _floor(model, images, report, max_images, names.groups, progress)
    evidence = Evidence(
        images=0,
        neurons=report.neurons,
        pans=Estimate(float(report.count), *report.interval),
        surely_visible=sum(pan.certain and pan.visible is not False for pan in report.pans),
        floor=None if floor is None else Estimate(float(floor.count), *floor.interval),
        floor_visible=0 if floor is None else sum(pan.visible is not False for pan in floor.pans),
        tolerance=tolerance,
    )
    evidence, more = _answered(model, images, impact_images, report, evidence, names, progress)
    return Advice.of(evidence, dict.fromkeys([*report.notes, *notes, *more]))


class _First:
    """The first images of some batches, in whole batches, as often as they are asked for.

    Args:
        batches: The batches; what can be read once only is kept.
        limit: Images that suffice.
        axes: As many axes as images have.
        labels: Whether to hand on what comes beside the images.
    """

    def __init__(self, batches: Iterable[Any], limit: int, axes: int, labels: bool = True) -> None:
        self._batches, self._limit, self._axes, self._labels = batches, limit, axes, labels
        known = image_count(batches)
        self.dataset = None if known is None else range(min(known, limit))  # for the length of progress bars
        if isinstance(batches, Iterator):
            self._batches = list(self)

    def __iter__(self) -> Iterator[Any]:
        left = self._limit
        for batch in self._batches:
            images = first_images(batch, self._axes)
            yield batch if self._labels else images
            left -= 0 if images is None else len(images)
            if left <= 0:
                return

    def of(self, limit: int, labels: bool = True) -> _First:
        """Return fewer of them, or the images alone."""
        return _First(self, limit, self._axes, labels)


def _floor(
    model: nn.Module, batches: Iterable[Any], report: PANReport, max_images: int, groups: Groups, progress: bool
) -> tuple[PANReport | None, list[str]]:
    """Scan the same layers and images with all padding neutral; None, with a sentence, if that cannot be done."""
    layers = [glob.escape(name) for name in report.layers]
    try:
        with masked(model, report, "neutral", padded_channels(model, report)):
            found = scan(model, batches, layers, report.reference, report.threshold, max_images, progress, groups)
    except Exception as error:  # whatever a model of somebody's makes impossible; the rest is worth more
        return None, [f"how many PANs remain with all padding neutral is not known: {type(error).__name__}: {error}"]
    return found, []


def _answered(
    model: nn.Module, batches: _First, limit: int, report: PANReport, evidence: Evidence, names: _Names, progress: bool
) -> tuple[Evidence, list[str]]:
    """Add what happens to the answers to the evidence, and say what a reader should know of it."""
    batches = batches.of(limit)
    found = reliance(model, batches, limit, names.groups, progress)
    evidence = replace(evidence, images=found.images, reliance=found)
    if found.distance != CLASSES:
        return evidence, ["the network is no classifier: what blinding costs is not known, only how far answers move"]
    why_not = _no_labels(next(iter(batches)))
    labelled = batches if not why_not else batches.of(limit, labels=False)
    known = impact(model, labelled, report, controls=0, progress=progress)
    independent, notes = names.independent(found.images), [why_not] if why_not else []
    if independent < found.images:
        notes.append(f"images of {independent} groups: in what blinding costs each group counts as one image")
    evidence, why_not = _with_costs(evidence, known, independent)
    return evidence, [*notes, *([why_not] if why_not else []), *(note for note in known.notes if note != NO_PANS)]


def _no_labels(batch: Any) -> str:
    """Return why a batch of a classifier has no labels; nothing if it has."""
    labels = labels_of(batch)
    if isinstance(labels, Tensor) and labels.ndim == 1 and not labels.is_floating_point():
        return ""
    what = "nothing comes beside the images" if labels is None else "what comes beside the images is no class of each"
    return f"{what}: how answers change is known, not whether they get worse"


def _with_costs(evidence: Evidence, known: ImpactReport, independent: int) -> tuple[Evidence, str]:
    """Add what blinding costs, if the answers are better than guessing; else say that they are not.

    Args:
        evidence: What is known already.
        known: What masking does.
        independent: How many of the images say something that others do not.
    """
    base, pans, padding = known.baseline, known.arm("pans", "neutral"), known.arm("padding", "neutral")
    if pans.neurons and pans.flips is not None:
        evidence = replace(evidence, pans_flips=share_of(pans.flips, independent))
    if math.isnan(base.value) or base.classes is None:
        return evidence, ""
    accuracy, classes = share_of(base.value, independent), len(base.classes.images)
    if accuracy.low <= 1 / classes:
        return evidence, (
            f"accuracy is {base.value:.1%} (95 %: {accuracy.low:.1%} to {accuracy.high:.1%}), perhaps no better than "
            f"guessing one of {classes} classes: labels were left out; are they in the order of the model's outputs?"
        )
    widen = math.sqrt(known.images / independent)
    found = {name: _change(known, arm).widened(widen) for name, arm in (("pans", pans), ("padding", padding))}
    return replace(
        evidence,
        accuracy=accuracy,
        padding_change=found["padding"],
        pans_change=found["pans"] if pans.neurons else None,
    ), ""


def _change(known: ImpactReport, arm: Arm) -> Estimate:
    return Estimate(known.change(arm), *(arm.interval or ()))


class _Names:
    """Which images belong together, and how many groups those are that were asked for.

    Args:
        groups: As the user gave them.
        axes: As many axes as images have.
    """

    def __init__(self, groups: Groups, axes: int) -> None:
        self._given = groups if groups is None or callable(groups) else list(groups)
        self._axes = axes
        self._seen: set[Any] = set()

    @property
    def groups(self) -> Groups:
        """For whoever measures; what a function is asked for from now on is counted."""
        self._seen.clear()
        return self._ask if callable(self._given) else self._given

    def independent(self, images: int) -> int:
        """Return the number of groups of so many images, that of the images if each is its own."""
        names = self._seen if callable(self._given) else set(names_of(self._given, None, 0, images) or ())
        return min(len(names) or images, images)

    def _ask(self, batch: Any) -> Iterable[Any] | None:
        images = first_images(batch, self._axes)
        names = None if images is None else names_of(self._given, batch, 0, len(images))
        self._seen.update(names or ())
        return names
