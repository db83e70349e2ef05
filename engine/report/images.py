"""Figures of single images, as evaluation has left them: neutral numbers in place of names. Torch-free."""

from __future__ import annotations

import json
from typing import Any

from engine.errors import UserError
from engine.experiments.spreadsheet import rows_csv
from engine.experiments.statistics import IMAGES_FILE
from engine.runs.store import RunStore

COLUMNS = ("model", "site", "class_name", "name", "group", "dice", "iou", "dice_five_thresholds", "iou_five_thresholds",
           "hd95_px", "hd95_penalised_px", "missed", "spurious", "predicted_px", "true_px")  # fmt: skip
"""``name`` and ``group`` (the patient) are the site's own numbers; HD95 and areas are of the scored grid."""


def images_csv(store: RunStore, run_id: str) -> str:
    """Return a line for each model, image and class, in the order of ``COLUMNS``.

    Raises ``UserError`` ``report.no_images`` for a run without figures of images.
    """
    try:
        found = json.loads((store.run_dir(run_id) / IMAGES_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        found = None
    rows = [_row(record) for record in found if isinstance(record, dict)] if isinstance(found, list) else []
    if not rows:
        raise UserError(
            "report.no_images",
            what=f"The run '{run_id}' keeps no figures of single images.",
            why="They are written when its models are measured; runs of early versions have none.",
            fix="Let it finish, or fork it from evaluation.",
        )
    return rows_csv(rows, columns=COLUMNS)


def _row(record: dict[str, Any]) -> dict[str, Any]:
    cells = {name: record.get(name) for name in COLUMNS}
    return {name: cell if isinstance(cell, str | int | float) else None for name, cell in cells.items()}
