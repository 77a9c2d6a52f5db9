"""The conclusions of the study. A sentence that depends on numbers is chosen by them."""

from __future__ import annotations

from benchmarks.study.imagenet_section import answer as imagenet
from benchmarks.study.measures import FREE
from benchmarks.study.summary import BySeed, Results, cell, change, direction, less, listed, mean

DOZENS = 24


def answer(results: Results) -> str:
    """The section with what the data say, of the experiments that were run."""
    parts = (_found, _position, _worth, _generalisation, _efficiency, _safety, imagenet, _advice)
    said = [part(results) for part in parts]
    return "\n".join(["## The answer", "", *(f"* {text}" for text in said if text)])


def _found(results: Results) -> str:
    arms = [arm for arm in results.arms("families") if arm.endswith("/zeros")]
    if not arms:
        return ""
    before, after = (
        {arm: mean(results.get("families", arm, f"{when}/pans")) for arm in arms} for when in ("before", "after")
    )
    some, dozens = sum(count > 0 for count in after.values()), sum(count >= DOZENS for count in after.values())
    fewer = [arm.split("/")[0] for arm in arms if after[arm] < before[arm]]
    controls = [
        f"{cell(results.get('families', arm, 'after/pans'))} with {arm.split('/')[1]} padding"
        for arm in results.arms("families")
        if arm not in arms
    ]
    return " ".join(
        [
            f"**Where.** PANs are found in {_of(some, len(arms))} networks trained with zero padding,",
            f"{min(after.values()):.1f} to {max(after.values()):.1f} of them" + ("," if controls else "."),
            *([f"and in resnet10t {listed(controls)}."] if controls else []),
            "Garcia-Gasulla et al. say *in all models, from dozens to hundreds*:",
            f"two dozen and more are in {_of(dozens, len(arms))} here.",
            f"Training leaves fewer than random weights had in {listed(fewer)},"
            if fewer
            else "Training adds PANs in all,",
            "so that a count means little without the one before the first step.",
        ]
    )


def _of(some: int, all_of_them: int) -> str:
    return "all" if some == all_of_them else f"{some} of {all_of_them}"


def _position(results: Results) -> str:
    gap = {arm: results.get("red_green", arm, "as is/gap") for arm in results.arms("red_green")}
    if not {"zero", "circular"} <= gap.keys():
        return ""
    plain = gap["zero"]
    shown = mean(plain) > mean(gap["circular"])
    text = (
        f"**Position that must not be used.** The published direction {'is' if shown else 'is not'} there: between "
        f"similar and swapped positions zero padding loses {cell(plain, 100)} points, circular padding "
        f"{cell(gap['circular'], 100)}. "
    )
    tried = {
        "masking the PANs of the trained network": results.get("red_green", "zero", "PANs/gap"),
        "training under `PANMask()`": gap.get("mask", {}),
        "`PANPenalty()`": gap.get("penalty", {}),
        '`PANPenalty(kind="effect")`': gap.get("effect penalty", {}),
        "the same ten times as heavy": gap.get("effect penalty ×10", {}),
        "making all padding neutral after training": results.get("red_green", "zero", "padding/gap"),
        "reflect padding": gap.get("reflect", {}),
    }
    against = {name: less(values, plain) for name, values in tried.items() if values}
    narrower = [f"{name} ({cell(values, 100, sign='+')})" for name, values in against.items() if direction(values) < 0]
    same = [f"{name} ({cell(values, 100, sign='+')})" for name, values in against.items() if direction(values) == 0]
    wider = [f"{name} ({cell(values, 100, sign='+')})" for name, values in against.items() if direction(values) > 0]
    if narrower:
        text += f"Narrower by so many points: {listed(narrower)}. "
    if same:
        text += f"No clear change: {listed(same)}. "
    if wider:
        text += f"Wider: {listed(wider)}. "
    closed = [name for name, values in tried.items() if values and mean(values) <= mean(gap["circular"]) + 0.05]
    text += (
        f"The gap is closed, to within 5 points of circular padding, by {listed(closed)}."
        if closed
        else "None of them closes the gap: what tells position is more than the neurons above the threshold."
    )
    return text


def _worth(results: Results) -> str:
    said = []
    for arm, label, where in (
        ("digit/zero", "digit", "the digit alone is asked"),
        ("both/zero", "digit", "the digit is asked with the place"),
        ("both/zero", "place", "the place is asked"),
    ):
        base = f"worth/{label}"
        neutral = results.get("respects", arm, f"{base}/pans/neutral/change")
        if not neutral:
            continue
        zero = less(*(results.get("respects", arm, f"{base}/{kind}/zero/change") for kind in ("pans", "control")))
        said.append(
            f"where {where}, accuracy {change(neutral)} when PANs lose the padding; when they are silenced, what it "
            f"has above silencing as many others {change(zero)}"
        )
    return f"**Performance.** {'; '.join(said)}.".replace("** w", "** W", 1) if said else ""


