"""What a user would do otherwise: torchinstruments, keeping all maps for scipy, or histograms in hooks."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from benchmarks.performance.subjects import epoch, noise, plain_epoch, resnet50, sharing
from benchmarks.performance.timing import Seconds, interleave, ratios, spread, step_ratios
from benchmarks.performance.words import number, table, times
from pan_callbacks.measurement.engine import Measurement
from pan_callbacks.measurement.settings import Settings

SIZE, BINS, FEW = 224, 100, 4  # images for torchinstruments, which is slow
NEEDED = ("torchinstruments", "polars")


def padded(model: nn.Module) -> list[nn.Conv2d]:
    """The layers that are asked for in all of these: those that pad."""
    return [module for module in model.modules() if isinstance(module, nn.Conv2d) and any(module.padding)]


def regions(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Where a map has its outermost lines, and its inner half."""
    rim, inner = torch.ones(height, width, dtype=torch.bool), torch.zeros(height, width, dtype=torch.bool)
    rim[1:-1, 1:-1] = False
    inner[height // 4 : height - height // 4, width // 4 : width - width // 4] = True
    return rim, inner


def split(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Border and reference of each neuron, (channels, readings) each."""
    values = maps.transpose(0, 1)  # (channels, images, height, width)
    rim, inner = regions(*maps.shape[2:])
    return values[:, :, rim].flatten(1), values[:, :, inner].flatten(1)


def keeping_maps(model: nn.Module, batches: Sequence[Tensor]) -> list[Callable[[], object]]:
    """Keeps the maps of an epoch; at its end a test for each neuron, of its outermost lines and its inner half."""
    from scipy.stats import ks_2samp

    maps: dict[nn.Module, list[Tensor]] = {layer: [] for layer in padded(model)}

    def keep(module: nn.Module, args: object, output: Tensor) -> None:
        maps[module].append(output.detach().clone())

    def test() -> None:
        for kept in maps.values():
            for border, reference in zip(*split(torch.cat(kept)), strict=True):
                ks_2samp(border.numpy(), reference.numpy(), method="asymp")

    def first() -> None:
        for kept in maps.values():
            kept.clear()
        model(batches[0])

    return [first, *hooked(model, batches, keep)[1:], test]


def histograms(model: nn.Module, batches: Sequence[Tensor]) -> list[Callable[[], object]]:
    """A histogram of each layer's map as it passes."""

    def count(module: nn.Module, args: object, output: Tensor) -> None:
        torch.histc(output, BINS)

    return hooked(model, batches, count)


def neuron_histograms(model: nn.Module, batches: Sequence[Tensor]) -> list[Callable[[], object]]:
    """Histograms of each neuron's map as it passes, of its outermost lines and of its inner half."""

    def count(module: nn.Module, args: object, output: Tensor) -> None:
        for border, reference in zip(*split(output), strict=True):
            torch.histc(border, BINS)
            torch.histc(reference, BINS)

    return hooked(model, batches, count)


def hooked(
    model: nn.Module, batches: Sequence[Tensor], hook: Callable[[nn.Module, object, Tensor], None]
) -> list[Callable[[], object]]:
    """The steps of an epoch with a hook on every padded layer."""
    for layer in padded(model):
        layer.register_forward_hook(hook)
    return plain_epoch(model, batches)


def measure(quick: bool) -> dict:
    """All of them in turns with the plain forward, and with ours."""
    images, batch, rounds = (8, 4, 1) if quick else (64, 16, 2)
    batches, plain = noise(images, SIZE).split(batch), resnet50()
    arms = {"plain": plain_epoch(plain, batches)}
    for reference in OURS:
        model = sharing(plain)
        measurement = Measurement(model, Settings(None, reference, 0.8, images))
        arms[reference] = [*epoch(measurement, model, batches), measurement.report]
    arms["ks_2samp"] = keeping_maps(sharing(plain), batches)
    arms["histc"] = histograms(sharing(plain), batches)
    arms["histc of neurons"] = neuron_histograms(sharing(plain), batches)
    with torch.no_grad():
        found = interleave(arms, rounds, warm_steps=1)
    missing = [name for name in NEEDED if find_spec(name) is None]
    result = {name: costs(found, name, whole=True) for name in arms if name != "plain"}
    if not missing:
        result["torchinstruments"] = costs(instruments(plain, noise(FEW, SIZE), rounds), "torchinstruments")
    return {
        "arms": result,
        "missing": missing,
        **{"images": images, "batch": batch, "rounds": rounds},
        **nearest(result),
    }


def costs(found: Seconds, name: str, whole: bool = False) -> dict:
    """The ratio of a forward (of ours, of those after the first), and of an epoch."""
    forward = spread(step_ratios(found, name, "plain", 1 if name in OURS else 0))
    return {"forward": forward, "epoch": spread(ratios(found, name, "plain")) if whole else None}


def instruments(plain: nn.Module, images: Tensor, rounds: int) -> Seconds:
    """Forwards of few images that torchinstruments samples, with its defaults else, in turns with plain ones."""
    from torchinstruments import AlwaysSampler, inject_observer, remove_observer

    model = sharing(plain)
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        inject_observer(model, output_dir=folder, sampler=AlwaysSampler())
        try:
            arms = {"plain": [partial(plain, images)], "torchinstruments": [partial(model, images)]}
            return interleave(arms, rounds)
        finally:
            remove_observer(model)


def overhead(one: dict) -> float:
    """What an epoch costs more than the plain one, or a forward, if that is all there is; in plain ones."""
    return (one["epoch"] or one["forward"])["median"] - 1


def nearest(arms: dict[str, dict]) -> dict[str, object]:
    """How many times our overhead that of the others is, and which of those that tell neurons apart is the nearest."""
    ours = {reference: max(overhead(arms[reference]), 1e-3) for reference in OURS}
    factors = {
        name: {reference: overhead(one) / own for reference, own in ours.items()}
        for name, one in arms.items()
        if name not in OURS
    }
    name = min((name for name in factors if name in OF_NEURONS), key=lambda name: overhead(arms[name]))
    return {"nearest": name, "factors": factors, "times": factors[name]}


OURS = ("centre", "crop")
#: Those that tell neurons or modules apart from each other and, but for the last, border from reference.
OF_NEURONS = ("ks_2samp", "histc of neurons", "torchinstruments")
WORDS = {
    "centre": 'ours, `"centre"`',
    "crop": 'ours, `"crop"`',
    "ks_2samp": "keeping all maps, then `scipy.stats.ks_2samp` of border and reference of each neuron",
    "histc": "`torch.histc` of each layer's map in a hook",
    "histc of neurons": "`torch.histc` of border and reference of each neuron in a hook",
    "torchinstruments": "`torchinstruments`, sampling every forward, its files included",
}


def section(found: dict) -> list[str]:
    """What the page says."""
    rows = [
        [
            WORDS[name],
            times(one["forward"]),
            "–" if one["epoch"] is None else times(one["epoch"]),
            *(number(found["factors"][name][reference]) if name in found["factors"] else "" for reference in OURS),
        ]
        for name, one in found["arms"].items()
    ]
    lines = [
        f"ResNet-50, {SIZE} px, batches of {found['batch']}, epochs of {found['images']} images, {found['rounds']} "
        "rounds, of the plain forward. An epoch includes what comes at its end: our report, their tests. All take the "
        "padded layers alone, but for `torchinstruments`, which takes every module at its defaults, of batches of "
        f"{FEW}. What an epoch of ours costs once (its first batch, the report) is spread over few images here, and "
        "theirs have no intervals, origins or `crop`.",
        "",
        *table(["", "a forward", "the epoch", *(f"overhead, of ours with `{name}`" for name in OURS)], rows),
        "",
        f"The nearest that tells neurons or modules apart: {WORDS[found['nearest']]}.",
    ]
    if found["missing"]:
        lines += ["", f"`torchinstruments` was not run: {' and '.join(found['missing'])} not installed (`.[bench]`)."]
    return lines
