"""What a count of PANs is to be held against: what remains without padding, and what random weights give."""

from __future__ import annotations

import copy
import glob
import random
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pan_callbacks._runtime import halving, progress_bar
from pan_callbacks.errors import PANError
from pan_callbacks.measurement.batches import device_of
from pan_callbacks.measurement.calls import EntryCall
from pan_callbacks.measurement.engine import Measurement
from pan_callbacks.measurement.hooks import quietly
from pan_callbacks.measurement.settings import Settings
from pan_callbacks.measurement.undisturbed import random_states_kept
from pan_callbacks.reports._json import finite
from pan_callbacks.reports.pan_report import PANReport
from pan_callbacks.suppression.masks import masked
from pan_callbacks.suppression.targets import padded_channels

#: Images that are looked at, at most.
MOST_IMAGES = 64
NEUTRAL, RANDOM = "with all padding neutral", "random weights of the same architecture"


@dataclass(frozen=True, eq=False)
class Floor:
    """Counts of PANs on the same images: of the model, of the model without padding, and of random weights.

    Args:
        images: Number of images.
        known: Number of images behind the count of the report; 0 if they were others.
        own: The model itself.
        neutral: The model with neutral padding in every padded layer of the report; None if it could not be measured.
        random: The architecture with random weights; None if it could not be measured.
        reasons: Why, by :data:`NEUTRAL` and :data:`RANDOM`.
    """

    images: int
    known: int
    own: PANReport = field(repr=False)
    neutral: PANReport | None = field(repr=False)
    random: PANReport | None = field(repr=False)
    reasons: Mapping[str, str] = field(default_factory=dict)

    def summary(self) -> str:
        """Return the counts in a sentence or two."""
        remain = f"{_count(self.neutral)} remain {NEUTRAL} (the floor); {RANDOM}: {_count(self.random)}."
        if self.images != self.known:
            own = f"{_count(self.own)} of the model's neurons are over the threshold"
            remain = f"On {self.images} of the images, {own}; {remain}"
        return " ".join([remain, *(f"Not measured {what}: {why}." for what, why in self.reasons.items())])

    def to_dict(self) -> dict[str, Any]:
        """Return the counts as dicts, lists, numbers and strings only."""
        reports = {"own": self.own, "neutral": self.neutral, "random": self.random}
        known = {name: report for name, report in reports.items() if report is not None}
        return {
            "schema": "pan_callbacks.floor",
            "version": 1,
            "images": self.images,
            "counts": {name: None if report is None else report.count for name, report in reports.items()},
            "intervals": {name: finite(report.interval) for name, report in known.items()},
            "by_layer": {name: report.count_by("layer") for name, report in known.items()},
            "reasons": dict(self.reasons),
        }


def floor(
    model: nn.Module,
    batches: Iterable[Tensor],
    report: PANReport,
    seed: int = 0,
    progress: bool = False,
    same_images: bool = True,
) -> Floor:
    """Scan a model twice more, without its padding and with random weights, as the report was made.

    Layers, reference and threshold are those of the report. Of the images :data:`MOST_IMAGES` are looked at. If that is
    fewer than the report had, or if the report had others, the model is scanned on them, too: only counts on the same
    images can be compared. Each image is its own cluster.

    Args:
        model: Model that the report is about; it is left as it was.
        batches: Images (images, channels, height, width).
        report: What :func:`pan_callbacks.scan` found.
        seed: Of the random weights, see :func:`with_random_weights`.
        progress: Whether to show progress bars.
        same_images: Whether the images are those of the report, or the first of them.

    Returns:
        The counts. What cannot be measured is None, with the reason.

    Raises:
        PANError: If there are no images, or the model itself cannot be scanned on them.

    Example:
        >>> from pan_callbacks import scan
        >>> net = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, bias=False)).eval()
        >>> _ = nn.init.ones_(net[0].weight)  # sums its window: darker where the window reads zeros
        >>> images = 1 + torch.rand(8, 1, 16, 16, generator=torch.Generator().manual_seed(0)) / 10
        >>> found = floor(net, [images], scan(net, [images], progress=False))
        >>> found.own.count, found.neutral.count
        (1, 0)
    """
    images = list(_first(batches))
    count = sum(map(len, images))
    if not count:
        raise PANError("there are no images to measure the floor on")
    settings = Settings([glob.escape(name) for name in report.layers], report.reference, report.threshold, count)
    reasons: dict[str, str] = {}

    def counted(what: str, scanned: nn.Module) -> PANReport:
        return halving(lambda size: _scan(scanned, images, settings, size, what if progress else None), 32)

    def tried(what: str, work: Callable[[], PANReport]) -> PANReport | None:
        try:
            return work()
        except Exception as error:  # whatever a model of somebody's makes impossible; the count is worth more
            reasons[what] = " ".join(f"{type(error).__name__}: {error}".split())
            return None

    def without_padding() -> PANReport:
        with masked(model, report, "neutral", padded_channels(model, report)):
            return counted(NEUTRAL, model)

    known = report.images if same_images else 0
    own = report if known == count else counted("the same images", model)
    neutral = tried(NEUTRAL, without_padding)
    anew = tried(RANDOM, lambda: counted(RANDOM, with_random_weights(model, seed)))
    return Floor(count, known, own, neutral, anew, reasons)


