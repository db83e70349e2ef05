"""The results table: one formatter for the terminal, the README commands and JSON. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from typing import Any, Literal, TypeVar

from engine.methods.catalogue import RunModels, model_title
from engine.types import EvaluationRow, ModelDifference, SiteSpread

HEADER = ("Model", "Site", "Class", "Images", "Dice [95 % interval]", "IoU", "Dice (5 cuts)", "IoU (5 cuts)",
          "HD95 px (of)", "Missed/false", "HD95 + misses")  # fmt: skip
DIFFERENCE_HEADER = ("Model", "against", "Site", "Class", "Images", "Dice difference [95 % interval]")
SPREAD_HEADER = ("Model", "Worst site", "Sites", "Worst Dice", "Mean over sites", "SD over sites")
LEGEND = (
    'Intervals resample patients (in brackets where they are fewer than the images). "5 cuts" are means over five '
    "thresholds of the raw logits, as in the DSFedMed authors' code. HD95 is in pixels of the scored grid, over the "
    'images (in brackets) in which both masks have foreground; "missed" counts masks of which nothing was predicted, '
    '"false" predictions where there is nothing; "HD95 + misses" is over all images, the diagonal for each of those.'
)
"""What the columns of ``format_table`` are."""
UNDEFINED = "-"
Style = Literal["text", "markdown"]


Row = TypeVar("Row", EvaluationRow, ModelDifference)


def named(rows: Iterable[Row], config: RunModels) -> list[Row]:
    """Return ``rows`` of a run under its own names of models ("FedSAM", "U-Net, FedAvg only"); tables keep these."""
    found = []
    for row in rows:
        own = {"model": model_title(row.model, config)}
        if isinstance(row, ModelDifference):
            own["baseline"] = model_title(row.baseline, config)
        found.append(replace(row, **own))
    return found


def format_table(rows: Sequence[EvaluationRow], *, style: Style = "text") -> str:
    """Return the rows as aligned text or as a Markdown table, in the order given; all in [0, 1] but HD95."""
    return _lay_out([HEADER, *(table_cells(row) for row in rows)], num_text_columns=3, style=style)


def format_differences(rows: Sequence[ModelDifference], *, style: Style = "text") -> str:
    """Return the differences between models as a table in the order given, Dice in [-1, 1]."""
    return _lay_out([DIFFERENCE_HEADER, *(difference_cells(row) for row in rows)], num_text_columns=4, style=style)


def format_spread(rows: Sequence[SiteSpread], *, style: Style = "text") -> str:
    """Return how evenly models serve the sites of one split, in the order given."""
    return _lay_out([SPREAD_HEADER, *(spread_cells(row) for row in rows)], num_text_columns=2, style=style)


def _lay_out(lines: Sequence[tuple[str, ...]], *, num_text_columns: int, style: Style) -> str:
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    texts = [
        [
            cell.ljust(width) if column < num_text_columns else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        for line in lines
    ]
    if style == "text":
        rule = ["-" * width for width in widths]
        return "\n".join("  ".join(cells).rstrip() for cells in [texts[0], rule, *texts[1:]])
    rule = [
        "-" * width if column < num_text_columns else "-" * (width - 1) + ":" for column, width in enumerate(widths)
    ]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [texts[0], rule, *texts[1:]])


def table_cells(row: EvaluationRow) -> tuple[str, ...]:
    """Return the texts of one line, one for each column of ``HEADER``."""
    misses = UNDEFINED if row.num_missed is None else f"{row.num_missed}/{row.num_spurious}"
    return (
        model_title(row.model),
        row.site,
        row.class_name,
        images_cell(row.num_images, row.num_groups),
        f"{row.dice:.3f} [{_interval(row.dice_low, row.dice_high, sign='')}]",
        f"{row.iou:.3f}",
        f"{row.dice_five_thresholds:.3f}",
        f"{row.iou_five_thresholds:.3f}",
        _pixels(row.hd95_px) if row.num_hd95 is None else f"{_pixels(row.hd95_px)} ({row.num_hd95})",
        misses,
        _pixels(row.hd95_penalised_px),
    )


def difference_cells(row: ModelDifference) -> tuple[str, ...]:
    """Return the texts of one line, one for each column of ``DIFFERENCE_HEADER``."""
    return (
        model_title(row.model),
        model_title(row.baseline),
        row.site,
        row.class_name,
        images_cell(row.num_images, row.num_groups),
        f"{row.dice:+.3f} [{_interval(row.dice_low, row.dice_high, sign='+')}]",
    )


def spread_cells(row: SiteSpread) -> tuple[str, ...]:
    """Return the texts of one line, one for each column of ``SPREAD_HEADER``."""
    figures = (row.worst_dice, row.dice, row.dice_sd)
    return (model_title(row.model), row.worst_site, str(row.num_sites), *(f"{figure:.3f}" for figure in figures))


def images_cell(num_images: int, num_groups: int | None) -> str:
    """Return the number of images, and of patients where they are fewer."""
    return str(num_images) if num_groups in (None, num_images) else f"{num_images} ({num_groups})"


def _interval(low: float | None, high: float | None, *, sign: Literal["", "+"]) -> str:
    return "one patient" if low is None or high is None else f"{low:{sign}.3f}, {high:{sign}.3f}"


def _pixels(value: float | None) -> str:
    return UNDEFINED if value is None else f"{value:.1f}"


def rows_as_json(rows: Sequence[EvaluationRow]) -> list[dict[str, Any]]:
    """Return the rows as JSON objects with the field names of :class:`engine.types.EvaluationRow`."""
    return [asdict(row) for row in rows]
