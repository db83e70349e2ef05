"""Splits by patient: properties that hold for any site."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.data.partition import split_by_group

GROUPS = st.lists(st.sampled_from([f"p{k}" for k in range(12)]), min_size=1, max_size=60)
FRACTIONS = st.floats(0, 1)


@given(GROUPS, FRACTIONS, st.integers(0, 2**32))
@settings(max_examples=200, deadline=None)
def test_halves_partition_the_site_and_share_no_patient(groups: list[str], fraction: float, seed: int) -> None:
    train, validation = split_by_group(groups, validation_fraction=fraction, rng=np.random.default_rng(seed))
    assert sorted([*train, *validation]) == list(range(len(groups)))
    assert not {groups[k] for k in train} & {groups[k] for k in validation}
    assert len(train) >= 1
    if fraction == 0 or len(set(groups)) == 1:
        assert len(validation) == 0
    else:
        assert len(validation) >= 1


@given(GROUPS, FRACTIONS, st.integers(0, 2**32))
@settings(max_examples=100, deadline=None)
def test_validation_overshoots_only_by_one_smallest_patient(groups: list[str], fraction: float, seed: int) -> None:
    _, validation = split_by_group(groups, validation_fraction=fraction, rng=np.random.default_rng(seed))
    assert len(validation) <= max(1, round(fraction * len(groups)), min(Counter(groups).values()))


@given(GROUPS, FRACTIONS, st.integers(0, 2**32), st.randoms())
@settings(max_examples=100, deadline=None)
def test_the_order_of_files_does_not_matter(groups: list[str], fraction: float, seed: int, random) -> None:
    def patients(order: list[str]) -> set[str]:
        _, validation = split_by_group(order, validation_fraction=fraction, rng=np.random.default_rng(seed))
        return {order[k] for k in validation}

    shuffled = list(groups)
    random.shuffle(shuffled)
    assert patients(groups) == patients(shuffled)


@pytest.mark.parametrize(("images", "fraction", "expected"), [(40, 0.15, 6), (100, 0.1, 10), (7, 0.15, 1), (2, 0.5, 1)])
def test_single_image_patients_give_the_exact_share(images: int, fraction: float, expected: int) -> None:
    groups = [f"p{k}" for k in range(images)]
    _, validation = split_by_group(groups, validation_fraction=fraction, rng=np.random.default_rng(0))
    assert len(validation) == expected


def test_seeds_give_different_splits() -> None:
    groups = [f"p{k}" for k in range(40)]
    cuts = {
        tuple(split_by_group(groups, validation_fraction=0.2, rng=np.random.default_rng(seed))[1]) for seed in range(5)
    }
    assert len(cuts) == 5
