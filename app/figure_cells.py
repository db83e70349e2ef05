"""Cells of the tables of figures, the same for pictures and volumes: a dash where a figure does not exist. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from app import overlay_text as words
from app import reference_text

NOTHING = "–"


class Sized(Protocol):
    """A row of figures that tells the sizes of pieces; axes are in ``length_unit``."""

    @property
    def length_unit(self) -> str: ...
    @property
    def largest_long_axis(self) -> float | None: ...
    @property
    def largest_short_axis(self) -> float | None: ...
    @property
    def median_long_axis(self) -> float | None: ...


def figure(value: float | None, unit: str) -> str:
    """Return a figure with its unit."""
    return NOTHING if value is None else f"{value:,.2f} {unit}"


def axes(one: Sized) -> tuple[str, str]:
    """Return the largest piece's long and short axis in one cell, and the median long axis of all pieces."""
    largest = NOTHING
    if one.largest_long_axis is not None and one.largest_short_axis is not None:
        largest = f"{one.largest_long_axis:,.2f} × {one.largest_short_axis:,.2f} {one.length_unit}"
    return largest, figure(one.median_long_axis, one.length_unit)


def pieces(one: Any) -> str:
    """Return how many pieces there are; of what is counted apart by watershed, how many there are without that, too."""
    if one.instances is None:
        return f"{one.components:,}"
    return words.COUNTED.format(instances=one.instances, components=one.components)


def ratio(value: float | None) -> str:
    """Return a figure without a unit."""
    return NOTHING if value is None else f"{value:.3f}"


def surface(one: Any) -> str:
    """Return surface Dice with its tolerance."""
    if one.surface_dice is None:
        return NOTHING
    tolerance = figure(one.surface_tolerance, one.length_unit)
    return reference_text.SURFACE_TOLD.format(share=ratio(one.surface_dice), tolerance=tolerance)


MORE: Mapping[str, Callable[[Any], str]] = {
    words.RATIO: lambda one: ratio(one.cup_to_disc),
    reference_text.DICE: lambda one: ratio(one.dice),
    reference_text.IOU: lambda one: ratio(one.iou),
    reference_text.HD95: lambda one: figure(one.hd95, one.length_unit),
    reference_text.SURFACE: surface,
}
"""Columns by their names that a table has only where a row of it has such a figure."""


def more_columns(rows: Sequence[Any]) -> tuple[str, ...]:
    """Return which of :data:`MORE` a table of these rows has."""
    return tuple(name for name, cell in MORE.items() if any(cell(one) != NOTHING for one in rows))
