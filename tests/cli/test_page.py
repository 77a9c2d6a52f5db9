"""The pages: whole in one file, silent in a browser, escaped."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from email.message import Message
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

from pan_callbacks import cli, impact
from pan_callbacks.analysis.portraits import NeuronPicture
from pan_callbacks.cli.illustrations import illustrations
from pan_callbacks.cli.lead import documentation, lead
from pan_callbacks.cli.main import main
from pan_callbacks.cli.page import Definitions, Illustration, Links, Page, Section, ShownTable, Text
from pan_callbacks.cli.survey import EXAMPLES, PICTURES, look_at
from pan_callbacks.cli.survey_page import page_of
from pan_callbacks.cli.words import WORDS, with_definitions
from pan_callbacks.figures.style import note
from pan_callbacks.reports.pan_report import PANReport
from pan_callbacks.reports.reliance import Reliance
from pan_callbacks.reports.tables import Table, pan_table
from pan_callbacks.sources.sample import PICTURES as PICTURES_OF_SKIMAGE
from pan_callbacks.sources.sample import pictures
from tests.support.photos import save
from tests.support.synthetic import labelled, report_on, small_net

FACTORIES = Path(__file__).parents[1] / "support" / "factories.py"
OURS = (Path(cli.__file__).parent / "templates" / "page.js").read_text(encoding="utf-8").strip()
VOID = {"br", "img", "link", "meta"}
LOUD = """<!doctype html><html><head><link rel="stylesheet" href="http://pan.invalid/style.css"></head>
<body><img src="https://pan.invalid/x.png"><script>console.error("something is wrong")</script></body></html>"""


class Tags(HTMLParser):
    """Every tag of a page with its attributes, its text by tag, and whether what was opened was closed."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def text(self, tag: str) -> str:
        return "".join(data for name, data in self.texts if name == tag)


def outside(page: str) -> list[str]:
    """What a page would have to fetch or run: references that are neither data nor anchors, scripts, CSS's own."""
    parsed = Tags(page)
    loads = ("src", "href", "srcset", "data", "poster", "action", "background", "xlink:href")
    references = [
        value or ""
        for tag, given in parsed.tags
        for name, value in given.items()
        if name in loads and (tag, name) != ("a", "href")  # where a reader may go
    ]
    found = [value for value in references if not value.startswith(("data:", "#"))]
    found += [f"<{tag}>" for tag, _ in parsed.tags if tag in ("iframe", "object", "embed", "base")]
    found += [] if parsed.text("script").strip() in ("", OURS) else ["<script>"]
    found += [name for _, given in parsed.tags for name in given if name.startswith("on")]
    styles = [parsed.text("style"), *(given.get("style") or "" for _, given in parsed.tags)]
    return found + re.findall(r"@import|url\(", " ".join(styles))


