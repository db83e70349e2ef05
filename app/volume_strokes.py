"""Strokes on the planes of a volume: which voxels of the whole they set and clear. Pure numpy.

A stroke lies in one slice of what the browser is shown, which may be every n-th voxel: each of these stands for the
voxels up to the next. Shape legend: K classes; S, H, W slices, rows and columns of the volume as it was read; Z, Y, X
the axes that are shown (``app.volume_view``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from app.strokes import Stroke, covered, is_kind, stroke_of
from engine.data.orientation import Turn

MAX_STROKES = 300
"""Of one volume (ours)."""


@dataclass(frozen=True)
class PlaneStroke:
    """A stroke in slice ``number`` of what is shown, across axis ``axis`` (0 Z, 1 Y, 2 X)."""

    axis: int
    number: int
    stroke: Stroke


@dataclass(frozen=True)
class Grid:
    """What the browser is shown of a volume: ``shape`` (Z, Y, X), ``every`` n-th slice, row and column, turned so."""

    shape: tuple[int, int, int]
    every: tuple[int, int, int]
    turn: Turn

    def plane_size(self, axis: int) -> tuple[int, int]:
        """Return how many rows and columns a slice across ``axis`` has."""
        rows, columns = (size for at, size in enumerate(self.shape) if at != axis)
        return rows, columns


def plane_stroke(value: object, told: object, *, grid: Grid, num_classes: int) -> PlaneStroke | None:
    """Return what a browser tells as ``kind:axis:slice:class`` and [size, row, column, ...]; None for what is none."""
    kind, *numbers = value.split(":") if isinstance(value, str) and len(value) <= 40 else [""]
    if not is_kind(kind) or len(numbers) != 3 or not all(one.isascii() and one.isdigit() for one in numbers):
        return None
    axis, number, class_index = (int(one) for one in numbers)
    if axis > 2 or number >= grid.shape[axis] or class_index >= num_classes:
        return None
    stroke = stroke_of(kind, class_index, told, size_hw=grid.plane_size(axis))
    return None if stroke is None else PlaneStroke(axis, number, stroke)


def apply(masks_KSHW: np.ndarray, done: Sequence[PlaneStroke], *, grid: Grid) -> None:
    """Set and clear what strokes cover, in place and in their order; masks are {0, 1}."""
    for one in done:
        plane = np.zeros(grid.plane_size(one.axis), bool)
        covered(one.stroke, size_hw=grid.plane_size(one.axis)).fill(plane, True)
        slab_SHW = grid.turn.undo(np.expand_dims(plane, one.axis))  # one voxel thick
        own = grid.turn.axes[one.axis]
        number = grid.shape[one.axis] - 1 - one.number if grid.turn.flips[one.axis] else one.number
        mask_SHW = masks_KSHW[one.stroke.class_index]
        where: list[slice] = [slice(None)] * 3
        where[own] = slice(number * grid.every[own], (number + 1) * grid.every[own])
        for axis in range(3):
            if axis != own:
                slab_SHW = slab_SHW.repeat(grid.every[axis], axis)
        part_SHW = mask_SHW[tuple(where)]
        inside_SHW = slab_SHW[tuple(slice(size) for size in part_SHW.shape)]
        part_SHW[np.broadcast_to(inside_SHW, part_SHW.shape)] = one.stroke.kind == "brush"
