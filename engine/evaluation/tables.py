"""The results table: one formatter for the terminal, the README commands and JSON. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal

from engine.types import EvaluationRow

MODEL_TITLES = {
    "fedavg_student": "TinySAM, FedAvg only",
    "finetuned_teacher": "SAM, fine-tuned on synthetic",
    "distilled_teacher": "SAM, mutually distilled",
    "distilled_student": "TinySAM, mutually distilled",
}
HEADER = ("Model", "Site", "Class", "Images", "Dice [95 % interval]", "IoU", "Dice (5 cuts)", "IoU (5 cuts)", "HD95 px")
NUM_TEXT_COLUMNS = 3
UNDEFINED = "-"


def format_table(rows: Sequence[EvaluationRow], *, style: Literal["text", "markdown"] = "text") -> str:
    """Return the rows as aligned text or as a Markdown table, in the order given; all in [0, 1] but HD95."""
    lines = [HEADER, *(table_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADER))]
    texts = [
        [
            cell.ljust(width) if column < NUM_TEXT_COLUMNS else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        for line in lines
    ]
    if style == "text":
        rule = ["-" * width for width in widths]
        return "\n".join("  ".join(cells).rstrip() for cells in [texts[0], rule, *texts[1:]])
    rule = [
        "-" * width if column < NUM_TEXT_COLUMNS else "-" * (width - 1) + ":" for column, width in enumerate(widths)
    ]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [texts[0], rule, *texts[1:]])


def table_cells(row: EvaluationRow) -> tuple[str, ...]:
    """Return the texts of one line, one for each column of ``HEADER``."""
    return (
        MODEL_TITLES.get(row.model, row.model),
        row.site,
        row.class_name,
        str(row.num_images),
        f"{row.dice:.3f} [{row.dice_low:.3f}, {row.dice_high:.3f}]",
        f"{row.iou:.3f}",
        f"{row.dice_five_thresholds:.3f}",
        f"{row.iou_five_thresholds:.3f}",
        UNDEFINED if row.hd95_px is None else f"{row.hd95_px:.1f}",
    )


def rows_as_json(rows: Sequence[EvaluationRow]) -> list[dict[str, Any]]:
    """Return the rows as JSON objects with the field names of :class:`engine.types.EvaluationRow`."""
    return [asdict(row) for row in rows]
