"""Where a picture's pixels lie in the patient, and whether a mask lies on the same ones. Torch-free.

One frame of reference for every format: DICOM's LPS, in mm (x grows to the patient's left, y to the back, z to the
head).
Pixels are counted as they are returned: column to the right, row downwards, slice by ``slice_index``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

Affine = tuple[tuple[float, float, float, float], ...]
"""A 4 x 4 matrix as four rows: comparable and hashable, which an array is not."""

TOLERANCE_PX = 0.1
"""How far a mask's outermost pixels may lie from the image's, in pixels (ours): more than headers round."""
SLICES_AT_ONCE, PAIRS_AT_ONCE = 64, 1 << 14
"""Slices, and pairs of them, that are compared at once (ours): all with all would take a gigabyte for two thousand."""
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
    slices_lps : such a matrix of each slice, where slices are placed one by one and not at equal steps in their order.
    is_sparse : slices that hold nothing may have been left out, as DICOM segmentations do.
    is_turned : the pixels are stored otherwise than they are returned: a tag turns or mirrors them (EXIF, TIFF's 274).
    """

    height_px: int
    width_px: int
    num_slices: int = 1
    channels: int = 1
    spacing_mm: tuple[float, float] | None = None
    affine_lps: Affine | None = None
    unit: str | None = None
    is_default_place: bool = False
    slices_lps: tuple[Affine, ...] = ()
    is_sparse: bool = False
    is_turned: bool = False

    @property
    def is_placed(self) -> bool:
        """Return whether the file says where each of its slices lies."""
        return self.affine_lps is not None or bool(self.slices_lps)

    @property
    def slice_matrices(self) -> np.ndarray:
        """Return (S, 4, 4) from (column, row, 0, 1) of each slice to LPS mm; the file must place them."""
        if self.slices_lps:
            return np.array(self.slices_lps, np.float64)
        matrices = np.repeat(np.array([self.affine_lps], np.float64), self.num_slices, axis=0)
        matrices[:, :3, 3] += np.outer(np.arange(self.num_slices), matrices[0, :3, 2])
        return matrices

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
        rows = None if matrix is None else as_affine(matrix)
        return replace(self, affine_lps=rows, unit=unit, is_default_place=is_default_place)


def as_affine(matrix: np.ndarray) -> Affine:
    """Return a matrix (4, 4) as four rows."""
    return tuple(tuple(float(value) for value in row) for row in matrix)  # type: ignore[return-value]


@dataclass(frozen=True)
class Reindex:
    """How a mask's slices become the image's: rows and columns swapped first, then each axis turned round or not.

    ``slices`` names the mask's slice of each of the image's where they do not follow each other; None for one left out.
    """

    swap: bool = False
    flip_columns: bool = False
    flip_rows: bool = False
    flip_slices: bool = False
    slices: tuple[int | None, ...] | None = None

    def slice_index(self, index: int, *, num_slices: int) -> int | None:
        """Return which slice of the mask belongs to slice ``index`` of the image, None where the mask has none."""
        if self.slices is not None:
            return self.slices[index]
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


