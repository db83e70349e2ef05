"""What mask files have to hold so that a dataset's description reads given planes of them. Pure numpy.

Shape legend: K classes, H and W the image's side in pixels.
"""

from __future__ import annotations

import numpy as np

from engine.data.description import FILE_NAME, DatasetDescription
from engine.errors import UserError


def stored_masks(about: DatasetDescription, planes: list[np.ndarray], *, num_files: int) -> list[np.ndarray]:
    """Return what mask files hold, (H, W) uint8 or uint16, so that the description reads ``planes`` {0, 1} of them.

    Raises ``UserError`` ``teach.mask`` where it cannot: a label map without a number for classes that overlap so.
    """
    if isinstance(about.mask_values, dict) and num_files == 1:
        return [_label_map(about, planes)]
    low, high = about.mask_values if isinstance(about.mask_values, tuple) else (0, 255)
    if about.mask_threshold is not None and about.mask_threshold > high:
        raise unstorable(about)
    return [_as_levels(about, np.where(plane > 0, high, low)) for plane in planes]


def _label_map(about: DatasetDescription, planes: list[np.ndarray]) -> np.ndarray:
    assert isinstance(about.mask_values, dict)
    numbers = {number for values in about.mask_values.values() for number in values}
    shown = {frozenset(): about.mask_background[0]} if about.mask_background else {}
    for number in sorted(numbers, reverse=True):  # the smallest of those that mean the same
        shown[frozenset(k for k, name in enumerate(about.classes) if number in about.mask_values[name])] = number
    bits = sum((plane > 0).astype(np.int64) << k for k, plane in enumerate(planes))
    labels = np.zeros(planes[0].shape, np.int64)
    for found in np.unique(bits):
        classes = frozenset(k for k in range(len(planes)) if int(found) >> k & 1)
        if classes not in shown:
            raise unstorable(about)
        labels[bits == found] = shown[classes]
    return _as_levels(about, labels)


def _as_levels(about: DatasetDescription, labels: np.ndarray) -> np.ndarray:
    if labels.min() < 0 or labels.max() > 65535:
        raise unstorable(about)
    return labels.astype(np.uint8 if labels.max() <= 255 else np.uint16)


def unstorable(about: DatasetDescription) -> UserError:
    """Return the refusal of masks that a description has no way to store."""
    return UserError(
        "teach.mask",
        what=f"{about.name} has no number for classes that overlap as they do in this mask.",
        why=f"Its masks are stored as {FILE_NAME} says (mask_values, mask_threshold).",
        fix="Correct the mask until they do not, or keep it in a new dataset.",
    )
