"""Plain data in JSON files: written whole or not at all, without NaN, which JSON does not know."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


def write_json(path: str | os.PathLike[str], data: Any) -> None:
    """Write data to a file, whole or not at all.

    Args:
        path: File to write; its folder is made if it is missing.
        data: Dicts, lists, strings, finite numbers and None.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    try:
        temporary.write_text(json.dumps(data, allow_nan=False), encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_json(path: str | os.PathLike[str], make: Callable[[Any], T]) -> T:
    """Read what :func:`write_json` wrote, and make something of it.

    Raises:
        ValueError: If the file is no JSON, or ``make`` raises one; the message names the file.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a report: {error}") from error
    try:
        return make(data)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


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
    if not isinstance(data.get("version"), int) or data["version"] > version:
        raise ValueError(f"schema version {data.get('version')!r}, this version of pan_callbacks reads up to {version}")


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


def with_nan(value: Any) -> Any:
    """Return data with NaN in place of every None, also within lists."""
    if isinstance(value, list):
        return [with_nan(v) for v in value]
    return math.nan if value is None else value