@lru_cache(maxsize=16)  # the slices of a volume are asked for one after the other
def same_slices(image: Geometry, mask: Geometry) -> Reindex | None:
    """Return how the slices of ``mask`` become those of ``image`` where slices are placed one by one, None elsewhere.

    Every slice of the mask must lie on one of the image's, within ``TOLERANCE_PX`` at every corner, and no two on one;
    every slice of the image must have one of the mask's, unless the mask leaves empty ones out. Where several slices of
    the image lie in one place (frames of a film), the mask must have them all in the same order. Both must be placed.
    """
    if mask.is_default_place and not image.is_default_place:
        return None
    ours, theirs = image.slice_matrices, mask.slice_matrices
    normal = np.cross(ours[0, :3, 0], ours[0, :3, 1])
    normal /= np.linalg.norm(normal) or 1.0
    steps = np.diff(np.unique(np.round(ours[:, :3, 3] @ normal, 6)))
    ours[:, :3, 2] = normal * (float(np.median(steps)) if len(steps) else 1.0)
    width, height = mask.width_px - 1, mask.height_px - 1
    corners = np.array([[0, 0, 0, 1], [width, 0, 0, 1], [0, height, 0, 1]], np.float64).T
    places = theirs @ corners
    near = _near_slices(image, ours, places)
    for swap in (False, True):
        if (mask.height_px, mask.width_px) != (image.shape[:2] if swap else image.shape[1::-1]):
            continue
        for flip_columns in (False, True):
            for flip_rows in (False, True):
                expected = corners[[1, 0, 2, 3]] if swap else corners.copy()
                expected[0] = image.width_px - 1 - expected[0] if flip_columns else expected[0]
                expected[1] = image.height_px - 1 - expected[1] if flip_rows else expected[1]
                there = near[_lie_there(ours, places, near, expected)]  # (slice of the image, of the mask)
                of_image, of_mask = (
                    np.bincount(there[:, k], minlength=len(each)) for k, each in ((0, ours), (1, theirs))
                )
                if (of_mask == 1).all() and of_image.max() == 1 and (mask.is_sparse or of_image.min() == 1):
                    partner = dict(there.tolist())
                    return Reindex(swap, flip_columns, flip_rows, slices=tuple(map(partner.get, range(len(ours)))))
                is_in_order = np.count_nonzero(there[:, 0] == there[:, 1]) == len(ours) == len(theirs)
                if is_in_order and not mask.is_sparse:
                    return Reindex(swap, flip_columns, flip_rows)
    return None


def _near_slices(image: Geometry, ours: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Return (N, 2) of the slices of image and mask whose middles lie no further apart than slices in one place can.

    ``ours`` (S, 4, 4) leads from the image's pixels to LPS mm; ``found`` (M, 4, 3) is the mask's first pixel and two
    opposite corners, in mm.
    """
    middle = ours @ np.array([(image.width_px - 1) / 2, (image.height_px - 1) / 2, 0, 1])
    others = found[:, :3, 1:].mean(axis=2)
    reach = TOLERANCE_PX * np.linalg.norm(ours[:, :3, :3], axis=1).sum(axis=1) * (1 + 1e-6)
    pairs = [np.zeros((0, 2), np.intp)]
    for start in range(0, len(ours), SLICES_AT_ONCE):
        part = slice(start, start + SLICES_AT_ONCE)
        apart = np.linalg.norm(middle[part, None, :3] - others[None], axis=2)
        pairs.append(np.argwhere(apart <= reach[part, None]) + np.array([start, 0]))
    return np.concatenate(pairs)


def _lie_there(ours: np.ndarray, found: np.ndarray, pairs: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Return (N,) which of ``pairs`` have the mask's corners ``found`` within the tolerance of ``expected``, pixels."""
    inverse = np.linalg.inv(ours)
    parts = [pairs[start : start + PAIRS_AT_ONCE] for start in range(0, len(pairs), PAIRS_AT_ONCE)]
    distances = [np.abs(inverse[part[:, 0]] @ found[part[:, 1]] - expected).max(axis=(1, 2)) for part in parts]
    return np.concatenate([np.zeros(0), *distances]) <= TOLERANCE_PX


def shares_places(image: Geometry) -> bool:
    """Return whether several slices of a picture that is placed slice by slice lie in one place."""
    matrices = np.round(np.array(image.slices_lps).reshape(-1, 16), 3)
    return len(np.unique(matrices, axis=0)) < len(matrices)


def _full_rank(geometry: Geometry) -> np.ndarray:
    """Return the affine with a step between slices of its own: one slice has none that counts."""
    matrix = np.array(geometry.affine_lps, np.float64)
    if geometry.num_slices == 1:
        normal = np.cross(matrix[:3, 0], matrix[:3, 1])
        matrix[:3, 2] = normal / np.linalg.norm(normal) if normal.any() else matrix[:3, 2]
    return matrix
