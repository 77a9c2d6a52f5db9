"""The answer of the study: count and use of position told apart, then a row for each question."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.study.effects import Effect, of_seeds
from benchmarks.study.questions import QUESTIONS
from benchmarks.study.sections import RED_GREEN
from benchmarks.study.summary import Results, listed, mean, table

#: A mean count below this is printed as 0.0.
NONE = 0.05
#: Points of the gap that count as none left.
CLOSED = 5.0

#: Of every trained arm of red and green: its mean number of PANs, and the gap in points.
Gaps = Mapping[str, tuple[float, Effect]]


def answer(results: Results) -> str:
    """Write the section with what the data say, of the experiments that were run."""
    found = {key: effect for key, question in QUESTIONS.items() if (effect := question.measure(results)) is not None}
    return section(found, gaps(results))


def section(found: Mapping[str, Effect], trained: Gaps) -> str:
    """Write the section from its effects.

    Args:
        found: An effect for each question that has one, by its key in QUESTIONS.
        trained: What count_and_use() compares.
    """
    lines = [row(key, effect) for key, effect in found.items()]
    return "\n\n".join(["## The answer", count_and_use(trained), _VERDICTS, table(_HEAD, lines, text=True)])


_HEAD = ("question", "effect [95 % interval]", "n", "verdict", "in words")
_VERDICTS = """
The verdict is the interval's alone. *Helps*: all of it lies on the good side, which is higher accuracy, a narrower
gap, an answer that moves less, or a smaller count (of a count, *helps* says fewer and *hurts* says more, and nothing
about its worth). *Hurts*: all of it lies on the other side. *Unknown*: it contains zero, or there is none; that is no
proof that nothing changes. Intervals are Student's t over seeds, in the first row over networks; of flipped classes
Wilson's over images, too narrow where several are crops of one photograph. Student's know no bounds (nothing loses more
than 100 points). None is corrected for their number: where nothing changes, one in twenty excludes zero by chance. A
hundredth is one of total variation distance.
""".strip("\n")


def gaps(results: Results) -> dict[str, tuple[float, Effect]]:
    """Collect count and gap of the trained arms of red and green; masks laid on afterwards are none."""
    found = {}
    for key, name in RED_GREEN.items():
        arm, variant = key.split(": ")
        count, gap = (results.get("red_green", arm, path) for path in ("pans", "as is/gap"))
        if variant == "as is" and count and (effect := of_seeds(gap, 100)):
            found[name] = (mean(count), effect)
    return found


def count_and_use(trained: Gaps) -> str:
    """Say whether the count decides the use of position: do gaps differ among arms without PANs?"""
    if not trained:
        return "*Red and green*, which tells the count of PANs from the use of position, was not run."
    without = [gap for count, gap in trained.values() if count < NONE]
    closed = [name for name, (_, gap) in trained.items() if gap.high < CLOSED]
    left = f"A gap of less than {CLOSED:.0f} points, interval included, is left by {listed(closed)}."
    if len(without) < 2:
        return (
            "**The count of PANs and the use of position are two things.** Fewer than two trained arms of *red and "
            f"green* are without PANs, so that these runs do not tell one from the other. {left}"
        )
    least, most = (pick(without, key=lambda gap: gap.middle) for pick in (min, max))
    arms = f"{_spelled(len(without))} trained arms of *red and green* have 0.0 PANs"
    span = f"lose {least.middle:.1f} to {most.middle:.1f} points where positions are swapped"
    if least.high < most.low:
        return (
            f"**The count of PANs does not decide the use of position.** {arms}, and {span}; this agrees with Lin et "
            "al. 2022 ([2206.01202](https://arxiv.org/abs/2206.01202)), whose abstract calls the pattern of padding "
            f'"primarily a learning artifact". {left}'
        )
    return (
        f"**The count of PANs and the use of position are two things.** {arms}, and {span}, which their intervals do "
        f"not tell apart. {left}"
    )


def row(key: str, effect: Effect) -> tuple[str, str, str, str, str]:
    """Fill the cells of a question."""
    question = QUESTIONS[key]
    one = "network" if question.units.endswith("network") else question.units.removesuffix("s")
    digits = 2 if question.unit == "rank correlation" else 1
    interval = f" {effect.interval()}" if effect.has_interval else f"; interval: none (one {one})"
    n = f"{effect.count} {question.units if effect.count > 1 else one}"
    size = f"{effect.middle:+.{digits}f} {question.unit}{interval}"
    return question.text, size, n, effect.verdict(question.good), question.words(effect)


def _spelled(number: int) -> str:
    """Write a number for the beginning of a sentence."""
    words = ("No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine")
    return words[number] if number < len(words) else str(number)
