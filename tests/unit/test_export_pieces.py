"""Pieces of a mask and their sizes, worked out by hand: no figure spans several of them."""

from __future__ import annotations

import numpy as np
import pytest

from export.outputs import pieces
from export.outputs.pieces import Sizes, diameters, label_pieces, largest_piece, num_components, sizes


@pytest.mark.parametrize(("mask", "steps", "longest", "across"), [
    (np.ones((1, 1)), (1, 1), 1, 1), (np.ones((1, 10)), (1, 0.5), 5, 1), (np.ones((6, 1)), (2, 1), 12, 1),
    (np.zeros((3, 3)), (1, 1), None, None),
])  # fmt: skip
def test_diameters_go_from_outline_to_outline(mask: np.ndarray, steps: tuple, longest: float, across: float) -> None:
    assert diameters(mask, steps=steps) == (pytest.approx(longest), pytest.approx(across))


def test_corners_touch() -> None:
    mask = np.zeros((2, 4, 4), bool)
    mask[0, 0, 0] = mask[1, 1, 1] = mask[0, 3, 3] = True
    assert num_components(mask) == label_pieces(mask).max() == 2 and num_components(mask & False) == 0


def test_axes_are_of_one_piece_however_far_apart_the_pieces_lie() -> None:
    """Three bars a hundred pixels apart, 2 mm a column: 7, 3 and 5 columns long, one row of 1 mm wide."""
    mask = np.zeros((1, 9, 240), bool)
    mask[0, 1, 0:7], mask[0, 4, 110:113], mask[0, 7, 220:225] = True, True, True
    found = sizes(label_pieces(mask), steps=(1.0, 2.0))
    assert found.largest_px == 7 and found.largest_long_axis == pytest.approx(14)
    assert found.largest_short_axis == pytest.approx(1) and found.median_long_axis == pytest.approx(10)
    assert sizes(label_pieces(mask & False), steps=(1, 1)) == Sizes()


def test_a_piece_of_a_volume_is_measured_in_the_slice_that_holds_most_of_it() -> None:
    """A tube through three slices: 2 x 2 pixels, then 2 x 6 and a part apart of 1 x 3, then 2 x 2 that joins both."""
    mask = np.zeros((3, 8, 12), bool)
    mask[0, 2:4, 2:4] = True
    mask[1, 2:4, 2:8] = mask[1, 6, 9:12] = True
    mask[2, 2:7, 7:10] = True
    found = sizes(label_pieces(mask), steps=(1.0, 1.0))
    assert num_components(mask) == 1 and found.largest_px == 4 + 12 + 3 + 15
    # slice 2 and 3 have 15 each: the first; of its two parts the one of 6 columns and 2 rows
    assert found.largest_long_axis == pytest.approx(np.hypot(6, 1)) == found.median_long_axis


def test_of_very_many_pieces_the_largest_alone_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = np.zeros((1, 5, 9), bool)
    mask[0, ::2, ::2], mask[0, 4, 0:3] = True, True
    monkeypatch.setattr(pieces, "MOST_MEASURED", num_components(mask))
    assert sizes(label_pieces(mask), steps=(1, 1)).median_long_axis == 1
    monkeypatch.setattr(pieces, "MOST_MEASURED", num_components(mask) - 1)
    found = sizes(label_pieces(mask), steps=(1, 1))
    assert (found.median_long_axis, found.largest_long_axis, found.largest_px) == (None, 3, 3)


def test_of_pieces_as_large_the_first_is_the_largest() -> None:
    mask = np.array([[1, 0, 0, 1], [1, 0, 0, 1]])
    assert largest_piece(mask).tolist() == [[True, False, False, False]] * 2
    assert not largest_piece(mask * 0).any()
