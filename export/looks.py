"""Which way of looking at images a model is best at, by masks at the images' own resolution."""

from __future__ import annotations

from collections.abc import Iterable
from typing import get_args

import numpy as np

from export.manifest import Looks, LooksMeasured
from export.runtime import BundleSession
from export.tiles import looking


def compare_looks(session: BundleSession, images: Iterable[tuple[np.ndarray, np.ndarray]]) -> LooksMeasured | None:
    """Return the mean Dice of each way over (image (H, W, 3), mask (K, H, W)); None without any image."""
    ways = {looks: looking(session, looks) for looks in get_args(Looks)}
    dice = [[mean_dice(way.masks(image)[0], true_KHW) for way in ways.values()] for image, true_KHW in images]
    if not dice:
        return None
    means = (round(float(mean), 6) for mean in np.mean(dice, axis=0))
    return LooksMeasured(**dict(zip(ways, means, strict=True)), num_images=len(dice))


def mean_dice(mask_KHW: np.ndarray, true_KHW: np.ndarray) -> float:
    """Return the Dice coefficient of two masks in {0, 1}, a mean over classes; a class in neither counts 1."""
    both = mask_KHW.sum(axis=(1, 2), dtype=np.int64) + true_KHW.sum(axis=(1, 2), dtype=np.int64)
    shared = np.logical_and(mask_KHW, true_KHW).sum(axis=(1, 2), dtype=np.int64)
    return float(np.where(both > 0, 2 * shared / np.maximum(both, 1), 1.0).mean())
