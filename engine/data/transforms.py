"""From a picture of any size and depth to what a model sees. Torch-free: training and the served model share it.

The order is fixed and the same everywhere: resize, then cut to 256 levels, then to float32 in [0, 1], then pad. A
picture that a site trains on and the same picture sent to the exported model therefore give the same numbers, bit for
bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from engine.data.augmentation import augment_batch

Normalise = Literal["none", "per_image"]
Fit = Literal["squash", "letterbox"]

PADDING = 0.0
"""What a model sees beside a letterboxed picture: black, whatever the picture's window; masks are background there."""

COUNTED_AT_A_TIME = 2**18
LOW_PERMILLE, HIGH_PERMILLE = 5, 995
"""Ends of the per-image window (ours): 0.5 and 99.5 %, wide enough for lamps and dead pixels to fall outside."""


def percentile_range(image: np.ndarray) -> tuple[float, float]:
    """Return the 0.5 and 99.5 % values over all pixels and channels; the extremes where the two coincide.

    The value at a share q is the smallest one that at least q of the pixels do not exceed, so a grey picture has the
    same range with one channel as with three equal ones.
    """
    flat = image.reshape(-1)
    if flat.dtype == np.uint8:  # a part at a time: numpy counts a copy of eight bytes a pixel
        parts = (flat[at : at + COUNTED_AT_A_TIME] for at in range(0, flat.size, COUNTED_AT_A_TIME))
        return ranked_range(np.arange(256), sum(np.bincount(part, minlength=256) for part in parts))
    return _at_ranks(flat, _ranks(flat.size))


def mirrored_range(image: np.ndarray) -> tuple[float, float]:
    """Return the two values, ascending, whose negatives are :func:`percentile_range` of the negative picture."""
    flat = image.reshape(-1)
    return _at_ranks(flat, [flat.size - 1 - rank for rank in reversed(_ranks(flat.size))])


def _at_ranks(flat: np.ndarray, ranks: list[int]) -> tuple[float, float]:
    low, high = np.partition(flat, ranks)[ranks]
    if low >= high:  # e.g. a black field with a few cells: nearly all pixels share one value
        low, high = flat.min(), flat.max()
    return float(low), float(high)


