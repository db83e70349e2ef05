"""Measures on the line between two values, and tables of nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engine.evaluation import measures
from engine.evaluation.bootstrap import mean_interval
from engine.evaluation.segmentation import resize_logits
from engine.evaluation.tables import DIFFERENCE_HEADER, HEADER, format_differences, format_table, table_cells
from engine.seeding import numpy_generator
from engine.types import EvaluationRow, ModelDifference


def test_a_logit_at_a_cut_is_below_it() -> None:
    """0.5 is a float exactly: it is predicted at the cuts 0.1 and 0.3, and no more at 0.5, 0.7 and 0.9."""
    dice, iou = measures.five_thresholds(torch.full((1, 1, 1, 1), 0.5), torch.ones(1, 1, 1, 1, dtype=torch.bool))
    missed_dice, missed_iou = 1e-4 / (1 + 1e-4), 1e-6 / (1 + 1e-6)
    assert dice.item() == pytest.approx((2 + 3 * missed_dice) / 5, abs=1e-12)
    assert iou.item() == pytest.approx((2 + 3 * missed_iou) / 5, abs=1e-12)


def test_logits_are_resized_between_pixel_centres() -> None:
    """The new centres lie a quarter of a pixel inside and outside of the old ones; nothing goes on beyond the edge."""
    logits = torch.tensor([[[[-1.0, 1.0], [-1.0, 1.0]]]])
    found = resize_logits(logits, side_px=4)
    assert found[0, 0, 0].tolist() == [-1.0, -0.5, 0.5, 1.0]


@pytest.mark.parametrize("style", ["text", "markdown"])
def test_a_table_of_nothing_is_its_header(style: str) -> None:
    for lines, header in (
        (format_table([], style=style), HEADER),
        (format_differences([], style=style), DIFFERENCE_HEADER),
    ):  # type: ignore[arg-type]
        assert len(lines.splitlines()) == 2
        assert all(title in lines.splitlines()[0] for title in header)


def test_words_stand_left_and_numbers_right() -> None:
    row = EvaluationRow("m", "s", "test", "c", 9, 0.5, 0.4, 0.6, 0.4, 0.5, 0.4, None)
    difference = ModelDifference("m", "n", "s", "test", "c", 9, 9, 0.0312, -0.01, 0.07)
    for table, words in (
        (format_table([row], style="markdown"), 3),
        (format_differences([difference], style="markdown"), 4),
    ):
        rule = table.splitlines()[1].strip("| ").split(" | ")
        assert [cell.endswith(":") for cell in rule] == [False] * words + [True] * (len(rule) - words)
    titles, _, cells = format_differences([difference]).splitlines()
    start = titles.index("Images")
    assert cells[start : start + len("Images")] == "     9", "a number ends where its title ends"


@pytest.mark.parametrize(("low", "high"), [(None, None), (None, 0.6), (0.4, None)])
def test_half_an_interval_is_none(low: float | None, high: float | None) -> None:
    row = EvaluationRow("m", "s", "test", "c", 9, 0.5, low, high, 0.4, 0.5, 0.4, None)
    assert table_cells(row)[4] == "0.500 [one patient]"


def test_the_interval_has_the_level_that_is_asked_for() -> None:
    """Two patients of one image each: the mean of a resample is 0, 1/2 or 1 with probability 1/4, 1/2, 1/4."""
    draw = {"groups": ["a", "b"], "num_samples": 4000}
    assert mean_interval([0.0, 1.0], **draw, rng=numpy_generator(1, "x"), level=0.4) == (0.5, 0.5)  # type: ignore[arg-type]
    assert mean_interval([0.0, 1.0], **draw, rng=numpy_generator(1, "x"), level=0.6) == (0.0, 1.0)  # type: ignore[arg-type]
    assert mean_interval(np.array([0.3]), num_samples=10, rng=numpy_generator(1, "x")) is None
