"""Self-contained HTML pages: no script, no style, no font, no picture from anywhere else.

What a page looks like is in ``templates/``; here is what it is made of.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pan_callbacks.figures.style import pixels
from pan_callbacks.reports._text import visible
from pan_callbacks.reports.tables import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Figures are drawn for 100 dots an inch; at this they stay sharp on screens with two pixels for each of them.
DPI = 200


#: Of the picture on a page, from 0 to 100: at this letters are sharp, and a page of photographs stays small.
QUALITY = 80


@dataclass(frozen=True, eq=False)
class Illustration:
    """A figure of a report, in a file of its own and on the page; it is drawn when one of them is asked for.

    Args:
        name: Name of its file, without the ending.
        draw: Draws it.
        alt: What is to be seen on it, for those who do not see it.
        caption: Sentence below it, "" for none.
        section: Part of the page that it belongs to.
        photographs: Whether it shows some, which nobody would know with their brightness turned round.
    """

    kind: ClassVar = "figure"
    name: str
    draw: Callable[[], Figure] = field(repr=False)
    alt: str
    caption: str
    section: str
    photographs: bool = False

    @cached_property
    def _drawn(self) -> tuple[int, bytes, bytes]:
        """Width in pixels, PNG and WebP; the figure itself and its pixels are large, and not kept."""
        from PIL import Image

        picture, png, webp = Image.fromarray(pixels(self.draw(), DPI)), io.BytesIO(), io.BytesIO()
        # level 4 takes two thirds of the time of 6, and 2 % more room
        picture.save(png, format="png", dpi=(DPI, DPI), compress_level=4)
        picture.save(webp, format="webp", quality=QUALITY)
        return picture.width, png.getvalue(), webp.getvalue()

    @property
    def width(self) -> int:
        """Width in which it is shown if there is room, in CSS pixels."""
        return round(100 * self._drawn[0] / DPI)

    @property
    def png(self) -> bytes:
        """The figure as a PNG file, without the time at which it was made, so that equal figures are equal files."""
        return self._drawn[1]

    @property
    def webp(self) -> bytes:
        """The figure as a WebP file, which is a fraction of the PNG, for the page."""
        return self._drawn[2]

    @property
    def base64(self) -> str:
        """The WebP file in letters, for a data URL."""
        return base64.b64encode(self.webp).decode("ascii")


@dataclass(frozen=True)
class Text:
    """A paragraph; its lines stay lines.

    Args:
        text: Plain text.
        style: ``"lead"`` for larger, ``"note"`` for a warning.
    """

    kind: ClassVar = "text"
    text: str
    style: str = ""


@dataclass(frozen=True)
class ShownTable:
    """A table on a page.

    Args:
        table: The table.
        caption: Sentence above it.
        folded: What to click on to see it, if it is long.
        sortable: Whether a click on a heading sorts its rows.
    """

    kind: ClassVar = "table"
    table: Table
    caption: str = ""
    folded: str = ""
    sortable: bool = True

    @property
    def shown(self) -> Table:
        """What is known of it."""
        return self.table.known()

    @property
    def sorts(self) -> bool:
        """Whether there is something to sort."""
        return self.sortable and len(self.table.rows) > 1


@dataclass(frozen=True)
class Links:
    """Addresses to go to, on a line.

    Args:
        links: What is read, and where it leads.
    """

    kind: ClassVar = "links"
    links: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Definitions:
    """What words mean, in two lines each.

    Args:
        words: Word and meaning.
    """

    kind: ClassVar = "definitions"
    words: tuple[tuple[str, str], ...]


Part = Text | ShownTable | Illustration | Links | Definitions


@dataclass
class Section:
    """A part of a page, which the list of contents leads to.

    Args:
        heading: Its heading.
        parts: What it shows.
    """

    heading: str
    parts: list[Part] = field(default_factory=list)


@dataclass
class Page:
    """A page from top to bottom; every text is escaped, and what acts instead of being seen written out.

    Args:
        title: Its title.
        footer: Sentence at its end.
        lead: What it shows before the first section.
        sections: Its sections.

    Example:
        >>> page = Page("A <b> in the title", lead=[ShownTable(Table(("layer",), (("conv1",),)))])
        >>> "A &lt;b&gt; in the title" in page.html(), "<td>conv1</td>" in page.html(), "http" in page.html()
        (True, True, False)
    """

    title: str
    footer: str = ""
    lead: list[Part] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)

    def html(self) -> str:
        """Return the whole page."""
        from jinja2 import Environment, FileSystemLoader, StrictUndefined

        templates = Environment(
            loader=FileSystemLoader(Path(__file__).parent / "templates"),
            autoescape=True,
            finalize=_seen,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        return templates.get_template("page.html").render(
            title=self.title, footer=self.footer, lead=self.lead, sections=self.sections
        )


def _seen(value: object) -> object:
    """Return what a template shows of a value: a text as it is seen; what is markup already was a text before."""
    return visible(value) if type(value) is str else value
