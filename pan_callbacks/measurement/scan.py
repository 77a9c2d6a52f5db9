"""Finds the padding aware neurons of a model, without a Trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from pan_callbacks._runtime import (
    ALONE,
    Shard,
    give_up_together,
    in_smaller_batches,
    progress_bar,
)
from pan_callbacks.errors import PANError
from pan_callbacks.layers import Skip, image_axes
from pan_callbacks.measurement.batches import describe_batch, device_of, first_images, images_in
from pan_callbacks.measurement.calls import EntryCall
from pan_callbacks.measurement.engine import Measurement
from pan_callbacks.measurement.grouping import Groups, names_of
from pan_callbacks.measurement.hooks import quietly
from pan_callbacks.measurement.settings import Settings
from pan_callbacks.reports.pan_report import PANReport
from pan_callbacks.reports.words import Reference


def scan(
    model: nn.Module,
    batches: Iterable[Any],
    layers: str | Iterable[str] | None = None,
    reference: Reference = "crop",
    threshold: float = 0.8,
    max_images: int = 256,
    progress: bool = True,
    groups: Groups = None,
) -> PANReport:
    """Find the padding aware neurons of a model from its activations on a few images.

    The model is left as it was, whatever its forward writes to: a copy of it is run, with copies of its hooks.

    Args:
        model: Model to scan; it is called with a batch of images, on the device it is on.
        batches: Yields tensors of images (images, channels, height, width), or tuples, lists or dicts that hold one.
        layers: Glob or globs over layer names, None for all convolutions.
        reference: What the border is compared with: ``"crop"`` (the default, the same pixels inside the full image),
            ``"zoom"``, ``"windows"``, ``"mirror"`` or ``"centre"``. A layer that it does not suit takes another, as the
            report says.
        threshold: Absolute contrast from which a neuron is a PAN. At 0.8, one threshold on this single activation
            distinguishes border from interior with a balanced accuracy of 90 %.
        max_images: Images to look at, at most. Fewer make the count less certain, and not larger; its interval says how
            much less.
        progress: Whether to show a progress bar.
        groups: Which images belong together (crops of one photograph, scans of one patient, frames of one video), for
            intervals that say what *other* photographs, patients, videos may give: a name for every image in the order
            of the batches, or a function of a batch that returns the names of its images. None if each is its own.

    Raises:
        ValueError: If an argument is out of range.
        PANError: If a glob matches nothing, a batch holds no images, there is no batch, the images are too small for
            any reference, or ``groups`` names some images only.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, bias=False)).eval()
        >>> _ = nn.init.ones_(net[0].weight)  # sums its window: darker where the window reads zeros
        >>> images = 1 + torch.rand(8, 1, 16, 16, generator=torch.Generator().manual_seed(0)) / 10
        >>> report = scan(net, [images], progress=False)
        >>> [(pan.layer, pan.channel, pan.kind, pan.origin) for pan in report.pans]
        [('0', 0, 'top+bottom+left+right', 'nascent')]
    """
    settings = Settings(layers, reference, threshold, max_images)
    with scanned(model, batches, settings, progress=progress, groups=groups) as (_, report):
        return report


@contextmanager
def scanned(
    model: nn.Module,
    batches: Iterable[Any],
    settings: Settings | None = None,
    shard: Shard = ALONE,
    progress: bool = True,
    groups: Groups = None,
) -> Iterator[tuple[Measurement, PANReport]]:
    """Do what :func:`scan` does, and keep the measurement attached for pictures while the context lasts.

    Args:
        model: As for :func:`scan`.
        batches: Likewise; if memory runs out they are iterated once more and fed in parts.
        settings: What is asked.
        shard: This process's part of the work; all that share it get one report together.
        progress: Whether to show a progress bar.
        groups: As for :func:`scan`.
    """
    names = groups if groups is None or callable(groups) else list(groups)
    measurement = Measurement(model, settings, shard, with_hooks=True)  # nobody's forward shows whether they matter
    failure, notes = None, []
    try:
        try:
            measurement.gather()
            with quietly(model):  # for the random state, which batches may draw from
                feed = partial(_feed, measurement, model, batches, progress=progress, groups=names)
                notes = in_smaller_batches(feed, restartable=not isinstance(batches, Iterator))
            if measurement.images == 0 and measurement.layers:
                raise PANError("batches is empty, or the model never saw its images: nothing was measured")
        except Exception as error:  # the other processes wait for this one
            failure = error
        give_up_together(failure, device_of(model))
        report = measurement.report(notes)
        check_measured(report)
        yield measurement, report
    finally:
        measurement.detach()


def _feed(
    measurement: Measurement,
    model: nn.Module,
    batches: Iterable[Any],
    largest: int | None,
    progress: bool,
    groups: list[Any] | Callable[[Any], Iterable[Any] | None] | None,
) -> Iterator[int]:
    """One pass over the batches; yields the size of each forward before it is made."""
    measurement.start(listen=False)
    device, wanted, seen = device_of(model), measurement.settings.max_images, 0
    total: int | None = None
    with progress_bar("scan", wanted, progress) as advance:
        for batch in batches:
            images = first_images(batch, image_axes(model))
            if images is None:
                size = {3: "length", 4: "height, width", 5: "depth, height, width"}[image_axes(model)]
                raise PANError(
                    f"batches holds no images: {describe_batch(batch)}; "
                    f"a floating point tensor (images, channels, {size}) is needed"
                )
            total = images_in(batches, len(images)) if seen == 0 else total
            names, first = names_of(groups, batch, seen, len(images)), 0
            seen += len(images)
            for part in torch.split(images[: wanted - measurement.images], largest or len(images) or 1):
                yield len(part)
                before = measurement.images
                of_part = None if names is None else names[first : first + len(part)]
                measurement.expect(names=None if of_part is None else of_part.copy, total=total)
                first += len(part)
                measurement.measure(EntryCall("", model, (part.to(device),), {}))
                advance(measurement.images - before)
            if measurement.satisfied:
                break


def check_measured(report: PANReport) -> None:
    """Raise PANError if every padded layer was left out because the images were too small for it."""
    too_small = [line for line in report.layers.values() if line.skip in (Skip.NO_BORDER, Skip.NO_REFERENCE)]
    if report.neurons == 0 and too_small:
        raise PANError(
            f"the images are too small for any reference: {too_small[0].skipped}; "
            "use larger images, or layers='...' for earlier layers"
        )
