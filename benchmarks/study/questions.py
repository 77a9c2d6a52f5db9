"""The questions that the study answers: what is measured for each, what is good, and what each verdict says."""

from __future__ import annotations

from benchmarks.study.earlier import TRAININGS as EARLIER
from benchmarks.study.effects import Effect, Measure, Question, of_seeds
from benchmarks.study.imagenet_section import QUESTIONS as IMAGENET
from benchmarks.study.summary import BySeed, Results, less, mean


def _trained_against_random(results: Results) -> Effect | None:
    """Take PANs after training less those before; a network is one draw, its seeds are averaged."""
    arms = [arm for arm in results.arms("families") if arm.endswith("/zeros")]
    before, after = (
        {arm: mean(results.get("families", arm, f"{when}/pans")) for arm in arms} for when in ("before", "after")
    )
    return of_seeds({number: after[arm] - before[arm] for number, arm in enumerate(arms)})


def _gap(results: Results, arm: str, variant: str = "as is") -> BySeed:
    return results.get("red_green", arm, f"{variant}/gap")


def _narrower(name: str, arm: str, variant: str = "as is") -> Question:
    """Ask whether something narrows the gap that zero padding has."""
    return Question(
        f"Red and green: is the gap narrower {name}?",
        "points",
        -1,
        "seeds",
        lambda results: of_seeds(less(_gap(results, arm, variant), _gap(results, "zero")), 100),
        "The gap narrows; the table of red and green has what is left.",
        "The gap widens.",
        "These seeds do not tell a narrower gap from the same one.",
    )


def _change(arm: str, path: str, minus: tuple[str, str] | None = None) -> Measure:
    """Take a number of the four respects × 100, less another of the same seed."""

    def measure(results: Results) -> Effect | None:
        values = results.get("respects", arm, path)
        return of_seeds(less(values, results.get("respects", *minus)) if minus else values, 100)

    return measure


def _further_drop(first: str, second: str) -> Measure:
    """Take the change of a difference of accuracy when PANs are masked, the digit alone."""

    def measure(results: Results) -> Effect | None:
        masked, whole = (
            less(*(results.get("respects", "digit/zero", f"{variant}/{what}") for what in (first, second)))
            for variant in ("PANs", "as is")
        )
        return of_seeds(less(masked, whole), 100)

    return measure


def _accuracy(text: str, measure: Measure, hurts: str = "Accuracy falls.", helps: str = "Accuracy rises.") -> Question:
    unknown = "These seeds do not tell a change from none."
    return Question(text, "points", 1, "seeds", measure, helps, hurts, unknown)


def _worth(key: str, name: str, arm: str, label: str) -> dict[str, Question]:
    """Ask what PANs are worth to a trained network: blind to the padding, and at zero."""
    base = f"worth/{label}"
    return {
        f"{key}/blind": _accuracy(
            f"Performance: what happens to accuracy when PANs are blinded to the padding ({name})?",
            _change(arm, f"{base}/pans/neutral/change"),
        ),
        f"{key}/zero": _accuracy(
            f"Performance: do PANs cost more than as many others when set to zero ({name})?",
            _change(arm, f"{base}/pans/zero/change", (arm, f"{base}/control/zero/change")),
            "PANs cost more. The others match layer and number, not the size of the effect.",
            "PANs cost less. The others match layer and number, not the size of the effect.",
        ),
    }


def _movement(text: str, what: str, arm: str, variant: str = "as is") -> Question:
    """Ask whether an answer moves less than that of the network as it is, the digit alone."""
    return Question(
        f"Safety: does the answer move less {text}?",
        "hundredths",
        -1,
        "seeds",
        _change(arm, f"{variant}/{what}/tv", ("digit/zero", f"as is/{what}/tv")),
        "It moves less.",
        "It moves more.",
        "These seeds do not tell a change from none.",
    )


