"""The deformation of shared masks, draw by draw: rotation, scale, mirror and displacement have a place each."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest

from engine.generation.mask_sharing import _smooth_field, deform_mask
from engine.seeding import numpy_generator


class Draws:
    """A generator that gives what is asked of the deformation, in the order in which it draws."""

    def __init__(
        self,
        *,
        angle_deg: float = 0.0,
        scale: float = 1.0,
        mirrored: bool = False,
        down: float = 0.0,
        right: float = 0.0,
    ) -> None:
        self._values = [angle_deg, scale, down, right]
        self._mirrored = mirrored
        self.asked: list[tuple[Any, ...]] = []

    def uniform(self, low: float, high: float, size: tuple[int, int] | None = None) -> Any:
        self.asked.append((low, high, size))
        value = self._values[len(self.asked) - 1]
        return value if size is None else np.full(size, value)

    def random(self) -> float:
        return 0.0 if self._mirrored else 0.5  # mirrored is below one half


def deformed(mask_hw: np.ndarray, **draws: Any) -> np.ndarray:
    return deform_mask(mask_hw[None], rng=cast(np.random.Generator, Draws(**draws)))[0]


def sampled(mask_hw: np.ndarray, source: Any) -> np.ndarray:
    """Return a mask whose pixel (row, column) is that of ``source(row, column)``, and 0 beyond the edge."""
    height, width = mask_hw.shape
    found = np.zeros_like(mask_hw)
    for row in range(height):
        for column in range(width):
            y, x = source(row, column)
            if 0 <= y < height and 0 <= x < width:
                found[row, column] = mask_hw[y, x]
    return found


def blots(height: int, width: int) -> np.ndarray:
    return (numpy_generator(5, "blots").random((height, width)) < 0.5).astype(np.uint8)


def test_nothing_drawn_moves_nothing() -> None:
    mask = blots(20, 30)
    np.testing.assert_array_equal(deformed(mask), mask)


def test_a_mirror_turns_left_and_right() -> None:
    mask = blots(20, 31)
    np.testing.assert_array_equal(deformed(mask, mirrored=True), mask[:, ::-1])


def test_a_quarter_turn_is_about_the_middle() -> None:
    """With 90 degrees a pixel x right of the middle comes from x above it, and one y below from y right of it."""
    mask = blots(21, 21)
    found = deformed(mask, angle_deg=90.0)
    np.testing.assert_array_equal(found, sampled(mask, lambda row, column: (20 - column, row)))


def test_the_scale_is_that_of_the_picture_in_both_directions() -> None:
    """At half the size every pixel comes from twice as far from the middle: rows 10, columns 15."""
    mask = blots(21, 31)
    found = deformed(mask, scale=0.5)
    expected = sampled(mask, lambda row, column: (10 + 2 * (row - 10), 15 + 2 * (column - 15)))
    np.testing.assert_array_equal(found, expected)
    assert not found[:5].any() and not found[:, :7].any(), "nothing is drawn beyond the picture"


def test_the_largest_displacement_is_six_per_cent_of_each_side() -> None:
    """0.06 x 50 rows = 3, 0.06 x 100 columns = 6; half of a field is half of that."""
    mask = blots(50, 100)
    np.testing.assert_array_equal(deformed(mask, down=1.0), sampled(mask, lambda row, column: (row + 3, column)))
    np.testing.assert_array_equal(deformed(mask, right=1.0), sampled(mask, lambda row, column: (row, column + 6)))
    np.testing.assert_array_equal(deformed(mask, right=0.5), sampled(mask, lambda row, column: (row, column + 3)))


def test_what_is_drawn_and_from_where() -> None:
    draws = Draws()
    deform_mask(blots(20, 20)[None], rng=cast(np.random.Generator, draws))
    assert draws.asked == [(-25.0, 25.0, None), (0.85, 1.18, None), (-1, 1, (5, 5)), (-1, 1, (5, 5))]


def test_the_field_is_a_cubic_through_the_control_points() -> None:
    """Each of five intervals of 9 pixels has its control point in the middle, where the field has its value."""
    coarse = numpy_generator(6, "field").uniform(-1, 1, size=(5, 5))
    field = _smooth_field((45, 45), rng=numpy_generator(6, "field"))
    np.testing.assert_allclose(field[4::9, 4::9], coarse, atol=1e-12)
    line = field[4, 4 + 9 : 4 + 2 * 9 + 1]  # from the second control point to the third: one piece of the spline
    np.testing.assert_allclose(np.diff(line, n=4), 0.0, atol=1e-9)  # fourth differences of a cubic are none
    assert np.abs(np.diff(line, n=3)).max() > 1e-6, "and third ones are some"


@pytest.mark.parametrize(("top", "left"), [(0, 0), (0, 26), (27, 0), (27, 26)])
def test_a_mask_that_no_draw_keeps_inside_is_deformed_in_the_middle(top: int, left: int) -> None:
    """Three times as large, a square of 3 x 4 at the edge is pushed out every time; in the middle it is not."""
    mask = np.zeros((30, 30), np.uint8)
    mask[top : top + 3, left : left + 4] = 1

    class Enlarged(Draws):
        """Scale 3, whatever was drawn before."""

        def uniform(self, low: float, high: float, size: tuple[int, int] | None = None) -> Any:
            self.asked.append((low, high, size))
            value = 3.0 if len(self.asked) % 4 == 2 else 0.0
            return value if size is None else np.full(size, value)

    draws = Enlarged()
    found = deform_mask(mask[None], rng=cast(np.random.Generator, draws))[0]
    assert len(draws.asked) == 4 * 11, "ten draws where it lay, and one in the middle"
    # The box of rows t..t+2 and columns l..l+3 has its middle at t + 1, l + 1 (whole numbers, rounded down) and is
    # moved to 15, 15: rows 14-16, columns 14-17. Pixel (r, c) of the result then comes from 14.5 + (r - 14.5) / 3.
    centred = np.zeros_like(mask)
    centred[14:17, 14:18] = 1
    rows = [round(14.5 + (row - 14.5) / 3) for row in range(30)]
    np.testing.assert_array_equal(found, centred[np.ix_(rows, rows)])
