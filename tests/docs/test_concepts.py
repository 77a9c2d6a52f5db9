"""Every concept has a page with one picture, drawn by tools/draw_concepts.py, and both say the same numbers."""

from __future__ import annotations

import re

import pytest
import torch
from PIL import Image
from scipy.stats import ks_2samp

from pan_callbacks.figures.style import new_figure
from tools.draw_concepts import FOLDER, PICTURES, cumulative, main, save

LIMIT = 60_000  # bytes of a picture
_PICTURE = re.compile(r"!\[[^\]]+\]\(([^)\s]+)\)")


def files(ending: str) -> set[str]:
    return {file.stem for file in FOLDER.glob(f"*.{ending}")}


def page(name: str) -> str:
    """The words of a page, however its lines are broken."""
    return " ".join((FOLDER / f"{name}.md").read_text(encoding="utf-8").split())


def test_each_page_has_its_picture_and_each_picture_its_page():
    assert files("md") == files("png") == set(PICTURES)
    assert {name: _PICTURE.findall(page(name)) for name in PICTURES} == {name: [f"{name}.png"] for name in PICTURES}


@pytest.mark.parametrize("name", PICTURES)
def test_a_page_says_the_numbers_of_its_picture_and_the_command_that_gives_them(name):
    with Image.open(FOLDER / f"{name}.png") as picture:
        words = picture.text["Description"].split("; ")
    assert len(words) > 0 and [one for one in words if one not in page(name)] == []
    assert f"`python -m tools.draw_concepts {name}`" in page(name)


def test_pages_are_short():
    lengths = {name: len((FOLDER / f"{name}.md").read_text(encoding="utf-8").splitlines()) for name in PICTURES}
    assert {name: length for name, length in lengths.items() if not 15 <= length <= 40} == {}


def test_pictures_are_small():
    assert {name for name in PICTURES if (FOLDER / f"{name}.png").stat().st_size > LIMIT} == set()


def test_pictures_stand_on_white_also_on_a_dark_page():
    for name in PICTURES:
        with Image.open(FOLDER / f"{name}.png") as picture:
            image = picture.convert("RGBA")
        corners = [(x, y) for x in (0, image.width - 1) for y in (0, image.height - 1)]
        assert [image.getpixel(corner) for corner in corners] == [(255, 255, 255, 255)] * 4


def test_the_gap_that_is_drawn_is_that_of_scipy():
    generator = torch.Generator().manual_seed(0)
    border, inside = torch.randn(300, generator=generator) + 1, torch.randn(500, generator=generator)
    cut, gap = cumulative(new_figure(3, 3).subplots(), border, inside)
    expected = ks_2samp(border, inside)
    assert gap == pytest.approx(expected.statistic, abs=1e-6)
    assert cut == pytest.approx(expected.statistic_location, abs=1e-6)


def test_a_picture_that_is_drawn_anew_says_what_the_one_in_the_docs_says(tmp_path):
    words = save("reliance", tmp_path)  # of stored runs: nothing is measured, so nothing may differ
    with Image.open(FOLDER / "reliance.png") as stored, Image.open(tmp_path / "reliance.png") as drawn:
        assert drawn.text == stored.text == {"Description": "; ".join(words)}


@pytest.mark.parametrize("name", ["pan", "contrast", "references", "masks"])
def test_what_is_measured_anew_is_what_the_page_says(name, tmp_path):
    pytest.importorskip("skimage")
    assert [one for one in save(name, tmp_path) if one not in page(name)] == []


def test_a_name_of_no_picture_is_refused(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["pans"])
    assert "there is no picture pans; there are pan, contrast" in capsys.readouterr().err
