"""EfficientNet-Lite0 with its ImageNet weights: what it has of PANs, what masking does, how other measures agree."""

from __future__ import annotations

import statistics
from dataclasses import replace

import torch
from torch import Tensor, nn

from benchmarks.study import tasks
from benchmarks.study.measures import census, mean_movement, patch_movement, probabilities, under, worth
from pan_callbacks import masked, scan
from pan_callbacks.analysis.agreement import companions
from pan_callbacks.analysis.position import TARGETS
from pan_callbacks.sources.models import LITE0_PACKAGE, LoadedModel, load_model
from pan_callbacks.sources.preprocessing import MEAN, STD
from pan_callbacks.sources.sample import sample_images
from pan_callbacks.suppression.targets import padded_channels

NAME = "timm:tf_efficientnet_lite0"
#: What is looked at; of "other normalisation" and "random" the count alone.
ARMS = ("as is", "safety", "neutral", "random", "other normalisation", "measures")
Numbers = dict[str, float]


def imagenet(arm: str, seed: int) -> Numbers:
    """One arm, on random crops of photographs, normalised as the weights want it."""
    loaded = load_model(NAME, "none" if arm == "random" else LITE0_PACKAGE)
    if arm == "other normalisation":
        loaded = replace(loaded, preprocessing=replace(loaded.preprocessing, mean=MEAN, std=STD))
    if arm == "safety":
        return _safety(loaded, seed)
    images = torch.cat([batch[0] for batch in sample_images(256, loaded.preprocessing, seed=seed)])
    report = scan(loaded.model, images.split(64), progress=False)
    if arm == "as is":
        found = worth(loaded.model, images[:128], None, report, controls=3)
        return census(report) | under("worth", found)
    if arm == "neutral":
        with masked(loaded.model, report, "neutral", neurons=padded_channels(loaded.model, report)):
            return census(scan(loaded.model, images.split(64), progress=False))
    if arm == "measures":
        return _measures(loaded.model, images[:64], report)
    return census(report)


def _measures(model: nn.Module, images: Tensor, report) -> Numbers:
    """Agreement of other measures with the contrast, and how well the position is read out, mean over layers."""
    found = companions(model, images.split(32), report)
    numbers = {f"agreement/{a.measure} | {a.against}": a.spearman for a in found.agreements}
    for variant, readouts in found.position.items():
        for row, target in enumerate(TARGETS):
            numbers[f"position/{variant}/{target}"] = statistics.fmean(r.spearman[row] for r in readouts.values())
        best = (statistics.fmean(readout.spearman) for readout in readouts.values())
        numbers[f"position/{variant}/best layer"] = max(best)
    return numbers


def _safety(loaded: LoadedModel, seed: int) -> Numbers:
    """How far answers move when the camera does, or a patch is put at the border or inside, with three paddings."""
    room, size = 4, loaded.preprocessing.size[0]
    wide = replace(loaded.preprocessing, size=(size + 8, size + 8))
    large = torch.cat([batch[0] for batch in sample_images(96, wide, seed=1000 + seed)])
    report = scan(loaded.model, large[..., room:-room, room:-room].split(48), progress=False)
    variants = {"as is": {}, "PANs": report.neurons_by_layer(), "padding": padded_channels(loaded.model, report)}
    found = {}
    for variant, neurons in variants.items():
        with masked(loaded.model, report, "neutral", neurons=neurons):
            found |= under(variant, _movements(loaded, large, room, seed))
    return found


def _movements(loaded: LoadedModel, large: Tensor, room: int, seed: int) -> Numbers:
    found = {}
    for shift in (1, 4):
        middle, *moved = tasks.windows(large, shift, room)
        before, *afters = (probabilities(loaded.model, part) for part in (middle, *moved[1::2]))
        found |= under(f"shift {shift}", mean_movement(before, afters))
    mean, deviation = loaded.preprocessing.mean[0], loaded.preprocessing.std[0]
    for name in ("strip", "noise"):
        sets = tasks.patch(
            large[..., room:-room, room:-room],
            torch.arange(len(large)) % 4,
            2000 + seed,
            strip=(16, 96),
            inward=48,
            noise=name == "noise",
            paint=lambda brightness: (brightness - mean) / deviation,
        )
        found |= patch_movement(loaded.model, name, sets)
    return found
