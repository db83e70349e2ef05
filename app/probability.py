"""What is kept of an inference for other thresholds, and how probabilities are coloured. Pure numpy.

Shape legend: K classes, h and w the model's own grid, H and W the image's side in pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from app.overlays import Colour
from export.levels import STEPS

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


@dataclass(frozen=True, eq=False)
class Greys:
    """What stays of an image for the mean inside its mask: (H, W) uint16, of which ``full`` is white."""

    values_HW: np.ndarray
    full: int

    @classmethod
    def of(cls, image_HW3: np.ndarray) -> Greys:
        """Return the mean of the channels of uint8 (exact), uint16 or float32 in [0, 1]."""
        if image_HW3.dtype == np.uint8:
            return cls(np.add(image_HW3[..., 0], image_HW3[..., 1], dtype=np.uint16) + image_HW3[..., 2], 3 * 255)
        full = 65535
        scale = 1.0 if image_HW3.dtype == np.uint16 else full
        return cls(np.rint(image_HW3.mean(axis=2, dtype=np.float32) * np.float32(scale)).astype(np.uint16), full)

    def mean(self, mask_HW: np.ndarray) -> float | None:
        """Return the mean inside a mask, in [0, 1]; None of an empty one."""
        inside = self.values_HW[mask_HW > 0]
        return float(inside.sum(dtype=np.float64) / inside.size / self.full) if inside.size else None


def colour_of(level: int) -> Colour:
    """Return the colour of a level of 0 to 99: viridis, between its eleven colours in straight lines."""
    at = level / (STEPS - 1) * (len(VIRIDIS) - 1)
    low = min(int(at), len(VIRIDIS) - 2)
    first, second = (tuple(bytes.fromhex(VIRIDIS[n])) for n in (low, low + 1))
    red, green, blue = (round(a + (at - low) * (b - a)) for a, b in zip(first, second, strict=True))
    return red, green, blue
