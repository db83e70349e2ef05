"""What masks leave a site: its real ones, as in the paper, or randomly deformed copies. Torch-free.

The paper's server draws masks from the sites' own masks M_k (Eq. 2) and does not say how they reach it. Sharing them is
a privacy exposure of its own, so it is a setting that the plan states and the traffic log counts.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from scipy import ndimage

DISPLACEMENT_SHARE = 0.06
"""Largest smooth displacement, as a share of the image side (ours)."""
SCALE_RANGE = (0.85, 1.18)
MAX_ROTATION_DEG = 25.0
CONTROL_POINTS = 5


def share_masks(masks_NKhw: np.ndarray, *, mode: Literal["real", "deformed"], rng: np.random.Generator) -> np.ndarray:
    """Return the masks that leave the site, uint8 {0, 1} of the same shape, in the same order.

    ``real`` returns the masks themselves; ``deformed`` sends each through its own random rotation, scale, flip and
    smooth warp, so that no shared outline is a patient's.
    """
    if mode == "real":
        return masks_NKhw.copy()
    return np.stack([deform_mask(mask, rng=rng) for mask in masks_NKhw])


def deform_mask(mask_Khw: np.ndarray, *, rng: np.random.Generator) -> np.ndarray:
    """Return one mask, uint8 {0, 1} (K, h, w), warped by a random smooth deformation that all its classes share.

    A deformation that would push the foreground out of the image is drawn again; after ten of them the foreground is
    moved to the middle first, where none can. So a non-empty mask stays non-empty, and none stays as it was.
    """
    if not mask_Khw.any():
        return mask_Khw.copy()
    for _ in range(10):
        warped = _warp(mask_Khw, rng=rng)
        if warped.any():
            return warped
    return deform_mask(_centred(mask_Khw), rng=rng)


def _centred(mask_Khw: np.ndarray) -> np.ndarray:
    """Return the mask with the middle of its foreground's box in the middle of the image."""
    box = np.argwhere(mask_Khw.any(axis=0))
    shift = np.asarray(mask_Khw.shape[-2:]) // 2 - (box.min(axis=0) + box.max(axis=0)) // 2
    return np.roll(mask_Khw, tuple(shift), axis=(-2, -1))


def _warp(mask_Khw: np.ndarray, *, rng: np.random.Generator) -> np.ndarray:
    height, width = mask_Khw.shape[-2:]
    angle = np.deg2rad(rng.uniform(-MAX_ROTATION_DEG, MAX_ROTATION_DEG))
    scale = rng.uniform(*SCALE_RANGE)
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float64)
    y, x = rows - (height - 1) / 2, columns - (width - 1) / 2
    if rng.random() < 0.5:
        x = -x
    source_y = (np.cos(angle) * y - np.sin(angle) * x) / scale + (height - 1) / 2
    source_x = (np.sin(angle) * y + np.cos(angle) * x) / scale + (width - 1) / 2
    source_y += _smooth_field((height, width), rng=rng) * DISPLACEMENT_SHARE * height
    source_x += _smooth_field((height, width), rng=rng) * DISPLACEMENT_SHARE * width
    coordinates = np.stack([source_y, source_x])
    planes = [ndimage.map_coordinates(plane, coordinates, order=0, mode="constant") for plane in mask_Khw]
    return np.stack(planes).astype(np.uint8)


def _smooth_field(shape: tuple[int, int], *, rng: np.random.Generator) -> np.ndarray:
    """Return a smooth field in about [-1, 1] of ``shape``, from a few random control points."""
    coarse = rng.uniform(-1, 1, size=(CONTROL_POINTS, CONTROL_POINTS))
    zoom = (shape[0] / CONTROL_POINTS, shape[1] / CONTROL_POINTS)
    return np.asarray(ndimage.zoom(coarse, zoom, order=3, mode="nearest", grid_mode=True))
