"""What every decoder agrees on: its three questions, and how stored numbers become a known depth."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from engine.data.geometry import Geometry
from engine.data.transforms import percentile_range

__all__ = ["Format", "Geometry", "Unsupported", "Window", "scale_to_unit"]


Window = Literal["auto", "dicom", "stored"]
"""How a DICOM file's grey values become [0, 1] where no range is declared: its window, else percentiles of its series
(auto); its window, which it must have (dicom); the whole range of its stored bits (stored). Other formats have no
window."""


class Unsupported(ValueError):
    """A valid file of a kind that is not read; the text names the kind and begins with "it" or "its"."""


class Format(Protocol):
    """A decoder: a file's size without its pixels, a picture, and a mask's stored numbers."""

    @staticmethod
    def header(path: Path, *, slice_axis: int) -> Geometry:
        """Return the size from the header alone."""

    @staticmethod
    def image(path: Path, *, slice_index: int, slice_axis: int, value_range: tuple[float, float] | None) -> np.ndarray:
        """Return one picture, (H, W) or (H, W, C), uint8, uint16, or float32 in [0, 1]."""

    @staticmethod
    def labels(path: Path, *, slice_index: int, slice_axis: int) -> np.ndarray:
        """Return one picture's stored numbers, (H, W) or (H, W, C)."""


def scale_to_unit(values: np.ndarray, value_range: tuple[float, float] | None) -> np.ndarray:
    """Return ``values`` as float32 in [0, 1]: ``value_range`` (default: 0.5-99.5 percentiles) mapped and clipped."""
    # 24 bits of a float32 hold every 16-bit number, not every wider one
    exact = np.float32 if values.dtype.itemsize <= 2 or values.dtype == np.float32 else np.float64
    values = values.astype(exact, order="C")  # of a turned picture numpy would make more copies
    if not np.isfinite(values).all():
        raise Unsupported("it holds values that are not finite")
    low, high = percentile_range(values) if value_range is None else value_range
    if high <= low:
        return np.zeros(values.shape, np.float32)
    values -= exact(low)
    values /= exact(high - low)
    return np.clip(values, 0.0, 1.0, out=values).astype(np.float32, copy=False)
