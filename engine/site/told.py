"""What a site has told of its data for a run, kept in its folder of the run, for its own people."""

from __future__ import annotations

import json
from pathlib import Path

FILE = "told.json"


def keep(run_folder: Path, *, dataset: str, description: str) -> None:
    """Keep the texts of a description's reply, as they went up."""
    part = (run_folder / FILE).with_suffix(".part")
    part.write_text(json.dumps({"dataset": dataset, "description": description}), encoding="utf-8")
    part.replace(run_folder / FILE)


def read(run_folder: Path) -> tuple[str, str] | None:
    """Return (dataset, description); None where nothing has been told for the run, or what was kept cannot be read."""
    try:
        kept = json.loads((run_folder / FILE).read_text(encoding="utf-8"))
        return str(kept["dataset"]), str(kept["description"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
