"""A griffe extension: docstrings as they are written here, in the form that mkdocstrings shows."""

from __future__ import annotations

import re
from typing import Any

import griffe


def shown(docstring: str) -> str:
    """A docstring with its roles as names, its links as Markdown, and its example as a section."""
    docstring = re.sub(r":\w+:`~?([^`]+)`", lambda role: f"`{role[1].rsplit('.', 1)[-1]}`", docstring)
    docstring = re.sub(r"`([^`<]+?)\s+<([^>`]+)>`_", r"[\1](\2)", docstring)
    return re.sub(r"^Example:$", "Examples:", docstring, flags=re.MULTILINE)


class Docstrings(griffe.Extension):
    """Changes every docstring that is loaded."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Is called for each module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = shown(obj.docstring.value)
