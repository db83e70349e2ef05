"""Means, intervals and tests of the tables: expected values by hand or by independent few lines."""

from __future__ import annotations

import itertools
from statistics import fmean

import numpy as np
import pytest

from engine.experiments import statistics
from engine.experiments.statistics import ImageFigure, paired, spread_of_images, spread_of_runs


def figures(*values: float, groups: str = "") -> tuple[ImageFigure, ...]:
    """Images by number, each value's patient the letter at its place (none where there is none)."""
    return tuple(ImageFigure(f"{i:05d}", groups[i : i + 1].strip(), value) for i, value in enumerate(values))


def test_every_site_counts_the_same_and_the_sd_is_over_seeds() -> None:
    images = {
        ("a", 1): figures(0.2, 0.4, 0.6),
        ("b", 1): figures(0.8),
        ("a", 2): figures(0.5, 0.5, 0.8),
        ("b", 2): figures(0.6),
    }
    found = spread_of_images(images, held_out=("a", "b"))
    # Seed 1: (0.4 + 0.8) / 2, not the mean 0.5 of four images. Seed 2: (0.6 + 0.6) / 2. Equal: no spread.
    assert found is not None and found.num_seeds == 2
    assert found.mean == pytest.approx(0.6) and found.sd == pytest.approx(0.0)
    assert found.worst_site == "a" and found.worst == pytest.approx(0.5)


def test_the_sd_is_that_of_a_sample_and_one_seed_has_none() -> None:
    two = spread_of_runs({("a", 1): 1.0, ("a", 2): 3.0}, held_out=("a",))
    assert two is not None and two.mean == 2.0 and two.sd == pytest.approx(2**0.5)
    one = spread_of_runs({("a", 1): 1.0}, held_out=("a",))
    assert one is not None and one.sd is None and one.worst_site == ""


def test_a_seed_without_one_of_its_sites_does_not_count() -> None:
    images = {("a", 1): figures(0.2), ("b", 1): figures(0.4), ("a", 2): figures(0.9)}
    found = spread_of_images(images, held_out=("a", "b"))
    assert found is not None and found.num_seeds == 1 and found.mean == pytest.approx(0.3)
    assert spread_of_images({("a", 2): figures(0.9)}, held_out=("a", "b")) is None


def test_the_interval_resamples_patients_of_each_site_by_itself() -> None:
    images = {("a", 1): figures(0.1, 0.3, 0.9, 0.5, groups="xxyz"), ("b", 1): figures(0.2, 0.8)}
    found = spread_of_images(images, held_out=("a", "b"))
    assert found is not None and found.low is not None and found.high is not None
    draws = np.random.default_rng(5)
    of_a, of_b = ([0.1, 0.3], [0.9], [0.5]), ([0.2], [0.8])
    means = []
    for _ in range(20_000):
        drawn = [[v for i in draws.integers(len(s), size=len(s)) for v in s[i]] for s in (of_a, of_b)]
        means.append(fmean(fmean(values) for values in drawn))
    low, high = np.percentile(means, [2.5, 97.5])
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.02)
    alone = spread_of_images({("a", 1): figures(0.1, 0.9, groups="xx")}, held_out=("a",))
    assert alone is not None and (alone.low, alone.high) == (None, None), "one patient has no interval"


def test_the_test_is_over_patients_and_its_p_value_is_wilcoxons() -> None:
    ours = {("a", 1): figures(0.5, 0.7, 0.6, 0.9, 0.3, groups="xx   ")}
    theirs = {("a", 1): figures(0.4, 0.4, 0.1, 0.3, 0.4, groups="xx   ")}
    found = paired(ours, theirs, held_out=("a",))
    # By image 0.1, 0.3, 0.5, 0.6, -0.1; by patient 0.2, 0.5, 0.6, -0.1, of ranks 2, 3, 4 and 1.
    assert found is not None and found.num_groups == 4
    assert found.mean == pytest.approx((0.1 + 0.3 + 0.5 + 0.6 - 0.1) / 5)
    ranks = (2, 3, 4, 1)
    sums = [
        sum(r for r, sign in zip(ranks, signs, strict=True) if sign) for signs in itertools.product((0, 1), repeat=4)
    ]
    observed = 1  # of the negative difference
    assert found.p_value == pytest.approx(2 * sum(s <= observed for s in sums) / len(sums))
    other = paired(theirs, ours, held_out=("a",))
    assert other is not None and other.mean == pytest.approx(-found.mean)
    assert other.p_value == pytest.approx(found.p_value)


def test_equal_systems_differ_by_nothing() -> None:
    same = {("a", 1): figures(0.5, 0.7)}
    found = paired(same, same, held_out=("a",))
    assert found is not None and (found.mean, found.low, found.high, found.p_value) == (0.0, 0.0, 0.0, 1.0)


def test_images_are_averaged_over_the_seeds_that_both_have() -> None:
    ours = {("a", 1): figures(0.6, 0.8), ("a", 2): figures(0.2, 0.4), ("a", 3): figures(1.0, 1.0)}
    theirs = {("a", 1): figures(0.5, 0.5), ("a", 2): figures(0.1, 0.1)}
    found = paired(ours, theirs, held_out=("a",))
    assert found is not None and found.num_groups == 2
    assert found.mean == pytest.approx(((0.1 + 0.1) / 2 + (0.3 + 0.3) / 2) / 2)
    assert paired(ours, {}, held_out=("a",)) is None


def test_the_interval_is_the_same_whenever_one_looks() -> None:
    images = {("a", 1): figures(*np.linspace(0, 1, 20))}
    assert spread_of_images(images, held_out=("a",)) == spread_of_images(images, held_out=("a",))
    assert statistics.NUM_RESAMPLES >= 1000
