"""Volumes turned to the patient's axes and back, and the letters beside a picture of them. Torch-free.

Radiological display: the patient's right is on the left of the picture (of a sagittal slice: the front), the front of
an axial slice and the head of the others at the top. Letters are DICOM's: R, L, A, P, H (head), F (feet).

Shape legend: S, H, W slices, rows and columns as they are returned by a reader; Z, Y, X the axes of LPS (x to the left,
y to the back, z to the head).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Plane = Literal["axial", "coronal", "sagittal"]
PLANES: tuple[Plane, ...] = ("axial", "coronal", "sagittal")
LETTERS = (("L", "R"), ("P", "A"), ("H", "F"))
"""What the ends of each LPS axis are called: where it grows to, and where it comes from."""
OBLIQUE = 0.2
"""The share of a direction above which its second axis is told too, such as "LA" (ours): 12 degrees."""
SAME_WITHIN = 0.1
"""How far the voxels of two grids may lie from each other, in voxels (ours): headers round."""


@dataclass(frozen=True)
class Turn:
    """How an array becomes another: axes in another order, then some turned round."""

    axes: tuple[int, ...]
    """Axis of the array that becomes each axis of the result."""
    flips: tuple[bool, ...]
    """Which axes of the result are turned round."""

    def apply(self, array: np.ndarray) -> np.ndarray:
        """Return ``array`` turned, a view; axes after those of the turn stay as they are."""
        rest = range(len(self.axes), array.ndim)
        turned = array.transpose(*self.axes, *rest)
        return turned[tuple(slice(None, None, -1 if flip else 1) for flip in self.flips)]

    def undo(self, array: np.ndarray) -> np.ndarray:
        """Return what :meth:`apply` turned as it was, a view."""
        back = array[tuple(slice(None, None, -1 if flip else 1) for flip in self.flips)]
        return back.transpose(*np.argsort(self.axes), *range(len(self.axes), array.ndim))


def to_patient(matrix: np.ndarray) -> Turn:
    """Return how (S, H, W) becomes (Z, Y, X), each axis the patient's that lies closest.

    ``matrix`` (4, 4) leads from (column, row, slice) to LPS mm.
    """
    rotation = np.array(matrix, np.float64)[:3, :3]
    rotation = rotation / np.linalg.norm(rotation, axis=0)
    taken: dict[int, int] = {}  # patient axis: axis of the picture (0 columns, 1 rows, 2 slices)
    for world, own in sorted(np.ndindex(3, 3), key=lambda at: -abs(rotation[at])):
        if world not in taken and own not in taken.values():
            taken[world] = own
    order = (2, 1, 0)  # of the result's axes in the patient, and of the picture's axes in the array
    axes = tuple(2 - taken[world] for world in order)
    return Turn(axes, tuple(bool(rotation[world, taken[world]] < 0) for world in order))


def between(source: np.ndarray, target: np.ndarray, *, shape: tuple[int, int, int]) -> Turn:
    """Return how an array (x, y, z) on one grid becomes one on another that has the same voxels in another order.

    ``source`` and ``target`` (4, 4) lead from the arrays' indices to LPS mm; ``shape`` is the target's. Raises
    ``ValueError`` where the voxels are not the same.
    """
    step = np.linalg.solve(target, source)  # from indices of the source to those of the target
    rotation = np.rint(step[:3, :3])
    if not (np.abs(rotation).sum(axis=0) == 1).all() or not (np.abs(rotation).sum(axis=1) == 1).all():
        raise ValueError("the grids' axes are not the same")
    axes = tuple(int(np.flatnonzero(rotation[world])[0]) for world in range(3))
    flips = tuple(bool(rotation[world, axes[world]] < 0) for world in range(3))
    first = np.array([shape[world] - 1 if flips[world] else 0 for world in range(3)])
    if np.abs(step[:3, 3] - first).max() > SAME_WITHIN or np.abs(step[:3, :3] - rotation).max() > SAME_WITHIN:
        raise ValueError("the grids' voxels do not lie in the same places")
    return Turn(axes, flips)


def direction_letters(direction: np.ndarray) -> str:
    """Return where a vector (3,) in LPS leads, its largest part first: "L", "LA", "FPR"."""
    unit = np.asarray(direction, np.float64) / np.linalg.norm(direction)
    largest = np.argsort(-np.abs(unit), kind="stable")
    kept = [axis for rank, axis in enumerate(largest) if rank == 0 or abs(unit[axis]) > OBLIQUE]
    return "".join(LETTERS[axis][int(unit[axis] < 0)] for axis in kept)


def edge_letters(columns: np.ndarray, rows: np.ndarray) -> dict[str, str]:
    """Return the letters at a picture's edges: ``columns`` and ``rows`` (3,) are where they grow to, in LPS."""
    columns, rows = np.asarray(columns, np.float64), np.asarray(rows, np.float64)
    return {
        "left": direction_letters(-columns),
        "right": direction_letters(columns),
        "top": direction_letters(-rows),
        "bottom": direction_letters(rows),
    }


def picture_letters(matrix: np.ndarray) -> dict[str, str]:
    """Return the letters at the edges of a reader's own picture; ``matrix`` as in :func:`to_patient`."""
    return edge_letters(matrix[:3, 0], matrix[:3, 1])


def plane_letters(matrix: np.ndarray, plane: Plane) -> dict[str, str]:
    """Return the letters at the edges of a plane through the turned volume of :func:`to_patient`."""
    turn = to_patient(matrix)
    z, y, x = (matrix[:3, 2 - axis] * (-1 if flip else 1) for axis, flip in zip(turn.axes, turn.flips, strict=True))
    columns, rows = {"axial": (x, y), "coronal": (x, -z), "sagittal": (y, -z)}[plane]
    return edge_letters(columns, rows)


def plane_picture(volume_ZYX: np.ndarray, plane: Plane, index: int) -> np.ndarray:
    """Return one picture (H, W) of a turned volume as it is displayed; slices count to the head, back and left."""
    if plane == "axial":
        return volume_ZYX[index]
    return volume_ZYX[::-1, index] if plane == "coronal" else volume_ZYX[::-1, :, index]
