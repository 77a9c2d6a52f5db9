"""Where the command line fails: early if it can be seen early, and with what was measured kept if not."""

from __future__ import annotations

import pytest

from pan_callbacks import PANReport
from tests.cli.test_command import FACTORIES, run, survey, words
from tests.support.photos import photo, save


@pytest.fixture
def classes(tmp_path):
    """Two classes of six photographs."""
    for i in range(12):
        save(tmp_path / "classes" / "ab"[i % 2] / f"{i}.png", photo(32, 32, seed=i))
    return tmp_path / "classes"


@pytest.mark.parametrize(
    "options",
    [
        ("--metric", "nonsense"),
        ("--metric", "torch.nn.Linear"),
        ("--layers", "nothing.*"),
        ("--seed", "99999999999999999999999"),
        ("--report", "nowhere"),
    ],
    ids=" ".join,
)
def test_what_can_be_refused_is_refused_before_anything_is_measured(classes, tmp_path, options):
    ran = survey("impact", "Plain", classes, tmp_path / "out", *options)
    assert ran.code == 2 and options[0].strip("-") in ran.err
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made_is_refused(classes, tmp_path):
    (tmp_path / "file").write_text("")
    ran = survey("scan", "Plain", classes, tmp_path / "file" / "out")
    assert ran.code == 2 and "cannot be made" in ran.err


def test_a_report_of_another_model_is_named(classes, tmp_path):
    assert survey("scan", "Plain", classes, tmp_path / "plain").code == 0
    ran = survey("impact", "Unpadded", classes, tmp_path / "out", "--report", tmp_path / "plain")
    assert ran.code == 1 and f"--report {tmp_path / 'plain'}" in ran.err and "another model" in ran.err


def test_a_metric_that_gives_no_number_keeps_the_scan(classes, tmp_path):
    metric = "torchmetrics.classification.MulticlassConfusionMatrix"
    ran = survey("impact", "Plain", classes, tmp_path / "out", "--metric", metric, "--threshold", "0.3")
    assert ran.code == 1 and "does not give one number" in ran.err
    assert PANReport.load(tmp_path / "out" / "pans.json").neurons == 16
    assert not (tmp_path / "out" / "impact.json").exists()


@pytest.mark.slow
def test_pictures_and_other_measures_get_by_with_the_memory_that_there_is(classes, tmp_path):
    options = ("--size", 32, "--batch-size", 8, "--companion-images", 8, "--threshold", "0.3")
    ran = run("scan", f"{FACTORIES}:Hungry", "--images", classes, "--out", tmp_path / "out", *options)
    page = words(tmp_path / "out" / "report.html")
    assert ran.code == 0 and "batches of 4 were used" in page and "left out:" not in page
    assert (tmp_path / "out" / "figures" / "position.png").exists()
    assert (tmp_path / "out" / "figures" / "pan_01.png").exists()


def test_several_processes_are_not_started_from_a_program_of_somebody_else(classes, tmp_path):
    ran = survey("scan", "Plain", classes, tmp_path / "out", "--devices", 2, "--accelerator", "cpu")
    assert ran.code == 2 and "for the shell" in ran.err


def test_a_factory_that_exits_does_not_end_the_command(classes, tmp_path):
    (tmp_path / "exits.py").write_text("import sys\n\n\ndef net():\n    sys.exit(3)\n")
    ran = run("scan", f"{tmp_path / 'exits.py'}:net", "--images", classes, "--out", tmp_path / "out")
    assert ran.code == 1 and "SystemExit" in ran.err


def test_mean_and_deviation_are_those_that_were_asked_for(classes, tmp_path):
    ran = survey("scan", "Plain", classes, tmp_path / "out", "--mean", "0.5", "--std", "0.1", "0.2", "0.3")
    assert ran.code == 0 and "does not say" not in ran.err
    assert "mean 0.5, 0.5, 0.5, deviation 0.1, 0.2, 0.3" in words(tmp_path / "out" / "report.html")


@pytest.mark.parametrize(
    "options",
    [("--mean", 1, 2), ("--std", 0), ("--mean", "nan"), ("--std", "inf"), ("--workers", 1000000)],
    ids=str,
)
def test_a_mean_or_deviation_that_makes_no_sense_is_refused(classes, tmp_path, options):
    ran = survey("scan", "Plain", classes, tmp_path / "out", *options)
    assert ran.code == 2 and options[0] in ran.err


def test_a_metric_needs_labels(classes, tmp_path):
    metric = "torchmetrics.classification.MulticlassF1Score"
    ran = survey("impact", "Plain", classes, tmp_path / "out", "--metric", metric, "--unlabelled")
    assert ran.code == 2 and "needs labels" in ran.err


def test_a_file_without_its_function_is_told_how_to_be_given(classes, tmp_path):
    ran = run("scan", FACTORIES, "--images", classes, "--out", tmp_path / "out")
    assert ran.code == 2 and "factories.py:FUNCTION" in ran.err


def test_without_padding_aware_neurons_there_are_no_figures_of_classes(classes, tmp_path):
    ran = survey("impact", "Plain", classes, tmp_path / "out", "--threshold", "0.99", "--controls", 1)
    assert ran.code == 0 and "nothing was masked" in words(tmp_path / "out" / "report.html")
    assert not list((tmp_path / "out" / "figures").glob("classes_*"))


NOTES_ITS_USE = """
from pathlib import Path

def net():
    Path(__file__).with_name("made").touch()
    raise RuntimeError("it is enough to know that it was asked")
"""


@pytest.mark.parametrize("command", ["scan", "impact", "advise"])
@pytest.mark.parametrize("images", ["nowhere", "empty", "flat"])
def test_images_are_looked_for_before_the_model_is_made(tmp_path, command, images):
    (tmp_path / "models.py").write_text(NOTES_ITS_USE)
    (tmp_path / "empty").mkdir()
    save(tmp_path / "flat" / "0.png", photo(32, 32))
    out = () if command == "advise" else ("--out", tmp_path / "out")
    ran = run(command, f"{tmp_path / 'models.py'}:net", "--images", tmp_path / images, *out)
    refused = images != "flat" or command == "impact"  # which alone needs a folder for each class
    assert (tmp_path / "made").exists() != refused
    assert not refused or (ran.code in (1, 2) and str(tmp_path / images) in ran.err and not (tmp_path / "out").exists())
