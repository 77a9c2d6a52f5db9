"""The docs site: its links are turned, it names what the package has, and it loads nothing from elsewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import pan_callbacks
from tools.docs_site import PAGES, turned

ROOT = Path(__file__).parents[2]
KNOWN = {"index.md", "contributing.md", "survey.md", "neuron.png", "guides/loggers.md"}


class Loader(yaml.SafeLoader):
    """YAML with the tags of mkdocs, which are left as they are."""


Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: suffix)
SITE = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader)


def in_nav(entries) -> list[str]:
    """Pages of the navigation, in its order."""
    if isinstance(entries, str):
        return [entries]
    inner = entries.values() if isinstance(entries, dict) else entries
    return [page for entry in inner for page in in_nav(entry)]


@pytest.mark.parametrize(
    ("folder", "home", "link", "expected"),
    [
        ("", "", "[a](docs/survey.md#b)", "[a](survey.md#b)"),
        ("", "", "![a](docs/neuron.png)", "![a](neuron.png)"),
        ("docs", "", "[a](../README.md#use)", "[a](index.md#use)"),
        ("docs", "", "[`pans`](../pan_callbacks/reports/pans.py)", "`pans`"),
        ("docs", "", "[a](guides/loggers.md)", "[a](guides/loggers.md)"),
        ("docs/guides", "guides", "[a](../survey.md)", "[a](../survey.md)"),
        ("docs/guides", "guides", "[a](../../CONTRIBUTING.md)", "[a](../contributing.md)"),
        ("docs", "", "[a](https://arxiv.org/abs/2309.08048)", "[a](https://arxiv.org/abs/2309.08048)"),
        ("docs", "", "[a](#b)", "[a](#b)"),
    ],
)  # fmt: skip
def test_links_are_turned(folder, home, link, expected):
    assert turned(link, folder, home, KNOWN) == expected


def test_a_link_to_nothing_is_an_error():
    with pytest.raises(ValueError, match="docs/nowhere.md, which does not exist"):
        turned("[a](nowhere.md)", "docs", "", KNOWN)


def test_every_page_is_in_the_navigation_once():
    files = {str(file.relative_to(ROOT / "docs")) for file in (ROOT / "docs").rglob("*.md")}
    pages = in_nav(SITE["nav"])
    assert len(pages) == len(set(pages)) and set(pages) == files | set(PAGES.values())


def test_the_reference_has_every_public_name():
    named = re.findall(r"^::: pan_callbacks\.(\w+)$", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE)
    assert sorted(named) == pan_callbacks.__all__


def test_docstrings_are_shown_as_they_are_meant():
    shown = pytest.importorskip("tools.docs_docstrings", exc_type=ImportError).shown
    assert shown("See :func:`~a.b.scan`, :mod:`x`.") == "See `scan`, `x`."
    assert (
        shown("(Yang et al., `2302.08682 <https://arxiv.org/abs/1>`_)")
        == "(Yang et al., [2302.08682](https://arxiv.org/abs/1))"
    )
    assert shown("Do.\n\nExample:\n    >>> 1") == "Do.\n\nExamples:\n    >>> 1"


@pytest.mark.slow
def test_it_builds_strictly_and_loads_nothing_from_elsewhere(tmp_path):
    pytest.importorskip("mkdocstrings")
    pytest.importorskip("material")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 20
    loaded = re.compile(
        r"<(?:script|img|iframe|source)\b[^>]*?\ssrc=[\"']?(?:https?:)?//|<link\b[^>]*?stylesheet[^>]*?//"
    )
    assert [page.name for page in pages if loaded.search(page.read_text(encoding="utf-8"))] == []
    reference = (tmp_path / "site" / "api.html").read_text(encoding="utf-8")
    assert "every_n_epochs" in reference and ":class:" not in reference and ":func:" not in reference
