"""The Dice coefficient of masks as they are, at whatever size. Torch-free."""

from __future__ import annotations

from statistics import fmean

import numpy as np


def dice(mask: np.ndarray, reference: np.ndarray) -> float:
    """Return the Dice coefficient in [0, 1] of two boolean masks of one shape; 1 where both are empty."""
    shared, both = counts(mask, reference)
    return 2 * shared / both if both else 1.0


def counts(mask: np.ndarray, reference: np.ndarray) -> tuple[int, int]:
    """Return how many pixels two masks share, and how many they have together, those twice."""
    both = int(np.count_nonzero(mask)) + int(np.count_nonzero(reference))
    return int(np.count_nonzero(mask & reference)), both


def mean_dice(mask_KHW: np.ndarray, true_KHW: np.ndarray) -> float:
    """Return the Dice coefficient of two masks in {0, 1}, a mean over classes; a class in neither counts 1."""
    return fmean(dice(mask, true) for mask, true in zip(mask_KHW > 0, true_KHW > 0, strict=True))
