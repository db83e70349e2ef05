"""Reference masks: read by the one reader, and brought to the image's own grid by where both lie. Torch-free.

Shape legend: K classes; S, H and W slices, rows and columns of the image as it was read.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from engine.data.geometry import Geometry
from engine.data.readers import image_info, read_mask
from engine.data.volume_cache import held_open
from engine.data.volumes import SourceVolume
from engine.errors import UserError


def read_reference(path: Path, volume: SourceVolume, *, num_classes: int) -> np.ndarray:
    """Return a reference mask on the volume's own grid, (K, S, H, W) uint8 in {0, 1}; raises as :func:`read_slice`."""
    like = volume.geometry
    masks_KSHW = np.zeros((num_classes, len(volume), like.height_px, like.width_px), np.uint8)
    with held_open():
        for number in range(len(volume)):
            masks_KSHW[:, number] = read_slice(
                path, like, number, slice_axis=volume.slice_axis, num_slices=len(volume), num_classes=num_classes
            )
    return masks_KSHW


def read_slice(
    path: Path, like: Geometry, number: int, *, slice_axis: int, num_slices: int, num_classes: int
) -> np.ndarray:
    """Return slice ``number`` of a reference mask on the grid of the image ``like``, (K, H, W) bool.

    One class: everything that is not 0; several: label k (from 1) is class k, or channel k of as many. Raises
    ``UserError`` ``data.mask_elsewhere`` and ``reference.shape`` where it lies on another grid, ``reference.values``
    where it has labels of no class.
    """
    about = image_info(path, slice_axis=slice_axis)
    own = (like.height_px, like.width_px)
    has_slices = about.is_sparse or about.num_slices == num_slices
    is_placed = about.is_placed and like.is_placed  # then what lies where decides, and other axes may be rows
    if not is_placed and not (has_slices and (about.height_px, about.width_px) == own):
        raise _other_shape(path, about, like, num_slices=num_slices)
    white = 255 if num_classes == 1 else None
    labels = read_mask(path, slice_index=number, slice_axis=slice_axis, like=like, white=white)
    if labels.shape[:2] != own or not has_slices:
        raise _other_shape(path, about, like, num_slices=num_slices)
    return _planes(path, labels, num_classes=num_classes)


def unplaced(height_px: int, width_px: int) -> Geometry:
    """Return the geometry of a picture of which nothing says where it lies."""
    return Geometry(height_px, width_px)


def _planes(path: Path, labels: np.ndarray, *, num_classes: int) -> np.ndarray:
    """Return (K, H, W) of the labels (H, W), or (H, W, C), of a reference mask."""
    if labels.ndim == 3 and labels.shape[2] == num_classes:
        return np.moveaxis(labels != 0, -1, 0)
    if labels.ndim == 2 and num_classes == 1:
        return (labels != 0)[None]
    if labels.ndim == 2 and labels.min() >= 0 and labels.max() <= num_classes:
        return np.stack([labels == index + 1 for index in range(num_classes)])
    found = f"{labels.shape[2]} channels" if labels.ndim == 3 else f"labels from {labels.min()} to {labels.max()}"
    raise UserError(
        "reference.values",
        what=f"The reference mask {path} has {found}, and the model {num_classes} class(es).",
        why="Label 0 is background and each other one a class in the model's order: others would count as missed.",
        fix=f"Give a mask with the numbers 0 to {num_classes}, or an npy file with a channel for each class.",
    )


def _other_shape(path: Path, about: Geometry, like: Geometry, *, num_slices: int) -> UserError:
    return UserError(
        "reference.shape",
        what=f"The reference mask {path} has {about.num_slices} slices of {about.width_px} x {about.height_px} pixels, "
        f"the image {num_slices} of {like.width_px} x {like.height_px}.",
        why="Masks are compared pixel by pixel.",
        fix="Give the mask of this very image, on its grid.",
    )
