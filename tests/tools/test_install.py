"""What ``make`` installs with: a Python that is new enough, a sign of life, and what pip said if it fails."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tools import install

ROOT = Path(__file__).parents[2]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def python_that_is(version, tmp_path):
    """A program that says of itself what a Python of that version says."""
    program = tmp_path / "bin" / "python"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho Python {version}\n")
    program.chmod(0o755)
    return program


@pytest.mark.parametrize("version", ["3.10.13", "3.9.0", "2.7.18"])
def test_an_old_python_is_refused_with_the_way_out_before_pip_runs(tmp_path, version):
    python = python_that_is(version, tmp_path)
    with pytest.raises(SystemExit, match=rf"3\.11 or newer, and {python} is {version}(.|\n)*make clean demo PYTHON="):
        install.main(str(tmp_path))
    assert not (tmp_path / "install.log").exists()


@pytest.mark.parametrize("version", ["3.11.0rc1", "3.13.0", "4.0.0"])
def test_a_new_python_is_not(tmp_path, version):
    assert install.check_version(python_that_is(version, tmp_path)) is None


def test_there_is_a_sign_of_life_and_everything_is_in_the_log(tmp_path):
    out, log = Terminal(), tmp_path / "install.log"
    command = [sys.executable, "-uc", "import time; print('Collecting torch (from x)'); time.sleep(0.7); print('end')"]
    assert install.watch(command, log, out) == 0
    shown = out.getvalue().split("\r")
    assert any("Collecting torch" in line and "from x" not in line for line in shown)
    assert shown[-1].rstrip().endswith("installed")
    assert log.read_text() == "Collecting torch (from x)\nend\n"


def test_a_log_is_not_filled_with_seconds(tmp_path):
    out = io.StringIO()
    install.watch([sys.executable, "-c", "print('a')"], tmp_path / "install.log", out)
    assert out.getvalue().count("\n") == 1


def test_a_failure_is_handed_on_with_the_end_of_what_pip_said(tmp_path, monkeypatch, capsys):
    python = python_that_is("3.11.7", tmp_path)
    python.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.11.7 && exit\necho no such package; exit 3\n')
    assert install.main(str(tmp_path), "nothing") == 3
    told = capsys.readouterr()
    assert "no such package" in told.err and "install.log" in told.err and "failed" in told.out


def test_a_line_says_at_what_it_is_and_fits_a_terminal_of_80_columns():
    line = install.sign_of_life(75.2, "Collecting torch==2.14.1 (from -c constraints.txt (line 27))")
    assert line.rstrip() == "  75 s  Collecting torch==2.14.1"
    assert len(line) == len(install.sign_of_life(12345.6, "x" * 300)) < 80


def test_warnings_are_for_the_log(tmp_path):
    said, lines = [""], ["Collecting torch\n", "WARNING: a place is ignored\n", "\n"]
    install.copy(lines, tmp_path / "log", said)
    assert said == ["Collecting torch"] and (tmp_path / "log").read_text() == "".join(lines)


@pytest.fixture
def makefile(tmp_path):
    """A copy of the Makefile with all that its installations depend on, and what it would install for a target."""
    for name in ("Makefile", "setup.cfg", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text((ROOT / name).read_text())
        os.utime(tmp_path / name, (1, 1))
    (tmp_path / ".venv").mkdir()

    def installs(target):
        ran = subprocess.run(["make", "-n", target], cwd=tmp_path, capture_output=True, text=True, check=True)
        return re.findall(r"tools/install\.py \.venv .*\.\[(\w+)\]", ran.stdout)

    return installs


def test_the_demo_installs_what_it_needs_and_the_tests_what_they_need(makefile):
    assert makefile("demo") == ["demo"] and makefile("test") == ["dev"]


def test_after_the_demo_the_tests_install_the_rest(makefile, tmp_path):
    (tmp_path / ".venv" / ".demo").touch()
    assert makefile("demo") == [] and makefile("test") == ["dev"]


def test_after_the_tests_the_demo_installs_nothing(makefile, tmp_path):
    made = ["make", "-n", "--no-print-directory", "install"]  # a make of its own, also within make test
    recipe = subprocess.run(made, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    touch = recipe.splitlines()[-1].split()
    assert touch[0] == "touch"
    for stamp in touch[1:]:
        (tmp_path / stamp).touch()
    assert makefile("test") == makefile("demo") == []


def test_another_version_is_installed_anew(makefile, tmp_path):
    for stamp in (".demo", ".installed"):
        (tmp_path / ".venv" / stamp).touch()
    later = (tmp_path / ".venv" / ".demo").stat().st_mtime + 5
    os.utime(tmp_path / "constraints.txt", (later, later))
    assert makefile("demo") == ["demo"] and makefile("test") == ["dev"]
