"""Probabilities in hundredths, and thresholds on them: another threshold then needs no second inference. Pure numpy.

Shape legend: H and W the image's side in pixels.
"""

from __future__ import annotations

import math

import numpy as np

STEPS = 100
MODEL_PERCENT = 50
"""The threshold that every bundle's masks have: probability above 0.5."""
BAND_ROWS = 256
"""Rows that are worked out at a time: a large image's probabilities would take four bytes a pixel more."""


def levels(logits_HW: np.ndarray) -> np.ndarray:
    """Return in which hundredth each probability lies, (H, W) uint8: n where n/100 < p <= (n + 1)/100, 0 for p = 0.

    Probability is above n/100 where the level is at least n. At 0.5 the logit's sign decides, as it does for the
    model's own masks: float32 cannot tell probabilities from 0.5 whose logits are nearly 0.
    """
    found = np.empty(logits_HW.shape, np.uint8)
    for top in range(0, len(logits_HW), BAND_ROWS):
        logits = np.asarray(logits_HW[top : top + BAND_ROWS], np.float32)
        part = np.ceil(STEPS * (0.5 * (1 + np.tanh(0.5 * logits)))) - 1
        part = np.where(logits > 0, np.maximum(part, MODEL_PERCENT), np.minimum(part, MODEL_PERCENT - 1))
        found[top : top + BAND_ROWS] = np.clip(part, 0, STEPS - 1)
    return found


def above(levels_HW: np.ndarray, percent: int) -> np.ndarray:
    """Return the mask of what is above a threshold of 1 to 99 percent, uint8 in {0, 1}."""
    return (levels_HW >= percent).astype(np.uint8)


def percent_of(threshold: object) -> int:
    """Return a threshold in [0, 1] from a browser as 1 to 99 percent; the model's own for what is no number."""
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not math.isfinite(threshold):
        return MODEL_PERCENT
    return round(STEPS * min(max(threshold, 1 / STEPS), 1 - 1 / STEPS))
