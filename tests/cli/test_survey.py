"""The files of a survey: all there, none left over, and what they say is what was measured."""

from __future__ import annotations

import csv
import json
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from pan_callbacks import PANReport, impact, scan
from pan_callbacks.cli.illustrations import illustrations
from pan_callbacks.cli.output import csv_of, show, write
from pan_callbacks.cli.survey import PICTURES, Survey, look_at, pictures_of
from pan_callbacks.measurement.scan import scanned
from pan_callbacks.padding import SIDES
from pan_callbacks.reports.impact_report import ImpactReport
from tests.support import planted
from tests.support.synthetic import labelled, report_on, small_net

EVIL = "<script>alert('a & b')</script>"


def survey_of_the_small_net(**about: str) -> Survey:
    """All that there can be, on a report that is made up."""
    net, batches = small_net(), labelled(24, 8, size=24)
    report = report_on(net, {"0": (0, 3), "3": (5,)})
    names = [EVIL, "dog", "cat", "bird", "fish"]
    masked = impact(net, batches, report, ("zero", "neutral"), 2, class_names=names, progress=False)
    images = [images for images, _ in batches]
    described = {"model": "small", "images": "noise"} | about
    return look_at(net, report, described, (24, 24), images=images, impact=masked, skipped={f"{EVIL}.png": "no image"})


@pytest.fixture(scope="module")
def full() -> Survey:
    return survey_of_the_small_net(weights=EVIL)


@pytest.fixture(scope="module")
def pictured() -> Survey:
    """A survey as it is made, of a network with planted neurons; of its pictures just two, for they take long."""
    net, images = planted.single(3).model.eval(), planted.stationary(16, 32)
    with scanned(net, [images], progress=False) as (measurement, report):
        pictures = pictures_of(measurement, report)
    assert len({(picture.pan.layer, picture.pan.channel) for picture in pictures}) == PICTURES
    return look_at(net, report, {"model": "planted"}, (32, 32), pictures[:2])


def bare() -> Survey:
    net = small_net()
    return look_at(net, report_on(net, {}), {"model": "small"}, (24, 24))


def written(survey: Survey, folder: Path) -> dict[str, bytes]:
    write(survey, folder)
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def files(full, pictured, tmp_path_factory) -> dict[str, dict[str, bytes]]:
    """What each kind of survey writes into a folder that is not there."""
    surveys = {"bare": bare(), "full": full, "pictured": pictured}
    return {name: written(survey, tmp_path_factory.mktemp(name) / "new" / "folder") for name, survey in surveys.items()}


