"""Hooks of mkdocs: README, CONTRIBUTING and CHANGELOG are pages as well, and links out of docs/ become what they name.

The pages are written to be read in the repository. Here their links are turned, and nothing else: those to files
that are pages or pictures of the site lead there, those to anything else keep their words and lose the link, as a site
that is read without a network has no repository to lead to.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
#: Files of the repository that are pages of the site, and as which.
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
_LINK = re.compile(r"(?P<text>!?\[[^\]]*\])\((?P<to>[^)\s]+)\)")


def turned(markdown: str, folder: str, home: str, known: set[str]) -> str:
    """The text of a page with its links as they are on the site.

    Args:
        markdown: The text.
        folder: Folder of the file in the repository, from its root: ``"docs/guides"``.
        home: Folder of the page on the site, from the top: ``"guides"``.
        known: All pages and pictures of the site.
    """

    def one(link: re.Match[str]) -> str:
        to, _, anchor = link["to"].partition("#")
        if not to or re.match(r"[a-z]+:", to):
            return link[0]
        file = posixpath.normpath(posixpath.join(folder, to))
        page = PAGES.get(file, file.removeprefix("docs/"))
        if page in known:
            return f"{link['text']}({posixpath.relpath(page, home or '.')}{'#' * bool(anchor)}{anchor})"
        if not (ROOT / file).exists():
            raise ValueError(f"a link in {folder or 'the root'} leads to {file}, which does not exist")
        return link["text"][1:-1]

    return _LINK.sub(one, markdown)


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that do not lie in docs/."""
    from mkdocs.structure.files import File

    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Turn the links of a page."""
    uri = page.file.src_uri
    home = posixpath.dirname(uri)
    folder = "" if uri in PAGES.values() else posixpath.join("docs", home).rstrip("/")
    return turned(markdown, folder, home, {file.src_uri for file in files})
