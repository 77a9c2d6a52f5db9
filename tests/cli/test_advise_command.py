"""``pan-callbacks advise``: its words, its file and its exit codes, of images with classes and without."""

from __future__ import annotations

import numpy as np
import pytest

from pan_callbacks import Advice
from tests.cli.test_command import FACTORIES, Ran, run
from tests.support.photos import save


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    """Thirty images that are red, and thirty that are not: noise in the other two channels."""
    folder = tmp_path_factory.mktemp("advised")
    for i in range(60):
        array = np.random.default_rng(i).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        array[..., 0] = 255 if i % 2 == 0 else 0
        save(folder / ("red", "rest")[i % 2] / f"{i}.png", array)
    return folder


@pytest.fixture(scope="module")
def unlabelled(classes, tmp_path_factory):
    """The same images in one folder."""
    folder = tmp_path_factory.mktemp("flat")
    for path in classes.glob("*/*.png"):
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def advised(factory: str, images, *options) -> Ran:
    return run("advise", f"{FACTORIES}:{factory}", "--images", images, "--size", 32, *options)


def test_a_network_that_sees_its_classes_in_the_padding_is_trained_anew(classes, tmp_path):
    ran = advised("RedAtTheTop", classes, "--out", tmp_path / "out")
    found = Advice.load(tmp_path / "out" / "advice.json")
    assert ran.code == 0 and found.paragraph() in ran.out and ran.out.count("Retrain the network") == 1
    assert (found.verdict, found.evidence.accuracy.value, found.evidence.padding_change.value) == ("retrain", 1.0, -0.5)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["advice.json"]


def test_without_class_folders_answers_alone_are_compared_and_it_says_so(unlabelled):
    ran = advised("RedAtTheTop", unlabelled)
    assert ran.code == 0 and "Retrain the network" in ran.out and "ccuracy" not in ran.out
    assert "no labels, answers alone are compared" in ran.err and "has no subfolders" in ran.err


def test_classes_that_do_not_fit_the_outputs_are_none_and_it_says_so(classes, tmp_path):
    for path in sorted(classes.glob("*/*.png"))[:9]:
        save(tmp_path / "images" / "abc"[int(path.stem) % 3] / path.name, np.zeros((32, 32, 3), np.uint8))
    ran = advised("Plain", tmp_path / "images")
    assert ran.code == 0 and "the folder has 3 classes" in ran.err and "ccuracy" not in ran.out


def test_few_images_do_not_decide_and_it_says_how_many_would(unlabelled):
    ran = advised("Plain", unlabelled, "--tolerance", 0.05, "--impact-images", 20)
    assert ran.code == 0 and "Undecided" in ran.out and "images in place of 20 would decide" in ran.out
    assert "Keep the network as it is: its answers" in advised("Plain", unlabelled, "--tolerance", 0.1).out


def test_a_model_without_padding_is_kept_and_ends_as_a_scan_does(unlabelled, tmp_path):
    ran = advised("Unpadded", unlabelled, "--out", tmp_path / "out")
    assert ran.code == 1 and "no padded convolution was measured" in ran.err
    assert "Keep the network as it is: it has no padding" in ran.out
    assert Advice.load(tmp_path / "out" / "advice.json").decided


def test_images_that_cannot_be_read_are_counted_and_named(unlabelled, tmp_path):
    for path in sorted(unlabelled.iterdir())[:6]:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "text.png").write_text("no image")
    ran = advised("Plain", tmp_path)
    assert ran.code == 0 and "1 images were left out, the first: text.png" in ran.out


STOPPING = """
import signal
from tests.support.factories import Plain

class Stopping(Plain):
    asked = False

    def forward(self, images):
        if len(images) == 20 and not Stopping.asked:
            Stopping.asked = True
            signal.raise_signal(signal.SIGINT)
        return super().forward(images)
"""


def test_ctrl_c_ends_it_without_an_advice(unlabelled, tmp_path):
    (tmp_path / "stopping.py").write_text(STOPPING)
    options = ("--images", unlabelled, "--size", 32, "--batch-size", 20, "--out", tmp_path / "out")
    ran = run("advise", f"{tmp_path / 'stopping.py'}:Stopping", *options)
    assert ran.code == 1 and "stopping after this batch" in ran.err and "interrupted: nothing was written" in ran.err
    assert ran.out == "" and not list((tmp_path / "out").iterdir())


def test_quiet_says_nothing(classes):
    assert advised("RedAtTheTop", classes, "--quiet") == Ran(0, "", "")


@pytest.mark.parametrize(
    "options",
    [
        ("--tolerance", "0"),
        ("--tolerance", "x"),
        ("--threshold", "1.5"),
        ("--impact-images", "0"),
        ("--images", "nowhere"),
        ("--weights", "pretraned"),
        ("--devices", "2"),
    ],
    ids=" ".join,
)
def test_a_wrong_value_of_an_option_is_wrong_usage(unlabelled, tmp_path, options):
    ran = advised("Plain", unlabelled, "--out", tmp_path / "out", *options)
    assert ran.code == 2 and options[0] in ran.err and not (tmp_path / "out").exists()


def test_a_folder_that_is_not_empty_is_left_alone(unlabelled, tmp_path):
    (tmp_path / "mine.txt").touch()
    ran = advised("Plain", unlabelled, "--out", tmp_path)
    assert ran.code == 2 and "--overwrite" in ran.err and not (tmp_path / "advice.json").exists()