def _generalisation(results: Results) -> str:
    if not results.get("respects", "digit/zero", "as is/near"):
        return ""

    def drop(arm: str, variant: str, first: str, second: str):
        return less(*(results.get("respects", arm, f"{variant}/{what}") for what in (first, second)))

    border = drop("digit/zero", "as is", "near", "central")
    larger = drop("digit/zero", "as is", "size 64", "size 32")
    masked = [
        less(drop("digit/zero", "PANs", *pair), own)
        for pair, own in ((("near", "central"), border), (("size 64", "size 32"), larger))
    ]
    return (
        "**Generalisation** (the digit alone). From the middle to the border of the image, accuracy "
        f"{change(border)}; from 32 to 64 px it {change(larger)}. With the PANs masked, the first difference "
        f"{change(masked[0])} and the second {change(masked[1])}."
    )


def _efficiency(results: Results) -> str:
    said = []
    for arm, label, where in (("digit/zero", "digit", "the digit alone"), ("both/zero", "place", "the place")):
        lost = results.get("respects", arm, f"removal/{label}/all/zero/change")
        if not lost:
            continue
        alone, others = (results.get("respects", arm, f"removal/{label}/alone/{kind}") for kind in ("pans", "control"))
        free = "for nothing" if mean(lost) > -FREE else f"at a price: accuracy {change(lost)}"
        said.append(
            f"{where}: all PANs together can be taken out {free}; one by one {cell(alone, 100)} % of them cost less "
            f"than {100 * FREE:.1f} points, of other neurons {cell(others, 100)} %"
        )
    return f"**Efficiency.** {'; '.join(said)}.".replace("** t", "** T", 1) if said else ""


def _safety(results: Results) -> str:
    arm = "digit/zero"
    shift = results.get("respects", arm, "as is/shift 4/tv")
    if not shift:
        return ""
    patch = less(*(results.get("respects", arm, f"as is/noise/{where}/tv") for where in ("border", "interior")))
    more = "more" if direction(patch) > 0 else "less" if direction(patch) < 0 else "not clearly more or less"
    said = []
    for other, variant, name in (
        (arm, "PANs", "with the PANs masked"),
        ("digit/effect penalty", "as is", "after the penalty"),
        ("digit/circular", "as is", "with circular padding"),
    ):
        pair = [
            less(
                results.get("respects", other, f"{variant}/{what}/tv"), results.get("respects", arm, f"as is/{what}/tv")
            )
            for what in ("shift 4", "noise/border")
        ]
        if all(pair):
            said.append(
                f"{name}, movement under a shift of 4 px {change(pair[0], unit='')}, and under noise at the border it "
                f"{change(pair[1], unit='')}"
            )
    return (
        f"**Safety** (the digit alone, movement × 100). Noise at the border moves the answer {more} than inside "
        f"({cell(patch, 100, sign='+')}). {'; '.join(said)}."
    ).replace("). w", "). W", 1)


def _advice(results: Results) -> str:
    """Plain words: what to do with a trained network, with a training, and what not to do."""
    mask, zero = (
        results.get("respects", "both/zero", f"worth/place/pans/{mode}/change") for mode in ("neutral", "zero")
    )
    digit = results.get("respects", "digit/zero", "worth/digit/pans/neutral/change")
    gap = results.get("red_green", "zero", "as is/gap")
    if not (mask and digit and gap):
        return ""
    trained = {
        name: less(
            results.get("respects", f"both/{arm}", "as is/place/accuracy"),
            results.get("respects", "both/zero", "as is/place/accuracy"),
        )
        for arm, name in (("mask", "under `PANMask()`"), ("effect penalty", 'with `PANPenalty(kind="effect")`'))
    }
    narrowed = {
        "a mask after training": less(results.get("red_green", "zero", "PANs/gap"), gap),
        "a penalty in training": less(results.get("red_green", "penalty", "as is/gap"), gap),
        "circular padding": less(results.get("red_green", "circular", "as is/gap"), gap),
    }
    silenced = results.get("respects", "digit/zero", "worth/digit/pans/zero/change")
    others = results.get("respects", "digit/zero", "worth/digit/control/zero/change")
    keep = f"Keep them in a trained network that is asked for positions: {_by(mask, 'accuracy of the place')},"
    return " ".join(
        [
            "**When to keep, when to suppress.**",
            keep if mean(mask) < -FREE else keep.replace("Keep them", "There is no need to keep them"),
            "when they are blinded to the padding. Trained without them, a network finds the position otherwise:",
            "; ".join(f"{name} {_by(change_, 'it')}" for name, change_ in trained.items() if change_) + ".",
            f"Suppress them where position must not matter: it costs a trained network {_points(digit)} of accuracy.",
            "Do not expect that to cure a shortcut: of a gap of",
            f"{cell(gap, 100)} points " + ", ".join(f"{name} takes {_points(v)}" for name, v in narrowed.items() if v),
            "(neurons below the threshold tell position, too); where position must not be used at all, change the",
            "padding. Do not silence them: they carry content as well, and their loss costs",
            f"{_points(silenced)} where that of as many others costs {_points(others)}"
            + (f", and {_points(zero)} of the place." if zero else "."),
        ]
    )


def _by(values: BySeed, what: str) -> str:
    """A change and in how many seeds it has its sign: with three seeds, more telling than an interval."""
    way = "falls" if mean(values) < 0 else "rises"
    same = sum((value < 0) == (mean(values) < 0) for value in values.values())
    return f"{what} {way} by {_points(values)}, in {same} of {len(values)} seeds"


def _points(values: BySeed) -> str:
    size = {seed: value if mean(values) > 0 else -value for seed, value in values.items()}
    return f"{cell(size, 100)} points"
