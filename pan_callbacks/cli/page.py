"""Self-contained HTML pages: no script, no font, no picture from anywhere else."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Figures are drawn for 100 dots an inch; at this they stay sharp on screens with two pixels for each of them.
DPI = 200
_STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 66rem; padding: 1rem; color: #1a1a1a; background: #fff;
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.2; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.2rem 0 .5rem; padding-top: .6rem; border-top: 1px solid #ddd; }
p { max-width: 46rem; overflow-wrap: anywhere; }
nav a { display: inline-block; padding: .35rem .9rem .35rem 0; }
a { color: #00558f; }
.lead { font-size: 1.1rem; }
.note { padding: .5rem .75rem; background: #fff6e0; border-left: .25rem solid #d98a00; }
.scroll { overflow-x: auto; margin: .75rem 0; }
table { border-collapse: collapse; font-size: .9rem; }
caption { text-align: left; font-weight: 600; padding-bottom: .25rem; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #e3e3e3; text-align: left; vertical-align: top; }
th { border-bottom: 2px solid #999; white-space: nowrap; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
th.number { text-align: right; }
figure { margin: 1rem 0; }
figure .scroll { margin: 0; }
figure img { display: block; max-width: 100%; height: auto; }
@media (max-width: 40rem) { figure img { max-width: none; width: 44rem; } }
figcaption { max-width: 46rem; color: #555; font-size: .9rem; }
summary { cursor: pointer; padding: .4rem 0; }
footer { margin-top: 3rem; color: #666; font-size: .85rem; }
@media print { nav, summary { display: none; } }
"""


class Page:
    """A page that is put together from top to bottom; every text is escaped.

    Args:
        title: Its title.
        footer: Sentence at its end.

    Example:
        >>> page = Page("A <b> in the title")
        >>> page.table(("layer", "PANs"), [("conv1", "3")])
        >>> "A &lt;b&gt; in the title" in page.html(), "<script" in page.html()
        (True, False)
    """

    def __init__(self, title: str, footer: str = "") -> None:
        self.title, self.footer = title, footer
        self._body: list[str] = []
        self._sections: list[str] = []

    def section(self, heading: str) -> None:
        """Begins a section, which the list of contents leads to."""
        self._sections.append(heading)
        self._body.append(f'<h2 id="section-{len(self._sections)}">{escape(heading)}</h2>')

    def text(self, paragraph: str, style: str = "") -> None:
        """Adds a paragraph; lines stay lines.

        Args:
            paragraph: Plain text.
            style: ``"lead"`` for larger, ``"note"`` for a warning.
        """
        kind = f' class="{style}"' if style else ""
        self._body.append(f"<p{kind}>{'<br>'.join(map(escape, paragraph.splitlines()))}</p>")

    def table(self, head: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "", folded: str = "") -> None:
        """Adds a table; columns that hold numbers alone stand at the right.

        Args:
            head: Headings of the columns.
            rows: Cells.
            caption: Sentence above it.
            folded: What to click on to see it, where it is long.
        """
        rows = [[str(cell) for cell in row] for row in rows]
        numeric = [all(_is_number(row[i]) for row in rows) and bool(rows) for i in range(len(head))]

        def cells(tag: str, values: Sequence[str]) -> str:
            return "".join(
                f"<{tag}{' class=number' if number else ''}>{escape(value)}</{tag}>"
                for value, number in zip(values, numeric, strict=True)
            )

        lines = [f"<caption>{escape(caption)}</caption>"] if caption else []
        lines += [f"<thead><tr>{cells('th', head)}</tr></thead>", "<tbody>"]
        lines += [f"<tr>{cells('td', row)}</tr>" for row in rows]
        table = f'<div class="scroll" tabindex="0"><table>{chr(10).join(lines)}</tbody></table></div>'
        self._body.append(f"<details><summary>{escape(folded)}</summary>{table}</details>" if folded else table)

    def figure(self, png: bytes, width: int, described: str, caption: str = "") -> None:
        """Adds a picture.

        Args:
            png: The picture.
            width: Width in which it is shown where there is room, in CSS pixels.
            described: What is to be seen on it, for those who do not see it.
            caption: Sentence below it.
        """
        data = base64.b64encode(png).decode("ascii")
        below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
        picture = f'<img src="data:image/png;base64,{data}" width="{width}" alt="{escape(described)}">'
        self._body.append(f'<figure><div class="scroll" tabindex="0">{picture}</div>{below}</figure>')

    def html(self) -> str:
        """The whole page."""
        links = "".join(f'<a href="#section-{i}">{escape(h)}</a>' for i, h in enumerate(self._sections, 1))
        return "\n".join(
            [
                "<!doctype html>",
                '<html lang="en"><head><meta charset="utf-8">',
                '<meta name="viewport" content="width=device-width, initial-scale=1">',
                '<link rel="icon" href="data:,">',  # else a browser asks for one
                f"<title>{escape(self.title)}</title><style>{_STYLE}</style></head><body>",
                f"<h1>{escape(self.title)}</h1>",
                f"<nav>{links}</nav>" if len(self._sections) > 1 else "",
                *self._body,
                f"<footer>{escape(self.footer)}</footer>" if self.footer else "",
                "</body></html>",
            ]
        )


def png_of(figure: Figure) -> bytes:
    """A figure as a PNG file, without the time at which it was made, so that equal figures are equal files."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None})
    return file.getvalue()


def _is_number(cell: str) -> bool:
    digits = cell.strip().lstrip("+-−").replace(",", "")
    return cell in ("", "-", "–") or digits[:1].isdigit() and not any(c.isalpha() for c in digits if c not in "e×")
