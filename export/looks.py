"""Which way of looking at images a model is best at, by masks at the images' own resolution."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import fmean
from typing import get_args

import numpy as np

from export.manifest import Looks, LooksMeasured
from export.outputs.measurements import dice
from export.runtime import BundleSession
from export.tiles import looking


def compare_looks(session: BundleSession, images: Iterable[tuple[np.ndarray, np.ndarray]]) -> LooksMeasured | None:
    """Return the mean Dice of each way over (image (H, W, 3), mask (K, H, W)); None without any image."""
    ways = {looks: looking(session, looks) for looks in get_args(Looks)}
    found = [[mean_dice(way.masks(image)[0], true_KHW) for way in ways.values()] for image, true_KHW in images]
    if not found:
        return None
    means = (round(float(mean), 6) for mean in np.mean(found, axis=0))
    return LooksMeasured(**dict(zip(ways, means, strict=True)), num_images=len(found))


def mean_dice(mask_KHW: np.ndarray, true_KHW: np.ndarray) -> float:
    """Return the Dice coefficient of two masks in {0, 1}, a mean over classes; a class in neither counts 1."""
    return fmean(dice(mask, true) for mask, true in zip(mask_KHW > 0, true_KHW > 0, strict=True))