class Tags(HTMLParser):
    """Collects tags, and refuses what is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.open = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


class TestFiles:
    ALWAYS = {"about.json", "pans.csv", "pans.json", "report.html", "figures/kernel_asymmetry.png"}
    OF_PANS = {"figures/layer_sides.png", "figures/depth_share.png"}

    def test_of_the_least_survey_without_empty_figures(self, files):
        assert set(files["bare"]) == self.ALWAYS

    def test_of_a_full_one(self, files):
        more = {"companions.json", "beyond.json", "layers.csv", "floor.json", "impact.json"}
        names = ("position", "distance", "together", "impact", "classes_zero", "classes_neutral")
        more |= {f"figures/{name}.png" for name in names}
        assert set(files["full"]) == self.ALWAYS | self.OF_PANS | more

    def test_of_one_with_pictures(self, files):
        pictures = {f"figures/pan_0{number}.png" for number in (1, 2)}
        assert set(files["pictured"]) == self.ALWAYS | self.OF_PANS | pictures

    def test_a_smaller_survey_leaves_none_of_a_larger_one(self, files, tmp_path):
        for name, data in files["full"].items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(data)
        assert written(bare(), tmp_path) == files["bare"]

    def test_the_same_survey_gives_the_same_bytes(self, files, full, tmp_path):
        assert written(full, tmp_path) == files["full"]

    def test_files_of_somebody_else_stay(self, tmp_path):
        (tmp_path / "notes.txt").write_text("mine")
        assert written(bare(), tmp_path)["notes.txt"] == b"mine"

    def test_figures_are_pictures(self, files):
        pictures = {name: data for name, data in files["full"].items() if name.endswith(".png")}
        assert all(data.startswith(b"\x89PNG") and len(data) > 2000 for data in pictures.values())

    def test_reports_are_read_back(self, files, full, tmp_path):
        for name in ("pans.json", "impact.json", "companions.json", "about.json"):
            (tmp_path / name).write_bytes(files["full"][name])
        assert PANReport.load(tmp_path / "pans.json").to_dict() == full.report.to_dict()
        assert ImpactReport.load(tmp_path / "impact.json").to_dict() == full.impact.to_dict()
        assert json.loads((tmp_path / "companions.json").read_text()) == json.loads(
            json.dumps(full.companions.to_dict())
        )
        for name, data in (("beyond.json", full.beyond), ("floor.json", full.floor)):
            (tmp_path / name).write_bytes(files["full"][name])
            assert json.loads((tmp_path / name).read_text()) == json.loads(json.dumps(data.to_dict()))
        assert files["full"]["layers.csv"].decode() == full.beyond.csv()
        assert json.loads((tmp_path / "about.json").read_text()) == dict(full.about)


class TestCsv:
    def rows(self, survey: Survey) -> list[dict[str, str]]:
        return list(csv.DictReader(csv_of(survey).splitlines()))

    def test_there_is_one_row_for_each_pan(self, pictured):
        keys = [(row["layer"], int(row["channel"])) for row in self.rows(pictured)]
        assert keys == [(pan.layer, pan.channel) for pan in pictured.report.pans]
        assert len(keys) == len(planted.RECIPES)

    @pytest.mark.parametrize("what", ["contrast", "effect"])
    def test_values_are_those_of_the_report(self, pictured, what):
        for row in self.rows(pictured):
            values = getattr(pictured.report, what)(row["layer"])[:, int(row["channel"])]
            found = torch.tensor([float(row[f"{what} {side}"]) for side in SIDES])
            torch.testing.assert_close(found, values, rtol=1e-5, atol=1e-6)

    def test_sides_are_those_that_were_planted(self, pictured):
        truth = planted.single(3, size=32).truth
        for row in self.rows(pictured):
            signs = truth["conv", int(row["channel"])].signs
            assert set(row["sides"].split("+")) <= set(signs)
            assert {row["sign"]} <= {"excited", "inhibited", "mixed"}
            assert float(row[f"contrast {row['strongest']}"]) * signs[row["strongest"]] > 0.8

    def test_a_side_without_a_border_is_empty(self):
        net = small_net()
        report = report_on(net, {"0": (0,)})
        report.layers["0"].contrast[1] = torch.nan
        row = self.rows(look_at(net, report, {}, (24, 24)))[0]
        assert (row["contrast bottom"], row["contrast top"]) == ("", "1")

    def test_flip_scores_are_there_where_they_were_measured(self, full, pictured):
        for row in self.rows(full):
            expected = full.companions.flip[row["layer"]][:, int(row["channel"])].tolist()
            assert [float(row[f"flip score {way}"]) for way in ("horizontal", "vertical")] == pytest.approx(
                expected, rel=1e-5
            )
        assert "flip score vertical" not in self.rows(pictured)[0]

    def test_without_pans_there_are_headings_alone(self):
        assert csv_of(bare()).startswith("layer,channel,sides,side,sign,")
        assert self.rows(bare()) == []


class TestPage:
    @pytest.fixture(params=["full", "pictured", "bare"])
    def page(self, request, files) -> str:
        return files[request.param]["report.html"].decode()

    def test_every_tag_is_closed(self, page):
        assert Tags(page).open == []

    def test_every_picture_is_described(self, page):
        pictures = [attrs for tag, attrs in Tags(page).tags if tag == "img"]
        assert pictures and all(attrs["alt"] for attrs in pictures)

    def test_names_are_escaped(self, files):
        page = files["full"]["report.html"].decode()
        assert page.count("<script") == 1  # ours
        assert page.count("&lt;script&gt;alert(&#39;a &amp; b&#39;)&lt;/script&gt;") >= 3  # weights, image and class

    def test_every_figure_is_shown(self, files, full):
        page = files["full"]["report.html"].decode()
        assert sum(tag == "img" for tag, _ in Tags(page).tags) == len(illustrations(full))

    def test_the_floor_stands_right_after_the_count(self, files, full):
        page = files["full"]["report.html"].decode()
        count, floor, *_ = full.summary().splitlines()
        assert floor == full.floor.summary()
        assert page.index(escape(count)) < page.index(floor.replace("'", "&#39;")) < page.index("layers measured")

    def test_what_goes_beyond_the_contrast_has_a_section_with_a_row_for_each_layer(self, files, full):
        page = files["full"]["report.html"].decode()
        start = page.rindex("Beyond the contrast")
        section = page[start : page.index("Padding and kernels", start)]
        assert all(f"<td>{layer}</td>" in section for layer in full.beyond.layers)
        assert section.count("<img") == 2

    def test_without_images_there_is_neither(self, files):
        assert b"Beyond the contrast" not in files["bare"]["report.html"]
        assert b"the floor" not in files["bare"]["report.html"]

    def test_a_survey_without_impact_does_not_speak_of_it(self, files):
        assert b"Impact" not in files["pictured"]["report.html"]


class TestLookAt:
    def test_companions_are_left_out_without_images(self):
        assert bare().companions is None

    def test_companions_are_measured_on_the_images(self, full):
        assert full.companions.images == 24

    def test_what_fails_is_left_out_with_a_note_and_the_rest_is_measured(self, monkeypatch):
        def fails(*args, **kwargs):
            raise RuntimeError("no luck")

        for name in ("beyond", "floor"):
            monkeypatch.setattr(f"pan_callbacks.cli.survey.{name}", fails)
        survey = survey_of_the_small_net()
        assert survey.beyond is None and survey.floor is None and survey.companions is not None
        assert survey.notes == (
            "measures beyond the contrast were left out: RuntimeError: no luck",
            "the floor of the count was left out: RuntimeError: no luck",
        )

    def test_the_next_size_has_no_leftover(self, full):
        assert full.next_size == (25, 25)  # a 3×3 kernel with stride 2 and padding 1

    def test_a_report_that_measured_nothing_has_no_companions(self):
        net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1))
        images = [torch.randn(4, 3, 16, 16)]
        survey = look_at(net, scan(net, images, progress=False), {}, (16, 16), images=images)
        assert survey.companions is None
        assert illustrations(survey) == []

    def test_a_layer_with_leftover_padding_has_a_figure_of_it(self):
        net = small_net()
        survey = look_at(net, scan(net, [torch.randn(4, 3, 24, 24)], progress=False), {}, (24, 24))
        assert survey.report.layers["3"].leftover == (1, 1)
        assert "leftover_padding" in {one.name for one in illustrations(survey)}


class TestShow:
    def test_the_floor_and_what_goes_beyond_the_contrast_are_printed(self, full, tmp_path, capsys):
        show(full, tmp_path)
        printed = " ".join(capsys.readouterr().out.split())
        assert "remain with all padding neutral (the floor); random weights of the same architecture" in printed
        assert f"Beyond the contrast, {full.beyond.images} images" in printed

    def test_neither_is_where_it_was_not_measured(self, tmp_path, capsys):
        show(bare(), tmp_path)
        printed = capsys.readouterr().out
        assert "the floor" not in printed and "Beyond" not in printed
