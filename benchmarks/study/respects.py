"""The section of the four respects: performance, generalisation, efficiency, safety."""

from __future__ import annotations

from benchmarks.study.earlier import TRAININGS as EARLIER
from benchmarks.study.earlier import shown
from benchmarks.study.measures import FREE, MODES, TYPES
from benchmarks.study.summary import Results, cell, less, table
from benchmarks.study.tasks import NEAR, SHIFTS

#: Arms of the four respects, as "arm: variant" after the task.
RESPECTS = {
    "zero: as is": "zero padding",
    "zero: PANs": "PANs masked after training",
    "zero: padding": "all padding neutral after training",
    "penalty: as is": "trained with PANPenalty()",
    "effect penalty: as is": f"trained with {EARLIER['effect penalty']}",
    "mask: as is": "trained with PANMask()",
    "circular: as is": "circular padding",
}
TASKS = {"digit": "the digit alone", "both": "digit and place"}
PERFORMANCE = (
    ("digit/zero", "digit", "digit alone"),
    ("both/zero", "digit", "digit, place asked too"),
    ("both/zero", "place", "place"),
)


def respects(results: Results) -> str:
    return "\n\n".join(
        part.strip("\n")
        for part in (_RESPECTS, _performance(results), _generalisation(results), _efficiency(results), _safety(results))
    )


_RESPECTS = """
## Four respects

The five-layer CNN of [suppression.md](suppression.md), 208 neurons, in its two tasks: *the digit alone* (position
does not matter, padding black) and *digit and place* (the cell of a 3×3 grid is asked, too; images normalised).
"""


def _performance(results: Results) -> str:
    lines = []
    for arm, label, title in PERFORMANCE:
        for mode in MODES:
            pans, others = (
                results.get("respects", arm, f"worth/{label}/{kind}/{mode}/change") for kind in ("pans", "control")
            )
            cells = [cell(pans, 100, sign="+"), cell(others, 100, sign="+"), cell(less(pans, others), 100, sign="+")]
            lines.append([f"{title}: masked {mode}", *cells])
        padding = results.get("respects", arm, f"worth/{label}/padding/change")
        lines.append([f"{title}: all padding neutral", cell(padding, 100, sign="+"), "", ""])
    trained = []
    for task, name in TASKS.items():
        for how, words in shown(results, "respects", RESPECTS).items():
            arm, variant = how.split(": ")
            count = results.get("respects", f"{task}/{arm}", "pans") if variant == "as is" else {}
            pair = [
                cell(results.get("respects", f"{task}/{arm}", f"{variant}/{label}/accuracy"), 100)
                for label in ("digit", "place")
            ]
            trained.append([f"{name}: {words}", cell(count), *pair])
    return f"""
### Performance

Change of accuracy in points when the PANs of the trained network are masked, and when as many other neurons of the same
layers are (mean of five draws). `neutral` takes the padding away from a neuron; `mean` and `zero` put a constant in
the place of all that it says, before batch norm.

{table(["", "PANs", "as many others", "difference"], lines)}

What each way of training reaches, accuracy in %:

{table(["", "PANs", "digit", "place"], trained)}
"""


def _generalisation(results: Results) -> str:
    lines = []
    for task, name in TASKS.items():
        for how, words in shown(results, "respects", RESPECTS).items():
            arm, variant = how.split(": ")
            got = {
                what: results.get("respects", f"{task}/{arm}", f"{variant}/{what}")
                for what in ("near", "central", "size 32", "size 48", "size 64")
            }
            drop = cell(less(got["near"], got["central"]), 100, sign="+")
            larger = cell(less(got["size 64"], got["size 32"]), 100, sign="+")
            lines.append([f"{name}: {words}", *(cell(v, 100) for v in got.values()), drop, larger])
    head = [
        "digit accuracy in %",
        "at the border",
        "central",
        "32 px",
        "48 px",
        "64 px",
        "border − central",
        "64 − 32 px",
    ]
    return f"""
### Generalisation

Digits at most {NEAR} px from the border against the same digits in the middle; and images of other sizes than the 32 px
of training, the digit as large as it was. Accuracy by the distance to the border is what Islam et al. 2024
([2101.12322](https://arxiv.org/abs/2101.12322)) look at, too. Zheng et al. 2023
([2310.13215](https://arxiv.org/abs/2310.13215)) compare zones of the image; for them position is not the cause.

{table(head, lines)}
"""


def _efficiency(results: Results) -> str:
    lines = []
    for arm, label, title in PERFORMANCE:
        for which in ("all", *TYPES["origin"]):
            base = f"removal/{label}/{which}"
            counts = results.get("respects", arm, f"{base}/neurons")
            cells = [
                cell(results.get("respects", arm, f"{base}/{mode}/{what}"), 100, sign="+")
                for mode in ("zero", "mean")
                for what in ("change", "control")
            ]
            lines.append([f"{title}: {which}", cell(counts), *cells])
    alone = [
        [
            title,
            *(cell(results.get("respects", arm, f"removal/{label}/alone/{kind}"), 100) for kind in ("pans", "control")),
        ]
        for arm, label, title in PERFORMANCE
    ]
    return f"""
### Efficiency

What can be taken out for nothing? Change of accuracy in points when PANs are set to zero or to their mean together,
all of them or those of one origin, against as many others (three draws).

{table(["", "PANs", "zero", "others zero", "mean", "others mean"], lines)}

Taken out one by one, the share in % of neurons that cost less than {100 * FREE:.1f} points:

{table(["", "of PANs", "of others"], alone)}
"""


def _safety(results: Results) -> str:
    head = ["movement × 100", *(f"moved {shift} px" for shift in SHIFTS), "white, border", "white, inside"]
    head += ["noise, border", "noise, inside"]
    paths = [f"shift {shift}" for shift in SHIFTS]
    paths += [f"{name}/{where}" for name in ("strip", "noise") for where in ("border", "interior")]
    tables = []
    for what, title in (
        ("tv", "Movement of the answer (mean total variation distance, × 100)"),
        ("flips", "Images whose class changes, in %"),
    ):
        lines = [
            [
                f"{name}: {words}",
                *(cell(results.get("respects", f"{task}/{arm}", f"{variant}/{path}/{what}"), 100) for path in paths),
            ]
            for task, name in TASKS.items()
            for how, words in shown(results, "respects", RESPECTS).items()
            for arm, variant in [how.split(": ")]
        ]
        tables.append(f"{title}:\n\n{table(['', *head[1:]], lines)}")
    return """
### Safety

How far the answer to the digit moves when nothing happens to the digit: the camera moves (two windows of one larger
image, mean of four directions), or a strip of 3 × 12 px, white or noise, is put at the border or in an empty place 5
px further in. The network's strides make 4 px: after a move by as much, all that differs is what is at the border.
Strips are put where they fall, and are no attack; adversarial perturbations gather at the border, says the abstract of
Gavrikov and Keuper 2023 ([2308.06612](https://arxiv.org/abs/2308.06612)).

""" + "\n\n".join(tables)
