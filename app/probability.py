"""Probabilities in steps of a hundredth, thresholds on them, and how they are coloured. Pure numpy.

Shape legend: K classes, h and w the model's own grid, H and W the image's side in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from app.overlays import Colour

STEPS = 100
MODEL_PERCENT = 50
"""The threshold that every bundle's masks have: probability above 0.5."""
BAND_ROWS = 256
"""Rows that are worked out at a time: a large image's probabilities would take four bytes a pixel more."""
VIRIDIS = ("440154", "482475", "414487", "355f8d", "2a788e", "21918c", "22a884", "44bf70", "7ad151", "bddf26", "fde725")
"""Eleven colours of matplotlib's viridis (van der Walt and Smith, 2015), evenly spaced: equal steps look equal."""


@dataclass(frozen=True, eq=False)
class Kept:
    """What stays of an inference, so that another threshold needs none.

    ``logits_Khw`` is float32 on the model's grid; ``enlarge`` brings one class of it (1, h, w) to the image's size
    ``size_hw``, (1, H, W), as the model's masks are.
    """

    logits_Khw: np.ndarray
    size_hw: tuple[int, int]
    enlarge: Callable[[np.ndarray], np.ndarray]

    @property
    def num_bytes(self) -> int:
        """Return what it takes."""
        return self.logits_Khw.nbytes

    def plane(self, index: int) -> np.ndarray:
        """Return the logits of one class at the image's size, (H, W) float32."""
        return self.enlarge(self.logits_Khw[index : index + 1])[0]


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


def colour_of(level: int) -> Colour:
    """Return the colour of a level of 0 to 99: viridis, between its eleven colours in straight lines."""
    at = level / (STEPS - 1) * (len(VIRIDIS) - 1)
    low = min(int(at), len(VIRIDIS) - 2)
    first, second = (tuple(bytes.fromhex(VIRIDIS[n])) for n in (low, low + 1))
    red, green, blue = (round(a + (at - low) * (b - a)) for a, b in zip(first, second, strict=True))
    return red, green, blue
