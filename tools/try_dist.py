"""Tries what ``make dist`` built: in an environment that holds the wheel and what it asks for, and nothing else.

python tools/try_dist.py dist

The packages that the wheel asks for are not downloaded once more: those of the environment that runs this are linked.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from email import message_from_bytes, policy
from importlib.metadata import Distribution, PathDistribution, distribution
from pathlib import Path

from packaging.requirements import Requirement

sys.path.insert(0, str(Path(__file__).parent))

from index_text import relative_links  # noqa: E402

#: What the sdist has to hold beside the package, so that tests and docs can be made from it.
IN_SDIST = {"setup.cfg", "setup.py", "pyproject.toml", "Makefile", "LICENSE", "CITATION.cff", "CHANGELOG.md"}
IN_SDIST |= {"README.md", "constraints.txt"}
FOLDERS_IN_SDIST = {"tests", "docs", "examples", "configs", "tools", "benchmarks"}
SMOKE = """
import sys, torch, pan_callbacks
assert pan_callbacks.__file__.startswith(sys.prefix), pan_callbacks.__file__
model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(4, 4, 3, padding=1))
report = pan_callbacks.scan(model, [torch.randn(8, 1, 24, 24)], progress=False)
assert report.neurons == 8, report.neurons
from pan_callbacks import PANMask, PaddingDropout, PANMonitor, PANPenalty
from importlib.metadata import entry_points
assert [point.load()() for point in entry_points(group="pytorch_lightning.callbacks_factory")] == [[]]
print(report.summary().splitlines()[0])
"""


def main(folder: str) -> None:
    """Raises what is wrong with a wheel and an sdist, and says what was tried."""
    (wheel,), (sdist,) = (sorted(Path(folder).glob(pattern)) for pattern in ("*.whl", "*.tar.gz"))
    with zipfile.ZipFile(wheel) as in_wheel, tarfile.open(sdist) as in_sdist:
        wrong = wrong_in_wheel(in_wheel.namelist()) + missing_in_sdist(in_sdist.getnames())
        wrong += dead_links(next(in_wheel.read(name) for name in in_wheel.namelist() if name.endswith("/METADATA")))
    if wrong:
        sys.exit("\n".join(wrong))
    with tempfile.TemporaryDirectory() as place:
        venv.create(place, with_pip=False)
        site = next(Path(place).glob("lib/python*/site-packages"))
        pip = [sys.executable, "-m", "pip", "--python", f"{place}/bin/python", "install", "--quiet"]
        subprocess.run([*pip, "--disable-pip-version-check", "--no-deps", "--no-index", wheel], check=True)
        for needed in requirements(PathDistribution(next(site.glob("pan_callbacks-*.dist-info")))):
            link(needed, site)
        for command in ([f"{place}/bin/pan-callbacks", "--version"], [f"{place}/bin/python", "-c", SMOKE]):
            subprocess.run(command, check=True, cwd=place)
    print(f"{wheel.name} and {sdist.name} are fit to be released")


def wrong_in_wheel(names: list[str]) -> list[str]:
    """Files of a wheel that are neither the package's nor about it."""
    return [f"the wheel holds {name}" for name in names if not re.match(r"pan_callbacks(-[^/]+\.dist-info)?/", name)]


def dead_links(metadata: bytes) -> list[str]:
    """What a package index would show of a wheel and could not follow, of its METADATA."""
    text = str(message_from_bytes(metadata, policy=policy.default).get_content())
    links = [f"the text for a package index leads to {address}, which is relative" for address in relative_links(text)]
    return links if text.strip() else ["the wheel has no text for a package index"]


def missing_in_sdist(names: list[str]) -> list[str]:
    """What an sdist lacks; its files lie in one folder, ``name-version/``."""
    inside = {name.partition("/")[2] for name in names}
    return [f"the sdist lacks {name}" for name in sorted((IN_SDIST | FOLDERS_IN_SDIST) - inside)]


def requirements(asks: Distribution) -> list[Distribution]:
    """Distributions that one asks for, without its extras, and those that these ask for."""
    found: dict[str, Distribution] = {}
    waiting = [(asks, frozenset[str]())]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        asking, extras = waiting.pop()
        for requirement in map(Requirement, asking.requires or ()):
            wanted = frozenset(requirement.extras)
            if not any(requirement.marker is None or requirement.marker.evaluate({"extra": e}) for e in ("", *extras)):
                continue
            if (requirement.name, wanted) in seen:
                continue
            seen.add((requirement.name, wanted))
            found[requirement.name] = distribution(requirement.name)
            version = found[requirement.name].version
            if not requirement.specifier.contains(version, prereleases=True):
                sys.exit(f"{asking.name} asks for {requirement}, and {version} is here")
            waiting.append((found[requirement.name], wanted))
    return list(found.values())


def link(needed: Distribution, site: Path) -> None:
    """Puts links to the files of a distribution into another environment."""
    for top in {file.parts[0] for file in needed.files or ()} - {"..", "__pycache__"}:
        if not (site / top).exists():
            (site / top).symlink_to(Path(str(needed.locate_file(top))))


if __name__ == "__main__":
    main(*sys.argv[1:])
