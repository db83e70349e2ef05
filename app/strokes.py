"""Strokes of a brush and an eraser: pixels of the image that are set or cleared. Pure numpy.

A stroke is a line through whole pixels, drawn with a disc: it covers every pixel whose centre lies no further from the
line than half its size. All of it is integers, worked out as ``app/brush.js`` does it: the browser paints at once what
is kept here. Shape legend: H and W the image's side in pixels, N places of a line, M rows of all its pieces.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeGuard

import numpy as np

StrokeKind = Literal["brush", "erase"]
KINDS: tuple[StrokeKind, ...] = ("brush", "erase")
MAX_PLACES = 500
"""Of one stroke (ours): the browser leaves out what lies within half a pixel of the line, and ends a longer one."""
MAX_NUMBERS = 1 + 2 * MAX_PLACES
"""What a browser sends of a stroke: its size, and row and column of each place."""
MAX_SIZE_PX = 401
"""Width of the widest brush (ours): a tenth of a large image's side."""
USUAL_SHARE, WIDEST_SHARE = 0.03, 0.25
"""Of the image's longer side (ours): the brush that an answer begins with, and the widest that is offered."""
PIECES_AT_A_TIME = 64
"""Of a line (ours): so many across a whole image of 8192 pixels take 80 MB."""
NOWHERE = 2**31


@dataclass(frozen=True)
class Stroke:
    """One line of a brush or an eraser, ``size_px`` pixels wide.

    ``places`` are the pixels that it goes through, row and column in turn, as bytes of little-endian int32: a session
    remembers a hundred strokes, and 500 pairs of Python's integers take ten times as much.
    """

    kind: StrokeKind
    class_index: int
    size_px: int
    places: bytes

    @property
    def places_N2(self) -> np.ndarray:
        """Return rows and columns, int64."""
        return np.frombuffer(self.places, "<i4").reshape(-1, 2).astype(np.int64)


@dataclass(frozen=True, eq=False)
class Area:
    """Pixels of an image: those of ``inside`` (bool) in its ``rows`` and ``columns``."""

    rows: slice
    columns: slice
    inside: np.ndarray

    def fill(self, plane_HW: np.ndarray, value: bool) -> int:
        """Give the pixels one value, in place, and return how many had another."""
        part = plane_HW[self.rows, self.columns]
        changed = int(np.count_nonzero(part[self.inside] != value))
        part[self.inside] = value
        return changed


def is_kind(kind: object) -> TypeGuard[StrokeKind]:
    """Return whether this names a stroke."""
    return isinstance(kind, str) and kind in KINDS


def stroke_of(kind: StrokeKind, class_index: int, told: object, *, size_hw: tuple[int, int]) -> Stroke | None:
    """Return the stroke that a browser tells as [size, row, column, row, column, ...]; None for what is none.

    Places are pixels of the image from its upper left, at least one and at most ``MAX_PLACES``.
    """
    if not (isinstance(told, list) and 3 <= len(told) <= MAX_NUMBERS and len(told) % 2):
        return None
    if not all(type(number) is int for number in told):
        return None
    size_px, rows, columns = told[0], told[1::2], told[2::2]
    if not 1 <= size_px <= MAX_SIZE_PX:
        return None
    if not all(0 <= row < size_hw[0] for row in rows) or not all(0 <= column < size_hw[1] for column in columns):
        return None
    return Stroke(kind, class_index, size_px, np.array(told[1:], "<i4").tobytes())


def usual_size(size_hw: tuple[int, int]) -> int:
    """Return the width of the brush that an answer begins with."""
    return _odd(USUAL_SHARE * max(size_hw))


def widest(size_hw: tuple[int, int]) -> int:
    """Return the width of the widest brush that is offered for an image."""
    return _odd(WIDEST_SHARE * max(size_hw))


def paint(mask_HW: np.ndarray, stroke: Stroke) -> int:
    """Set or clear what a stroke covers of a mask {0, 1}, in place, and return how many pixels that changed."""
    area = covered(stroke, size_hw=(mask_HW.shape[0], mask_HW.shape[1]))
    return area.fill(mask_HW, stroke.kind == "brush")


