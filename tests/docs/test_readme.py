"""README: its order, its costs, and the way to the line that computes the contrast."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
_NUMBER = re.compile(r"\d+\.\d+|\d+(?= s )")


def section(title: str) -> str:
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_it_leads_from_installing_to_the_first_picture_to_what_a_pan_is_to_uses():
    titles = re.findall(r"^## (.+)$", README, re.MULTILINE)
    assert titles[:4] == ["Install", "Three lines", "What a PAN is", "Watch"]
    assert "docs/first_screen.png" in section("Three lines") and "docs/concepts/pan.png" in section("What a PAN is")


def test_what_it_costs_is_what_the_pages_say_and_has_its_command():
    pages = "".join(
        (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8") for page in ("performance", "suppression")
    )
    rows = [row.strip("|").split("|") for row in section("What it costs").splitlines() if row.startswith("| `PAN")]
    numbers = [number for row in section("What it costs").splitlines() for number in _NUMBER.findall(row)]
    known = set(re.findall(r"\d+(?:\.\d+)?(?= s\b)|\d+\.\d+", pages))
    assert len(numbers) >= 9 and [number for number in numbers if number not in known] == []
    measured = [(costs, command) for _, costs, command in rows if _NUMBER.search(costs)]
    assert measured and all(
        re.fullmatch(r" `python -m benchmarks\.[\w.]+( [-\w ]+)?` ", command) for _, command in measured
    )


def test_the_line_that_computes_the_contrast_is_two_hops_away():
    linked = set(re.findall(r"\]\((pan_callbacks/\S+\.py)\)", section("What a PAN is")))
    lines = [line for file in linked for line in (ROOT / file).read_text(encoding="utf-8").splitlines()]
    assert sum("_below(r, threshold) - _below(b, threshold)" in line for line in lines) == 1


def test_what_it_names_in_the_repository_is_there():
    names = re.findall(r"\]\(([^)#\s:]+)(?:#[^)]*)?\)", README) + re.findall(
        r"configs/\w+\.yaml|examples/\w+\.py", README
    )
    assert [name for name in names if not (ROOT / name).exists()] == []
    modules = re.findall(r"python -m ((?:examples|benchmarks|tools)[.\w]*)", README)
    paths = [ROOT.joinpath(*module.split(".")) for module in modules]
    assert [path for path in paths if not (path.with_suffix(".py").exists() or (path / "__main__.py").exists())] == []
