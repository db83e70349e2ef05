"""What the sites have told of their generators, as a file of the run. Torch-free: report and page read it too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from engine.errors import UserError

CHECKS_FILE = Path("generator_checks") / "figures.json"
"""By site: ``state`` (``SENT``, ``WITHHELD``), ``reason`` (a half sentence, or nothing) and ``figures``."""
SENT, WITHHELD = "sent", "withheld"


def read_checks(run_dir: Path) -> dict[str, dict[str, Any]]:
    """Return by site what it has told; nothing where no site was asked, ``UserError`` ``stage.output_damaged``."""
    path = run_dir / CHECKS_FILE
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            "stage.output_damaged",
            what=f"{path} cannot be read: {error}.",
            why="It says which sites have withheld their generators.",
            fix="Restore the run's folder from a backup, or fork the run from generator_training.",
        ) from error
