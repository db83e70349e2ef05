"""What sizes of a run depend on, measured on a few training images of each site that trains. Torch-free.

Neither validation images nor the site that nobody trains on are looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from engine.data.imagesets import ImageSet

IMAGES_A_SITE = 40
"""Evenly spread over a site's training images (ours)."""
SMALL_PERCENTILE = 10
"""Nine of ten objects are larger than what is called a small one (ours)."""
FEWEST_PIXELS = 4
"""Smaller pieces of a mask are specks of an outline, not objects (ours)."""


@dataclass(frozen=True)
class DataFacts:
    """Figures of the sites' training images.

    Attributes
    ----------
    images : images that were looked at.
    side_px : median of their shorter sides, pixels.
    objects : connected pieces of all classes in their masks.
    small_object : the ``SMALL_PERCENTILE``-th percentile of the pieces' equivalent diameters (of the disc of equal
        area) as a share of the side of the square of the image's area; None where there is no object.
    """

    images: int
    side_px: int
    objects: int
    small_object: float | None


def data_facts(training_sets: Sequence[ImageSet]) -> DataFacts:
    """Return the figures of the sites' training images; ``UserError`` names one that cannot be read."""
    sides: list[int] = []
    diameters: list[float] = []
    for training_set in training_sets:
        for picture, planes in _some(training_set):
            sides.append(min(picture.shape[:2]))
            diameters += _diameters(planes)
    small = float(np.percentile(diameters, SMALL_PERCENTILE)) if diameters else None
    return DataFacts(len(sides), int(np.median(sides)), len(diameters), small)


def _some(images: ImageSet) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return pictures (H, W, 3) with the planes (K, h, w) of the classes that the run has, none without a mask."""
    chosen = np.unique(np.linspace(0, len(images) - 1, IMAGES_A_SITE).round().astype(int)) if len(images) else []
    found = []
    for index in chosen:
        item = images.items[index]
        if item.has_mask and images.labelled:
            picture, planes = item.read()
            found.append((picture, planes[list(images.planes)]))
        else:
            found.append((item.picture(), np.empty((0, 1, 1), np.uint8)))
    return found


def _diameters(planes: np.ndarray) -> list[float]:
    """Return the equivalent diameters 2 sqrt(A / pi) of the 8-connected pieces, as shares of sqrt(h w)."""
    found: list[float] = []
    for plane in planes:
        labels, _ = ndimage.label(plane, structure=np.ones((3, 3)))
        areas = np.bincount(labels.ravel())[1:]
        areas = areas[areas >= FEWEST_PIXELS]
        found += list(2 * np.sqrt(areas / np.pi) / np.sqrt(plane.size))
    return found
