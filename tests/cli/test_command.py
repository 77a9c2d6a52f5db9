"""The command line, from its arguments to its files and exit codes."""

from __future__ import annotations

import csv
import io
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout, suppress
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import timm
import torch

from pan_callbacks import PANReport, scan
from pan_callbacks.cli.main import main
from pan_callbacks.reports.impact_report import ImpactReport
from pan_callbacks.sources.images import folder_images
from pan_callbacks.sources.models import load_model
from tests.support import planted
from tests.support.photos import photo, save

ROOT = Path(__file__).parents[2]
FACTORIES = Path(__file__).parents[1] / "support" / "factories.py"
MARKUP = '<b>&"x'


class Ran(NamedTuple):
    code: int
    out: str
    err: str


def run(*arguments) -> Ran:
    """A command in this process, as the shell would see it."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:  # argparse
            code = stop.code
    return Ran(code, out.getvalue(), err.getvalue())


def survey(command: str, factory: str, images, out, *options) -> Ran:
    small = ("--size", 32, "--batch-size", 4, "--companion-images", 0)
    return run(command, f"{FACTORIES}:{factory}", "--images", images, "--out", out, *small, *options)


def seen(report: PANReport) -> set[int]:
    return {line.images for line in report.layers.values() if line.skipped is None}


class _Words(HTMLParser):
    def __init__(self):
        super().__init__()
        self.words: list[str] = []

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def words(page: Path) -> str:
    """The text of a page, as it is read."""
    parser = _Words()
    parser.feed(page.read_text(encoding="utf-8"))
    return " ".join(" ".join(parser.words).split())


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """24 photographs of 48 px."""
    folder = tmp_path_factory.mktemp("photos")
    for i in range(24):
        save(folder / f"{i}.png", photo(48, 48, seed=i))
    return folder


@pytest.fixture
def few(tmp_path) -> Path:
    """Eight photographs of 32 px."""
    for i in range(8):
        save(tmp_path / "few" / f"{i}.png", photo(32, 32, seed=i))
    return tmp_path / "few"


@pytest.fixture(scope="module")
def classes(tmp_path_factory) -> Path:
    """Eight images that are red, and eight that are not: noise in the other two channels."""
    folder = tmp_path_factory.mktemp("classes")
    for i in range(16):
        array = np.random.default_rng(i).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        array[..., 0] = 255 if i % 2 == 0 else 0
        save(folder / ("red", "rest")[i % 2] / f"{i}.png", array)
    return folder


@pytest.fixture(scope="module")
def scanned(photos, tmp_path_factory) -> tuple[Ran, Path]:
    """A scan of a planted network."""
    out = tmp_path_factory.mktemp("scanned") / "report"
    ran = run("scan", f"{FACTORIES}:Planted", "--images", photos, "--out", out, "--size", 48, "--batch-size", 8)
    return ran, out


@pytest.fixture(scope="module")
def masked(classes, tmp_path_factory) -> tuple[Ran, Path]:
    """The impact on a network that sees its classes in the padding alone."""
    out = tmp_path_factory.mktemp("masked") / "report"
    return survey("impact", "RedAtTheTop", classes, out, "--controls", 3), out


# ---------------------------------------------------------------------------------------------------- what is measured


def test_a_scan_finds_what_was_planted(scanned):
    report = PANReport.load(scanned[1] / "pans.json")
    truth = {("net." + layer, channel): told.sides for (layer, channel), told in planted.chain(3).truth.items()}
    assert {(pan.layer, pan.channel): pan.sides for pan in report.pans} == truth


def test_a_scan_is_that_of_the_python_function(scanned, photos):
    loaded = load_model(f"{FACTORIES}:Planted", size=48)
    report = scan(loaded.model, folder_images(photos, loaded.preprocessing, batch_size=8), progress=False)
    assert PANReport.load(scanned[1] / "pans.json").to_dict() == report.to_dict()


def test_pans_json_survives_a_round_trip(scanned, tmp_path):
    PANReport.load(scanned[1] / "pans.json").save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (scanned[1] / "pans.json").read_bytes()


def test_the_csv_has_the_pans_of_the_report(scanned):
    with (scanned[1] / "pans.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    report = PANReport.load(scanned[1] / "pans.json")
    pans, layers = report.pans, report.layers
    assert [(row["layer"], int(row["channel"]), row["origin"]) for row in rows] == [
        (pan.layer, pan.channel, pan.origin) for pan in pans
    ]
    for row, pan in zip(rows, pans, strict=True):
        told = {side: float(row[f"contrast {side}"]) for side in planted.SIDES if row[f"contrast {side}"]}
        assert told == pytest.approx(pan.contrast, abs=1e-5)
        assert (row["reference"], row["drift"]) == (layers[pan.layer].reference, f"{layers[pan.layer].drift:.6g}")


def test_a_scan_says_what_it_found_and_where_it_wrote_it(scanned):
    ran, out = scanned
    count = len(planted.chain(3).truth)
    assert ran.code == 0 and ran.err.count("\n") == 2
    assert "weights are as the factory made them" in ran.err and "does not say what images it expects" in ran.err
    assert f"{count} of" in ran.out and str(out / "report.html") in ran.out
    assert f"{count} of" in words(out / "report.html")


def test_every_figure_is_a_picture_of_its_own_too(scanned):
    figures = {path.read_bytes()[:8] for path in (scanned[1] / "figures").glob("*.png")}
    shown = (scanned[1] / "report.html").read_text(encoding="utf-8").count("<img ")
    assert figures == {b"\x89PNG\r\n\x1a\n"}
    assert len(list((scanned[1] / "figures").iterdir())) == shown


def test_quiet_says_nothing(few, tmp_path):
    assert survey("scan", "Plain", few, tmp_path / "out", "--quiet") == Ran(0, "", "")


def test_only_the_layers_asked_for_are_scanned(few, tmp_path):
    survey("scan", "Plain", few, tmp_path / "out", "--layers", "sec*")
    assert list(PANReport.load(tmp_path / "out" / "pans.json").layers) == ["second"]


@pytest.mark.parametrize("mode", ["zero", "mean", "neutral"])
def test_without_its_pans_a_network_that_depends_on_them_guesses(masked, mode):
    found = ImpactReport.load(masked[1] / "impact.json")
    assert found.baseline.value == 1.0
    assert found.arm("pans", mode).value == 0.5


@pytest.mark.parametrize("mode", ["zero", "mean", "neutral"])
def test_without_as_many_other_neurons_it_loses_nothing(masked, mode):
    controls = ImpactReport.load(masked[1] / "impact.json").controls(mode)
    assert [(arm.neurons, arm.value, arm.kl, arm.flips) for arm in controls] == [(1, 1.0, 0.0, 0.0)] * 3


def test_an_impact_names_the_classes_by_their_folders(masked):
    assert masked[0].code == 0
    assert ImpactReport.load(masked[1] / "impact.json").class_names == ("red", "rest")


def test_an_impact_takes_an_earlier_report(masked, classes, tmp_path):
    ran = survey(
        "impact", "RedAtTheTop", classes, tmp_path / "out", "--controls", 3, "--report", masked[1] / "pans.json"
    )
    assert ran.code == 0
    assert (tmp_path / "out" / "impact.json").read_bytes() == (masked[1] / "impact.json").read_bytes()


@pytest.mark.parametrize(
    "option", [("--threshold", 0.8), ("--threshold", 0.7), ("--reference", "crop"), ("--layers", "*")]
)
def test_an_earlier_report_goes_with_no_option_of_a_new_scan_also_if_it_is_the_default(
    masked, classes, tmp_path, option
):
    ran = survey("impact", "RedAtTheTop", classes, tmp_path / "out", "--report", masked[1], *option)
    assert ran.code == 2 and "--layers, --reference and --threshold are for a new one" in ran.err


def test_a_metric_of_torchmetrics_takes_the_place_of_accuracy(classes, tmp_path):
    metric = "torchmetrics.classification.MulticlassF1Score"
    survey("impact", "RedAtTheTop", classes, tmp_path / "out", "--metric", metric, "--mode", "zero", "--controls", 0)
    found = ImpactReport.load(tmp_path / "out" / "impact.json")
    assert found.metric == "MulticlassF1Score" and found.baseline.value == 1.0
    assert found.arm("pans", "zero").value == pytest.approx(1 / 3)  # F1 of a class guessed always 2 / 3, of the other 0


def test_without_labels_only_what_predictions_do_is_told(classes, tmp_path):
    survey("impact", "RedAtTheTop", classes, tmp_path / "out", "--unlabelled", "--mode", "zero", "--controls", 0)
    found = ImpactReport.load(tmp_path / "out" / "impact.json")
    assert np.isnan(found.baseline.value) and found.arm("pans", "zero").flips == 0.5


def test_a_class_of_one_image_is_measured(classes, tmp_path):
    for path in sorted(classes.glob("*/*.png"))[:9]:
        save(tmp_path / "images" / path.parent.name / path.name, photo(32, 32))
    ran = survey("impact", "RedAtTheTop", tmp_path / "images", tmp_path / "out", "--controls", 1)
    assert ran.code == 0
    found = ImpactReport.load(tmp_path / "out" / "impact.json")
    assert found.arm("padding", "neutral").classes.images.tolist() == [8, 1]


def test_compare_puts_reports_side_by_side(scanned, masked, tmp_path):
    ran = run("compare", scanned[1], masked[1], "--out", tmp_path / "out")
    with (tmp_path / "out" / "compare.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert ran.code == 0
    assert [row["report"] for row in rows] == [str(scanned[1]), str(masked[1])]
    assert [row["PANs"] for row in rows] == [str(len(planted.chain(3).truth)), "1"]
    assert [row["masked, zero"][:7] for row in rows] == ["-", "-50.00%"]
    assert "RedAtTheTop" in words(tmp_path / "out" / "report.html")


def test_compare_says_that_thresholds_differ(masked, classes, tmp_path):
    survey("scan", "RedAtTheTop", classes, tmp_path / "low", "--threshold", 0.5)
    assert "different thresholds: 0.5, 0.8" in run("compare", masked[1], tmp_path / "low").out


# ------------------------------------------------------------------------------------------------------------ bad input


def test_an_unknown_model_offers_the_nearest_names(few, tmp_path):
    ran = run("scan", "timm:resnett18", "--images", few, "--out", tmp_path / "out")
    assert ran.code == 2 and "resnet18" in ran.err and len(ran.err.splitlines()) == 1


def test_a_checkpoint_that_does_not_fit_names_its_keys(few, tmp_path):
    torch.save(timm.create_model("test_efficientnet").state_dict(), tmp_path / "x.pth")
    options = ("--weights", tmp_path / "x.pth", "--images", few, "--out", tmp_path / "out")
    ran = run("scan", "timm:test_resnet", *options)
    assert ran.code == 1 and len(ran.err.splitlines()) == 1
    assert re.search(r"missing \(conv1.0.weight, .* unexpected \(conv_stem.weight, ", ran.err)


def test_a_factory_that_raises_is_named(few, tmp_path):
    ran = survey("scan", "broken", few, tmp_path / "out")
    assert ran.code == 1 and "broken raised KeyError: 'lost'" in ran.err


def test_an_empty_folder_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    ran = survey("scan", "Plain", tmp_path / "empty", tmp_path / "out")
    assert ran.code == 1 and "holds no images" in ran.err


def test_a_folder_without_readable_images_is_refused(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "text.png").write_text("no image")
    ran = survey("scan", "Plain", tmp_path / "images", tmp_path / "out")
    assert ran.code == 1 and "none of the 1 images" in ran.err and "text.png" in ran.err


def test_images_that_cannot_be_read_are_counted_and_named(few, tmp_path):
    (few / "text.png").write_text("no image")
    (few / "cut.png").write_bytes((few / "0.png").read_bytes()[:500])
    ran = survey("scan", "Plain", few, tmp_path / "out")
    page = words(tmp_path / "out" / "report.html")
    assert ran.code == 0 and "2 images were left out" in ran.out
    assert "text.png" in page and "cut.png" in page
    assert seen(PANReport.load(tmp_path / "out" / "pans.json")) == {8}


def test_a_file_name_that_is_no_text_harms_no_report(few, tmp_path):
    Path(os.fsdecode(bytes(few / "x") + b"\xff.png")).write_text("no image")
    assert survey("scan", "Plain", few, tmp_path / "out").code == 0
    assert r"x\udcff.png" in words(tmp_path / "out" / "report.html")


def test_grey_transparent_and_16_bit_images_are_seen(tmp_path):
    for i in range(4):
        grey = photo(32, 32, 1, seed=i)[..., 0]
        save(tmp_path / "images" / f"grey{i}.png", grey)
        save(tmp_path / "images" / f"deep{i}.png", grey.astype(np.uint16) * 257)
        save(tmp_path / "images" / f"clear{i}.png", photo(32, 32, 4, seed=i))
    ran = survey("scan", "Plain", tmp_path / "images", tmp_path / "out")
    assert ran.code == 0 and "left out, the first" not in ran.out
    assert seen(PANReport.load(tmp_path / "out" / "pans.json")) == {12}


@pytest.mark.parametrize("command", ["scan", "impact"])
def test_a_model_without_padding_gets_a_report_that_says_so(classes, tmp_path, command):
    ran = survey(command, "Unpadded", classes, tmp_path / "out")
    assert ran.code == 1
    assert "0 layers measured, 2 left out (1× 1×1 kernel; 1× no padding)" in words(tmp_path / "out" / "report.html")


def test_a_folder_that_is_not_empty_is_left_alone(few, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").touch()
    ran = survey("scan", "Plain", few, tmp_path / "out")
    assert ran.code == 2 and "--overwrite" in ran.err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_overwrite_replaces_the_report_and_nothing_else(few, classes, tmp_path):
    survey("impact", "RedAtTheTop", classes, tmp_path / "out")
    (tmp_path / "out" / "mine.txt").touch()
    survey("scan", "Plain", few, tmp_path / "fresh")
    assert survey("scan", "Plain", few, tmp_path / "out", "--overwrite").code == 0
    files = {path.relative_to(tmp_path / "fresh"): path for path in (tmp_path / "fresh").rglob("*") if path.is_file()}
    replaced = {path.relative_to(tmp_path / "out"): path for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert replaced.keys() == files.keys() | {Path("mine.txt")}
    assert all(replaced[name].read_bytes() == path.read_bytes() for name, path in files.items())


@pytest.mark.parametrize(
    "options",
    [
        ("--threshold", "1.5"),
        ("--threshold", "much"),
        ("--size", "0"),
        ("--max-images", "-1"),
        ("--batch-size", "x"),
        ("--reference", "corner"),
        ("--accelerator", "abacus"),
        ("--weights", "pretraned"),
        ("--images", "nowhere"),
        ("--num-classes", "3"),  # of a factory
        ("--nonsense",),
    ],
    ids=" ".join,
)
def test_a_wrong_value_of_an_option_is_wrong_usage(few, tmp_path, options):
    ran = survey("scan", "Plain", few, tmp_path / "out", *options)
    assert ran.code == 2 and options[0].lstrip("-").replace("-", "_") in ran.err.replace("-", "_")
    assert not (tmp_path / "out").exists()


def test_more_processes_than_batches_are_refused_before_any_is_started(few, tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_fabric.Fabric.launch", lambda fabric: pytest.fail("started"))
    ran = survey("scan", "Plain", few, tmp_path / "out", "--devices", 3, "--accelerator", "cpu")
    assert ran.code == 2 and "too few for 3 processes" in ran.err


@pytest.mark.parametrize("arguments", [(), ("scan",), ("compare",), ("dance",)], ids=" ".join)
def test_a_command_without_what_it_needs_is_wrong_usage(arguments):
    ran = run(*arguments)
    assert ran.code == 2 and "usage: pan-callbacks" in ran.err


def test_compare_names_a_folder_without_a_report(tmp_path):
    ran = run("compare", tmp_path)
    assert ran.code == 1 and f"{tmp_path} holds no pans.json" in ran.err


def test_names_are_text_and_no_markup(tmp_path):
    for i in range(4):
        save(tmp_path / MARKUP / MARKUP / f"{i}.png", photo(32, 32, seed=i))
        save(tmp_path / MARKUP / "[red]other[red]" / f"{i}.png", photo(32, 32, seed=i))
    (tmp_path / MARKUP / MARKUP / "[bold].png").write_text("no image")
    ran = survey("impact", "RedAtTheTop", tmp_path / MARKUP, tmp_path / "out")
    page = tmp_path / "out" / "report.html"
    assert ran.code == 0 and f"{MARKUP}/[bold].png" in ran.out
    assert "<b>" not in page.read_text(encoding="utf-8")
    assert f"{MARKUP}/[bold].png" in words(page)


# ---------------------------------------------------------------------------------------- memory, Ctrl-C and processes


def test_a_scan_for_which_memory_is_short_halves_its_batches_and_says_so(few, tmp_path):
    ran = survey("scan", "Hungry", few, tmp_path / "out", "--batch-size", 8)
    assert ran.code == 0
    note = "memory ran out with batches of 8 images: batches of 4 were used"
    assert PANReport.load(tmp_path / "out" / "pans.json").notes[-1] == note
    assert note in words(tmp_path / "out" / "report.html")


def test_an_impact_for_which_memory_is_short_halves_its_batches_and_says_so(few, tmp_path):
    ran = survey("impact", "Hungry", few, tmp_path / "out", "--unlabelled", "--batch-size", 8, "--controls", 0)
    assert ran.code == 0
    notes = ImpactReport.load(tmp_path / "out" / "impact.json").notes
    assert "memory ran out with batches of 8 images: batches of 4 were used" in notes


@pytest.fixture
def start():
    """Starts a command in a process of its own, which does not outlive the test, nor do those that it starts."""
    started = []

    def popen(*arguments, **environment) -> subprocess.Popen:
        command = [sys.executable, "-m", "pan_callbacks", *map(str, arguments)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"} | environment
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, **pipes))
        return started[-1]

    yield popen
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_ctrl_c_ends_a_scan_and_keeps_what_was_measured(photos, tmp_path, start):
    options = ("--size", 32, "--batch-size", 2, "--companion-images", 0, "--out", tmp_path / "out")
    forwards = tmp_path / "forwards"
    process = start("scan", f"{FACTORIES}:Slow", "--images", photos, *options, FORWARDS=str(forwards))
    deadline = time.monotonic() + 60
    while not (forwards.exists() and forwards.read_text().count("2\n") >= 4):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert (
        err.splitlines()[-1]
        == f"pan-callbacks: error: interrupted: {tmp_path / 'out'} holds what was measured until then"
    )
    (images,) = seen(PANReport.load(tmp_path / "out" / "pans.json"))
    assert 0 < images < 24
    assert f"after {images} images" in words(tmp_path / "out" / "report.html")


@pytest.mark.slow
def test_two_processes_write_the_same_files_as_one(classes, tmp_path, start):
    options = ("impact", "timm:test_resnet", "--weights", "none", "--num-classes", 2, "--images", classes, "--size", 32)
    options += ("--batch-size", 4, "--companion-images", 8, "--controls", 1, "--accelerator", "cpu", "--threshold", 0.7)
    options += ("--layers", "layer1.*", "--mode", "zero", "neutral")
    helped = start(*options, "--devices", 2, "--out", tmp_path / "2")
    assert run(*options, "--out", tmp_path / "1").code == 0
    _, err = helped.communicate(timeout=120)
    assert helped.returncode == 0, err
    for name in ("pans.json", "pans.csv", "impact.json", "floor.json", "layers.csv", "report.html"):
        assert (tmp_path / "2" / name).read_bytes() == (tmp_path / "1" / name).read_bytes(), name
    report = PANReport.load(tmp_path / "1" / "pans.json")
    assert report.count > 0 and max(seen(report)) == 16  # there was something to agree on
