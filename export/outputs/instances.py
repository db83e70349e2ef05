"""Things counted apart although they touch: a watershed of how far each pixel lies from the background. Torch-free.

Shape legend: S, H and W slices, rows and columns.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass

import numpy as np
from scipy import ndimage

from export.outputs.pieces import MOST_MEASURED, TOUCHING, label_pieces, num_components, sizes

COUNTED = frozenset({"nucleus", "nuclei", "cell", "cells"})
"""Words in the name of a class whose things are counted (ours)."""
SIGMA_PX, RISE_PX = 1.0, 0.25
"""How much distances are smoothed, and how far one middle must rise above the saddle to the next to be another thing
(ours): the least error on every third reference mask of the shipped model's three source sites, whose true counts the
2018 Data Science Bowl gives."""
LEAST_PX, MOST_PX = 12, 1 << 22
"""Smaller pieces are one thing; larger boxes are not cut, for what that takes (ours)."""


@dataclass(frozen=True)
class Counted:
    """Pieces of a mask and things counted apart, None where nobody counts them; ``Sizes`` of the latter if any."""

    components: int
    instances: int | None
    largest_px: int | None
    largest_long_axis: float | None
    largest_short_axis: float | None
    median_long_axis: float | None


def is_counted(class_name: str) -> bool:
    """Return whether a class is of things that people count, by its name."""
    return bool(COUNTED & set(re.findall(r"[a-z]+", class_name.lower())))


def label_instances(mask_SHW: np.ndarray, *, depth_px: float = 1.0) -> np.ndarray | None:
    """Return the things of a mask (S, H, W) numbered from 1, int32, 0 elsewhere; None of too many pieces.

    ``depth_px`` is the distance of slices in pixels of a slice. Each belongs to one piece: things are never joined.
    """
    labels_SHW = label_pieces(mask_SHW > 0)
    boxes = ndimage.find_objects(labels_SHW)
    if len(boxes) > MOST_MEASURED:
        return None
    found_SHW, count = np.zeros_like(labels_SHW), 0
    for index, box in enumerate(boxes):
        piece = labels_SHW[box] == index + 1
        parts = _cut(piece, depth_px=depth_px) if piece.sum() >= LEAST_PX and piece.size <= MOST_PX else piece * 1
        found_SHW[box] += np.where(parts > 0, parts + count, 0).astype(np.int32)
        count += int(parts.max())
    return found_SHW


def count_pieces(mask_SHW: np.ndarray, class_name: str, *, steps: tuple[float, float], depth: float = 1.0) -> Counted:
    """Return how many pieces and things a mask (S, H, W) has, and how large they are.

    ``steps`` are between rows and columns, ``depth`` is between slices.
    """
    found_SHW = label_instances(mask_SHW, depth_px=depth / max(steps)) if is_counted(class_name) else None
    return count_labels(mask_SHW, found_SHW, steps=steps)


def count_labels(mask_SHW: np.ndarray, found_SHW: np.ndarray | None, *, steps: tuple[float, float]) -> Counted:
    """Return what :func:`count_pieces` does for things that are numbered already, None where nobody counts them."""
    instances = None if found_SHW is None else int(found_SHW.max())
    pieces_SHW = label_pieces(mask_SHW) if found_SHW is None else found_SHW
    components = num_components(mask_SHW) if found_SHW is not None else int(pieces_SHW.max())
    return Counted(components, instances, **asdict(sizes(pieces_SHW, steps=steps)))


def borders(labels_HW: np.ndarray) -> np.ndarray:
    """Return where things touch, (H, W) bool: the pixels on both sides."""
    found_HW = np.zeros(labels_HW.shape, bool)
    for axis in (0, 1):
        one, other = (np.moveaxis(labels_HW, axis, 0)[part] for part in (slice(None, -1), slice(1, None)))
        touch = (one != other) & (one > 0) & (other > 0)
        along = np.moveaxis(found_HW, axis, 0)
        along[:-1] |= touch
        along[1:] |= touch
    return found_HW


def _cut(piece_SHW: np.ndarray, *, depth_px: float) -> np.ndarray:
    """Return one piece as its things, numbered from 1."""
    from skimage.morphology import h_maxima  # a third of a second, which only counting needs
    from skimage.segmentation import watershed

    is_flat = len(piece_SHW) == 1
    inside = np.pad(piece_SHW[0] if is_flat else piece_SHW, 1)
    steps = (1.0, 1.0) if is_flat else (depth_px, 1.0, 1.0)
    depth = ndimage.gaussian_filter(ndimage.distance_transform_edt(inside, sampling=steps), SIGMA_PX)
    depth[~inside] = 0
    middles = h_maxima(depth, RISE_PX).astype(bool) & inside
    markers, count = ndimage.label(middles, np.ones((TOUCHING,) * inside.ndim))
    parts = watershed(-depth, markers, mask=inside) if count > 1 else inside * 1
    parts = parts[(slice(1, -1),) * inside.ndim]
    return parts[None] if is_flat else parts