def noises(file: Path, folder: Path) -> list[str]:
    """What a browser says to its console, and asks the network for, while it loads a page."""
    quiet = ["--disable-gpu", "--disable-background-networking", "--disable-component-update", "--no-first-run"]
    logs = [f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr", f"--log-net-log={folder / 'net.json'}"]
    nobody = ["--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND"]
    command = ["chromium", "--headless", *quiet, *nobody, *logs, "--dump-dom", file.as_uri()]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "<body" in ran.stdout
    log = json.loads((folder / "net.json").read_text())
    start = log["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    jobs = [event["params"] for event in log["events"] if event["type"] == start and "url" in event.get("params", {})]
    asked = {job["url"] for job in jobs if job["initiator"] != "not an origin"}  # those are the browser's own errands
    return sorted(asked) + re.findall(r"CONSOLE.*", ran.stderr)


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, Path]:
    """The page of an impact, with names that would be markup, and that of a comparison."""
    folder = tmp_path_factory.mktemp("pages")
    for i in range(8):
        array = np.random.default_rng(i).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        array[..., 0] = 255 * (i % 2)
        save(folder / "images" / ("<script>alert(1)", '"onload=x')[i % 2] / f"{i}.png", array)
    (folder / "images" / "<script>alert(1)" / "<img src=x>.png").write_text("no image")
    small = ["--size", "32", "--batch-size", "4", "--companion-images", "4", "--controls", "1", "--quiet"]
    images = ["--images", str(folder / "images"), "--out", str(folder / "impact")]
    assert main(["impact", f"{FACTORIES}:RedAtTheTop", *images, *small]) == 0
    assert main(["compare", str(folder / "impact"), "--out", str(folder / "compare")]) == 0
    return {name: folder / name / "report.html" for name in ("impact", "compare")}


@pytest.fixture(params=["impact", "compare"])
def page(request, pages) -> Path:
    return pages[request.param]


def test_a_page_needs_nothing_but_itself(page):
    assert outside(page.read_text(encoding="utf-8")) == []


def test_what_a_page_would_need_is_seen():
    assert outside(LOUD) == ["http://pan.invalid/style.css", "https://pan.invalid/x.png", "<script>"]
    assert outside('<style>a { background: url(x.png) }</style><p onclick="x()">') == ["onclick", "url("]


def test_a_page_fits_narrow_screens(page):
    views = [
        given["content"] for given in Tags(page.read_text(encoding="utf-8")).all("meta") if "viewport" in given.values()
    ]
    assert views == ["width=device-width, initial-scale=1"]


def test_every_picture_is_described(pages):
    pictures = Tags(pages["impact"].read_text(encoding="utf-8")).all("img")
    assert len(pictures) > 5 and all(len(given["alt"]) > 10 for given in pictures)


def test_every_anchor_leads_to_a_section(pages):
    parsed = Tags(pages["impact"].read_text(encoding="utf-8"))
    anchors = [given["href"] for given in parsed.all("a") if given["href"].startswith("#")]
    assert anchors == [f"#{given['id']}" for given in parsed.all("h2")] and anchors


def test_other_links_lead_to_the_paper_and_to_the_documentation_that_the_package_names(pages, monkeypatch):
    paper = "https://arxiv.org/abs/2309.08048"
    links = [given["href"] for given in Tags(pages["impact"].read_text(encoding="utf-8")).all("a")]
    assert [link for link in links if not link.startswith("#")] == [*(url for _, url in documentation()), paper]
    described = Message()
    described["Project-URL"] = "Source, https://example.org/source"
    described["Project-URL"] = "Documentation, https://example.org/docs"
    monkeypatch.setattr("importlib.metadata.metadata", lambda name: described)
    assert [url for _, url in documentation()] == ["https://example.org/docs"]


def test_what_is_opened_is_closed(page):
    assert Tags(page.read_text(encoding="utf-8")).open == []


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_a_browser_has_nothing_to_say_and_nothing_to_ask_for(page, tmp_path):
    assert noises(page, tmp_path) == []


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_what_a_browser_says_and_asks_for_is_seen(tmp_path):
    (tmp_path / "loud.html").write_text(LOUD)
    style, picture, error, *rest = noises(tmp_path / "loud.html", tmp_path)
    assert (style, picture) == ("http://pan.invalid/style.css", "https://pan.invalid/x.png")
    assert "something is wrong" in error and not rest


def test_texts_of_every_kind_are_escaped():
    table = ShownTable(Table(("<i>",), (("<i>",),)), caption="<i>", folded="<i>")
    picture = Illustration("x", lambda: note("x", "y"), '"><i>', "<i>", "<i>")
    others = Links((("<i>", '"><i>'),)), Definitions((("<i>", "<i>"),))
    sections = [Section("<i>", [Text("<i>"), table, picture, *others]), Section("<i>")]
    page = Page("<i>", "<i>", [], sections).html()
    assert "<i>" not in page and page.count("&lt;i&gt;") == 18


@pytest.mark.parametrize("numbers", [("a",), ()])
def test_columns_of_numbers_stand_at_the_right(numbers):
    page = Page("x", lead=[ShownTable(Table(("a",), (("1",), ("-2.5",)), numbers))]).html()
    assert ("<td class=number>" in page) == ("<th class=number>" in page) == bool(numbers)


def test_layers_whose_names_are_numbers_stand_at_the_left():
    net = small_net()  # its layers are called 0 and 3
    page = page_of(look_at(net, report_on(net, {"0": (0, 3), "3": (5,)}), {}, (24, 24)), []).html()
    assert "<td>0</td>" in page and "<td>3</td>" in page
    assert not re.search(r"<td class=number>[03]</td><td class=number>\d+</td><td>(top|left)", page)


def test_a_table_of_the_page_is_the_table_of_the_report():
    net = small_net()
    report = report_on(net, {"0": (0, 3), "3": (5,)})
    page = page_of(look_at(net, report, {}, (24, 24)), []).html()
    for row in pan_table(report).rows:
        assert "".join(re.findall(r"<td[^>]*>([^<]*)</td>", page)).count("".join(row)) == 1


@pytest.mark.parametrize(("distance", "what"), [("total variation", "images"), ("total variation per pixel", "pixels")])
def test_the_lead_says_what_changes_class(distance, what):
    net = small_net()
    layers = report_on(net, {"0": (0,)}).layers
    report = PANReport(layers, reliance=Reliance(distance, 0.2, None, 0.125, None, 8))
    said = " ".join(part.text for part in lead(look_at(net, report, {}, (24, 24))) if isinstance(part, Text))
    assert f"12.5% of the {what} change class" in said


def test_without_labels_no_class_has_a_number_of_images():
    net = small_net()
    report = report_on(net, {"0": (0,)})
    for batches, shown in ((labelled(8, 4), True), ([images for images, _ in labelled(8, 4)], False)):
        found = impact(net, batches, report, "zero", controls=0, progress=False)
        page = page_of(look_at(net, report, {}, (24, 24), impact=found), [])
        (table,) = (
            part.shown
            for section in page.sections
            for part in section.parts
            if isinstance(part, ShownTable) and part.folded.startswith("Every class")
        )
        assert ("images" in table.head) is shown and "change of probability" in table.head


def test_a_page_of_a_thousand_pans_shows_the_strongest_and_is_small():
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 1000, 3, padding=1))
    report = report_on(net, {"0": tuple(range(1000))})
    page = page_of(look_at(net, report, {}, (24, 24)), []).html()
    assert report.count == 1000 and len(page) < 100_000
    assert "The strongest 50 (pans.csv has all)" in page and page.count("<td>0</td>") == 50 + 1  # and its layer


