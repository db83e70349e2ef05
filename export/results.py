"""What a person takes away from a prediction: mask files, overlays, outlines. Torch-free.

Shape legend: H and W image side in pixels, K classes. Masks are {0, 1}; later classes are drawn over earlier ones, so
that a part (optic cup) stays visible on its whole (optic disc).
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageFilter
from PIL.PngImagePlugin import PngInfo

from engine.data.transforms import Normalise, intensity_window, to_levels
from engine.errors import UserError

Colour = tuple[int, int, int]
CLASS_COLOURS: tuple[Colour, ...] = (
    (0, 158, 115),
    (230, 159, 0),
    (86, 180, 233),
    (204, 121, 167),
    (213, 94, 0),
    (240, 228, 66),
    (0, 114, 178),
)
"""Okabe and Ito's palette, which people with any colour vision tell apart; repeated for more classes."""


def class_colour(index: int) -> Colour:
    """Return the RGB colour, uint8 values, of class ``index``."""
    return CLASS_COLOURS[index % len(CLASS_COLOURS)]


def binary_png(mask_HW: np.ndarray, *, note: str = "") -> bytes:
    """Return one class's mask as an 8-bit grey PNG: 0 background, 255 foreground; ``note`` is its comment."""
    return _png(Image.fromarray((np.asarray(mask_HW) > 0).astype(np.uint8) * 255), note=note)


def label_png(mask_KHW: np.ndarray, *, note: str = "") -> bytes:
    """Return all classes as one palette PNG: 0 background, k for class k (from 1), the later class where they overlap.

    ``note`` is its comment.

    Raises ``UserError`` ``mask.too_many_classes`` above 255 classes.
    """
    num_classes = len(mask_KHW)
    if num_classes > 255:
        raise UserError(
            "mask.too_many_classes",
            what=f"The mask has {num_classes} classes.",
            why="A palette PNG has room for 255 and the background.",
            fix="Save one PNG a class instead.",
        )
    label_HW = np.zeros(mask_KHW.shape[1:], dtype=np.uint8)
    for index, mask_HW in enumerate(mask_KHW):
        label_HW[mask_HW > 0] = index + 1
    image = Image.fromarray(label_HW)
    palette = [0, 0, 0, *(value for index in range(num_classes) for value in class_colour(index))]
    image.putpalette(palette)
    return _png(image, note=note)


def mask_file(mask_KHW: np.ndarray, *, classes: Sequence[str], stem: str, note: str = "") -> tuple[str, bytes]:
    """Return the name and content of the file to download.

    One class: ``<stem>_mask.png``, 0 and 255. Several: ``<stem>_masks.zip`` with such a PNG for every class (they may
    overlap) and ``labels.png``, the palette image of all of them. Each PNG has ``note`` as its comment.
    """
    if len(mask_KHW) != len(classes):
        raise ValueError(f"{len(mask_KHW)} masks for {len(classes)} classes")
    stem = plain_name(stem)
    if len(classes) == 1:
        return f"{stem}_mask.png", binary_png(mask_KHW[0], note=note)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression=zipfile.ZIP_STORED) as archive:
        for name, mask_HW in zip(classes, mask_KHW, strict=True):
            archive.writestr(f"{plain_name(name)}.png", binary_png(mask_HW, note=note))
        archive.writestr("labels.png", label_png(mask_KHW, note=note))
    return f"{stem}_masks.zip", buffer.getvalue()


def overlay(
    image_HW3: np.ndarray,
    mask_KHW: np.ndarray,
    *,
    opacity: float = 0.45,
    colours: Sequence[Colour] | None = None,
    outline_px: int = 0,
) -> np.ndarray:
    """Return the image with every class blended over it in its colour, (H, W, 3) uint8.

    Parameters
    ----------
    image_HW3 : numpy.ndarray
        uint8 as it is; other types are scaled for display by :func:`displayable`.
    mask_KHW : numpy.ndarray
        {0, 1} of the image's own size.
    opacity : float
        0 shows the image alone, 1 the flat colour.
    colours : sequence of RGB or None
        One colour a class; :func:`class_colour` when None.
    outline_px : int
        Width of a fully opaque outline inside every region; 0 draws none.
    """
    if mask_KHW.shape[1:] != image_HW3.shape[:2]:
        raise ValueError(f"a mask of {mask_KHW.shape[1:]} does not cover an image of {image_HW3.shape[:2]}")
    blended = displayable(image_HW3).astype(np.float32)
    for index, mask_HW in enumerate(mask_KHW):
        colour = np.asarray(colours[index] if colours is not None else class_colour(index), dtype=np.float32)
        inside = mask_HW > 0
        blended[inside] += opacity * (colour - blended[inside])
        if outline_px:
            blended[outline(mask_HW, width_px=outline_px)] = colour
    return np.clip(np.rint(blended), 0, 255).astype(np.uint8)


def outline(mask_HW: np.ndarray, *, width_px: int = 1) -> np.ndarray:
    """Return the inner border of a mask as a boolean (H, W): foreground within ``width_px`` of the background."""
    inside = np.asarray(mask_HW) > 0
    # Pillow repeats the outermost pixels, so the image's edge is not a border: the region goes on outside.
    eroded = Image.fromarray(inside.astype(np.uint8)).filter(ImageFilter.MinFilter(2 * width_px + 1))
    return inside & (np.asarray(eroded) == 0)


def probability_png(probability_HW: np.ndarray) -> bytes:
    """Return a probability map as an 8-bit grey PNG, 0 to 255 for 0 to 1."""
    return _png(Image.fromarray(np.rint(np.clip(probability_HW, 0, 1) * 255).astype(np.uint8)))


def displayable(image_HW3: np.ndarray) -> np.ndarray:
    """Return an image as uint8: as it is, or its own minimum to maximum stretched to 0-255 for other types."""
    if image_HW3.dtype == np.uint8:
        return image_HW3
    low, high = float(image_HW3.min()), float(image_HW3.max())
    scale = 255 / (high - low) if high > low else 0.0
    shown = np.empty(image_HW3.shape, dtype=np.uint8)
    for channel in range(image_HW3.shape[2]):  # one at a time: float32 copies of a large image take gigabytes
        shown[..., channel] = np.rint((image_HW3[..., channel].astype(np.float32) - low) * scale)
    return shown


def as_seen(image_HW3: np.ndarray, normalise: Normalise) -> np.ndarray:
    """Return an image as uint8 for people, over the window in which a model sees it.

    ``per_image`` stretches its own 0.5-99.5 percentiles to 0-255: a dark image would be shown black otherwise. Of the
    others it is :func:`displayable`.
    """
    if normalise == "none":
        return displayable(image_HW3)
    levels = to_levels(image_HW3, normalise)
    low, high = intensity_window(levels, normalise)
    if high <= low:
        return levels
    table = np.rint(np.clip((np.arange(256) - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    return table[levels]


def plain_name(name: str) -> str:
    """Return ``name`` with everything but letters, digits, dot, dash and underscore replaced (safe in any archive)."""
    return re.sub(r"[^\w.-]+", "_", name).strip("._") or "image"


def _png(image: Image.Image, *, note: str = "") -> bytes:
    buffer, about = io.BytesIO(), PngInfo()
    if note:
        about.add_text("Comment", note)
    image.save(buffer, format="PNG", pnginfo=about)
    return buffer.getvalue()
