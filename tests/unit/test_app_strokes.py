"""Strokes of a brush and an eraser: pixels worked out by hand, and by the definition of a disc along a line."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from app.strokes import MAX_NUMBERS, MAX_SIZE_PX, Stroke, covered, paint, stroke_of, usual_size, widest

Place = tuple[int, int]


def stroke(size_px: int, *places: Place, kind: Any = "brush") -> Stroke:
    return Stroke(kind, 0, size_px, np.array(places, "<i4").tobytes())


def drawn(size_hw: tuple[int, int], *args: Any) -> list[str]:
    mask = np.zeros(size_hw, np.uint8)
    paint(mask, stroke(*args))
    return ["".join(".X"[pixel] for pixel in row) for row in mask]


@pytest.mark.parametrize(("size_px", "rows"), [
    # a disc of radius size / 2 around a pixel's centre: dy² + dx² <= size² / 4
    (1, [".....", ".....", "..X..", ".....", "....."]),
    (2, [".....", "..X..", ".XXX.", "..X..", "....."]),
    (3, [".....", ".XXX.", ".XXX.", ".XXX.", "....."]),
    (4, ["..X..", ".XXX.", "XXXXX", ".XXX.", "..X.."]),
    (5, [".XXX.", "XXXXX", "XXXXX", "XXXXX", ".XXX."]),
])  # fmt: skip
def test_a_dab_is_a_disc(size_px: int, rows: list[str]) -> None:
    assert drawn((5, 5), size_px, (2, 2)) == rows


@pytest.mark.parametrize(("size_px", "places", "rows"), [
    # Along (0, 0) to (2, 5): |2 dx - 5 dy| <= half of the root of 29, 2 in whole numbers. Row 1: dx of 1.5 to 3.5.
    (1, [(0, 0), (2, 5)], ["XX....", "..XX..", "....XX"]),
    (1, [(2, 5), (0, 0)], ["XX....", "..XX..", "....XX"]),
    (1, [(2, 0), (0, 5)], ["....XX", "..XX..", "XX...."]),
    (2, [(0, 1), (1, 2)], ["XXX...", ".XXX..", "..X..."]),
    (3, [(1, 1), (1, 3)], ["XXXXX.", "XXXXX.", "XXXXX."]),
    (1, [(0, 0), (0, 2), (2, 2)], ["XXX...", "..X...", "..X..."]),
    (3, [(0, 5), (2, 5)], ["....XX", "....XX", "....XX"]),
])  # fmt: skip
def test_a_line_is_a_disc_along_it(size_px: int, places: list[Place], rows: list[str]) -> None:
    assert drawn((3, 6), size_px, *places) == rows


def is_near(pixel: Place, start: Place, end: Place, size_px: int) -> bool:
    """Return whether a pixel's centre is no further from a line between two places than half the size, exactly."""
    (dy, dx), (py, px) = (tuple(a - b for a, b in zip(to, start, strict=True)) for to in (end, pixel))
    square = dy * dy + dx * dx
    along = min(max(Fraction(py * dy + px * dx, square), Fraction(0)), Fraction(1)) if square else Fraction(0)
    return (py - along * dy) ** 2 + (px - along * dx) ** 2 <= Fraction(size_px**2, 4)


def test_any_stroke_is_what_the_definition_says() -> None:
    rng = np.random.default_rng(7)
    size_hw = (13, 17)
    for _ in range(150):
        places = [(int(rng.integers(13)), int(rng.integers(17))) for _ in range(rng.integers(1, 5))]
        size_px = int(rng.integers(1, 10))
        mask = np.zeros(size_hw, np.uint8)
        paint(mask, stroke(size_px, *places))
        pieces = list(pairwise(places)) or [(places[0], places[0])]
        wanted = [[any(is_near((r, c), *piece, size_px) for piece in pieces) for c in range(17)] for r in range(13)]
        assert np.array_equal(mask > 0, wanted), (size_px, places)


def test_more_pieces_than_are_worked_out_at_a_time() -> None:
    zigzag = [(row, 9 * (row % 2)) for row in range(200)]
    mask = np.zeros((200, 10), np.uint8)
    assert paint(mask, stroke(3, *zigzag)) == np.count_nonzero(mask)
    parts = np.zeros_like(mask)
    for start, end in pairwise(zigzag):
        paint(parts, stroke(3, start, end))
    assert np.array_equal(mask, parts)


def test_an_eraser_clears_and_says_how_many_pixels_changed() -> None:
    mask = np.ones((4, 4), np.uint8)
    assert paint(mask, stroke(3, (0, 0), kind="erase")) == 4
    assert mask.tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]]
    assert paint(mask, stroke(3, (0, 0), kind="erase")) == 0
    assert paint(mask, stroke(1, (0, 0), (0, 2))) == 2


def test_the_longest_lines_of_the_widest_brush_are_exact_at_their_edge() -> None:
    side, size_px = 8192, MAX_SIZE_PX
    area = covered(stroke(size_px, (0, 0), (8191, 8190)), size_hw=(side, side))
    for row in (0, 200, 4000, 8191):
        (inside,) = np.nonzero(area.inside[row])
        for column, wanted in ((inside[0] - 1, False), (inside[0], True), (inside[-1], True), (inside[-1] + 1, False)):
            if 0 <= column < side:
                assert is_near((row, int(column)), (0, 0), (8191, 8190), size_px) == wanted


@pytest.mark.parametrize("told", [
    None, 7, "3,0,0", [], [3], [3, 0], [3, 0, 0, 1], [0, 0, 0], [MAX_SIZE_PX + 1, 0, 0], [3, 10, 0], [3, 0, 20],
    [3, -1, 0], [3, 0, -1], [3, 0.5, 0], [True, 0, 0], [3, True, 0], [3, None, 0], [3, "0", 0], [3, [0], 0],
    [3, 2**40, 0], [3.0, 0, 0], (3, 0, 0), [3] + [0] * MAX_NUMBERS + [0],
])  # fmt: skip
def test_what_is_no_stroke_in_the_image_is_none(told: Any) -> None:
    assert stroke_of("brush", 0, told, size_hw=(10, 20)) is None


def test_a_stroke_is_kept_as_it_was_told() -> None:
    found = stroke_of("erase", 1, [MAX_SIZE_PX, 9, 19, 0, 0], size_hw=(10, 20))
    assert found is not None and (found.kind, found.class_index, found.size_px) == ("erase", 1, MAX_SIZE_PX)
    assert found.places_N2.tolist() == [[9, 19], [0, 0]] and hash(found)
    most = [1, *[0] * (MAX_NUMBERS - 1)]
    assert stroke_of("brush", 0, most, size_hw=(10, 20)) is not None


def test_widths_that_are_offered_are_odd_and_follow_the_image() -> None:
    assert [usual_size(size) for size in ((256, 256), (100, 1000), (9, 9), (8192, 8192))] == [7, 29, 3, 245]
    assert [widest(size) for size in ((256, 256), (9, 9), (8192, 8192))] == [65, 3, MAX_SIZE_PX]
