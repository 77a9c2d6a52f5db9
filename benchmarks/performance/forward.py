"""Rows 1 and 2: an epoch of validation forwards with a measurement collecting, to the same without."""

from __future__ import annotations

from functools import partial

import torch

from benchmarks.performance.counting import counted
from benchmarks.performance.device import DEVICE, clock
from benchmarks.performance.subjects import epoch, noise, plain_epoch, resnet50, sharing
from benchmarks.performance.timing import interleave, ratios, spread, step_ratios, totals
from benchmarks.performance.words import table, times
from pan_callbacks.measurement.engine import Measurement
from pan_callbacks.measurement.settings import Settings

SIZE = 224


def measure(quick: bool) -> dict:
    """Takes batches in turns: plain, centre, crop, and the forwards that crop needs alone."""
    images, batch, rounds = (24, 8, 1) if quick else (256, 16, 3)
    batches, plain = noise(images, SIZE).to(DEVICE).split(batch), resnet50().to(DEVICE)
    arms = {"plain": plain_epoch(plain, batches)}
    with torch.no_grad():
        for reference in ("centre", "crop"):
            model = sharing(plain)
            arms[reference] = epoch(Measurement(model, Settings(None, reference, 0.8, images)), model, batches)
            arms[reference][0]()  # makes the plan, which is kept
            with counted(type(model)) as forwards:
                arms[reference][1]()
        forwards.counts[tuple(batches[1].shape), None] -= 1  # the user's own
        arms["alone"] = [partial(forwards.replay, plain)] * len(batches)
        seconds = interleave(arms, rounds, warm_steps=1, clock=clock)
    found = {name: costs(seconds, name, batch) for name in ("centre", "crop")}
    return found | {
        "alone": spread(ratios(seconds, "alone", "plain")),
        "forwards": forwards.in_words(),
        "plain": spread([1000 * total / images for total in totals(seconds, "plain")]),
        **{"images": images, "batch": batch, "rounds": rounds, "size": SIZE},
    }


def costs(seconds: dict, arm: str, batch: int) -> dict:
    """The ratio of an epoch, of a batch in its middle, of its first batch, and of its first so many images."""
    batches = len(seconds[arm][0])
    by_images = {batch * n: spread(ratios(seconds, arm, "plain", n))["median"] for n in range(1, batches + 1)}
    return {
        "epoch": spread(ratios(seconds, arm, "plain")),
        "middle": spread(step_ratios(seconds, arm, "plain")),
        "first": spread(ratios(seconds, arm, "plain", 1)),
        "by_images": by_images,
    }


def section(found: dict) -> list[str]:
    """What the page says."""
    extra = ", ".join(f"{count} of {shape}" for shape, count in found["forwards"].items()) or "none"
    rows = [[f"`{name}`", *(times(found[name][key]) for key in ("epoch", "first", "middle"))] for name in ARMS]
    return [
        f"ResNet-50 (timm, random weights), {found['size']} px, batches of {found['batch']}; an epoch is "
        f"{found['images']} images, from the start of the measurement to its last batch, {found['rounds']} rounds. "
        "The plan was made before and is kept. Times of the plain forward "
        f"({found['plain']['median']:.0f} ms an image); in brackets the quartiles.",
        "",
        *table(["reference", "epoch", "its first batch", "a batch in the middle"], rows),
        "",
        f"The forwards that `crop` adds to a batch ({extra}) take {times(found['alone'])} of the plain one alone.",
    ]


ARMS = ("centre", "crop")
