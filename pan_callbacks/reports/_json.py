"""Plain data in JSON files: written whole or not at all, without NaN, which JSON does not know."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pan_callbacks.reports._fields import shown

T = TypeVar("T")


def write_json(path: str | os.PathLike[str], data: Any) -> None:
    """Write data to a file, whole or not at all.

    Args:
        path: File to write; its folder is made if it is missing.
        data: Dicts, lists, strings, finite numbers and None.
    """
    write_whole(path, json.dumps(data, allow_nan=False).encode())


def write_whole(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file, whole or not at all; whatever had its name, a link or a pipe too, is replaced and not written to.

    Args:
        path: File to write; its folder is made if it is missing.
        content: All of it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_json(path: str | os.PathLike[str], make: Callable[[Any], T], what: str = "a report") -> T:
    """Read what :func:`write_json` wrote, and make something of it.

    Args:
        path: File to read.
        make: Takes the data; raises ValueError if they are not what they should be.
        what: What the file should be, in words.

    Raises:
        ValueError: If the file is no JSON, or ``make`` raises one; the message names the file.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"), parse_constant=_refuse)
    except RecursionError:
        raise ValueError(f"{path} is not {what}: lists within lists, too deep to be read") from None
    except ValueError as error:  # no JSON, no UTF-8, or a number of thousands of digits
        raise ValueError(f"{path} is not {what}: {error}") from error
    try:
        return make(data)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _refuse(constant: str) -> None:
    """Refuse what Python reads as JSON and nobody else does."""
    raise ValueError(f"{constant} is no JSON; a number that is not known is null")


def check_schema(data: Any, what: str, schema: str, version: int) -> None:
    """Raise ValueError if data are not of a schema, or of a later version of it.

    Args:
        data: What was read.
        what: What it should be, in words.
        schema: Name of the schema.
        version: Latest version that can be read.
    """
    if not isinstance(data, dict) or data.get("schema") != schema:
        raise ValueError(f"not {what} (no 'schema': {schema!r})")
    found = data.get("version")
    if not isinstance(found, int) or isinstance(found, bool) or not 1 <= found <= version:
        raise ValueError(f"schema version {shown(found)}, this version of pan_callbacks reads up to {version}")


def finite(value: Any) -> Any:
    """Return data with None in place of every number that is not finite.

    Example:
        >>> finite({"a": [1.0, float("nan")]})
        {'a': [1.0, None]}
    """
    if isinstance(value, dict):
        return {key: finite(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