_BORDER, _SHIFT = "noise/border", "shift 4"
EFFECT = f"`{EARLIER['effect penalty']}`"
QUESTIONS: dict[str, Question] = {
    "count": Question(
        "Where: does training leave fewer PANs than random weights have (zero padding)?",
        "PANs",
        -1,
        "networks",
        _trained_against_random,
        "Fewer are left. Read a count beside the one before the first step.",
        "There are more. Read a count beside the one before the first step.",
        "The networks differ too much to tell. Read a count beside the one before the first step.",
    ),
    "gap": Question(
        "Red and green: is accuracy lost where positions are swapped (zero padding)?",
        "points",
        -1,
        "seeds",
        lambda results: of_seeds(_gap(results, "zero"), 100),
        "Accuracy rises where positions are swapped.",
        "The network uses position, which it must not use here.",
        "These seeds do not show that position is used.",
    ),
    "gap/circular": _narrower("with circular padding", "circular"),
    "gap/reflect": _narrower("with reflect padding", "reflect"),
    "gap/padding": _narrower("when all padding is made neutral after training", "zero", "padding"),
    "gap/PANs": _narrower("when the PANs are masked after training", "zero", "PANs"),
    "gap/mask": _narrower("under `PANMask()`", "mask"),
    "gap/penalty": _narrower("with `PANPenalty()`", "penalty"),
    # of earlier runs; these and the others with a kind are left out where there are none
    "gap/effect": _narrower(f"with {EFFECT}", "effect penalty"),
    "gap/effect ×10": _narrower("with the same, ten times as heavy", "effect penalty ×10"),
    **_worth("digit", "the digit alone", "digit/zero", "digit"),
    **_worth("both", "the digit, place asked too", "both/zero", "digit"),
    **_worth("place", "the place", "both/zero", "place"),
    **{
        f"trained/{how}": _accuracy(
            f"Performance: what happens to the accuracy of the place in training {name}?",
            _change(f"both/{how}", "as is/place/accuracy", ("both/zero", "as is/place/accuracy")),
        )
        for how, name in (
            ("mask", "under `PANMask()`"),
            ("penalty", "with `PANPenalty()`"),
            ("effect penalty", f"with {EFFECT}"),
        )
    },
    "near": _accuracy(
        "Generalisation: is a digit at the border found as well as a central one (the digit alone)?",
        _change("digit/zero", "as is/near", ("digit/zero", "as is/central")),
    ),
    "near/PANs": _accuracy(
        "Generalisation: does masking the PANs help at the border, against the middle (the digit alone)?",
        _further_drop("near", "central"),
        "The border loses against the middle.",
        "The border gains against the middle.",
    ),
    "size": _accuracy(
        "Generalisation: is a digit found as well at 64 px as at 32 px (the digit alone)?",
        _change("digit/zero", "as is/size 64", ("digit/zero", "as is/size 32")),
    ),
    "size/PANs": _accuracy(
        "Generalisation: does masking the PANs help at 64 px, against 32 px (the digit alone)?",
        _further_drop("size 64", "size 32"),
        "The larger images lose against the smaller ones.",
        "The larger images gain against the smaller ones.",
    ),
    **{
        f"removal/{label}": _accuracy(
            f"Efficiency: can all PANs be set to zero for nothing ({name})?",
            _change(arm, f"removal/{label}/all/zero/change"),
            "Not for nothing. The table of efficiency has the same of others, and of PANs one by one.",
        )
        for arm, label, name in (("digit/zero", "digit", "the digit alone"), ("both/zero", "place", "place"))
    },
    "noise": Question(
        "Safety: does noise at the border move the answer less than inside (zero padding, the digit alone)?",
        "hundredths",
        -1,
        "seeds",
        _change("digit/zero", "as is/noise/border/tv", ("digit/zero", "as is/noise/interior/tv")),
        "Less at the border than inside.",
        "More at the border than inside.",
        "These seeds do not tell the two places apart.",
    ),
    "noise/PANs": _movement("under noise at the border when PANs are masked", _BORDER, "digit/zero", "PANs"),
    "noise/penalty": _movement("under noise at the border with `PANPenalty()`", _BORDER, "digit/penalty"),
    "noise/effect": _movement(f"under noise at the border with {EFFECT}", _BORDER, "digit/effect penalty"),
    "noise/circular": _movement("under noise at the border with circular padding", _BORDER, "digit/circular"),
    "shift/PANs": _movement("under a shift of 4 px when PANs are masked", _SHIFT, "digit/zero", "PANs"),
    "shift/penalty": _movement("under a shift of 4 px with `PANPenalty()`", _SHIFT, "digit/penalty"),
    "shift/effect": _movement(f"under a shift of 4 px with {EFFECT}", _SHIFT, "digit/effect penalty"),
    "shift/circular": _movement("under a shift of 4 px with circular padding", _SHIFT, "digit/circular"),
    **IMAGENET,
}
