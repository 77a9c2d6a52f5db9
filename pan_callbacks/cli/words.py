"""What the words of a page mean, in two lines, and where on a page a word appears first."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from pan_callbacks.cli.page import Definitions, Illustration, Part, Section, ShownTable, Text


class Word(NamedTuple):
    """A word that a reader may not know.

    Args:
        name: As it is written.
        meaning: In two lines.
        seen: Pattern that finds it in the words of a section, where a bar stands on both sides of each cell of a table.
    """

    name: str
    meaning: str
    seen: str


WORDS = (
    Word(
        "contrast",
        "How well one cut on a neuron's activation tells the border from the interior: + where the border excites it, "
        "− where it inhibits it. At ±0.8 such a cut is right nine times in ten.",
        r"contrast",
    ),
    Word(
        "95 %",
        "Where the number would lie, 19 times in 20, for other images of the kind. It says nothing about another "
        "training or another seed.",
        r"95 %",
    ),
    Word("certain", "A PAN in all of its own 95 % interval, marked by a star.", r"\bcertain\b|\*\|"),
    Word(
        "neutral padding",
        "The input's own values, reflected, in place of zeros: padding that does not say where the border is.",
        r"padding (is )?neutral|neutral padding",
    ),
    Word(
        "the floor",
        "PANs that remain with all padding neutral: there by chance, or because content differs at the border. The "
        "count is to be read against it.",
        r"the floor",
    ),
    Word(
        "nascent, inherited",
        "Due to the padding of its own layer, or to that of earlier layers: with it made neutral, at most half of the "
        "contrast remains.",
        r"nascent|inherited",
    ),
    Word("both, neither", "Either of these paddings takes half of the contrast away; or none does.", r"\bneither\b"),
    Word(
        "the next layer sees",
        "The neuron is over the threshold still after the normalisation and activation that follow.",
        r"the next layer sees",
    ),
    Word(
        "read the padding",
        "Padding pushes the neuron the same way at nearly all pixels of a side, perhaps by too little to stand out "
        "from the content: another question than whether it is a PAN.",
        r"read the padding",
    ),
    Word(
        "answers move",
        "How far what the network says changes with all padding neutral. Total variation: the probability that goes "
        "from some classes to others, 0 to 1.",
        r"answers move",
    ),
    Word(
        "side",
        "The edge of the image at which the neuron answers; a corner only if it answers at no edge.",
        r"\|side\|",
    ),
    Word(
        "sign",
        "Excited: more active at the border than inside. Inhibited: less. Mixed: not the same on all its edges.",
        r"\|sign\|",
    ),
    Word("depth", "Third of the measured layers that the neuron lies in.", r"\|depth\|"),
    Word("after", "Contrast after the normalisation and activation that follow the convolution.", r"\|after\|"),
    Word(
        "paired",
        "How consistently padding pushes the same pixels: ±1 if always the same way, 0 if no way more than the other.",
        r"\|paired\|",
    ),
    Word(
        "effect",
        "What the layer's own padding changes at the border, in standard deviations of the interior.",
        r"\|effect\|",
    ),
    Word(
        "KL",
        "Kullback-Leibler divergence of the predicted probabilities from those of the model as it is, in nats: 0 if "
        "nothing changes.",
        r"\|KL\|",
    ),
    Word("flips", "Share of the images whose predicted class is another.", r"\|flips\|"),
    Word(
        "rank correlation",
        "Spearman's: 1 if two measures put neurons or layers in the same order, 0 if one says nothing about the other.",
        r"rank correlation",
    ),
    Word(
        "flip score",
        "How far a neuron's mean activation changes when images are mirrored (Islam et al. 2021), in standard "
        "deviations over images.",
        r"flip score",
    ),
    Word(
        "leftover",
        "Padding at the far end that no window of a strided layer reaches, so that less of it is read there than at "
        "the near end.",
        r"[Ll]eftover",
    ),
    Word("map", "Height and width of what the layer gives.", r"\|map\|"),
    Word("± contrast", "Half the width of a contrast's 95 % interval, the median over the layer.", r"\|± contrast\|"),
    Word("follows", "What stands between the convolution and the next layer.", r"\|follows\|"),
    Word(
        "border bias",
        "How far activations at the border lie from the reference, in its standard deviations; mean over channels.",
        r"border bias",
    ),
    Word(
        "drift",
        "The largest contrast in the middle of the map, where there is no border: what the comparison alone changes. "
        "Where it is high, PANs are to be taken with care.",
        r"\|drift\|",
    ),
    Word(
        "reference",
        "What the border is compared with. Crop: the same pixels, seen as interior by a second run. Centre: the middle "
        "of the same map, where content deceives.",
        r"\|reference\|",
    ),
)


def with_definitions(sections: Iterable[Section]) -> list[Section]:
    """Return sections of a page, each beginning with the words that appear in it first."""
    left, found = list(WORDS), []
    for section in sections:
        said = "\n".join([section.heading, *map(_said, section.parts)])
        first = [word for word in left if re.search(word.seen, said)]
        left = [word for word in left if word not in first]
        meanings = tuple((word.name, word.meaning) for word in first)
        found.append(Section(section.heading, [*([Definitions(meanings)] if meanings else []), *section.parts]))
    return found


def _said(part: Part) -> str:
    """Return all that a part says."""
    if isinstance(part, Text):
        return part.text
    if isinstance(part, Illustration):
        return f"{part.alt}\n{part.caption}"
    if isinstance(part, ShownTable):
        table = part.shown
        lines = ("|".join(["", *line, ""]) for line in (table.head, *table.rows))
        return "\n".join([part.caption, part.folded, *lines])
    return ""