def test_marks_of_layers_are_explained_below_the_table_of_pans():
    net = small_net()
    report = report_on(net, {"0": (0, 3)})
    marked = PANReport({name: replace(line, reference="zoom") for name, line in report.layers.items()})
    page = page_of(look_at(net, marked, {}, (24, 24)), []).html()
    assert "<td>0\xa0†</td>" in page and '<p class="marks">† measured on enlarged images' in page
    assert 'class="marks"' not in page_of(look_at(net, report, {}, (24, 24)), []).html()


# -------------------------------------------------------------------------------------- words, sorting, and size


def test_a_meaning_takes_two_lines_at_most():
    assert all(len(f"{word.name}: {word.meaning}") <= 220 for word in WORDS)


def test_a_word_is_explained_where_it_appears_first_and_nowhere_else():
    sections = [
        Section("A", [Text("nothing of it")]),
        Section("B", [ShownTable(Table(("layer", "drift"), (("a", "0.1"),)))]),
        Section("C", [Text("the contrast"), ShownTable(Table(("drift", "after"), (("0.1", "-"),)))]),
    ]
    explained = {}
    for section in with_definitions(sections):
        for part in section.parts:
            if isinstance(part, Definitions):
                explained[section.heading] = [name for name, _ in part.words]
    assert explained == {"B": ["drift"], "C": ["contrast"]}  # "after" has no value, and is not shown


