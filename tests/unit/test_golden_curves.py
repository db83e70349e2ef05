"""Toy trainings step by step beside their recorded losses (``python -m bench.golden_curves --record`` renews them)."""

from __future__ import annotations

import pytest

from bench.golden_curves import (
    TOLERANCE,
    compute_curves,
    distillation_curve,
    largest_difference,
    make_pool,
    one_thread,
    read_golden,
)


@pytest.fixture(scope="module")
def curves():
    return compute_curves()


@pytest.mark.parametrize("name", ["fine_tuning", "controlnet", "distillation_paper", "distillation_reference"])
def test_every_step_s_losses_are_those_recorded(curves, name):
    assert largest_difference(curves[name], read_golden()[name]) < TOLERANCE


def test_a_curve_moves_with_the_weight_of_its_divergence(curves):
    with one_thread():
        moved = distillation_curve(make_pool(), supervision_weight=0.6)
    assert moved[0] == pytest.approx(curves["distillation_paper"][0]), "the first losses precede every update"
    assert largest_difference(moved, curves["distillation_paper"]) > 3 * TOLERANCE


def test_a_difference_is_the_largest_of_all_losses_in_proportion():
    golden = [[1.0, 10.0], [2.0, 20.0]]
    assert largest_difference([[1.0, 10.0], [2.0, 21.0]], golden) == pytest.approx(0.05)
    assert largest_difference([[1.0, 10.0]], golden) == float("inf")
