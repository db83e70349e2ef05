"""Whole volumes through a model, slice by slice, within a budget of memory that is known before. Torch-free.

Shape legend: K classes; S, H and W slices, rows and columns of the volume as it was read.
"""

from __future__ import annotations

import numpy as np

from engine.data.budget import limit_bytes
from engine.data.volumes import SourceVolume
from engine.errors import UserError
from export.runtime import BundleSession, check_size


def segment_slice(session: BundleSession, volume: SourceVolume, number: int) -> np.ndarray:
    """Return the probabilities of one slice in hundredths (``export.levels``), (K, H, W) uint8: no other is in memory.

    Errors are those of reading and of :meth:`export.runtime.BundleSession.predict`.
    """
    manifest = session.manifest
    picture = volume.picture(number, value_range=manifest.value_range, window=manifest.window)
    return session.levels(picture)


def empty_masks(volume: SourceVolume, *, num_classes: int, num_models: int = 1) -> np.ndarray:
    """Return room for the masks of a volume, (K, S, H, W) uint8 zeros.

    Raises ``UserError`` ``volume.too_large``, with the number, where those of all ``num_models`` would take more than
    the limit that holds here (``engine.data.budget.at_most``).
    """
    geometry = volume.geometry
    check_size(geometry.height_px, geometry.width_px)
    needed = num_models * num_classes * len(volume) * geometry.height_px * geometry.width_px
    by = "" if num_models == 1 else f" by {num_models} models"
    if needed > limit_bytes():
        raise UserError(
            "volume.too_large",
            what=f"The masks of {len(volume)} slices of {geometry.width_px} x {geometry.height_px} pixels and "
            f"{num_classes} classes{by} take {needed / 2**20:,.0f} MiB.",
            why=f"At most {limit_bytes() / 2**20:,.0f} MiB are given to one volume here.",
            fix="Cut the volume into parts, or segment it with the command line on a machine with more memory.",
        )
    return np.zeros((num_classes, len(volume), geometry.height_px, geometry.width_px), np.uint8)


def label_volume(masks_KSHW: np.ndarray) -> np.ndarray:
    """Return (S, H, W) uint8: 0 background, k for class k (from 1), the later class where they overlap."""
    assert len(masks_KSHW) <= 255
    labels_SHW = np.zeros(masks_KSHW.shape[1:], np.uint8)
    for index, mask_SHW in enumerate(masks_KSHW):
        labels_SHW[mask_SHW > 0] = index + 1
    return labels_SHW