def with_random_weights(model: nn.Module, seed: int = 0) -> nn.Module:
    """Return a copy of a model with random weights.

    Every module that has a ``reset_parameters`` is asked to: torch's own layers draw new weights by it. Batch norm has
    the statistics of a new network, mean 0 and variance 1. The entries of a parameter that all this leaves as it was
    are shuffled: it keeps the distribution of its values, and nothing of what it learned. A library may begin its
    trainings with other random weights than ``reset_parameters`` draws.

    Args:
        model: The model; it is left as it was, as are the random states.
        seed: Of the draw.

    Raises:
        Exception: What copying or resetting raises.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
        >>> a, b, c = with_random_weights(net, 0), with_random_weights(net, 0), with_random_weights(net, 1)
        >>> torch.equal(a[0].weight, b[0].weight), torch.equal(a[0].weight, c[0].weight)
        (True, False)
    """
    with _seeded(model, seed), torch.no_grad():
        made = copy.deepcopy(model)
        before = {name: parameter.clone() for name, parameter in made.named_parameters()}
        for module in made.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
            for name, value in (("running_mean", 0), ("running_var", 1)):  # also of those that have nothing to ask
                statistic = getattr(module, name, None)
                if isinstance(statistic, Tensor):
                    statistic.fill_(value)
        for name, parameter in made.named_parameters():
            if torch.equal(parameter, before[name]):
                order = torch.randperm(parameter.numel()).to(parameter.device)
                parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return made


@contextmanager
def _seeded(model: nn.Module, seed: int) -> Iterator[None]:
    """Draw from generators of a seed, those of the model's devices and no others, and put all back afterwards."""
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    with random_states_kept(devices):
        random.seed(seed)
        np.random.seed(seed)
        for generator in (torch.default_generator, *(torch.cuda.default_generators[device] for device in devices)):
            generator.manual_seed(seed)
        yield


def _first(batches: Iterable[Tensor]) -> Iterator[Tensor]:
    left = MOST_IMAGES
    for batch in batches:
        if left and len(batch):
            yield batch[:left]
            left -= min(left, len(batch))


def _scan(model: nn.Module, images: Collection[Tensor], settings: Settings, size: int, what: str | None) -> PANReport:
    """Do what a scan does, in this process alone: others may wait for it elsewhere."""
    measurement, device = Measurement(model, settings, with_hooks=True), device_of(model)
    try:
        with quietly(model), progress_bar(what or "", settings.max_images, what is not None) as advance:
            measurement.start(listen=False)
            total = sum(len(batch) for batch in images)
            for part in (part for batch in images for part in torch.split(batch, size)):
                measurement.expect(total=total)
                measurement.measure(EntryCall("", model, (part.to(device),), {}))
                advance(len(part))
        found = measurement.report()
    finally:
        measurement.detach()
    if not found.neurons:
        raise PANError("no layer was measured")
    return found


def _count(report: PANReport | None) -> str:
    return "an unknown number" if report is None else f"{report.count:,}"
