"""Makes of README.md what a package index shows, where a link relative to the repository leads nowhere.

python tools/index_text.py

`setup.py` asks for it when a wheel is built. With a "Source" in `project_urls` of setup.cfg links become absolute, to
the files of the release's tag; without one they are left as text.
"""

from __future__ import annotations

import configparser
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: A block of code, in which nothing is a link; or what is: a picture in Markdown, one in HTML, a link.
_CODE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
_PICTURE = re.compile(r"!\[([^]]*)\]\(([^)\s]+)\)")
_IMAGE = re.compile(r"<img\b[^>]*>")
_LINK = re.compile(r"(?<!!)\[((?:!\[[^]]*\]\([^)]*\)|\[[^][]*\]|[^][])*)\]\(([^)\s]+)\)")


def index_text() -> str:
    """The text of this repository for a package index."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    lines = (line.partition("=") for line in config["metadata"]["project_urls"].splitlines())
    source = {name.strip(): address.strip() for name, _, address in lines}.get("Source", "")
    package = (ROOT / "pan_callbacks" / "__init__.py").read_text(encoding="utf-8")
    version = re.search(r'^__version__ = "(.+)"$', package, re.MULTILINE)
    assert version is not None, "pan_callbacks/__init__.py has no __version__"
    return for_index((ROOT / "README.md").read_text(encoding="utf-8"), source, f"v{version[1]}")


def for_index(text: str, source: str, tag: str) -> str:
    """A page with absolute links alone.

    `text`: Markdown. `source`: address of the repository, as GitHub and GitLab lay their files out; "" if it has none.
    `tag`: the tag that the files are shown at.
    """
    parts = _CODE.split(text)  # every second one is code
    return "".join(part if number % 2 else _linked(part, source.rstrip("/"), tag) for number, part in enumerate(parts))


def relative(address: str) -> bool:
    """Whether an address leads nowhere but in the repository; a place on the page is one, since an index names none."""
    return not re.match(r"[a-z][a-z0-9+.-]*:|//", address, re.IGNORECASE)


def relative_links(text: str) -> list[str]:
    """Every relative link and picture of a Markdown page, found in the page as it is rendered."""
    from markdown_it import MarkdownIt  # where rich is

    found = _Addresses()
    found.feed(MarkdownIt("commonmark", {"html": True}).enable("table").render(text))
    return [address for address in found.addresses if relative(address)]


def _linked(text: str, source: str, tag: str) -> str:
    def at(address: str, kind: str) -> str:
        if not relative(address) or not source:
            return address
        return f"{source}/{kind}/{tag}/{'README.md' * address.startswith('#')}{address}"

    def picture(match: re.Match[str]) -> str:
        alt, address = match.groups()
        kept = f"![{alt}]({at(address, 'raw')})"
        return kept if source or not relative(address) else f"(Picture: {alt})"

    def image(match: re.Match[str]) -> str:
        address = re.search(r'(?<=src=")[^"]*', match[0])
        if address is None or not relative(address[0]):
            return match[0]
        if source:
            return match[0].replace(f'src="{address[0]}"', f'src="{at(address[0], "raw")}"')
        alt = re.search(r'(?<=alt=")[^"]*', match[0])
        return f"(Picture: {alt[0]})" if alt else ""

    def link(match: re.Match[str]) -> str:
        words, address = match.groups()
        return f"[{words}]({at(address, 'blob')})" if source or not relative(address) else words

    return _LINK.sub(link, _IMAGE.sub(image, _PICTURE.sub(picture, text)))


class _Addresses(HTMLParser):
    """Where the links and pictures of a page lead."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += _wanted(attrs)


def _wanted(attrs: list[tuple[str, str | None]]) -> Iterator[str]:
    return (value or "" for name, value in attrs if name in ("href", "src", "srcset"))


if __name__ == "__main__":
    print(index_text())
