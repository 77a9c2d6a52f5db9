"""Finds the padding aware neurons of a model, without a Trainer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pan_callbacks._runtime import give_up_together, in_smaller_batches, of_all_processes, progress_bar
from pan_callbacks.errors import PANError
from pan_callbacks.measurement.engine import Measurement
from pan_callbacks.measurement.hooks import quietly
from pan_callbacks.reports.pan_report import PANReport


def scan(
    model: nn.Module,
    batches: Iterable[Any],
    layers: str | Iterable[str] | None = None,
    reference: str = "crop",
    threshold: float = 0.8,
    max_images: int = 256,
    progress: bool = True,
) -> PANReport:
    """Finds the padding aware neurons of a model from its activations on a few images.

    The model is left as it was: module modes, random state and weights; no hook stays, also after an exception.

    Args:
        model: Model to scan; it is called with a batch of images, on the device it is on.
        batches: Yields tensors of images (images, channels, height, width), or tuples, lists or dicts that hold one.
        layers: Glob or globs over layer names, None for all convolutions.
        reference: What the border is compared with: ``"crop"`` (the default, the same pixels inside the full image),
            ``"zoom"``, ``"mirror"`` or ``"centre"``. A layer that it does not suit takes another, as the report says.
        threshold: Absolute contrast from which a neuron is a PAN. At 0.8, one threshold on this single activation
            tells border from interior with a balanced accuracy of 90 %.
        max_images: Images to look at, at most. At 256 chance adds 0.1 to the contrast of a corner at most.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: If an argument is out of range.
        PANError: If a glob matches nothing, a batch holds no images, there is no batch, or the images are too small
            for any reference.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, bias=False)).eval()
        >>> _ = nn.init.ones_(net[0].weight)  # sums its window: darker where the window reads zeros
        >>> images = 1 + torch.rand(8, 1, 16, 16, generator=torch.Generator().manual_seed(0)) / 10
        >>> report = scan(net, [images], progress=False)
        >>> [(pan.layer, pan.channel, pan.kind, pan.origin) for pan in report.pans]
        [('0', 0, 'top+bottom+left+right', 'nascent')]
    """
    with scanned(model, batches, layers, reference, threshold, max_images, progress) as (_, report):
        return report


@contextmanager
def scanned(
    model: nn.Module,
    batches: Iterable[Any],
    layers: str | Iterable[str] | None = None,
    reference: str = "crop",
    threshold: float = 0.8,
    max_images: int = 256,
    progress: bool = True,
    sync: bool = False,
    total: int | None = None,
    share: tuple[int, int] = (0, 1),
    example: Tensor | None = None,
) -> Iterator[tuple[Measurement, PANReport]]:
    """What :func:`scan` does, with the measurement kept attached for pictures while the context lasts.

    Args:
        model: As for :func:`scan`, like all that follows.
        batches: Where memory runs out they are iterated once more and fed in parts.
        layers: See :func:`scan`.
        reference: See :func:`scan`.
        threshold: See :func:`scan`.
        max_images: See :func:`scan`.
        progress: See :func:`scan`.
        sync: Whether this is one of several processes, each with batches of its own, that get one report together.
        total: As for :class:`~pan_callbacks.measurement.engine.Measurement`, like what follows.
        share: See there.
        example: See there.
    """
    options = {"sync": sync, "total": total, "share": share, "example": example}
    measurement = Measurement(model, layers, reference, threshold, max_images, **options)
    failure = None
    try:
        try:
            with quietly(model):
                feed = partial(_feed, measurement, model, batches, progress=progress)
                measurement.notes += in_smaller_batches(feed, restartable=not isinstance(batches, Iterator))
            if measurement.images == 0 and measurement.candidates:
                raise PANError("batches is empty, or the model never saw its images: nothing was measured")
        except Exception as error:  # the other processes wait for this one
            failure = error
        give_up_together(failure, device_of(model))
        measurement.notes = of_all_processes(measurement.notes)
        report = measurement.report()
        check_measured(report)
        yield measurement, report
    finally:
        measurement.probes.detach()


def _feed(measurement: Measurement, model: nn.Module, batches: Iterable[Any], largest: int | None, progress: bool):
    """One pass over the batches; yields the size of each forward before it is made."""
    measurement.start()
    device = device_of(model)
    with progress_bar("scan", measurement.max_images, progress) as advance:
        for batch in batches:
            images = first_images(batch)
            if images is None:
                raise PANError(
                    f"batches holds no images: {describe_batch(batch)}; "
                    "a floating point tensor (images, channels, height, width) is needed"
                )
            for part in images[: measurement.max_images - measurement.images].split(largest or len(images) or 1):
                yield len(part)
                before = measurement.images
                model(part.to(device))
                advance(measurement.images - before)
            if measurement.satisfied:
                break


def device_of(model: nn.Module) -> torch.device:
    """The device of a model's first parameter."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def check_measured(report: PANReport) -> None:
    """Raises PANError where every padded layer was left out because the images were too small for it."""
    reasons = [line.skipped for line in report.layers.values() if line.skipped and line.output_size]
    too_small = [why for why in reasons if not why.startswith(("too few", "never", "NaN"))]
    if report.neurons == 0 and too_small:
        raise PANError(
            f"the images are too small for any reference: {too_small[0]}; "
            "use larger images, or layers='...' for earlier layers"
        )


def first_images(batch: Any) -> Tensor | None:
    """The first tensor of images in a batch, looking into tuples, lists and dicts; None where there is none."""
    if isinstance(batch, Tensor):
        return batch if batch.ndim == 4 and batch.is_floating_point() else None
    if isinstance(batch, Mapping):
        batch = batch.values()
    if isinstance(batch, (tuple, list)) or hasattr(batch, "__iter__") and not isinstance(batch, (str, bytes)):
        return next((found for item in batch if (found := first_images(item)) is not None), None)
    return None


def describe_batch(batch: Any) -> str:
    """What a batch is, in a few words."""
    if isinstance(batch, Tensor):
        return f"a tensor of shape {tuple(batch.shape)} and {batch.dtype}"
    if isinstance(batch, Mapping):
        items = (f"{key!r}: {describe_batch(batch[key])}" for key in list(batch)[:3])
        return f"a {type(batch).__name__} of {', '.join(items)}"
    if isinstance(batch, (tuple, list)):
        return f"a {type(batch).__name__} of {', '.join(describe_batch(item) for item in batch[:3])}"
    return f"a {type(batch).__name__}"