def test_every_word_of_a_page_has_its_meaning_before_it_is_used_in_a_table(pages):
    page = pages["impact"].read_text(encoding="utf-8")
    for name in ("contrast", "sign", "effect", "KL", "flips", "drift", "leftover", "border bias"):
        assert page.count(f"<dt>{name}</dt>") == 1, name
        uses = [found.start() for found in re.finditer(rf"<th[^>]*>{name}</th>", page)]
        assert not uses or page.index(f"<dt>{name}</dt>") < min(uses), name


def test_the_summary_at_the_top_says_what_it_is_about_and_how_many():
    net = small_net()
    survey = look_at(net, report_on(net, {"0": (0, 3), "3": (5,)}), {"model": "timm:x"}, (24, 24))
    top = page_of(survey, []).html().partition("<h2")[0]
    assert "Of the 16 neurons of timm:x that were measured, 3 are PANs (18.8%)." in top
    assert "A neuron (an output channel of a convolution) that recognises the edge" in top
    assert "More of them answer at the top (3) than elsewhere; the layer with the most is 0 (2 of its 8" in top


def test_a_column_of_dashes_is_not_shown():
    page = Page("x", lead=[ShownTable(Table(("a", "b", "c"), (("-", "-", "1"), ("x", "-", "-"))))]).html()
    assert re.findall(r"<th>(\w)</th>", page) == ["a", "c"]


def test_a_page_of_1000_pans_is_small():
    net = torch.nn.Sequential(*(torch.nn.Conv2d(3, 600, 3, padding=1) for _ in range(2)))
    survey = look_at(net, report_on(net, {str(i): tuple(range(500)) for i in range(2)}), {}, (24, 24))
    assert survey.report.count >= 1000
    grass = pictures()[PICTURES_OF_SKIMAGE.index("grass.png")][:, :224, :224]
    textured = NeuronPicture(
        survey.report.pans[0],
        torch.rand(3, 3),
        grass[0],
        grass[1].flatten(),
        grass[2].flatten(),
        ((0,), (0,)),
        tuple((grass, grass[0]) for _ in range(EXAMPLES)),
    )
    drawn = illustrations(replace(survey, pictures=(textured,)))
    picture = next(one for one in drawn if one.name == "pan_01")
    rest = len(page_of(survey, [one for one in drawn if one is not picture]).html())
    assert rest + PICTURES * len(picture.base64) < 3_000_000


def dumped(page: str, folder: Path, *options: str) -> str:
    """A page as a browser has it once its script ran."""
    (folder / "page.html").write_text(page, encoding="utf-8")
    quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", f"--user-data-dir={folder / 'profile'}"]
    command = ["chromium", *quiet, *options, "--dump-dom", (folder / "page.html").as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_a_click_on_a_heading_sorts_and_what_is_wide_says_so(tmp_path):
    rows = (("b10", "-0.5"), ("b9", "1,000"), ("a", "-"), ("c", "2.5%"))
    wide = ShownTable(Table(tuple(f"heading number {i}" for i in range(20)), (tuple("x" * 20),)))
    page = Page("x", lead=[ShownTable(Table(("name", "size"), rows, numbers=("size",))), wide]).html()
    click = "document.querySelectorAll('th button')[{}].click();"
    expected = {(0,): ["a", "b9", "b10", "c"], (1,): ["b9", "c", "b10", "a"], (1, 1): ["b10", "c", "b9", "a"]}
    script = "".join(
        "{" + "".join(map(click.format, clicks)) + "document.title += [...document.querySelectorAll("
        "'.sortable tbody tr')].map(row => row.cells[0].textContent).join('.') + '/';"
        "for (const head of document.querySelectorAll('th')) head.ariaSort = null}"
        for clicks in expected
    )
    script += "setTimeout(() => document.title += document.querySelectorAll('.wide').length, 300)"
    found = dumped(page.replace("</body>", f"<script>{script}</script></body>"), tmp_path, "--virtual-time-budget=2000")
    orders = "".join(".".join(order) + "/" for order in expected.values())
    assert re.findall("<title>(.*)</title>", found) == [f"x{orders}1"]
