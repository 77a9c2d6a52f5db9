"""Writes docs/study.md and its figures from the runs that are there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.study import figures
from benchmarks.study.answer import answer
from benchmarks.study.earlier import shown
from benchmarks.study.imagenet_section import section as imagenet
from benchmarks.study.respects import PERFORMANCE, RESPECTS, respects
from benchmarks.study.sections import RED_GREEN, families, red_green
from benchmarks.study.summary import Results
from benchmarks.study.tasks import SHIFTS


def render(rows: Sequence[dict], page: Path) -> None:
    """Writes the page, and its figures into a folder beside it that has its name.

    Args:
        rows: Runs, see :class:`~benchmarks.study.summary.Results`. What is not there is left out.
        page: File to write.
    """
    results, folder = Results(rows), page.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    page.write_text(text(results, folder.name), encoding="utf-8")
    for experiment, (_, drawings) in SECTIONS.items():
        for name, (draw, _) in drawings.items() if experiment in results.experiments() else ():
            draw(results).savefig(folder / f"{name}.png", dpi=110)


def text(results: Results, folder: str) -> str:
    """The page; its figures are looked for in a folder."""
    parts = [_START, answer(results)]
    for experiment, (section, drawings) in SECTIONS.items():
        if experiment in results.experiments():
            parts.append(section(results))
            parts += [f"![{caption}]({folder}/{name}.png)" for name, (_, caption) in drawings.items()]
            took = f"{results.minutes(experiment):.1f} minutes of one core"
            parts.append(f"<sub>`python -m benchmarks.study --only {experiment}`, {took}.</sub>")
    return "\n\n".join(part.strip("\n") for part in [*parts, _LIMITS]) + "\n"


_START = """
# Study: what padding aware neurons are good for, and what they cost

    make study          # or: python -m benchmarks.study; about half an hour on two cores

Where no note says otherwise, figures and numbers on this page are written by that command from `runs/study.jsonl`, one
line a run (`--render` writes the page alone); sentences that depend on numbers are chosen by them. In the tables ± is
the standard error of the mean over seeds, and no interval: with three seeds the 95 % interval reaches 4.3 of them to
either side, with two 12.7. Differences are taken within a seed. The counts of the runs behind this page were taken
before contrasts were cross-fitted, in the images that chose the thresholds, and by the origins of that time: they are
larger than what the package counts now ([statistics.md](statistics.md)).
"""


_LIMITS = """
## What this does not say

* The networks that were trained here are small, their images too, and their trainings short. ImageNet weights are one
  network's.
* A PAN is what our contrast calls one. Of the paper itself (Garcia-Gasulla et al.,
  [2309.08048](https://arxiv.org/abs/2309.08048)) we have read the abstract only, though its text is public.
* Neurons below the threshold read the padding, too. Masking PANs is not the same as taking position away.
* Controls match layer and number, not the size of the effect: a PAN may be a neuron of great effect that knows the
  border besides. `zero` and `mean` take both away; `neutral` just the border.
* `zero` sets what the convolution gives to zero. Before batch norm that is no silence: batch norm makes a constant of
  it, which is zero by chance only.
* Whether position is used is asked of small networks in one task made for it. The read-out from ImageNet weights says
  what could be used, not what is.
* Where a layer has more PANs than other neurons, its controls are fewer than its PANs.
* Reflected content is no neutral world: it shows where it was reflected.
* Of other work on padding and position we name Mukai and Yamanaka 2023
  ([2307.07725](https://arxiv.org/abs/2307.07725)) and Xu et al. 2021
  ([2012.05217](https://arxiv.org/abs/2012.05217)), and compare with neither.
"""

SECTIONS = {
    "families": (
        families,
        {"families": (figures.families, "PANs of each network before and after training, and their types")},
    ),
    "red_green": (
        red_green,
        {
            "red_green": (
                lambda results: figures.red_green(results, shown(results, "red_green", RED_GREEN)),
                "accuracy at similar and swapped positions",
            )
        },
    ),
    "respects": (
        respects,
        {
            "performance": (
                lambda results: figures.performance(results, PERFORMANCE),
                "change of accuracy with PANs and with as many others masked",
            ),
            "safety": (
                lambda results: figures.safety(
                    results,
                    {f"digit/{how}": name for how, name in shown(results, "respects", RESPECTS).items()},
                    SHIFTS,
                ),
                "movement of the answer when the camera moves and under patches, the digit alone",
            ),
        },
    ),
    "imagenet": (imagenet, {"imagenet": (figures.imagenet, "PANs by depth, and what masking them moves")}),
}