def ranked_range(levels: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    """Return :func:`percentile_range` of pixels of which ``counts`` have each of ``levels``, which ascend."""
    cumulated = np.cumsum(counts)
    low, high = (levels[np.searchsorted(cumulated, rank, side="right")] for rank in _ranks(int(cumulated[-1])))
    if low >= high:
        low, high = levels[np.flatnonzero(counts)[[0, -1]]]
    return float(low), float(high)


def _ranks(num_pixels: int) -> list[int]:
    return [-(-permille * num_pixels // 1000) - 1 for permille in (LOW_PERMILLE, HIGH_PERMILLE)]


def intensity_window(levels: np.ndarray, mode: Normalise) -> tuple[float, float]:
    """Return the uint8 levels (low, high) that become 0 and 1 in ``mode``."""
    return (0.0, 255.0) if mode == "none" else percentile_range(levels)


def apply_window(levels: np.ndarray, window: tuple[float, float], *, out: np.ndarray | None = None) -> np.ndarray:
    """Return ``(levels - low) / (high - low)`` clipped to [0, 1] as float32; zeros where the window is empty."""
    low, high = window
    if out is None:
        out = np.empty(levels.shape, np.float32)
    if high <= low:
        out[...] = 0.0
        return out
    if (low, high) == (0.0, 255.0):
        return np.divide(levels, np.float32(255), out=out, dtype=np.float32)
    np.subtract(levels, np.float32(low), out=out, dtype=np.float32)
    np.divide(out, np.float32(high - low), out=out)
    return np.clip(out, 0.0, 1.0, out=out)


def to_levels(image: np.ndarray, mode: Normalise = "none") -> np.ndarray:
    """Return ``image`` (uint8, uint16, or float in [0, 1]; any shape) with 256 levels as uint8.

    With ``per_image`` a deep picture is stretched by its own 0.5-99.5 percentiles before it is cut to 8 bits, so a dark
    12-bit picture in a 16-bit file keeps its detail. uint8 passes through unchanged.
    """
    if image.dtype == np.uint8:
        return image
    scaled = image.astype(np.float32) / np.float32(65535) if image.dtype == np.uint16 else image.astype(np.float32)
    low, high = (0.0, 1.0) if mode == "none" else percentile_range(scaled)
    if high <= low:
        return np.zeros(image.shape, np.uint8)
    return np.rint(np.clip((scaled - low) / (high - low), 0.0, 1.0) * 255).astype(np.uint8)


def normalise_image(image_HW3: np.ndarray, mode: Normalise = "none") -> np.ndarray:
    """Return ``image_HW3`` (uint8, uint16, or float in [0, 1]) as float32 in [0, 1] of the same shape.

    ``none`` divides by the depth's largest value, as the paper does (methods.md 1.2: uint8/255, no mean or standard
    deviation). ``per_image`` maps the picture's 0.5-99.5 percentiles over all channels to [0, 1] (ours).
    """
    levels = to_levels(image_HW3, mode)
    return apply_window(levels, intensity_window(levels, mode))


@dataclass(frozen=True)
class Box:
    """Where a picture lies in the model's square, pixels: rows top to top + height, columns left to left + width."""

    top: int
    left: int
    height: int
    width: int

    def of(self, array: np.ndarray) -> np.ndarray:
        """Return the part of ``array`` (..., H, W) inside the box, as a view."""
        return array[..., self.top : self.top + self.height, self.left : self.left + self.width]

    def mask(self, side_px: int) -> np.ndarray:
        """Return the box as uint8 (side_px, side_px): 1 inside, 0 in the padding."""
        inside = np.zeros((side_px, side_px), np.uint8)
        self.of(inside)[...] = 1
        return inside


def content_box(size_hw: tuple[int, int], image_px: int, fit: Fit) -> Box:
    """Return where a picture of ``size_hw`` lies in a square of ``image_px``.

    ``squash`` fills the square. ``letterbox`` makes the longer side ``image_px`` and keeps the ratio of the sides, to
    half a pixel; the picture lies in the middle, the odd pixel of padding below it or right of it.
    """
    if fit == "squash":
        return Box(0, 0, image_px, image_px)
    longer = max(size_hw)
    height, width = (max(1, (2 * side * image_px + longer) // (2 * longer)) for side in size_hw)
    return Box((image_px - height) // 2, (image_px - width) // 2, height, width)


def resize_image(image_HW3: np.ndarray, height_px: int, width_px: int | None = None) -> np.ndarray:
    """Return ``image_HW3`` with other sides (a square without ``width_px``): bilinear, antialiased.

    uint8 stays uint8; uint16 and float come back as float32 in [0, 1].
    """
    width_px = height_px if width_px is None else width_px
    if image_HW3.dtype != np.uint8:
        divisor = np.float32(65535 if image_HW3.dtype == np.uint16 else 1)
        image_HW3 = image_HW3.astype(np.float32) / divisor
    if image_HW3.shape[:2] == (height_px, width_px):
        return image_HW3
    size = (width_px, height_px)
    if image_HW3.dtype == np.uint8:
        return np.asarray(Image.fromarray(image_HW3).resize(size, Image.Resampling.BILINEAR))
    planes = [Image.fromarray(np.ascontiguousarray(image_HW3[..., c])) for c in range(image_HW3.shape[2])]
    return np.stack([np.asarray(plane.resize(size, Image.Resampling.BILINEAR)) for plane in planes], axis=-1)


def prepare_image(image_HW3: np.ndarray, image_px: int, mode: Normalise = "none", fit: Fit = "squash") -> np.ndarray:
    """Return the model's input (image_px, image_px, 3) float32 in [0, 1] of a picture of any size and depth.

    The window of ``per_image`` is that of the picture, not of its padding.
    """
    box = content_box(image_HW3.shape[:2], image_px, fit)
    content = normalise_image(resize_image(image_HW3, box.height, box.width), mode)
    if (box.height, box.width) == (image_px, image_px):
        return content
    square = np.full((image_px, image_px, 3), PADDING, np.float32)
    box.of(square.transpose(2, 0, 1))[...] = content.transpose(2, 0, 1)
    return square


def fit_mask(mask_KHW: np.ndarray, image_px: int, box: Box) -> np.ndarray:
    """Return ``mask`` (K, H, W) in the model's square, nearest pixel centre inside ``box``, background beside it."""
    inside = resize_mask(mask_KHW, box.height, box.width)
    if (box.height, box.width) == (image_px, image_px):
        return inside
    square = np.zeros((len(mask_KHW), image_px, image_px), mask_KHW.dtype)
    box.of(square)[...] = inside
    return square


def resize_mask(mask_KHW: np.ndarray, height_px: int, width_px: int | None = None) -> np.ndarray:
    """Return ``mask`` (..., H, W) on another grid, nearest pixel centre, same dtype; square without ``width_px``."""
    width_px = height_px if width_px is None else width_px
    rows, columns = (_nearest(mask_KHW.shape[axis], size) for axis, size in ((-2, height_px), (-1, width_px)))
    return np.ascontiguousarray(mask_KHW[..., rows, :][..., columns])


def mask_to_grid(mask_BKHW: np.ndarray, grid_px: int) -> np.ndarray:
    """Return ``mask_BKHW`` (uint8) on the decoder's grid (B, K, grid_px, grid_px), nearest pixel centre."""
    return resize_mask(mask_BKHW, grid_px)


def _nearest(old_px: int, new_px: int) -> slice | np.ndarray:
    if old_px % new_px == 0:  # a stride is a view: several times cheaper than an index list
        stride = old_px // new_px
        return slice(stride // 2, None, stride)
    return np.minimum((np.arange(new_px) * 2 + 1) * old_px // (2 * new_px), old_px - 1)


__all__ = [
    "PADDING",
    "Box",
    "Fit",
    "Normalise",
    "apply_window",
    "augment_batch",
    "content_box",
    "fit_mask",
    "intensity_window",
    "mask_to_grid",
    "normalise_image",
    "percentile_range",
    "prepare_image",
    "ranked_range",
    "resize_image",
    "resize_mask",
    "to_levels",
]
