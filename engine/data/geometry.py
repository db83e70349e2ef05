"""Where a picture's pixels lie in the patient, and whether a mask lies on the same ones. Torch-free.

One frame of reference for every format: DICOM's LPS, in mm (x grows to the patient's left, y to the back, z to the
head).
Pixels are counted as they are returned: column to the right, row downwards, slice by ``slice_index``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

Affine = tuple[tuple[float, float, float, float], ...]
"""A 4 x 4 matrix as four rows: comparable and hashable, which an array is not."""

TOLERANCE_PX = 0.1
"""How far a mask's outermost pixels may lie from the image's, in pixels (ours): more than headers round."""
LETTERS = (("L", "R"), ("P", "A"), ("S", "I"))
"""What each LPS axis is called upwards and downwards."""


@dataclass(frozen=True)
class Geometry:
    """What a picture's header says: its size, and where its pixels lie in the patient where the file tells.

    Attributes
    ----------
    height_px, width_px : size of the pixels as they are returned.
    num_slices : above 1 for a volume.
    channels : as stored.
    spacing_mm : (row, column) distance; None where the file has none.
    affine_lps : from (column, row, slice, 1) of the returned pixels to (x, y, z, 1) in LPS mm; None where the file
        does not place them (photographs, TIFF, npy).
    unit : what the values mean before they become [0, 1], such as "HU"; None where the file does not say.
    is_default_place : the placement is what a file saved without one has: the first pixel at 0, axes along the
        patient's.
    """

    height_px: int
    width_px: int
    num_slices: int = 1
    channels: int = 1
    spacing_mm: tuple[float, float] | None = None
    affine_lps: Affine | None = None
    unit: str | None = None
    is_default_place: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return the number of columns, rows and slices, in the order of the affine."""
        return self.width_px, self.height_px, self.num_slices

    @property
    def matrix(self) -> np.ndarray | None:
        """Return ``affine_lps`` as (4, 4) float64."""
        return None if self.affine_lps is None else np.array(self.affine_lps, np.float64)

    @property
    def orientation(self) -> str | None:
        """Return where columns, rows and slices grow to, such as ``LPS`` (left, posterior, superior)."""
        matrix = self.matrix
        if matrix is None:
            return None
        letters, free = "", [0, 1, 2]
        for axis in range(3):  # the nearest patient axis that no earlier one has taken
            nearest = max(free, key=lambda world, axis=axis: abs(matrix[world, axis]))  # type: ignore[misc]
            free.remove(nearest)
            letters += LETTERS[nearest][int(matrix[nearest, axis] < 0)]
        return letters

    def placed(self, matrix: np.ndarray | None, *, unit: str | None = None, is_default_place: bool = False) -> Geometry:
        """Return the same size with a placement (4, 4)."""
        rows = None if matrix is None else tuple(tuple(float(value) for value in row) for row in matrix)
        return replace(self, affine_lps=rows, unit=unit, is_default_place=is_default_place)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Reindex:
    """How a mask's slices become the image's: rows and columns swapped first, then each axis turned round or not."""

    swap: bool = False
    flip_columns: bool = False
    flip_rows: bool = False
    flip_slices: bool = False

    def slice_index(self, index: int, *, num_slices: int) -> int:
        """Return which slice of the mask belongs to slice ``index`` of the image."""
        return num_slices - 1 - index if self.flip_slices else index

    def pixels(self, labels: np.ndarray) -> np.ndarray:
        """Return a slice of the mask, (H, W) or (H, W, C), with the image's rows and columns."""
        labels = labels.swapaxes(0, 1) if self.swap else labels
        return np.ascontiguousarray(labels[:: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1])


def same_place(image: Geometry, mask: Geometry) -> Reindex | None:
    """Return how the slices of ``mask`` become those of ``image``; None where its pixels lie elsewhere in the patient.

    Both must be placed. The grids are the same where every outermost pixel of the mask lies within ``TOLERANCE_PX`` of
    one of the image's, whatever the order and direction of rows, columns and slices; slices must stay slices (a mask
    that can be cut across another axis is asked with that axis's geometry). A mask in the default place of an image
    that has one of its own was saved without geometry: where both happen to meet, it would be mirrored.
    """
    assert image.affine_lps is not None and mask.affine_lps is not None
    if mask.is_default_place and not image.is_default_place:
        return None
    to_image = np.linalg.solve(_full_rank(image), _full_rank(mask))
    for swap in (False, True):
        order = [1, 0, 2] if swap else [0, 1, 2]  # mask axis that becomes each image axis
        if tuple(mask.shape[axis] for axis in order) != image.shape:
            continue
        moved = to_image[:, [*order, 3]]
        ends = np.array(image.shape) - 1
        flips = [bool(end > 0 and moved[axis, axis] < 0) for axis, end in enumerate(ends)]
        corners = np.array(np.meshgrid(*([0, end] for end in ends), indexing="ij")).reshape(3, -1)
        found = (moved @ np.vstack([corners, np.ones(corners.shape[1])]))[:3]
        expected = np.where(np.array(flips)[:, None], ends[:, None] - corners, corners)
        if np.abs(found - expected).max() <= TOLERANCE_PX:
            return Reindex(swap, *flips)
    return None


def _full_rank(geometry: Geometry) -> np.ndarray:
    """Return the affine with a step between slices of its own: one slice has none that counts."""
    matrix = np.array(geometry.affine_lps, np.float64)
    if geometry.num_slices == 1:
        normal = np.cross(matrix[:3, 0], matrix[:3, 1])
        matrix[:3, 2] = normal / np.linalg.norm(normal) if normal.any() else matrix[:3, 2]
    return matrix
