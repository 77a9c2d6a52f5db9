"""The house keeps its rooms: imports go down, in no circle, and what is heavy or Lightning's stays where it belongs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "pan_callbacks"
MOST_LINES = 300
#: What each room stands on: the higher may import the lower.
RANKS = {
    **{"errors": 0, "padding": 1, "layers": 2, "_runtime": 3},
    **{"reports": 4, "measurement": 5, "suppression": 6, "analysis": 7, "figures": 8},
    **{"sources": 8, "callbacks": 9, "cli": 9},
}
#: Hand on what lies in the rooms, and hold nothing themselves; the last two are for old pickles.
FACES = {"__init__", "__main__", "masking", "awareness"}
#: Beside the others, on the vocabulary alone.
SOURCES_MAY_IMPORT = {"errors", "padding", "layers", "_runtime", "sources"}
LIGHTNING = {"pytorch_lightning", "lightning", "lightning_fabric"}
LAZY = {"matplotlib", "timm", "rich", "torchvision", "skimage", "PIL", "pandas", "jinja2", "safetensors", "wandb"}


def name_of(file: Path) -> str:
    """Dotted name of a module within the package, ``"measurement.engine"``."""
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


SOURCES = {name_of(file): file.read_text(encoding="utf-8") for file in sorted(PACKAGE.rglob("*.py"))}


def imports(source: str, at_top_alone: bool = False) -> set[str]:
    """Modules that a source imports, ``from a import b`` as ``a`` and ``a.b``; all, or those of its top level."""
    nodes = list(ast.parse(source).body)
    found: set[str] = set()
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            source = "." * node.level + (node.module or "")
            found |= {source, *(f"{source}.{alias.name}" for alias in node.names)}
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func).endswith(("import_module", "__import__"))
            and node.args
        ):
            found |= {arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant)}
        if at_top_alone and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            nodes += node.orelse
        elif not at_top_alone or not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            nodes += ast.iter_child_nodes(node)
    return found


def ours(source: str, known: set[str]) -> set[str]:
    """Modules of this package that a source imports, lazily or for types as well."""
    prefix = "pan_callbacks."
    names = {name.removeprefix(prefix) for name in imports(source) if name.startswith(prefix)}
    return names & known


def room(module: str) -> str:
    return module.split(".")[0]


def upward(sources: dict[str, str]) -> list[str]:
    """Imports that go up, or across between rooms that are not to know each other."""
    found = []
    for module, source in sources.items():
        here = room(module)
        for target in sorted(ours(source, set(sources))):
            there = room(target)
            if here in FACES or here == there:
                continue
            wrong = there in FACES or RANKS[there] >= RANKS[here]
            if wrong or here == "sources" and there not in SOURCES_MAY_IMPORT or there == "sources" and here != "cli":
                found.append(f"{module} -> {target}")
    return found


def circle(sources: dict[str, str]) -> list[str]:
    """Modules that import each other in a circle; none if there is none."""
    arrows = {module: ours(source, set(sources)) - {module} for module, source in sources.items()}
    while arrows:
        ends = {module for module, targets in arrows.items() if not targets & arrows.keys()}
        if not ends:
            return sorted(arrows)
        arrows = {module: targets for module, targets in arrows.items() if module not in ends}
    return []


def outside(source: str, at_top_alone: bool = False) -> set[str]:
    """Top-level names of the packages that a source imports."""
    return {name.split(".")[0] for name in imports(source, at_top_alone)}


def roundabout(source: str) -> set[str]:
    """Imports that hide where they go: relative ones, and those of the package's face, which hands on every room."""
    names = imports(source)
    faces = {name for name in names if re.fullmatch(r"pan_callbacks\.[A-Za-z_]+", name)} - {"pan_callbacks.__version__"}
    faces = {name for name in faces if name.split(".")[1] not in RANKS}
    alone = {"pan_callbacks"} if re.search(r"^\s*import pan_callbacks\s*$", source, re.MULTILINE) else set()
    return {name for name in names if name.startswith(".")} | faces | alone


