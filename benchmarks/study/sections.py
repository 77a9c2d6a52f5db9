"""Sections of the page: families, red and green."""

from __future__ import annotations

from benchmarks.study.earlier import TRAININGS as EARLIER
from benchmarks.study.earlier import shown
from benchmarks.study.measures import TYPES
from benchmarks.study.summary import BySeed, Results, cell, less, table
from benchmarks.study.tasks import GAP

#: Rows of the red and green section, as "arm: variant".
RED_GREEN = {
    "zero: as is": "zero padding",
    "zero: PANs": "zero padding, PANs masked after training",
    "zero: padding": "zero padding, all made neutral after training",
    "mask: as is": "PANMask()",
    "penalty: as is": "PANPenalty()",
    **{f"{arm}: as is": name for arm, name in EARLIER.items()},
    "reflect: as is": "reflect padding",
    "circular: as is": "circular padding",
}


def families(results: Results) -> str:
    head = ["model / padding", "accuracy", "neurons", "PANs before", "PANs trained", *(_kinds(name) for name in TYPES)]
    head += ["border bias"]
    lines = []
    for arm in results.arms("families"):
        got = {path: results.get("families", arm, path) for path in _paths(results, "families", arm)}
        types = (" / ".join(_mean_cell(got.get(f"after/{kind}", {})) for kind in kinds) for kinds in TYPES.values())
        bias = f"{cell(got['before/border bias'], digits=2)} → {cell(got['after/border bias'], digits=2)}"
        line = [arm.replace("/", " / "), cell(got["accuracy"], 100), _mean_cell(got["after/neurons"])]
        lines.append([*line, cell(got["before/pans"]), cell(got["after/pans"]), *types, bias])
    head_worth = [
        "model / padding",
        "PANs neutral",
        "others neutral",
        "all padding neutral",
        "PANs zero",
        "others zero",
    ]
    worth = [
        [
            arm.replace("/", " / "),
            *(
                cell(results.get("families", arm, f"worth/{path}change"), 100, sign="+")
                for path in ("pans/neutral/", "control/neutral/", "padding/", "pans/zero/", "control/zero/")
            ),
        ]
        for arm in results.arms("families")
    ]
    return f"""
## Which networks have them

Small members of four families of timm, trained here for a few epochs to tell MNIST digits at random places of
photographs of 32 px (black padding), and scanned before the first step and after the last. Depth is by thirds of the
padded layers. Circular and reflect padding are the negative controls.

{table(head, lines)}

Change of accuracy in points where the PANs of the trained network are masked, against as many others of the same
layers:

{table(head_worth, worth)}
"""


def red_green(results: Results) -> str:
    lines = []
    plain = results.get("red_green", "zero", "as is/gap")
    for key, name in shown(results, "red_green", RED_GREEN).items():
        arm, variant = key.split(": ")
        similar, swapped, gap = (
            results.get("red_green", arm, f"{variant}/{what}") for what in ("similar", "swapped", "gap")
        )
        count = results.get("red_green", arm, "pans") if variant == "as is" else {}
        against = cell(less(gap, plain), 100, sign="+") if key != "zero: as is" else ""
        lines.append([name, cell(count), cell(similar, 100), cell(swapped, 100), cell(gap, 100), against])
    head = ["", "PANs of 128", "similar", "swapped", "gap in points", "gap against zero padding"]
    return f"""
## When position must not be used: red and green

After Kayhan and van Gemert ([2003.07064](https://arxiv.org/abs/2003.07064)). Which block is to the left, the red or
the green? In training one answer is always in the upper half of the image and the other in the lower (*similar*);
then the halves are exchanged (*swapped*). The blocks are up to {GAP} px apart, so that a network of four
convolutions, which sees 19 px at once, does not always see both: position is the easier sign. A network that cannot
tell where it is has no gap. They report 99.8 and 8.4 % with zero padding, 73.7 and 73.7 % with circular padding.

{table(head, lines)}
"""


def _kinds(name: str) -> str:
    return " / ".join(TYPES[name])


def _mean_cell(values: BySeed) -> str:
    """The mean alone, for cells that hold several."""
    return cell(values).split(" ±")[0].removesuffix(".0")


def _paths(results: Results, experiment: str, arm: str) -> list[str]:
    rows = (row["numbers"] for row in results.rows if (row["experiment"], row["arm"]) == (experiment, arm))
    return list(next(rows, {}))
