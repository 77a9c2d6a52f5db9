"""An advice in words: one paragraph that says no more than its intervals do, and a table of the numbers."""

from __future__ import annotations

import math
from collections.abc import Callable

from pan_callbacks.reports.estimate import Estimate
from pan_callbacks.reports.reliance import CLASSES, PIXELS
from pan_callbacks.reports.tables import Table
from pan_callbacks.reports.verdict import Decision, Evidence

Form = Callable[[float], str]

_POSITION = (
    "Keeping it is right if your images always have this size and kind of content: position can be useful, and a "
    "network trained without it less accurate."
)
_NO_LABELS = "Whether they get worse nobody knows without labels, a folder for each class."
_NO_CLASSES = "Whether they get worse a metric would tell: impact(model, batches, report, metric=...)."


def paragraph_of(decision: Decision, evidence: Evidence) -> str:
    """Return what to do about the padding of a network and why, in one paragraph.

    Args:
        decision: What to do.
        evidence: The numbers.
    """
    if evidence.unpadded:
        sentences = _unpadded(decision, evidence)
    elif not decision.decided:
        sentences = _undecided(decision, evidence)
    elif decision.verdict == "retrain":
        sentences = _retrain(evidence)
    elif decision.verdict == "keep":
        sentences = ["Keep the network as it is: its answers hardly depend on its padding.", *_still(evidence)]
        sentences.append(f"{_pans(evidence)}; whatever they know of the border hardly reaches the answers.")
    elif decision.blind == "padding":
        sentences = _blind_all(evidence)
    else:
        sentences = _blind_pans(decision, evidence)
    return " ".join(sentences)


def measured_table(evidence: Evidence) -> Table:
    """Return each number that was measured with its 95 % interval."""
    found = evidence.reliance
    distance, flipping = ("", "") if found is None else (found.distance, "pixels" if _of_pixels(evidence) else "images")
    known: list[tuple[str, Estimate | None, Form]] = [
        ("PANs", evidence.pans, _number),
        ("PANs that remain with all padding neutral", evidence.floor, _number),
        (f"all padding neutral: {distance} of the answers", evidence.moved, _short),
        (f"all padding neutral: {flipping} of another class", evidence.flips, _percent),
        ("PANs neutral: images of another class", evidence.pans_flips, _percent),
        ("accuracy as it is", evidence.accuracy, _percent),
        ("all padding neutral: change of accuracy", evidence.padding_change, _points),
        ("PANs neutral: change of accuracy", evidence.pans_change, _points),
    ]
    rows = tuple((what, form(one.value), _ends(one, form)) for what, one, form in known if one is not None)
    head = (f"{evidence.images:,} images", "measured", "95 % interval")
    return Table(head, rows, numbers=head[1:])


def _unpadded(decision: Decision, evidence: Evidence) -> list[str]:
    if decision.decided:
        return [f"Keep the network as it is: it has no padding to be blinded to ({evidence.unpadded})."]
    return [f"Undecided, for nothing could be measured ({evidence.unpadded}): keep the network as it is until then."]


def _undecided(decision: Decision, evidence: Evidence) -> list[str]:
    found = ["Undecided: keep the network as it is until more is known.", _moves(evidence)]
    if evidence.padding_change is not None:
        found.append(f"Its accuracy then changes by {_change(evidence.padding_change)}.")
    so_far = "Answers do depend on the padding; whether" if evidence.answers_still is False else "Whether"
    return [*found, f"{so_far} {_open(evidence)} is open.", _more(decision, evidence)]


def _more(decision: Decision, evidence: Evidence) -> str:
    if decision.images is None and evidence.moved is not None and math.isnan(evidence.moved.low):
        return "So few images have no interval: several hundred are needed."
    if decision.images is None:
        return "What was measured lies so near that limit that more images would hardly decide it."
    return f"About {decision.images:,} images in place of {evidence.images:,} would decide it, if the numbers stay so."


def _still(evidence: Evidence) -> list[str]:
    return [_moves(evidence), f"No interval of these exceeds {_limit(evidence)}."]


def _retrain(evidence: Evidence) -> list[str]:
    found = ["Retrain the network: it relies on its padding."]
    if evidence.padding_change is not None:
        change = _change(evidence.padding_change)
        found.append(f"Blinded to all of it, its accuracy changes by {change}: {_worse(evidence)}.")
    found.append(_moves(evidence))
    if evidence.padding_change is None:
        found.append(_unknown(evidence))
    found.append("If answers are not to depend on padding, train with PaddingDropout.")
    if evidence.beyond_chance:
        found.append(f"If no neuron is to recognise the border, train with PANPenalty(): {_pans(evidence, start='')}.")
    else:
        found.append(f"Whether PANPenalty() would have anything to do is not certain: {_pans(evidence, start='')}.")
    if evidence.beyond_chance and evidence.pans_free:
        found.append(
            f"Blinding the PANs alone with mask_permanently(model, report) is not {_worse(evidence)} "
            f"({_cost_of_pans(evidence)}), and leaves what the answers owe to all other padding."
        )
    return [*found, _POSITION]


