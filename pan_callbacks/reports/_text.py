"""Names that somebody else chose, made harmless where they leave: in a terminal, on a page, in a spreadsheet."""

from __future__ import annotations

import re
import unicodedata
from html import escape

#: Join letters and pictures of one word, and do nothing else.
_JOINERS = "\u200c\u200d"
_HARMLESS = ("Zs", "Co", "Cn")  # spaces of other widths, and what has no meaning to everybody or as yet
_NUMBER = r"[+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?%?"
_FIGURE = re.compile(rf"-|{_NUMBER}(?: ± {_NUMBER}| \[{_NUMBER}, {_NUMBER}\])?")


def visible(text: str) -> str:
    r"""Return a text with everything that acts instead of being seen written out, as Python would write it.

    That is control characters (a terminal obeys them, also within a file's name), marks that turn the direction of
    writing, ends of lines, and halves of characters that no encoding knows.

    Example:
        >>> print(visible("a\x1b[2Jb\u202ec\n"), visible("größe ×1"))
        a\x1b[2Jb\u202ec\n größe ×1
    """
    if text.isprintable():
        return text
    return "".join(char if _is_seen(char) else char.encode("unicode_escape").decode() for char in text)


def _is_seen(char: str) -> bool:
    return char.isprintable() or char in _JOINERS or unicodedata.category(char) in _HARMLESS


def paragraph(text: str) -> str:
    r"""Return a text as a paragraph of HTML, its lines below each other.

    Example:
        >>> paragraph("2 of 8 <b>\nnot sure")
        '<p>2 of 8 &lt;b&gt;<br>not sure</p>'
    """
    lines = [escape(visible(line)) for line in text.split("\n")]
    return f"<p>{'<br>'.join(lines)}</p>"


def csv_cell(text: str) -> str:
    """Return a text as a spreadsheet shows it: one that it would take for a formula gets an apostrophe in front.

    What this package writes as a number stays one, also with its interval or its deviation, and so does the dash.

    Example:
        >>> [csv_cell(text) for text in ("-0.83", "-", "-25.00% [-40.00%, -10.00%]", "=1+1", "-1+2", "conv1")]
        ['-0.83', '-', '-25.00% [-40.00%, -10.00%]', "'=1+1", "'-1+2", 'conv1']
    """
    text = visible(text)
    formula = text.lstrip()[:1] in ("=", "+", "-", "@", "＝", "＋", "－", "＠")
    return f"'{text}" if formula and not _FIGURE.fullmatch(text) else text
