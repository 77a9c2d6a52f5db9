"""What the package shows of itself: its public names, and types that tell a typo before anything runs."""

from __future__ import annotations

import ast
import inspect
import pickle
import re
import subprocess
import sys
import typing
from pathlib import Path

import pytest

import pan_callbacks
from pan_callbacks import PANError
from pan_callbacks.reports import words
from pan_callbacks.reports.impact_report import Arm

ROOT = Path(__file__).parents[1]
RIGHT = """
from torch import nn
from pan_callbacks import PaddingDropout, PANMask, PANMonitor, Schedule, ImpactReport, impact, masked, scan
from pan_callbacks import mask_permanently, padding_dropout, PaddingBiasPenalty

def use(net: nn.Module, found: ImpactReport) -> None:
    report = scan(net, [], reference="crop")
    PANMonitor(reference="zoom")
    PANMask(mode="neutral-mean", which="all")
    PANMask(mode="zero", refresh="once")
    PaddingDropout(per="call")
    Schedule(shape="cosine")
    impact(net, [], report, mode=("zero", "neutral"))
    impact(net, [], report, mode="mean")
    mask_permanently(net, report, mode="mean")
    found.arm("pans", "zero")
    found.controls("neutral-mean")
    [arm for arm in found.arms if arm.mode == "mean"]
    report.count_by("origin")
    [pan for pan in report.pans if pan.origin == "nascent"]
    PaddingBiasPenalty(net)().item()
    with masked(net, report, mode="mean"), padding_dropout(net, per="image"):
        pass
"""
#: Each is one word of the above with a typo.
WRONG = (
    ('reference="crop"', 'reference="corp"'),
    ('reference="zoom"', 'reference="zooom"'),
    ('(mode="neutral-mean"', '(mode="neutral_mean"'),
    ('which="all"', 'which="everything"'),
    ('refresh="once"', 'refresh="never"'),
    ('per="call"', 'per="batch"'),
    ('shape="cosine"', 'shape="cos"'),
    ('("zero", "neutral")', '("zero", "neutrall")'),
    ('report, mode="mean")\n    mask', 'report, mode="means")\n    mask'),
    ('mode="mean")\n    found', 'mode="average")\n    found'),
    ('arm("pans"', 'arm("pan"'),
    ('"pans", "zero"', '"pans", "zeros"'),
    ('controls("neutral-mean"', 'controls("neutral_mean"'),
    ('arm.mode == "mean"', 'arm.mode == "means"'),
    ('count_by("origin")', 'count_by("origins")'),
    ('== "nascent"', '== "nascnet"'),
    ("().item()", "().items_()"),
    ('mode="mean"), padding', 'mode="meen"), padding'),
    ('per="image"', 'per="images"'),
)


def test_dir_shows_public_names_alone():
    assert {name for name in dir(pan_callbacks) if not name.startswith("__")} == set(pan_callbacks.__all__)
    assert all(getattr(pan_callbacks, name).__doc__ for name in pan_callbacks.__all__)


def test_a_type_checker_and_python_know_the_same_names():
    tree = ast.parse(Path(pan_callbacks.__file__).read_text(encoding="utf-8"))
    typed = {alias.asname for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert typed - {None} == set(pan_callbacks.__all__)


def test_the_error_has_a_signature_and_survives_a_process():
    assert list(inspect.signature(PANError).parameters) == ["message"]
    assert str(PANError("no image")) == "no image" == str(pickle.loads(pickle.dumps(PANError("no image"))))


@pytest.mark.parametrize("name", [name for name in vars(words) if name.isupper()])
def test_no_word_is_there_twice(name):
    found = getattr(words, name)
    assert len(found) == len(set(found)) > 1


@pytest.mark.parametrize(
    ("function", "argument", "type_"),
    [
        (pan_callbacks.scan, "reference", words.Reference),
        (pan_callbacks.PANMonitor.__init__, "reference", words.Reference),
        (pan_callbacks.masked, "mode", words.Mode),
        (pan_callbacks.PANMask.__init__, "mode", words.Mode),
        (pan_callbacks.PANMask.__init__, "which", words.Which),
        (pan_callbacks.PANMask.__init__, "refresh", words.Refresh),
        (pan_callbacks.padding_dropout, "per", words.Per),
        (pan_callbacks.PaddingDropout.__init__, "per", words.Per),
        (pan_callbacks.ImpactReport.arm, "kind", words.Kind),
        (pan_callbacks.ImpactReport.arm, "mode", words.ArmMode),
        (pan_callbacks.ImpactReport.controls, "mode", words.ArmMode),
        (pan_callbacks.ImpactReport.likeness, "mode", words.Mode),
        (Arm, "mode", words.ArmMode),
    ],
)
def test_arguments_with_a_few_words_say_which(function, argument, type_):
    hints = typing.get_type_hints(function, vars(sys.modules[function.__module__]))
    assert hints[argument] == type_


@pytest.mark.slow
def test_a_type_checker_finds_typos(tmp_path):
    """All in one run, with the settings of `make lint`: seconds after it, a minute on its own, most of it for torch."""
    lines = []
    for number, (right, typo) in enumerate(WRONG):
        assert RIGHT.count(right) == 1, right
        changed = RIGHT.replace(right, typo)
        lines.append(next(i for i, line in enumerate(changed.splitlines(), 1) if typo.split("\n")[0] in line))
        (tmp_path / f"wrong_{number}.py").write_text(changed)
    (tmp_path / "right.py").write_text(RIGHT)
    files = sorted(map(str, tmp_path.glob("*.py")))
    command = [sys.executable, "-m", "mypy", "--no-error-summary", *files]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    found = set(re.findall(r"wrong_(\d+)\.py:(\d+): error", ran.stdout))
    assert found == {(str(number), str(line)) for number, line in enumerate(lines)}, ran.stdout + ran.stderr
    assert "right.py" not in ran.stdout
