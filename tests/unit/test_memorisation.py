"""Distances, copies and membership inference, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from engine.evaluation.memorisation import (
    COPY_SHARE,
    Copy,
    area_interval,
    area_under_curve,
    distance_ratio,
    find_copies,
)
from engine.seeding import numpy_generator


@pytest.mark.parametrize(
    ("members", "others", "expected"),
    [  # pairs in which the member is higher, ties half, of all pairs
        ([3.0, 2.0], [1.0, 0.0], 1.0),
        ([1.0, 0.0], [3.0, 2.0], 0.0),
        ([3.0, 1.0], [2.0, 0.0], 3 / 4),
        ([2.0, 1.0], [2.0, 0.0], 2.5 / 4),
        ([1.0], [1.0, 1.0, 1.0], 0.5),
        ([4.0, 3.0, 0.0], [2.0], 2 / 3),
    ],
)
def test_the_area_is_the_share_of_pairs_that_a_member_wins(
    members: list[float], others: list[float], expected: float
) -> None:
    assert area_under_curve(np.array(members), np.array(others)) == pytest.approx(expected)


def interval(members: list[float], others: list[float], **groups: list[str]) -> tuple[float, float]:
    named = {"member_groups": [""] * len(members), "other_groups": [""] * len(others)} | groups
    rng = numpy_generator(1, "test")
    return area_interval(np.array(members), np.array(others), num_samples=4000, rng=rng, **named)


def test_the_interval_is_that_of_a_bootstrap_that_resorts_the_scores() -> None:
    members, others = [5.0, 4.0, 1.5, 0.5], [3.0, 2.0, 1.0, 0.0]
    rng = numpy_generator(9, "by hand")
    areas = []
    for _ in range(4000):
        a, b = rng.choice(members, 4), rng.choice(others, 4)
        areas.append(np.mean([(x > y) + 0.5 * (x == y) for x in a for y in b]))
    assert interval(members, others) == pytest.approx(np.percentile(areas, [2.5, 97.5]), abs=0.04)


def test_the_interval_draws_patients_and_not_images() -> None:
    """Two images of each of two patients: a resample has patient a twice, b twice, or both."""
    low, high = interval([9.0, 9.0, 1.0, 1.0], [5.0], member_groups=["a", "a", "b", "b"])
    assert (low, high) == (0.0, 1.0)
    assert interval([9.0, 8.0], [5.0, 4.0]) == (1.0, 1.0)
    assert interval([9.0, 1.0], [5.0], member_groups=["a", "a"]) == (0.5, 0.5)


def test_the_ratio_is_of_the_median_nearest_distances() -> None:
    drawn = np.array([[0.0], [10.0], [20.0]])
    train = np.array([[1.0], [12.0]])  # nearest: 1, 2, 8
    held_out = np.array([[-4.0], [30.0]])  # nearest: 4, 14, 10
    assert distance_ratio(drawn, train, held_out) == pytest.approx(2 / 10)
    assert distance_ratio(drawn, held_out, train) == pytest.approx(10 / 2)
    assert distance_ratio(train, train, train) == 0.0 and distance_ratio(drawn, train, drawn) == 1.0


FAR = np.array([[-50.0, -50.0]])
"""A held-out image that is about as far from every training image: its share is near 1."""


def test_a_copy_is_nearer_to_its_original_than_half_of_the_mean_to_the_neighbours() -> None:
    train = np.array([[0.0, 0.0], [6.0, 0.0], [0.0, 8.0]])
    drawn = np.array([[0.0, 1.0], [3.0, 4.0], [6.0, 0.0]])
    # Of the first: 1, sqrt(37), 7, mean 4.694; of the second 5, 5, 5; the third is the second training image.
    (first, third) = find_copies(drawn, train, held_out_HD=FAR)
    assert first == Copy(0, 0, pytest.approx(1 / np.mean([1.0, np.sqrt(37.0), 7.0])))
    assert third == Copy(2, 1, 0.0) and first.share < COPY_SHARE


def test_what_a_held_out_image_does_is_no_copying() -> None:
    """A held-out image at (0, 0.5) has a smaller share than the drawn one at (0, 1)."""
    train = np.array([[0.0, 0.0], [6.0, 0.0], [0.0, 8.0]])
    drawn = np.array([[0.0, 1.0], [6.0, 0.0]])
    (copy,) = find_copies(drawn, train, held_out_HD=np.array([[0.0, 0.5], [50.0, 50.0]]))
    assert copy == Copy(1, 1, 0.0)


def test_only_the_fifty_nearest_count_as_neighbours() -> None:
    near, far, drawn = np.full((50, 1), 1.0), np.array([[-500.0]]), np.zeros((1, 1))
    assert find_copies(drawn, near, held_out_HD=far) == ()
    assert find_copies(drawn, np.concatenate([near, np.full((100, 1), 90.0)]), held_out_HD=far) == ()
    uneven = np.concatenate([near[:1], np.full((49, 1), 3.0)])
    assert len(find_copies(drawn, uneven, held_out_HD=far)) == 1
