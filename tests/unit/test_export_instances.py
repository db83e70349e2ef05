"""Things counted apart by watershed: overlapping discs, worked out by hand, and how they are outlined."""

from __future__ import annotations

import numpy as np
import pytest

from export.outputs import instances
from export.outputs.instances import borders, count_pieces, is_counted, label_instances


def discs(*places: tuple[int, int, int], side: int = 60) -> np.ndarray:
    """Return (1, side, side) bool; each place is row, column and radius."""
    row, column = np.mgrid[:side, :side]
    return np.any([(row - r) ** 2 + (column - c) ** 2 <= radius**2 for r, c, radius in places], axis=0)[None]


def test_two_overlapping_discs_are_two_and_one_is_one() -> None:
    one, two = discs((30, 30, 12)), discs((30, 20, 10), (30, 36, 10))
    assert label_instances(one).max() == 1 and label_instances(two).max() == 2
    found = label_instances(two)[0]
    assert found[30, 20] != found[30, 36] and np.array_equal(found > 0, two[0])
    # cut half way between both middles, column 28
    assert {found[30, column] for column in range(10, 28)} == {found[30, 20]}
    assert {found[30, column] for column in range(29, 47)} == {found[30, 36]}
    assert label_instances(one & False).max() == 0


def test_pieces_apart_stay_apart_and_specks_are_one_each() -> None:
    mask = discs((10, 10, 6), (40, 40, 9), (40, 54, 8))
    mask[0, 0, 50:53] = True
    found = count_pieces(mask, "nucleus", steps=(1, 1))
    assert (found.components, found.instances) == (3, 4)
    # the larger of both that touch, not both together, which are 30 pixels long
    assert 18 <= found.largest_long_axis <= 20
    other = count_pieces(mask, "polyp", steps=(1, 1))
    assert (other.components, other.instances) == (3, None) and other.largest_long_axis > 29


@pytest.mark.parametrize(("name", "expected"), [
    ("nucleus", True), ("Nuclei", True), ("cell_body", True), ("tumour cells", True),
    ("cellulitis", False), ("cup", False),
])  # fmt: skip
def test_what_people_count_is_known_by_the_name_of_the_class(name: str, expected: bool) -> None:
    assert is_counted(name) is expected


def test_balls_that_touch_in_a_volume_are_two() -> None:
    """Radius 8 in a slice, slices twice as far apart as pixels: middles 13 pixels apart."""
    at, row, column = np.mgrid[:11, :30, :40]
    near = [(2 * (at - 5)) ** 2 + (row - 15) ** 2 + (column - c) ** 2 <= 64 for c in (12, 25)]
    mask = near[0] | near[1]
    assert label_instances(mask, depth_px=2.0).max() == 2
    found = count_pieces(mask, "cell", steps=(0.5, 0.5), depth=1.0)
    assert (found.components, found.instances) == (1, 2)


def test_of_very_many_pieces_nothing_is_counted_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instances, "MOST_MEASURED", 1)
    mask = discs((10, 10, 6), (40, 40, 9))
    assert label_instances(mask) is None
    assert count_pieces(mask, "nucleus", steps=(1, 1)).components == 2


def test_borders_are_both_sides_of_where_things_touch() -> None:
    labels = np.array([[1, 1, 2, 0, 3], [1, 1, 2, 0, 3], [4, 4, 0, 0, 3]])
    assert borders(labels).astype(int).tolist() == [[0, 1, 1, 0, 0], [1, 1, 1, 0, 0], [1, 1, 0, 0, 0]]
