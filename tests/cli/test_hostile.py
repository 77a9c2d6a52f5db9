"""Input that nobody planned for: it is refused by name or harmless, and nothing hangs, lies or overwrites itself."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import signal
import socket
import struct
import sys
import unicodedata
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pan_callbacks import PANError, PANReport
from pan_callbacks.cli.compare import read_entry
from pan_callbacks.cli.main import main
from pan_callbacks.reports.impact_report import Arm, ImpactReport
from pan_callbacks.reports.layer_report import LayerReport
from tests.cli.test_command import FACTORIES, run, seen, survey, words
from tests.support.photos import photo, save
from tests.support.synthetic import layer

#: Clears the screen, turns the direction of writing, ends a line, rings, names a hyperlink.
NASTY = "\x1b[2J\u202egnp.\x07\x1b]8;;http://x\x1b\\ \x9b31m\u2028"
FORMULA = '=HYPERLINK("http://x")'


@pytest.fixture(autouse=True)
def _no_endless_wait():
    """What hangs fails after a minute."""

    def late(number, frame):
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def images(tmp_path) -> Path:
    """Six photographs in two subfolders."""
    for i in range(6):
        save(tmp_path / "images" / "ab"[i % 2] / f"{i}.png", photo(32, 32, seed=i))
    return tmp_path / "images"


def acting(text: str, allowed: str = "\n") -> set[str]:
    """Characters of a text that a terminal or a browser obeys instead of showing them."""
    kinds = {char: unicodedata.category(char) for char in set(text) - set(allowed)}
    return {char for char, kind in kinds.items() if kind in ("Cc", "Cf", "Cs", "Zl", "Zp")}


# ------------------------------------------------------------------------------------- what the report must not replace


def equal(images: Path, tmp_path: Path) -> tuple[Path, Path]:
    return images, images


def below(images: Path, tmp_path: Path) -> tuple[Path, Path]:
    return images, images / "report"


def far_below(images: Path, tmp_path: Path) -> tuple[Path, Path]:
    return images, images / "new" / "and" / "deep"


def roundabout(images: Path, tmp_path: Path) -> tuple[Path, Path]:
    return images, images / "a" / ".." / "report"


def linked(images: Path, tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "link").symlink_to(images)
    return images, tmp_path / "link" / "report"


def images_are_a_link(images: Path, tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "link").symlink_to(images)
    return tmp_path / "link", images / "report"


def link_among_the_images(images: Path, tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "elsewhere").mkdir()
    (images / "more").symlink_to(tmp_path / "elsewhere")
    return images, tmp_path / "elsewhere" / "report"


def out_is_a_link(images: Path, tmp_path: Path) -> tuple[Path, Path]:
    (images / "empty").mkdir()
    (tmp_path / "out").symlink_to(images / "empty")
    return images, tmp_path / "out"


def figures_are_a_link(images: Path, tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "figures").symlink_to(images / "a")
    return images, tmp_path / "out"


def images_are_the_figures(images: Path, tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "out").mkdir()
    shutil.move(images, tmp_path / "out" / "figures")
    return tmp_path / "out" / "figures", tmp_path / "out"


PLACES = [equal, below, far_below, roundabout, linked, images_are_a_link, link_among_the_images, out_is_a_link]
PLACES += [figures_are_a_link, images_are_the_figures]


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
@pytest.mark.parametrize("command", ["scan", "impact"])
def test_a_report_among_the_images_is_refused_before_anything_is_written(images, tmp_path, place, command):
    images, out = place(images, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    ran = survey(command, "Plain", images, out, "--overwrite")
    assert ran.code == 2 and "--out" in ran.err and "--images" in ran.err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_report_beside_the_images_is_written(images, tmp_path):
    assert survey("scan", "Plain", images, tmp_path / "images-report").code == 0


def test_figures_of_an_earlier_report_among_the_images_are_left_out_with_a_word(images, tmp_path):
    assert survey("scan", "Plain", images, tmp_path / "first").code == 0
    shutil.move(tmp_path / "first", images / "a" / "first")
    ran = survey("scan", "Plain", images, tmp_path / "second")
    assert ran.code == 0 and "figures of a report" in ran.err
    assert seen(PANReport.load(tmp_path / "second" / "pans.json")) == {6}


def test_an_impact_does_not_replace_the_report_that_it_is_about(images, tmp_path):
    assert survey("scan", "Plain", images, tmp_path / "out").code == 0
    files = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.*")}
    for report in (tmp_path / "out", tmp_path / "out" / "pans.json", images / ".." / "out"):
        ran = survey("impact", "Plain", images, tmp_path / "out", "--report", report, "--overwrite")
        assert ran.code == 2 and "read from" in ran.err
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.*")} == files


@pytest.mark.parametrize("which", ["folder", "file", "link", "folder of the second"])
def test_a_comparison_does_not_replace_what_it_compares(tmp_path, which):
    for name in ("one", "two"):
        PANReport({"conv": layer(2)}).save(tmp_path / name / "pans.json")
        (tmp_path / name / "report.html").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "one")
    inputs = [tmp_path / "one" / "pans.json" if which == "file" else tmp_path / "one", tmp_path / "two"]
    out = tmp_path / {"link": "link", "folder of the second": "two"}.get(which, "one")
    for more in ((), ("--overwrite",)):
        ran = run("compare", *inputs, "--out", out, *more)
        assert ran.code == 2 and "read from" in ran.err and ran.out == ""
    assert [(tmp_path / name / "report.html").read_text() for name in ("one", "two")] == ["mine", "mine"]
    assert run("compare", *inputs, "--out", tmp_path / "one" / "compared").code == 0


def test_what_lies_at_the_end_of_a_link_is_not_overwritten(images, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "letter.html").write_text("dear")
    (tmp_path / "out" / "report.html").symlink_to(tmp_path / "letter.html")
    os.mkfifo(tmp_path / "out" / "pans.csv")
    assert survey("scan", "Plain", images, tmp_path / "out", "--overwrite").code == 0
    assert (tmp_path / "letter.html").read_text() == "dear"
    assert (tmp_path / "out" / "pans.csv").read_text().startswith("layer,")


# ----------------------------------------------------------------------------------------- where nothing can be written


def test_an_empty_name_is_wrong_usage(images, tmp_path):
    for options in (("--out", ""), ("--out", tmp_path / "out", "--report", "")):
        ran = run("impact", f"{FACTORIES}:Plain", "--images", images, *options)
        assert ran.code == 2 and "no name of a file or folder" in ran.err
    ran = run("scan", f"{FACTORIES}:Plain", "--images", "", "--out", tmp_path / "out")
    assert ran.code == 2 and "--images" in ran.err
    ran = run("compare", "")
    assert ran.code == 2 and "no name" in ran.err


@pytest.mark.parametrize("kind", ["file", "pipe", "device", "dangling link", "no room", "a file for figures"])
def test_an_out_that_cannot_hold_a_report_is_refused_before_anything_is_measured(images, tmp_path, kind):
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("")
    elif kind == "pipe":
        os.mkfifo(out)
    elif kind == "device":
        out = Path("/dev/null")
    elif kind == "dangling link":
        out.symlink_to(tmp_path / "gone" / "out")
    elif kind == "no room":
        out = Path("/proc/self")  # a folder that nobody writes to
    else:
        out.mkdir()
        (out / "figures").write_text("")
    ran = survey("scan", "Plain", images, out, "--overwrite")
    assert ran.code == 2 and f"--out {out}" in ran.err and len(ran.err.splitlines()) <= 3


# --------------------------------------------------------------------------------------------------- what is no picture


def test_what_is_no_file_is_left_out_and_named(images, tmp_path):
    os.mkfifo(images / "a" / "pipe.png")
    (images / "a" / "zero.jpg").symlink_to("/dev/zero")
    (images / "a" / "gone.png").symlink_to(tmp_path / "gone")
    (images / "a" / "folder.png").mkdir()
    before = Path.cwd()
    os.chdir(images / "b")  # a socket's name has to be short
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket.png")
        os.chdir(before)
        ran = survey("scan", "Plain", images, tmp_path / "out")
    page = words(tmp_path / "out" / "report.html")
    assert ran.code == 0 and "4 images were left out" in ran.out
    assert all(name in page for name in ("a/pipe.png", "a/zero.jpg", "a/gone.png", "b/socket.png"))
    assert "a pipe, a socket or a device, and no file" in page and "No such file" in page
    assert seen(PANReport.load(tmp_path / "out" / "pans.json")) == {6}


def test_a_folder_of_pipes_alone_holds_no_images(tmp_path):
    (tmp_path / "images").mkdir()
    os.mkfifo(tmp_path / "images" / "pipe.png")
    ran = survey("scan", "Plain", tmp_path / "images", tmp_path / "out")
    assert ran.code == 1 and "none of the 1 images" in ran.err and "pipe.png" in ran.err


@pytest.mark.parametrize("option", ["--weights", "--report"])
def test_a_pipe_in_the_place_of_a_file_is_refused(images, tmp_path, option):
    os.mkfifo(tmp_path / "pipe")
    ran = survey("impact", "Plain", images, tmp_path / "out", option, tmp_path / "pipe")
    assert ran.code == 2 and option in ran.err


def test_a_folder_that_cannot_be_looked_into_is_named(images, tmp_path, monkeypatch):
    scandir = os.scandir

    def closed(path):
        if str(path).endswith("/b"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    ran = survey("scan", "Plain", images, tmp_path / "out")
    assert ran.code == 0 and f"{images / 'b'} cannot be looked into: Permission denied" in ran.err
    assert seen(PANReport.load(tmp_path / "out" / "pans.json")) == {3}


# ------------------------------------------------------------------------------------------------------ names that act


def factory(tmp_path: Path, *names: str) -> str:
    """A network whose layers have these names, and answer at the border."""
    lines = [
        "import torch",
        "from torch import nn",
        "class Net(nn.Module):",
        "    def __init__(self):",
        "        super().__init__()",
        f"        self.names = {names!a}",
        "        for i, name in enumerate(self.names):",
        "            conv = nn.Conv2d(3, 3, 3, padding=1)",
        "            conv.weight.data.fill_(1 / 27)",
        "            self.add_module(name, conv)",
        "    def forward(self, x):",
        "        for name in self.names:",
        "            x = getattr(self, name)(x + 3)",
        "        return x.mean((2, 3))[:, :2]",
    ]
    (tmp_path / "net.py").write_text("\n".join(lines))
    return f"{tmp_path / 'net.py'}:Net"


def texts(out: Path) -> dict[str, str]:
    """Whatever is written for somebody to read."""
    return {path.name: path.read_text(encoding="utf-8") for path in out.rglob("*") if path.suffix in (".html", ".csv")}


def test_names_of_files_classes_layers_and_models_are_shown_and_not_obeyed(tmp_path):
    images = tmp_path / f"images{NASTY.replace('/', '')}"
    for i in range(8):
        save(images / (f"cat{NASTY.replace('/', '')}", "dog")[i % 2] / f"{i}.png", photo(32, 32, seed=i))
    (images / "dog" / f"broken{NASTY.replace('/', '')}.png").write_text("no image")
    model = factory(tmp_path, "first" + NASTY.replace(".", ""), "second")
    small = ("--size", 32, "--batch-size", 4, "--companion-images", 4, "--controls", 1, "--mode", "zero")
    ran = run("impact", model, "--images", images, "--out", tmp_path / "out", *small)
    assert ran.code == 0, ran.err
    assert r"first\x1b[2J\u202e" in ran.out and "broken" in ran.out
    shown = texts(tmp_path / "out") | {"out": ran.out, "err": ran.err}
    assert {name: acting(text) for name, text in shown.items()} == dict.fromkeys(shown, set())
    page = words(tmp_path / "out" / "report.html")
    assert r"cat\x1b[2J\u202egnp" in page and r"broken\x1b[2J\u202egnp" in page and r"first\x1b[2J" in page
    assert PANReport.load(tmp_path / "out" / "pans.json").count > 0  # the data themselves are as they are
    compared = run("compare", tmp_path / "out", "--out", tmp_path / "compared")
    assert compared.code == 0 and acting(compared.out) == set()
    assert all(acting(text) == set() for text in texts(tmp_path / "compared").values())


def test_what_a_damaged_file_says_is_shown_and_not_obeyed(tmp_path):
    arms = (Arm("baseline", "", 0, 0.75), Arm("pans", "zero", 4, 0.5))
    for name in ("one", "two"):
        lines = {NASTY: layer(2, {0: {"top": 0.9}}), "x": LayerReport(2, (3, 3), skipped=NASTY)}
        PANReport(lines, notes=(NASTY,)).save(tmp_path / name / "pans.json")
        ImpactReport(NASTY + name, 4, arms, notes=(NASTY,)).save(tmp_path / name / "impact.json")
        (tmp_path / name / "about.json").write_text(f'{{"model": "{name}\\u001b[2J\\ud800", "weights": "\\u202e"}}')
    ran = run("compare", tmp_path / "one", tmp_path / "two", "--out", tmp_path / "out")
    assert ran.code == 0 and r"\x1b[2J" in ran.out and acting(ran.out + ran.err) == set()
    assert all(acting(text) == set() for text in texts(tmp_path / "out").values())
    report, impact = PANReport.load(tmp_path / "one" / "pans.json"), ImpactReport.load(tmp_path / "one" / "impact.json")
    said = (report.summary(), report.markdown(), impact.summary(), impact.table.text(), impact.table.markdown())
    assert [acting(text) for text in said] == [set()] * 5


def test_words_of_the_user_are_shown_and_not_obeyed(images, tmp_path):
    out = tmp_path / f"out{NASTY.replace('/', '')}"
    for arguments in (
        ("scan", f"{FACTORIES}:Plain", "--images", images, "--out", out, "--size", 32, "--companion-images", 0),
        ("scan", NASTY, "--images", images, "--out", tmp_path / "x"),
        ("scan", "timm:resnet18", "--images", NASTY, "--out", tmp_path / "x", "--weights", "none"),
        ("compare", NASTY),
        ("compare", "--" + NASTY, "x"),
        (NASTY,),
    ):
        ran = run(*arguments)
        assert ran.out + ran.err and acting(ran.out + ran.err) == set()


def test_a_name_in_dollars_is_no_formula_of_a_picture(tmp_path):
    for i in range(8):
        save(tmp_path / "images" / ("$\\frac{$", "a$b$c^")[i % 2] / f"{i}.png", photo(32, 32, seed=i))
    small = ("--size", 32, "--companion-images", 4, "--controls", 1, "--mode", "zero")
    model = factory(tmp_path, "$\\frac{$", "b")
    ran = run("impact", model, "--images", tmp_path / "images", "--out", tmp_path / "out", *small)
    assert ran.code == 0 and "\\frac" in words(tmp_path / "out" / "report.html")
    assert (tmp_path / "out" / "figures" / "classes_zero.png").exists()


def test_names_in_any_script_cause_no_warnings(tmp_path):
    for i in range(8):
        save(tmp_path / "images" / ("日本 語", "كلب🐕")[i % 2] / f"{i}é.png", photo(32, 32, seed=i))
    small = ("--size", 32, "--companion-images", 4, "--controls", 1, "--mode", "zero", "--mean", 0.5, "--std", 0.5)
    model = factory(tmp_path, "層", "b")
    ran = run("impact", model, "--images", tmp_path / "images", "--out", tmp_path / "out", *small, "--quiet")
    warned = [line for line in ran.err.splitlines() if "masks all 3 channels" not in line]
    assert (ran.code, ran.out, warned) == (0, "", [])
    assert "日本 語" in words(tmp_path / "out" / "report.html") and "層" in words(tmp_path / "out" / "report.html")


def test_a_terminal_that_knows_few_letters_gets_them_written_out(tmp_path, monkeypatch):
    lines = {"größe": layer(2, {0: {"top": 0.9}}), "h": LayerReport(2, (1, 1), skipped="1×1 kernel")}
    PANReport(lines).save(tmp_path / "ß" / "pans.json")
    out = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(out, encoding="ascii"))
    assert main(["compare", str(tmp_path / "ß"), "--out", str(tmp_path / "out")]) == 0
    sys.stdout.flush()
    assert rb"\xdf" in out.getvalue() and (tmp_path / "out" / "report.html").is_file()


def test_images_of_every_odd_kind_are_seen_or_named(images, tmp_path):
    array = photo(40, 40)
    picture = Image.fromarray(array)
    for mode, name in (("CMYK", "cmyk.jpg"), ("1", "bit.png"), ("LA", "la.png"), ("LAB", "lab.tif"), ("P", "pal.png")):
        picture.convert(mode).save(images / "a" / name, **({"transparency": 3} if mode == "P" else {}))
    Image.fromarray(array[..., 0].astype(np.uint16) * 257).save(images / "a" / "deep.png")
    Image.fromarray(array[..., 0].astype(np.float32)).save(images / "a" / "float.tif")
    for name, shape in (("pixel.png", (1, 1)), ("row.png", (1, 60)), ("column.png", (3000, 1))):
        save(images / "b" / name, np.full((*shape, 3), 99, np.uint8))
    Image.fromarray(np.full((9, 9), np.nan, np.float32)).save(images / "b" / "nan.tif")
    (images / "b" / "empty.png").touch()
    (images / "b" / "cut.png").write_bytes((images / "a" / "0.png").read_bytes()[:300])
    for name, size in (("bomb.png", (2**31 - 1, 2**31 - 1)), ("wide.png", (80_000_000, 1)), ("nothing.png", (0, 0))):
        (images / "b" / name).write_bytes(hollow_png(*size))
    ran = survey("scan", "Plain", images, tmp_path / "out")
    page = words(tmp_path / "out" / "report.html")
    assert ran.code == 0 and "6 images were left out" in ran.out
    assert all(f"b/{name}.png" in page for name in ("empty", "cut", "bomb", "wide", "nothing")) and "b/nan.tif" in page
    assert seen(PANReport.load(tmp_path / "out" / "pans.json")) == {16}


def hollow_png(width: int, height: int) -> bytes:
    """A file of a few bytes that says it is a picture of this size."""
    content = b"\x89PNG\r\n\x1a\n"
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")):
        content += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return content


# --------------------------------------------------------------------------------------------------------- spreadsheets


def test_what_a_spreadsheet_would_take_for_a_formula_is_text_and_numbers_stay_numbers(tmp_path):
    names = [FORMULA.replace(".", ""), "+1+1", "-2+3", "@SUM(A1)", " =1+1", "\t=1+1", "\r=1", "＝1", "plain"]
    for i in range(4):
        save(tmp_path / "images" / f"{i}.png", photo(32, 32, seed=i))
    options = ("--images", tmp_path / "images", "--out", tmp_path / "out", "--size", 32, "--companion-images", 2)
    assert run("scan", factory(tmp_path, *names), *options).code == 0
    pans = PANReport.load(tmp_path / "out" / "pans.json").pans
    with (tmp_path / "out" / "pans.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {pan.layer for pan in pans} == set(names)
    assert not [row["layer"] for row in rows if row["layer"].lstrip()[:1] in "=+-@\t\r＝"]
    for row, pan in zip(rows, pans, strict=True):
        assert row["layer"].removeprefix("'") == pan.layer.replace("\t", r"\t").replace("\r", r"\r")
        assert int(row["channel"]) == pan.channel
        for side, value in pan.contrast.items():
            assert float(row[f"contrast {side}"]) == pytest.approx(value, abs=1e-5)
    assert any(float(row["contrast top"]) < 0 for row in rows)


def test_a_comparison_of_reports_with_formulas_in_their_names(tmp_path):
    PANReport({"conv": layer(2, {0: {"top": -0.9}}, border_bias=0.5)}).save(tmp_path / "=1+1" / "pans.json")
    ImpactReport("accuracy", 9, (Arm("baseline", "", 0, 0.75), Arm("pans", "zero", 1, 0.5, None, (-0.4, -0.1)))).save(
        tmp_path / "=1+1" / "impact.json"
    )
    (tmp_path / "=1+1" / "about.json").write_text('{"model": "=cmd|calc", "weights": "-1+1", "images": "@x"}')
    before = Path.cwd()
    os.chdir(tmp_path)
    try:
        assert run("compare", "=1+1", "--out", "out").code == 0
    finally:
        os.chdir(before)
    with (tmp_path / "out" / "compare.csv").open(newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert [row[name] for name in ("report", "model", "weights", "images")] == ["'=1+1", "'=cmd|calc", "'-1+1", "'@x"]
    assert row["masked, zero"] == "-25.00% [-40.00%, -10.00%]" and row["PANs"] == "1"
    assert row["preprocessing"] == "-"


# ------------------------------------------------------------------------------------------------ Ctrl-C, damaged files


@pytest.mark.parametrize("command", ["scan", "impact", "impact of a report"])
def test_ctrl_c_before_the_first_batch_says_that_nothing_was_measured(images, tmp_path, monkeypatch, command):
    from pan_callbacks.sources import images as reading

    more = ()
    if command == "impact of a report":
        assert survey("scan", "Plain", images, tmp_path / "scan", "--threshold", 0.3).code == 0
        more = ("--report", tmp_path / "scan")
    read_image = reading.read_image

    def interrupted(*arguments):
        monkeypatch.setattr(reading, "read_image", read_image)
        os.kill(os.getpid(), signal.SIGINT)
        return read_image(*arguments)

    monkeypatch.setattr(reading, "read_image", interrupted)
    ran = survey(command.split()[0], "Plain", images, tmp_path / "out", *more)
    assert ran.code == 1
    assert ran.err.splitlines()[-1].startswith("pan-callbacks: error: interrupted before anything was measured")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    "about", ["{", "[]", "3", "[" * 100_000, '{"model": 3}', '{"model": NaN}', b"\xff", '{"weights": ["a"]}']
)
def test_a_damaged_description_is_blamed_on_itself(tmp_path, about):
    PANReport({"conv": layer(2)}).save(tmp_path / "pans.json")
    (tmp_path / "about.json").write_bytes(about if isinstance(about, bytes) else about.encode())
    with pytest.raises(PANError, match=re.escape(str(tmp_path / "about.json"))) as caught:
        read_entry(tmp_path)
    assert "pans.json" not in str(caught.value)
    ran = run("compare", tmp_path)
    assert ran.code == 1 and "about.json" in ran.err and "pans.json" not in ran.err


@pytest.mark.parametrize("damage", [{"threshold": -1}, {"version": True}, {"threshold": "x"}, {"notes": [[]]}], ids=str)
def test_a_damaged_report_ends_the_command_with_a_sentence(images, tmp_path, damage):
    report = PANReport({"first": layer(8), "second": layer(8)}).to_dict() | damage
    (tmp_path / "mine.json").write_text(json.dumps(report))
    ran = survey("impact", "Plain", images, tmp_path / "out", "--report", tmp_path / "mine.json")
    assert ran.code == 1 and f"{tmp_path / 'mine.json'}: " in ran.err and next(iter(damage)) in ran.err
    ran = run("compare", tmp_path / "mine.json")
    assert ran.code == 1 and f"{tmp_path / 'mine.json'}: " in ran.err


# -------------------------------------------------------------------------------------------------- nothing to measure


NOTHING = {
    "Unpadded": "2 were left out (1× 1×1 kernel; 1× no padding)",
    "Quantised": "2 quantised convolutions (ConvReLU2d, Conv2d): scan the float model",
    "Scripted": "2 convolutions of TorchScript (Conv2d): scan the model as it was before",
    "Dense": "the model has no convolution",
    "Broken": "2× NaN or infinite activations",
}


@pytest.mark.parametrize("name", NOTHING)
@pytest.mark.parametrize("command", ["scan", "impact"])
def test_a_scan_that_measures_nothing_fails_and_says_what_there_is_instead(images, tmp_path, name, command):
    ran = survey(command, name, images, tmp_path / "out", "--companion-images", 4)
    assert ran.code == 1 and "0 of 0" not in ran.out
    last = ran.err.splitlines()[-1]
    assert "error: no padded convolution was measured" in last and NOTHING[name] in last
