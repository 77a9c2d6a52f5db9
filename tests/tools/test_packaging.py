"""What is released is what is promised: one version, bounds that were run, an sdist that can be tested."""

from __future__ import annotations

import configparser
import re
from importlib.metadata import PathDistribution, requires
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import pan_callbacks
from tools import install, try_dist

ROOT = Path(__file__).parents[2]
CONFIG = configparser.ConfigParser()
CONFIG.read(ROOT / "setup.cfg")
EXTRAS = CONFIG["options.extras_require"]


def lines(text):
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


def pins(name):
    """Name of a package to the version that a file of constraints has."""
    return {pin.split("==")[0]: pin.split("==")[1] for pin in lines((ROOT / name).read_text())}


def asked(*extras):
    """What an installation with some extras asks for itself."""
    return list(map(Requirement, lines("\n".join([CONFIG["options"]["install_requires"], *map(EXTRAS.get, extras)]))))


def test_the_citation_is_of_this_version_and_of_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    (paper,) = citation["references"]
    assert citation["version"] == pan_callbacks.__version__ and citation["title"] == "pan_callbacks"
    assert [one["family-names"] for one in paper["authors"]] == ["Garcia-Gasulla", "Gimenez-Abalos", "Martin-Torres"]
    assert paper["url"] == "https://arxiv.org/abs/2309.08048"
    assert paper["url"] in CONFIG["metadata"]["project_urls"]


def test_every_lower_bound_is_the_version_that_the_oldest_environment_has():
    oldest = pins("constraints-oldest.txt")
    bounded = {one.name: one.specifier for one in asked("demo") if one.specifier}
    assert {name: SpecifierSet(f">={oldest[name]}") for name in bounded} == bounded


@pytest.mark.parametrize("constraints", ["constraints.txt", "constraints-oldest.txt"])
def test_the_versions_of_both_environments_suit_what_is_asked_for(constraints):
    pinned = pins(constraints)
    assert [str(one) for one in asked(*EXTRAS) if one.name in pinned and pinned[one.name] not in one.specifier] == []


def test_one_oldest_python_is_promised_everywhere():
    least = ".".join(map(str, install.OLDEST_PYTHON))
    assert CONFIG["options"]["python_requires"] == f">={least}"
    pyproject = (ROOT / "pyproject.toml").read_text()
    assert f'python_version = "{least}"' in pyproject and f'target-version = "py{least.replace(".", "")}"' in pyproject
    assert f"Python :: {least}" in CONFIG["metadata"]["classifiers"]


@pytest.mark.parametrize("file", sorted((ROOT / ".github" / "workflows").glob("*.yml")), ids=lambda file: file.stem)
def test_a_workflow_runs_targets_of_the_makefile(file):
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)) | {"docs"}
    jobs = yaml.safe_load(file.read_text())["jobs"].values()
    runs = [step["run"] for job in jobs for step in job["steps"] if "run" in step]
    assert runs and {run.removeprefix("make ") for run in runs} <= targets


def test_a_wheel_with_tests_in_it_and_an_sdist_without_are_not_released():
    package = ["pan_callbacks/layers.py", "pan_callbacks-0.1.0.dist-info/METADATA"]
    assert try_dist.wrong_in_wheel(package) == []
    assert try_dist.wrong_in_wheel([*package, "tests/test_layers.py"]) == ["the wheel holds tests/test_layers.py"]
    whole = [f"pan_callbacks-0.1.0/{name}" for name in try_dist.IN_SDIST | try_dist.FOLDERS_IN_SDIST]
    assert try_dist.missing_in_sdist(whole) == []
    assert try_dist.missing_in_sdist(whole[1:]) == [f"the sdist lacks {whole[0].partition('/')[2]}"]


def test_what_the_sdist_has_to_hold_is_in_the_repository():
    assert all((ROOT / name).exists() for name in try_dist.IN_SDIST | try_dist.FOLDERS_IN_SDIST)


def wheel_that_asks(tmp_path, *requirements):
    metadata = "".join(f"Requires-Dist: {one}\n" for one in requirements)
    (tmp_path / "METADATA").write_text(f"Metadata-Version: 2.1\nName: a\nVersion: 1\n{metadata}")
    return PathDistribution(tmp_path)


def test_a_wheel_is_tried_with_what_it_asks_for_and_what_that_asks_for(tmp_path):
    asks = wheel_that_asks(tmp_path, "torchmetrics>=1", "scipy; extra == 'more'", "never; python_version < '3'")
    found = {one.name.lower() for one in try_dist.requirements(asks)}
    assert {"torchmetrics", "torch", "numpy"} <= found
    assert not {"scipy", "never", "pytest"} & found and "torch" in " ".join(requires("torchmetrics"))


def test_a_wheel_that_asks_for_another_version_is_not_released(tmp_path):
    with pytest.raises(SystemExit, match="a asks for numpy>=1000, and"):
        try_dist.requirements(wheel_that_asks(tmp_path, "numpy>=1000"))
