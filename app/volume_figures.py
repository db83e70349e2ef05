"""What a job on volumes measured, as tables: one model's figures, or those of two side by side. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from app import markup, overlay_text
from app import volume_text as words
from app.figure_cells import MORE, axes, figure, more_columns, pieces

if TYPE_CHECKING:  # they bring in what reads and segments volumes, which no first paint needs
    from export.outputs.compared import Compared
    from export.outputs.measurements import Measurement

ROWS_SHOWN = 50
"""Rows of figures that the page shows (ours)."""


def figures(measurements: Sequence[Measurement], compared: Sequence[Compared]) -> str:
    """Return all tables of a job: what two models have in common, then the figures of each mask."""
    if not compared:
        return figures_table([(one, None) for one in measurements])
    each = [(one, name) for pair in compared for one, name in zip(pair.figures, pair.models, strict=True)]
    return f"{compared_table(compared)}<h3>{words.EACH_TITLE}</h3>{figures_table(each)}"


def compared_table(compared: Sequence[Compared]) -> str:
    """Return two models' masks side by side: a volume for each class, in pixels where there is none, and Dice."""
    rows = "".join(f"<tr>{_compared_cells(pair)}</tr>" for pair in compared[:ROWS_SHOWN])
    first, second = compared[0].models
    told = words.COMPARED_NOTE.format(first=first, second=second, threshold=compared[0].figures[0].threshold)
    table = _table(words.COMPARED_COLUMNS, rows, num_rows=len(compared))
    return f"<h3>{words.COMPARED_TITLE}</h3>{markup.quiet(told)}{table}"


def figures_table(measured: Sequence[tuple[Measurement, str | None]]) -> str:
    """Return the figures as a table, with units where there are any and a dash where a figure does not exist.

    Each comes with the name of its model, None where there is only one.
    """
    if not measured:
        return ""
    more = more_columns([one for one, _ in measured])
    rows = "".join(f"<tr>{_cells(one, model, more)}</tr>" for one, model in measured[:ROWS_SHOWN])
    columns = [*words.COLUMNS, *more]
    if measured[0][1] is not None:
        columns.insert(1, words.MODEL_COLUMN)
    told = markup.quiet(overlay_text.COUNTED_NOTE) if any(one.instances is not None for one, _ in measured) else ""
    return _table(columns, rows, num_rows=len(measured)) + told


def _table(columns: Sequence[str], rows: str, *, num_rows: int) -> str:
    head = "".join(f"<th scope='col'>{name}</th>" for name in columns)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    table = f"<div class='table-scroll' tabindex='0'>{table}</div>"
    if num_rows > ROWS_SHOWN:
        table += markup.quiet(words.ROWS_SHOWN.format(shown=ROWS_SHOWN, total=num_rows))
    return table


def _compared_cells(pair: Compared) -> str:
    def size(num_px: int) -> str:
        volume = pair.ml(num_px)
        return f"{num_px:,} px" if volume is None else figure(volume, "mL")

    first = pair.figures[0]
    found = (
        *(size(one.foreground_px) for one in pair.figures),
        f"{pair.dice:.3f}",
        *(size(count) for count in pair.only_px),
        size(pair.differing_px),
    )
    return f"<th scope='row'>{escape(first.image)}</th><td>{escape(first.class_name)}</td>" + "".join(
        f"<td>{cell}</td>" for cell in found
    )


def _cells(one: Measurement, model: str | None, more: Sequence[str]) -> str:
    found = (
        f"{one.foreground_px:,} ({100 * one.share:.1f} %)",
        figure(one.area_mm2, "mm²"),
        figure(one.volume_ml, "mL"),
        pieces(one),
        *axes(one),
        figure(one.mean_intensity, one.intensity_unit),
        *(MORE[name](one) for name in more),
    )
    whose = "" if model is None else f"<td>{escape(model)}</td>"
    return f"<th scope='row'>{escape(one.image)}</th>{whose}<td>{escape(one.class_name)}</td>" + "".join(
        f"<td>{escape(cell)}</td>" for cell in found
    )
