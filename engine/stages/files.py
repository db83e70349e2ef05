"""Files that a stage hands on, written so that a reader sees the old one or the new one, never half of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from engine.errors import UserError


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as JSON under a temporary name, then rename it; floats that are not finite are refused."""
    temporary = path.with_suffix(".partial")
    temporary.parent.mkdir(parents=True, exist_ok=True)
    temporary.write_text(json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False), encoding="utf-8")
    temporary.replace(path)


def read_json(path: Path) -> Any:
    """Return what :func:`write_json` wrote; ``UserError`` ``stage.output_damaged`` where it is not there, whole."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            "stage.output_damaged",
            what=f"{path}, which an earlier stage wrote, cannot be read: {error}.",
            why="A later stage works on exactly what the earlier one left.",
            fix="Restore the run's folder from a backup, or fork the run from the stage that writes this file.",
        ) from error
