"""What a package index shows: README.md without a link that leads nowhere."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tools import try_dist
from tools.index_text import for_index, relative_links

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
HOME = "https://forge.invalid/someone/thing"
PAGE = """# Name

A [paper](https://arxiv.org/abs/1), [`a word`](docs/a.md#part), [here](#there) and [list[int]](src/a.py).

![what is *seen*](docs/a.png) and [![a badge](docs/b.svg)](docs/b.md)

<img src="docs/c.png" alt="third" width="300">

```python
values[0](docs/x.md)  # [no link](docs/a.md)
```
"""


def test_without_an_address_relative_links_are_text_and_all_else_stays():
    text = for_index(PAGE, "", "v1")
    assert relative_links(text) == []
    assert "A [paper](https://arxiv.org/abs/1), `a word`, here and list[int]." in text
    assert "(Picture: what is *seen*) and (Picture: a badge)" in text and "(Picture: third)" in text
    assert text.partition("```python")[2] == PAGE.partition("```python")[2]


@pytest.mark.parametrize("source", [HOME, f"{HOME}/"])
def test_with_an_address_links_and_pictures_are_absolute(source):
    text = for_index(PAGE, source, "v1.2")
    assert relative_links(text) == []
    for expected in (
        f"[`a word`]({HOME}/blob/v1.2/docs/a.md#part)",
        f"[here]({HOME}/blob/v1.2/README.md#there)",
        f"![what is *seen*]({HOME}/raw/v1.2/docs/a.png)",
        f"[![a badge]({HOME}/raw/v1.2/docs/b.svg)]({HOME}/blob/v1.2/docs/b.md)",
        f'<img src="{HOME}/raw/v1.2/docs/c.png" alt="third" width="300">',
    ):
        assert expected in text
    assert text.partition("```python")[2] == PAGE.partition("```python")[2]


def test_relative_links_are_seen_however_they_are_written():
    page = (
        "[a](b.md) ![c](d.png) [e][f] <a href='g.md'>h</a> `[i](j.md)` <https://k>\n\n| [l](m.md) |\n|---|\n\n[f]: n.md"
    )
    assert sorted(relative_links(page)) == ["b.md", "d.png", "g.md", "m.md", "n.md"]


@pytest.mark.parametrize("source", ["", HOME])
def test_the_readme_has_no_relative_link_on_an_index_and_loses_no_word(source):
    assert relative_links(README)
    text = for_index(README, source, "v1")
    assert relative_links(text) == []
    assert text.count("\n") == README.count("\n")
    assert (HOME in text) == bool(source)


def test_a_wheel_is_built_with_that_text(tmp_path):
    for name in ("setup.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE", "tools/index_text.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "pan_callbacks", tmp_path / "pan_callbacks", ignore=lambda *_: ["__pycache__"])
    config = (tmp_path / "setup.cfg").read_text()
    (tmp_path / "setup.cfg").write_text(config.replace("project_urls =\n", f"project_urls =\n    Source = {HOME}\n"))
    build = "from setuptools import build_meta; print(build_meta.prepare_metadata_for_build_wheel('.'))"
    ran = subprocess.run([sys.executable, "-c", build], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    metadata = (tmp_path / ran.stdout.split()[-1] / "METADATA").read_bytes()
    assert try_dist.dead_links(metadata) == [] and f"Project-URL: Source, {HOME}".encode() in metadata
    assert f"]({HOME}/blob/v".encode() in metadata and b"Description-Content-Type: text/markdown" in metadata


def test_a_wheel_with_a_dead_link_or_without_a_text_is_not_released():
    head = b"Metadata-Version: 2.1\nName: a\nVersion: 1\n\n"
    assert try_dist.dead_links(head + "“Words” [a](https://b)\n".encode()) == []
    assert try_dist.dead_links(head + b"[a](docs/a.md)\n") == [
        "the text for a package index leads to docs/a.md, which is relative"
    ]
    assert try_dist.dead_links(head) == ["the wheel has no text for a package index"]