def covered(stroke: Stroke, *, size_hw: tuple[int, int]) -> Area:
    """Return the pixels of an image that a stroke covers."""
    places_N2, half = stroke.places_N2, stroke.size_px // 2
    top, left = np.maximum(places_N2.min(axis=0) - half, 0)
    bottom, right = np.minimum(places_N2.max(axis=0) + half + 1, size_hw)
    steps = np.zeros((bottom - top, right - left + 1), np.int16)  # +1 where a row's pixels begin, -1 behind their end
    starts_N2 = places_N2[:-1] if len(places_N2) > 1 else places_N2
    ends_N2 = places_N2[1:] if len(places_N2) > 1 else places_N2
    for first in range(0, len(starts_N2), PIECES_AT_A_TIME):
        some = slice(first, first + PIECES_AT_A_TIME)
        row_M, low_M, high_M = _rows(starts_N2[some], ends_N2[some], stroke.size_px)
        seen_M = (row_M >= top) & (row_M < bottom) & (high_M >= left) & (low_M < right)
        row_M = row_M[seen_M] - top
        np.add.at(steps, (row_M, np.maximum(low_M[seen_M], left) - left), 1)
        np.add.at(steps, (row_M, np.minimum(high_M[seen_M] + 1, right) - left), -1)
    inside = np.cumsum(steps, axis=1, dtype=np.int16)[:, :-1] > 0
    return Area(slice(int(top), int(bottom)), slice(int(left), int(right)), inside)


def _rows(starts_N2: np.ndarray, ends_N2: np.ndarray, size_px: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the rows of the pieces of a line, each with the first and last column that it covers there.

    A piece is what lies around its two ends and beside the straight line between them: convex, so that a row of it is
    one run of pixels. It is turned upside down and mirrored so that it goes down and to the right.
    """
    half, flip_N1 = size_px // 2, (starts_N2[:, 0] > ends_N2[:, 0])[:, None]
    upper_N2, lower_N2 = np.where(flip_N1, ends_N2, starts_N2), np.where(flip_N1, starts_N2, ends_N2)
    down_N, across_N = (lower_N2 - upper_N2).T
    counts_N = down_N + 2 * half + 1
    piece_M = np.repeat(np.arange(len(counts_N)), counts_N)
    row_M = np.arange(len(piece_M)) - (np.cumsum(counts_N) - counts_N)[piece_M] - half
    down_M, across_M = down_N[piece_M], np.abs(across_N)[piece_M]
    ends = [(0, _reach(row_M, size_px)), (across_M, _reach(row_M - down_M, size_px))]
    low_M, high_M = _beside(row_M, down_M, across_M, size_px)
    for middle_M, reach_M in ends:
        there_M = reach_M >= 0
        low_M = np.where(there_M, np.minimum(low_M, middle_M - reach_M), low_M)
        high_M = np.where(there_M, np.maximum(high_M, middle_M + reach_M), high_M)
    mirrored_M = (across_N < 0)[piece_M]
    low_M, high_M = np.where(mirrored_M, -high_M, low_M), np.where(mirrored_M, -low_M, high_M)
    row_of_M, column_M = upper_N2[piece_M].T
    return row_of_M + row_M, column_M + low_M, column_M + high_M


def _reach(row_M: np.ndarray, size_px: int) -> np.ndarray:
    """Return how far a disc reaches to each side in a row so far from its middle, -1 where it does not."""
    rest_M = size_px**2 - 4 * row_M**2
    return np.where(rest_M < 0, -1, _root(np.maximum(rest_M, 0)) // 2)


def _beside(row_M: np.ndarray, down_M: np.ndarray, across_M: np.ndarray, size_px: int) -> tuple[np.ndarray, np.ndarray]:
    """Return first and last column beside the straight line from (0, 0) to (down, across); none: first above last.

    A pixel (row, column) is no further from it than half the size where |column * down - row * across| is at most that
    times its length, and beside it where column * across + row * down is between 0 and the square of its length.
    """
    square_M = down_M**2 + across_M**2
    far_M = _root(size_px**2 * square_M) // 2
    by_down, by_across = np.maximum(down_M, 1), np.maximum(across_M, 1)
    level_M, upright_M = down_M == 0, across_M == 0
    low_M = np.where(level_M, -NOWHERE, -((far_M - row_M * across_M) // by_down))
    high_M = np.where(level_M, NOWHERE, (far_M + row_M * across_M) // by_down)
    low_M = np.where(upright_M, low_M, np.maximum(low_M, -((row_M * down_M) // by_across)))
    high_M = np.where(upright_M, high_M, np.minimum(high_M, (square_M - row_M * down_M) // by_across))
    outside_M = (level_M & (np.abs(row_M * across_M) > far_M)) | (upright_M & ((row_M < 0) | (row_M > down_M)))
    outside_M |= (level_M & upright_M) | (low_M > high_M)
    return np.where(outside_M, NOWHERE, low_M), np.where(outside_M, -NOWHERE, high_M)


def _root(number_M: np.ndarray) -> np.ndarray:
    """Return the whole root of numbers below 2**52, where a float's root is never a whole one too large."""
    return np.floor(np.sqrt(number_M)).astype(np.int64)


def _odd(pixels: float) -> int:
    """Return an odd width near this: a disc around a pixel's centre is as wide as it says where that is odd."""
    return min(max(2 * round((pixels - 1) / 2) + 1, 3), MAX_SIZE_PX)
