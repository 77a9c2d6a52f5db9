"""Results of single rows: a JSON file each, from which the page is written."""

from __future__ import annotations

import json
from pathlib import Path

FOLDER, QUICK = Path("runs/performance"), Path("runs/performance/quick")


def save(row: str, result: dict, folder: Path) -> Path:
    """Writes what a row gave.

    Args:
        row: Name of the row.
        result: ``values``, or ``failed`` with a message; beside them ``machine``, ``command`` and ``minutes``.
        folder: Where results lie.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{row}.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return path


def load(folder: Path) -> dict[str, dict]:
    """Row to what it gave, for those that were run."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}


def look_up(result: dict | None, path: str) -> float | None:
    """The number at ``"centre/epoch/median"`` of a row, None if there is none; of ``"a - b"`` the difference."""
    if " - " in path:
        one, other = (look_up(result, part) for part in path.split(" - "))
        return None if one is None or other is None else one - other
    found = (result or {}).get("values")
    for key in path.split("/"):
        found = found.get(key) if isinstance(found, dict) else None
    return found if isinstance(found, (int, float)) else None
