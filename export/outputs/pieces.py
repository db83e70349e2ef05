"""What a mask's pieces are, and how long and wide each is: never across several of them. Torch-free.

Shape legend: S, H and W slices, rows and columns; N pieces.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial import ConvexHull

TOUCHING = 3
"""Side of the neighbourhood in which pixels belong together: corners touch, too."""
MOST_MEASURED = 2000
"""Pieces of which each one's length is measured, for their median (ours): a second. Of more there is no median."""


@dataclass(frozen=True)
class Sizes:
    """The pieces of one mask; None where there are none, and for the median where there are too many.

    ``largest_px`` is the size of the largest piece in pixels or voxels. Axes are in the unit of the steps: the longest
    diameter of that piece and its extent across it, outline to outline, in the slice that holds most of it;
    ``median_long_axis`` is the median over all pieces of each one's longest diameter.
    """

    largest_px: int | None = None
    largest_long_axis: float | None = None
    largest_short_axis: float | None = None
    median_long_axis: float | None = None


def label_pieces(mask_SHW: np.ndarray) -> np.ndarray:
    """Return the pieces of a mask (any number of axes) that do not touch, numbered from 1 (int32); 0 elsewhere."""
    labels = np.zeros(mask_SHW.shape, np.int32)
    box = _box(mask_SHW)
    if box is not None:
        ndimage.label(mask_SHW[box], np.ones((TOUCHING,) * mask_SHW.ndim), output=labels[box])
    return labels


def num_components(mask_SHW: np.ndarray) -> int:
    """Return the number of pieces of a mask (any number of axes) that do not touch."""
    box = _box(mask_SHW)
    return 0 if box is None else int(ndimage.label(mask_SHW[box], np.ones((TOUCHING,) * mask_SHW.ndim))[1])


def sizes(labels_SHW: np.ndarray, *, steps: tuple[float, float]) -> Sizes:
    """Return the sizes of numbered pieces, int32 (S, H, W); ``steps`` are between rows and columns."""
    boxes = ndimage.find_objects(labels_SHW)
    if not boxes:
        return Sizes()
    num_px = sum(np.bincount(labels_HW.ravel(), minlength=len(boxes) + 1)[1:] for labels_HW in labels_SHW)
    largest = int(np.argmax(num_px))
    lengths: dict[int, tuple[float | None, float | None]] = {}
    for index in range(len(boxes)) if len(boxes) <= MOST_MEASURED else (largest,):
        lengths[index] = diameters(_fullest(labels_SHW[boxes[index]] == index + 1), steps=steps)
    median = float(np.median([long for long, _ in lengths.values()])) if len(boxes) <= MOST_MEASURED else None
    return Sizes(int(num_px[largest]), *lengths[largest], median)


def largest_piece(mask_HW: np.ndarray) -> np.ndarray:
    """Return the piece of a mask (H, W) that has most pixels, bool; of several as large the first."""
    labels = label_pieces(mask_HW > 0)
    counts = np.bincount(labels.ravel())
    return mask_HW > 0 if len(counts) < 3 else labels == 1 + int(np.argmax(counts[1:]))


def diameters(mask_HW: np.ndarray, *, steps: tuple[float, float]) -> tuple[float | None, float | None]:
    """Return the longest diameter of a mask and its extent across that; ``steps`` are between rows and columns.

    From outline to outline: a single pixel of 1 mm has 1 mm. None of an empty mask.
    """
    inside = np.pad(mask_HW > 0, 1)
    border = np.argwhere(inside & ~ndimage.binary_erosion(inside)) - 1.0
    if not len(border):
        return None, None
    half = np.array([(0.5, 0), (-0.5, 0), (0, 0.5), (0, -0.5)])
    points = (border[:, None] + half).reshape(-1, 2) * steps
    points = points[ConvexHull(points).vertices]
    apart = points[:, None] - points[None]
    lengths = np.linalg.norm(apart, axis=2)
    first, second = np.unravel_index(int(lengths.argmax()), lengths.shape)
    along = apart[first, second] / lengths[first, second]
    across = points @ (-along[1], along[0])
    return float(lengths[first, second]), float(across.max() - across.min())


def _fullest(piece_SHW: np.ndarray) -> np.ndarray:
    """Return what a piece is in the slice that holds most of it, (H, W): the largest part where it has several."""
    if len(piece_SHW) == 1:
        return piece_SHW[0]
    return largest_piece(piece_SHW[int(np.argmax(np.count_nonzero(piece_SHW, axis=(1, 2))))])


def _box(mask: np.ndarray) -> tuple[slice, ...] | None:
    found = ndimage.find_objects((mask > 0).astype(np.uint8))
    return found[0] if found else None
