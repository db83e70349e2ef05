"""What a site tells of its images' look: figures of all of them together, and distances of those it validates on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from engine.data.appearance import COLOURED, FILES, SPACING_HIGH, SPACING_LOW, Look, measure
from engine.data.imagesets import ImageSet
from engine.data.modalities import file_kind
from engine.data.sources import FolderItem

BATCH = 8


@dataclass(frozen=True, eq=False)
class Told:
    """``arrays`` has mean (20,), covariance (20, 20) and the validation images' distances (N,), ascending; float64."""

    arrays: Mapping[str, np.ndarray]
    figures: Mapping[str, float]


def tell(train: ImageSet, validation: ImageSet, *, check_cancelled: Callable[[], None]) -> Told:
    """Return what a site tells of its ``train`` images; distances ascend, so that they name no image.

    A site's distances are to its own look. To the nearest look of all sites they can only be smaller, so a threshold
    that is taken from them gives no more false notices than it says.
    """
    measured, coloured = _measured(train, check_cancelled=check_cancelled)
    look = Look.of(measured)
    validated, _ = _measured(validation, check_cancelled=check_cancelled)
    distances = np.array(sorted(look.distance(figures) for figures in validated), np.float64)
    figures = {COLOURED: float(coloured), **dict.fromkeys(FILES.values(), 0.0)}
    steps: list[float] = []
    for item in train.items:
        on_disk = isinstance(item, FolderItem)
        figures[FILES[file_kind(item.image) if on_disk else "picture"]] += 1
        steps += (item.geometry.spacing_mm or ()) if on_disk else ()
    if steps:
        figures |= {SPACING_LOW: min(steps), SPACING_HIGH: max(steps)}
    return Told({"mean": look.mean, "covariance": look.covariance, "distances": distances}, figures)


def _measured(images: ImageSet, *, check_cancelled: Callable[[], None]) -> tuple[np.ndarray, int]:
    """Return the figures of each image (N, 20) and how many of them have colour."""
    rows, coloured = [], 0
    for start in range(0, len(images), BATCH):
        check_cancelled()
        for image in images.images(range(start, min(start + BATCH, len(images)))):
            rows.append(measure(image))
            coloured += not (np.array_equal(image[0], image[1]) and np.array_equal(image[0], image[2]))
    return np.array(rows), coloured
