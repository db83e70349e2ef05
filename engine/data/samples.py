"""What the everyday formats share: stored samples become a picture or labels, upright, of a depth that is known."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from engine.data.budget import require_bytes
from engine.data.pixels import scale_to_unit
from engine.errors import UserError

FLIPS = {2: (1, -1), 3: (-1, -1), 4: (-1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}
"""Steps along rows and columns that follow the transposition of 5 to 8 (TIFF 6.0, tag 274; EXIF means the same)."""

WHOLE_WITHIN = 1e-3
"""How far a label may lie from a whole number (ours): labels kept as scaled integers come back with rounding errors."""
LEVELS: Literal["levels"] = "levels"
White = int | Literal["levels"] | None
"""What a palette picture of black and white is read as: 0 and this number, its grey levels, or (None) its indices."""
LARGEST_WHOLE = 2**53
"""A float64 holds every whole number up to here."""
BLOCK = 1 << 14
"""Numbers that are worked on at once where numpy needs wide numbers in between (ours)."""


def unsupported(path: Path, fault: str, *, fix: str) -> UserError:
    """Return the error of a file that is sound but of a kind that is not read; ``fault`` says which."""
    return UserError(
        "data.image_unsupported",
        what=f"The file {path} cannot be used: {fault}.",
        why="It is not damaged, but a picture of this kind has no one right reading here.",
        fix=fix,
    )


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Return ``pixels`` (H, W, ...) turned as a viewer shows them; 5 to 8 swap height and width."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    down, right = FLIPS.get(orientation, (1, 1))
    return pixels[::down, ::right]


def upright_size(height_px: int, width_px: int, orientation: int) -> tuple[int, int]:
    """Return (height, width) after :func:`upright`."""
    return (width_px, height_px) if orientation in (5, 6, 7, 8) else (height_px, width_px)


def is_turned(orientation: int) -> bool:
    """Return whether :func:`upright` changes anything."""
    return 2 <= orientation <= 8


def has_known_range(values: np.ndarray, bits: int) -> bool:
    """Return whether the depth alone says what is white."""
    return values.dtype.kind in "bu" and bits <= 16


def require_finite(path: Path, values: np.ndarray) -> None:
    """Raise ``UserError`` where ``values`` hold NaN or infinity."""
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise unsupported(
            path,
            "it holds values that are not finite (NaN or infinity)",
            fix="Replace them by a number that means 'nothing there', such as the lowest one.",
        )


def picture(
    path: Path,
    values: np.ndarray,
    *,
    bits: int,
    value_range: tuple[float, float] | None,
    white_is_zero: bool = False,
) -> np.ndarray:
    """Return samples as they are seen: uint8, uint16, or float32 in [0, 1].

    Unsigned samples of 1, 2, 4 and 8 bits become uint8, of 16 bits uint16, of other depths up to 16 float32, each with
    the largest number of ``bits`` as white. ``value_range`` (in stored numbers) overrules that; all other samples are
    scaled to it or, without one, floats in [0, 1] are kept and the rest is scaled to its 0.5-99.5 percentiles.
    ``white_is_zero`` turns the result over, whatever its depth.
    """
    is_known = value_range is None and has_known_range(values, bits)
    _require_room(path, values, is_kept=is_known and bits in (1, 2, 4, 8, 16))
    require_finite(path, values)
    if is_known:
        top = 2**bits - 1
        values = values.view(np.uint8) if values.dtype == bool else values
        seen = top - values if white_is_zero else values
        if bits in (1, 2, 4, 8):
            levels = seen.astype(np.uint8, copy=False)
            return levels if bits == 8 else levels * np.uint8(255 // top)
        return seen.astype(np.uint16, copy=False) if bits == 16 else seen.astype(np.float32) / np.float32(top)
    if value_range is None and values.dtype.kind == "f" and values.size and values.min() >= 0 and values.max() <= 1:
        value_range = (0.0, 1.0)
    unit = scale_to_unit(values, value_range)
    return 1 - unit if white_is_zero else unit


def _require_room(path: Path, values: np.ndarray, *, is_kept: bool) -> None:
    """Raise where ``values`` take too much while they become (H, W, 3): as small integers (``is_kept``) or floats.

    A grey picture has three channels in the end, and floats are sorted in a copy to find their range.
    """
    held = max(values.nbytes, getattr(values.base, "nbytes", 0))
    pixels = values.shape[0] * values.shape[1]
    if is_kept:
        needed = held + values.size * (values.itemsize + 2) + 3 * pixels * values.itemsize
    else:
        exact = np.result_type(values.dtype, np.float32).itemsize
        needed = held + max(values.size * (2 * exact + 1), values.size * 4 + 3 * pixels * 4)
    require_bytes(path, num_values=needed, dtype=np.uint8)


def label_plane(path: Path, labels: np.ndarray) -> np.ndarray:
    """Return (H, W) of a mask stored as grey, grey with alpha, RGB or RGBA of equal channels.

    Refuses a mask that alpha holds: drawn on a transparent layer, its colour says nothing or something else.
    """
    if labels.ndim == 2:
        return labels
    colours, alpha = (labels, None) if labels.shape[2] in (1, 3) else (labels[..., :-1], labels[..., -1])
    if (colours != colours[..., :1]).any():
        raise unsupported(
            path,
            "a mask is grey or a palette picture, this one is coloured",
            fix="Save the mask as a grey picture with one number for each class.",
        )
    plane = colours[..., 0]
    if alpha is not None:
        hidden = ((plane != 0) & (alpha == 0)).any()
        if hidden or (alpha.min() != alpha.max() and plane.min() == plane.max()):
            raise unsupported(
                path,
                "the mask lies in the alpha channel",
                fix="Flatten the mask onto black and save it as a grey picture without transparency.",
            )
    return np.ascontiguousarray(plane)


def white_is_zero_plane(path: Path, labels: np.ndarray, *, bits: int) -> np.ndarray:
    """Return a mask whose file says that zero is shown white: of one bit what is white, else the stored numbers.

    Deeper label maps keep their numbers: white-is-zero says how they are shown, not what they mean. Where black and
    white alone occur nobody can tell: raises ``UserError`` ``data.image_unsupported``.
    """
    if bits == 1:
        return labels == 0
    top = 2**bits - 1
    if labels.max() == top and ((labels == 0) | (labels == top)).all():
        fault = "its white is zero, so its mask may be what is stored or what is shown"
        raise unsupported(path, fault, fix="Save the mask with black as zero.")
    return labels


def palette_plane(indices: np.ndarray, colours: np.ndarray, *, white: White) -> np.ndarray:
    """Return a mask (H, W) stored as indices of ``colours`` (N, 3) uint8: ``white`` and 0 where it shows those alone.

    Programs that make a palette of a black and white mask put white first as often as black: there the numbers mean
    nothing, and what is shown is the mask. Label maps, and whatever else has other colours, keep their indices; all
    do with ``white`` None, for whoever has declared what the numbers mean. Of one colour alone the whole palette
    decides: a label map on white without any label has a palette of other colours, too.

    With ``white`` ``LEVELS``, for whoever has declared a threshold of grey, a palette of greys alone gives those: soft
    edges have levels between black and white, and what their indices are nobody has chosen.
    """
    numbers = indices.view(np.uint8) if indices.dtype == bool else indices
    if white == LEVELS:
        if (colours == colours[:, :1]).all() and _used(numbers, len(colours)) is not None:
            return colours[:, 0][numbers]
        white = 255
    used = _used(numbers, len(colours)) if white is not None else None
    if used is None or not 1 <= len(used) <= 2:
        return indices
    is_white, is_black = (colours == 255).all(axis=1), (colours == 0).all(axis=1)
    shown = is_white[used]
    if not (is_white | is_black)[used].all() or (len(used) == 2 and shown[0] == shown[1]):
        return indices
    if len(used) == 1 and not ((is_white | is_black).all() and is_white.any()):
        return indices
    foreground = numbers == used[shown][0] if shown.any() else np.zeros(numbers.shape, bool)
    return foreground.view(np.uint8) * np.uint8(white)


def _used(indices: np.ndarray, num_colours: int) -> np.ndarray | None:
    """Return which of ``num_colours`` indices occur, None where one lies beyond them."""
    seen, flat = np.zeros(1 + np.iinfo(indices.dtype).max, bool), indices.reshape(-1)
    for start in range(0, flat.size, BLOCK):
        seen[flat[start : start + BLOCK]] = True
    return None if seen[num_colours:].any() else np.flatnonzero(seen)


def cmyk_to_rgb(cmyk: np.ndarray, top: int, *, is_inverted: bool = False) -> np.ndarray:
    """Return (H, W, 3) of ink amounts (H, W, 4), ``top`` being full ink: (1 - ink)(1 - black), without a profile.

    ``is_inverted`` says that ``top`` stands for no ink.
    """
    rgb = np.empty((*cmyk.shape[:2], 3), cmyk.dtype)
    for rows in _row_blocks(cmyk):
        paper = cmyk[rows].astype(np.uint32)
        paper = paper if is_inverted else top - paper
        rgb[rows] = (paper[..., :3] * paper[..., 3:] + top // 2) // top
    return rgb


def ycbcr_to_rgb(ycbcr: np.ndarray) -> np.ndarray:
    """Return (H, W, 3) uint8 of luma and chroma (H, W, 3) uint8 of the full range, as JFIF has it (ITU-R BT.601)."""
    size = ycbcr.shape[1], ycbcr.shape[0]
    return np.asarray(Image.frombytes("YCbCr", size, np.ascontiguousarray(ycbcr).tobytes()).convert("RGB"))


def coloured(indices: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Return (H, W, 3) of a palette's indices (H, W) and its ``colours`` (N, 3)."""
    rgb = np.empty((*indices.shape, 3), colours.dtype)
    for rows in _row_blocks(indices):
        rgb[rows] = colours[indices[rows].astype(np.intp)]
    return rgb


