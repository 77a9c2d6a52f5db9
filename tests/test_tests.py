"""Every test says something that could be wrong."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

FILES = sorted(Path(__file__).parent.rglob("test_*.py"))
ASSERTING = ("raises", "warns", "fail")  # of pytest; beside them assert, and whatever is called assert_...


def functions(tree: ast.AST) -> dict[str, ast.FunctionDef]:
    """The functions of a module and the methods of its classes, without what is defined within them."""
    bodies = [tree.body, *(node.body for node in tree.body if isinstance(node, ast.ClassDef))]
    return {node.name: node for body in bodies for node in body if isinstance(node, ast.FunctionDef)}


def says_something(function: ast.FunctionDef, helpers: dict[str, ast.FunctionDef], seen: tuple[str, ...] = ()) -> bool:
    """Whether a function, or one that it calls, asserts."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assert):
            return True
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in ASSERTING or name.startswith("assert_"):
                return True
            if name in helpers and name not in seen and says_something(helpers[name], helpers, (*seen, name)):
                return True
    return False


def silent(source: str) -> list[str]:
    """Tests of a module that assert nothing."""
    helpers = functions(ast.parse(source))
    return [n for n, function in helpers.items() if n.startswith("test_") and not says_something(function, helpers)]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_test_asserts(file):
    assert silent(file.read_text(encoding="utf-8")) == []


def test_a_test_without_an_assertion_is_seen():
    bodies = {"test_a": "f()", "test_b": "assert f()", "test_c": "helper()", "helper": "assert f()"}
    source = "".join(f"def {name}():\n    {body}\n" for name, body in bodies.items())
    assert silent(source) == ["test_a"]
    assert silent("class TestX:\n    def test_a(self):\n        def test_b():\n            pass\n") == ["test_a"]


def test_names_of_test_files_are_their_own():
    names = [file.name for file in FILES]
    assert len(names) == len(set(names)) > 40
