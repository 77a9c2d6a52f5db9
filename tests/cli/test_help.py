"""What the commands say of themselves: it fits, it is true, and its examples are understood."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys

import pytest

from pan_callbacks.cli.arguments import parse
from tests.cli.test_command import run

COMMANDS = ("scan", "impact", "advise", "compare")


@pytest.fixture
def helped(monkeypatch):
    """The help of a command, in a terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")

    def of(*command: str) -> str:
        ran = run(*command, "--help")
        assert ran.code == 0 and ran.err == ""
        return ran.out

    return of


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)], ids=" ".join)
def test_a_help_fits_80_columns(helped, command):
    assert max(map(len, helped(*command).splitlines())) <= 80


@pytest.mark.parametrize("command", COMMANDS)
def test_every_example_of_a_command_is_understood(helped, command):
    examples = re.findall(r"^  (pan-callbacks .*)$", helped(command), re.MULTILINE)
    assert len(examples) >= 2
    for line in examples:
        _, *arguments = shlex.split(line.split(" | ")[0])
        assert arguments[0] == command and parse(arguments, from_shell=False).options is not None


def test_the_help_of_the_program_has_an_example_of_each_command(helped):
    assert re.findall(r"^  pan-callbacks (\w+) .*(?<!--help)$", helped(), re.MULTILINE) == list(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_help_names_nothing_that_the_command_lacks(helped, command):
    said = helped(command)
    usage, _, rest = said.partition("\n\n")
    assert set(re.findall(r"--[a-z][a-z-]+", rest)) <= set(re.findall(r"--[a-z][a-z-]+", usage)) | {"--help"}
    assert set(re.findall(r"\b(?:MODEL|WEIGHTS|REPORT)\b", rest)) <= set(re.findall(r"\b[A-Z]{5,}\b", usage))
    assert ("controls" in rest) == (command == "impact")


def test_without_shtab_completion_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    ran = run("--print-completion", "bash")
    assert ran.code == 2 and ran.out == "" and "pip install shtab" in ran.err


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes_words_and_folders(tmp_path):
    pytest.importorskip("shtab")
    (tmp_path / "photos").mkdir()
    ran = run("--print-completion", "bash")
    words = {("pan-callbacks", "ad"): "advise", ("pan-callbacks", "scan", "x", "--images", "ph"): "photos"}
    for line, completed in words.items():
        typed = " ".join(map(shlex.quote, line))
        script = f"{ran.out}\nCOMP_WORDS=({typed}); COMP_CWORD={len(line) - 1}\n_shtab_pan_callbacks\necho $COMPREPLY"
        found = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=tmp_path, check=True)
        assert found.stdout.split()[-1:] == [completed]
