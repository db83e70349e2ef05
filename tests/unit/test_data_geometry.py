"""Where pixels lie in the patient, and which masks lie on the same ones; every affine written out by hand."""

from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pytest

from engine.data.geometry import Geometry, Reindex, as_affine, same_place, same_slices

WIDTH, HEIGHT, SLICES = 5, 4, 3
AXIAL = np.array(  # columns to the left by 0.5 mm, rows to the back by 0.8 mm, slices to the head by 3 mm
    [[0.5, 0, 0, -100], [0, 0.8, 0, -50], [0, 0, 3, 10], [0, 0, 0, 1]]
)


def geometry(matrix: np.ndarray, shape: tuple[int, int, int] = (WIDTH, HEIGHT, SLICES)) -> Geometry:
    return Geometry(shape[1], shape[0], num_slices=shape[2]).placed(matrix)


@pytest.mark.parametrize(
    ("columns", "letters"),
    [
        (((1, 0, 0), (0, 1, 0), (0, 0, 1)), "LPS"),
        (((-1, 0, 0), (0, -1, 0), (0, 0, 1)), "RAS"),
        (((0, 1, 0), (0, 0, -1), (1, 0, 0)), "PIL"),
        (((0.9, 0.3, 0), (-0.3, 0.9, 0), (0, 0, -1)), "LPI"),
    ],
)
def test_the_orientation_says_where_columns_rows_and_slices_grow_to(columns: tuple, letters: str) -> None:
    matrix = np.eye(4)
    matrix[:3, :3] = np.array(columns).T
    assert geometry(matrix).orientation == letters


def test_a_picture_without_placement_has_no_orientation() -> None:
    assert Geometry(4, 5).orientation is None and Geometry(4, 5).matrix is None


@pytest.mark.parametrize(
    ("swap", "flips"), list(itertools.product([False, True], itertools.product([False, True], repeat=3)))
)
def test_a_mask_on_the_same_grid_is_turned_to_the_image(swap: bool, flips: tuple[bool, bool, bool]) -> None:
    image = np.arange(WIDTH * HEIGHT * SLICES).reshape(SLICES, HEIGHT, WIDTH)
    # the same voxels stored another way: turned round, and rows for columns
    stored, matrix = image, AXIAL.copy()
    for axis, (flip, size) in enumerate(zip(flips, (WIDTH, HEIGHT, SLICES), strict=True)):
        if flip:
            stored = np.flip(stored, 2 - axis)
            matrix[:3, 3] += matrix[:3, axis] * (size - 1)
            matrix[:3, axis] *= -1
    if swap:
        stored, matrix = stored.swapaxes(1, 2), matrix[:, [1, 0, 2, 3]]
    mask = geometry(matrix, (stored.shape[2], stored.shape[1], SLICES))
    found = same_place(geometry(AXIAL), mask)
    assert found is not None
    for index in range(SLICES):
        back = found.pixels(stored[found.slice_index(index, num_slices=SLICES)])
        np.testing.assert_array_equal(back, image[index])


def moved(**changes: float) -> np.ndarray:
    matrix = AXIAL.copy()
    for place, value in changes.items():
        matrix[int(place[1]), int(place[2])] += value
    return matrix


@pytest.mark.parametrize(
    ("matrix", "shape", "same"),
    [
        (moved(), (WIDTH, HEIGHT, SLICES), True),
        (moved(_03=0.04), (WIDTH, HEIGHT, SLICES), True),  # 0.08 of a column: a header's rounding
        (moved(_03=0.06), (WIDTH, HEIGHT, SLICES), False),  # 0.12 of a column
        (moved(_03=500), (WIDTH, HEIGHT, SLICES), False),
        (moved(_23=3), (WIDTH, HEIGHT, SLICES), False),  # one slice further
        (moved(_00=0.01), (WIDTH, HEIGHT, SLICES), True),  # the last of 5 columns lies 0.08 of a column away
        (moved(_00=0.02), (WIDTH, HEIGHT, SLICES), False),
        (moved(_02=1), (WIDTH, HEIGHT, SLICES), False),  # sheared
        (np.eye(4), (WIDTH, HEIGHT, SLICES), False),
        (moved(), (WIDTH, HEIGHT, SLICES - 1), False),
        (moved(), (HEIGHT, WIDTH, SLICES), False),
    ],
)
def test_only_the_same_pixels_are_the_same_place(matrix: np.ndarray, shape: tuple, same: bool) -> None:
    assert (same_place(geometry(AXIAL), geometry(matrix, shape)) is not None) == same


def test_the_step_between_slices_of_a_single_one_does_not_count() -> None:
    thick = moved(_22=4)
    one = (WIDTH, HEIGHT, 1)
    assert same_place(geometry(AXIAL, one), geometry(thick, one)) == Reindex()
    assert same_place(geometry(AXIAL), geometry(thick)) is None


def test_a_thousand_slices_are_matched_in_little_memory() -> None:
    order = np.random.default_rng(2).permutation(1000)
    places = np.tile(np.eye(4), (1000, 1, 1))
    places[:, 2, 3] = 1.5 * np.arange(1000)
    image = Geometry(8, 6, num_slices=1000, slices_lps=tuple(map(as_affine, places[order])))
    drawn = places[100:900].copy()
    drawn[:, 0, 3], drawn[:, 0, 0] = 5, -1  # columns from right to left, and the ends left out
    mask = Geometry(8, 6, num_slices=800, slices_lps=tuple(map(as_affine, drawn)), is_sparse=True)
    tracemalloc.start()
    found = same_slices(image, mask)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    expected = tuple(int(depth) - 100 if 100 <= depth < 900 else None for depth in order)
    assert found == Reindex(flip_columns=True, slices=expected)
    assert peak < 2**25  # each with each, four corners of three numbers, took 77 MB for every array