def _blind_all(evidence: Evidence) -> list[str]:
    found = ["Blind the network to its padding with neutralise(model)."]
    if evidence.padding_change is None:
        return [*found, _moves(evidence), f"At most {_limit(evidence)} of the classes change.", _unknown(evidence)]
    change = _change(evidence.padding_change)
    found.append(f"With all padding neutral accuracy changes by {change}: no loss of more than {_limit(evidence)}.")
    return [*found, f"Single answers may be others all the same. {_moves(evidence)}"]


def _blind_pans(decision: Decision, evidence: Evidence) -> list[str]:
    found = ["Blind the PANs with mask_permanently(model, report).", f"{_pans(evidence)}."]
    found.append(f"With these neutral {_cost_of_pans(evidence)}: not {_worse(evidence)}.")
    if evidence.answers_still:
        found += _still(evidence)
        found.append("Keeping it is as good if its answers are all that you use; its features do know the border.")
        return found
    found.append(f"What the answers owe to other padding stays. {_moves(evidence)}")
    if evidence.padding_change is not None:
        found.append(f"Accuracy then changes by {_change(evidence.padding_change)}.")
    return [*found, f"Whether {_open(evidence)} is open.", _more(decision, evidence)]


# ------------------------------------------------------------------------------------------------- parts of sentences


def _unknown(evidence: Evidence) -> str:
    return _NO_LABELS if evidence.reliance is not None and evidence.reliance.distance == CLASSES else _NO_CLASSES


def _moves(evidence: Evidence) -> str:
    if evidence.reliance is None:
        return "How far answers move without padding was not measured."
    return f"{evidence.reliance.in_words().rstrip('.')}, on {evidence.reliance.images:,} images."


def _pans(evidence: Evidence, start: str = "Of its neurons, ") -> str:
    if evidence.pans is None:
        return f"{start}nobody knows how many are PANs"
    verb = "is a PAN" if evidence.pans.value == 1 else "are PANs"
    between = _range(evidence.pans, _number)
    counted = f"{start}{_number(evidence.pans.value)} of {evidence.neurons:,} {verb} (95 %: {between})"
    seen = f"{evidence.surely_visible:,} of them surely, and seen by the next layer as far as is known"
    if evidence.floor is None:
        return f"{counted}, {seen}"
    return f"{counted}, {seen}, and {_number(evidence.floor.value)} with all padding neutral"


def _cost_of_pans(evidence: Evidence) -> str:
    if evidence.pans_change is not None:
        return f"accuracy changes by {_change(evidence.pans_change)}"
    if evidence.pans_flips is None:
        return "nobody knows what changes"
    between = _range(evidence.pans_flips, _percent)
    return f"{_percent(evidence.pans_flips.value)} of the images change class (95 %: {between})"


def _worse(evidence: Evidence) -> str:
    return f"a loss of more than {_limit(evidence)}" if evidence.labelled else f"more than {_limit(evidence)}"


def _open(evidence: Evidence) -> str:
    if evidence.labelled or evidence.flips is None:
        return f"that is {_worse(evidence)}"
    return f"{_worse(evidence)} of the classes change"


def _limit(evidence: Evidence) -> str:
    share = f"{100 * evidence.tolerance:g}"
    if evidence.labelled and not evidence.answers_still:
        return f"{share} point{'' if share == '1' else 's'}"
    return f"{share}%" if evidence.flips is not None else f"{evidence.tolerance:g}"


def _change(change: Estimate) -> str:
    return f"{_points(change.value)} points (95 %: {_range(change, _points)})"


def _range(one: Estimate, form: Form) -> str:
    return "unknown" if math.isnan(one.low) else f"{form(one.low)} to {form(one.high)}"


def _ends(one: Estimate, form: Form) -> str:
    return "-" if math.isnan(one.low) else f"[{form(one.low)}, {form(one.high)}]"


def _of_pixels(evidence: Evidence) -> bool:
    return evidence.reliance is not None and evidence.reliance.distance == PIXELS


def _number(value: float) -> str:
    return f"{value:,.0f}"


def _short(value: float) -> str:
    return f"{value:.2g}"


def _percent(value: float) -> str:
    return f"{value:.1%}"


def _points(value: float) -> str:
    return f"{100 * value:+.1f}"
