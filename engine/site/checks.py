"""What a site has measured of its generators, on its own disk, for its operator. Torch-free."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from engine.federation.release import WITHHELD

FOLDER, REPORT = "generator_check", "report.json"
"""Below the state of a run: the figures and each copy, ``copy_NUMBER.png``, drawn on the left, its original beside."""


def read_reports(folder: Path) -> list[dict[str, Any]]:
    """Return, for each run of the site in ``folder``, ``run``, ``state``, ``figures`` and the folder of ``pairs``.

    Of a report that cannot be read there are no figures, and the state says so.
    """
    found = []
    for path in sorted((folder / "runs").glob(f"*/{FOLDER}/{REPORT}")):
        try:
            figures = dict(json.loads(path.read_text(encoding="utf-8"))["figures"])
            state = "withheld" if figures[WITHHELD] else "sent"
        except (OSError, ValueError, TypeError, KeyError):
            figures, state = {}, "report cannot be read"
        has_pairs = any(path.parent.glob("copy_*.png"))
        found.append(
            {
                "run": path.parents[1].name,
                "state": state,
                "figures": figures,
                "pairs": str(path.parent) if has_pairs else "",
            }
        )
    return found