def unsafe_loads(source: str) -> list[int]:
    """Lines of calls of ``torch.load`` that may run code of what they load."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    loads = [call for call in calls if ast.unparse(call.func) == "torch.load" or _says(call, "weights_only")]
    return [call.lineno for call in loads if not _says(call, "weights_only", True)]


def _says(call: ast.Call, argument: str, value: object = None) -> bool:
    given = [keyword.value for keyword in call.keywords if keyword.arg == argument]
    return bool(given) and (value is None or getattr(given[0], "value", None) is value)


def excused(page: str) -> set[str]:
    """Files over the limit for which docs/architecture.md gives a reason."""
    _, _, section = page.partition("## Files over 300 lines")
    return set(re.findall(r"^\* `(pan_callbacks/[\w/]+\.py)`: .{20,}", section.partition("\n## ")[0], re.MULTILINE))


def test_every_module_lies_in_a_room():
    assert {room(module) for module in SOURCES} == set(RANKS) | FACES


def test_imports_go_down():
    assert upward(SOURCES) == []


def test_there_is_no_circle():
    assert circle(SOURCES) == []


@pytest.mark.parametrize(
    ("sources", "wrong"),
    [
        ({"layers": "", "reports.a": "from pan_callbacks.layers import x"}, []),
        ({"layers": "from pan_callbacks.reports import a", "reports.a": "", "reports": ""}, ["layers -> reports"]),
        (
            {"figures.a": "", "analysis.b": "def f():\n    from pan_callbacks.figures.a import g"},
            ["analysis.b -> figures.a"],
        ),
        ({"cli.a": "import pan_callbacks.callbacks.b", "callbacks.b": ""}, ["cli.a -> callbacks.b"]),
        (
            {"sources.a": "from pan_callbacks.reports import b", "reports.b": "", "reports": ""},
            ["sources.a -> reports"],
        ),
        (
            {"figures.a": "if TYPE_CHECKING:\n    from pan_callbacks.sources.b import c", "sources.b": ""},
            ["figures.a -> sources.b"],
        ),
    ],
)
def test_imports_that_go_up_are_seen(sources, wrong):
    assert [arrow for arrow in upward(sources) if arrow in wrong] == wrong and bool(upward(sources)) == bool(wrong)


def test_a_circle_is_seen_wherever_the_import_stands():
    chain = {"reports.a": "from pan_callbacks.reports import b", "reports.b": "import pan_callbacks.reports.c"}
    assert circle(chain | {"reports.c": ""}) == []
    assert circle(chain | {"reports.c": "def f():\n    from pan_callbacks.reports.a import x"}) == [*chain, "reports.c"]


@pytest.mark.parametrize("module", SOURCES)
def test_lightning_is_imported_by_callbacks_and_the_command_line_alone(module):
    assert room(module) in ("callbacks", "cli") or not outside(SOURCES[module]) & LIGHTNING


@pytest.mark.parametrize("module", SOURCES)
def test_heavy_packages_are_imported_where_they_are_used(module):
    assert outside(SOURCES[module], at_top_alone=True) & LAZY == set()


def test_what_runs_at_the_top_is_told_from_what_does_not():
    source = "if TYPE_CHECKING:\n    import timm\nelse:\n    import jinja2\nif x:\n    import PIL.Image\n"
    source += "def f():\n    import rich\nasync def g():\n    import wandb\n"
    assert outside(source, at_top_alone=True) == {"PIL", "jinja2"}
    assert outside(source) == {"timm", "rich", "PIL", "jinja2", "wandb"}


def heavy_after(*statements: str) -> list[set[str]]:
    """What of the heavy packages is loaded after each of some statements, one after another."""
    code = "import sys\n" + "".join(f"{statement}\nprint(*sys.modules)\n" for statement in statements)
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    return [set(line.split()) & LAZY for line in ran.stdout.splitlines()]


def test_a_callback_loads_no_more_than_lightning_does():
    both = "import lightning.pytorch, pytorch_lightning"
    of_both, with_ours = heavy_after(both, "from pan_callbacks import PANMonitor, PANPenalty, PANMask, scan")
    assert with_ours == of_both


def test_the_package_alone_and_the_help_of_the_command_load_nothing_heavy():
    package, command, told_apart = heavy_after(
        "import pan_callbacks", "import pan_callbacks.cli.main", "import rich, jinja2"
    )
    assert package == command == set()
    assert told_apart == {"rich", "jinja2"}


def test_files_are_short_or_say_why():
    lines = {str(file.relative_to(ROOT)): len(file.read_text().splitlines()) for file in PACKAGE.rglob("*.py")}
    long = {name for name, count in lines.items() if count > MOST_LINES}
    assert long == excused((ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"))


def test_an_excuse_has_a_reason():
    reason, none = "* `pan_callbacks/a/b.py`: one subject, half of it is docstrings", "* `pan_callbacks/c.py`: long"
    page = f"## Files over 300 lines\n\n{reason}\n{none}\n"
    assert excused(page) == {"pan_callbacks/a/b.py"}


@pytest.mark.parametrize("module", [module for module in SOURCES if room(module) not in FACES])
def test_imports_say_where_they_go(module):
    assert roundabout(SOURCES[module]) == set()


def test_roundabout_imports_are_seen():
    assert roundabout("from ..figures import b") == {"..figures", "..figures.b"}
    assert roundabout("from pan_callbacks import scan, __version__") == {"pan_callbacks.scan"}
    assert roundabout("import pan_callbacks\nfrom pan_callbacks.reports import pans") == {"pan_callbacks"}
    assert imports("import importlib\nimportlib.import_module('pan_callbacks.cli.main')") >= {"pan_callbacks.cli.main"}


@pytest.mark.parametrize("module", SOURCES)
def test_nothing_is_unpickled(module):
    assert "pickle" not in outside(SOURCES[module]) and unsafe_loads(SOURCES[module]) == []


def test_unsafe_loads_are_seen():
    assert unsafe_loads("torch.load(p)\ntorch.load(p, weights_only=True)\nload(p, weights_only=False)") == [1, 3]


def test_the_pages_of_statistics_say_the_resolution_of_the_code():
    from pan_callbacks.measurement.contrast import RESOLUTION

    power = {2.0**-n: "".join("⁰¹²³⁴⁵⁶⁷⁸⁹"[int(digit)] for digit in str(n)) for n in range(1, 60)}[RESOLUTION]
    assert f"2⁻{power}" in (ROOT / "docs" / "statistics.md").read_text(encoding="utf-8")