def whole_numbers(path: Path, labels: np.ndarray) -> np.ndarray | None:
    """Return floats as int64; None where one lies further than ``WHOLE_WITHIN`` from a whole number.

    Raises ``UserError`` ``data.image_unsupported`` where one is too large to be told from its neighbours.
    """
    require_bytes(path, num_values=labels.size, dtype=np.uint8, copies=labels.itemsize + np.dtype(np.int64).itemsize)
    found = np.empty(labels.shape, np.int64)
    for rows in _row_blocks(labels):
        part = labels[rows]
        whole = np.rint(part)
        if not (np.abs(part - whole) <= WHOLE_WITHIN).all():  # not finite is not whole either
            return None
        if np.abs(whole).max(initial=0) > LARGEST_WHOLE:  # as an int64 it might be any number
            raise unsupported(
                path,
                f"it holds numbers as large as {np.abs(whole).max():g}, and a mask the small whole numbers of classes",
                fix="Save the mask with the number of a class for each pixel.",
            )
        found[rows] = whole
    return found


def _row_blocks(pixels: np.ndarray) -> Iterator[slice]:
    """Yield slices of rows with about ``BLOCK`` numbers each."""
    step = max(1, BLOCK // max(1, math.prod(pixels.shape[1:])))
    yield from (slice(start, start + step) for start in range(0, len(pixels), step))
