"""From images to rows: misses beside HD95, intervals over patients, paired differences, padding that counts nowhere."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from engine.config import EvaluationConfig
from engine.errors import UserError
from engine.evaluation.bootstrap import count_groups, mean_interval
from engine.evaluation.measures import penalised_px
from engine.evaluation.segmentation import evaluate_model
from engine.evaluation.spread import site_spread
from engine.evaluation.summary import compare_models, summarise
from engine.evaluation.tables import HEADER, difference_cells, format_differences, format_spread, table_cells
from engine.seeding import numpy_generator
from engine.types import MEAN_CLASS, EvaluationRow, ModelDifference, SiteSpread

CONFIG = EvaluationConfig(bootstrap_samples=400)
SIDE = 16


class Squares:
    """Images whose red channel is what will be predicted, with masks; ``padding`` rows at the top are no picture."""

    def __init__(self, predicted: list[Any], true: list[Any], *, padding: int = 0, groups: Any = None) -> None:
        self.predicted, self.true, self.padding = predicted, true, padding
        self.names = tuple(f"image_{index}" for index in range(len(true)))
        self.groups = groups or self.names

    def __len__(self) -> int:
        return len(self.true)

    def batch(self, indices: list[int]) -> tuple[np.ndarray, np.ndarray]:
        image = np.zeros((len(indices), 3, SIDE, SIDE), np.float32)
        image[:, 0] = [self.predicted[i] for i in indices]
        return image, np.stack([self.true[i][None].astype(np.uint8) for i in indices])

    def content(self, indices: list[int]) -> np.ndarray:
        content = np.ones((len(indices), 1, SIDE, SIDE), np.uint8)
        content[:, :, : self.padding] = 0
        return content


class Red(nn.Module):
    """Predicts what is red, at the images' own grid."""

    def forward(self, image_B3HW: torch.Tensor) -> torch.Tensor:
        return image_B3HW[:, :1] * 10 - 5


def square(top: int, left: int, side: int = 4) -> np.ndarray:
    plane = np.zeros((SIDE, SIDE), bool)
    plane[top : top + side, left : left + side] = True
    return plane


NOTHING = np.zeros((SIDE, SIDE), bool)


def measure(images: Squares, **change: Any) -> tuple[list[EvaluationRow], list[dict[str, Any]]]:
    arguments: dict[str, Any] = {"classes": ("lesion",), "model_name": "m", "site": "s", "split": "test", "seed": 3}
    return evaluate_model(Red(), images, **arguments, **change, config=CONFIG, device=torch.device("cpu"))


def test_three_missed_lesions_of_four_are_not_hidden_by_the_one_that_was_found() -> None:
    lesion = square(4, 4)
    (row,), _ = measure(Squares([lesion, NOTHING, NOTHING, NOTHING], [lesion] * 4))
    assert (row.num_images, row.num_hd95, row.num_missed, row.num_spurious) == (4, 1, 3, 0)
    assert row.hd95_px == 0.0
    assert row.hd95_penalised_px == pytest.approx(3 * math.hypot(16, 16) / 4)


def test_every_kind_of_image_counts_as_what_it_is() -> None:
    found, shifted = square(4, 4), square(4, 7)
    # found 3 px aside; missed; spurious; rightly nothing
    (row,), records = measure(Squares([shifted, NOTHING, found, NOTHING], [found, found, NOTHING, NOTHING]))
    assert [(r["missed"], r["spurious"]) for r in records] == [(0, 0), (1, 0), (0, 1), (0, 0)]
    assert [r["hd95_px"] for r in records] == [3.0, None, None, None]
    diagonal = 16 * math.sqrt(2)
    assert [r["hd95_penalised_px"] for r in records] == pytest.approx([3.0, diagonal, diagonal, 0.0])
    assert (row.num_hd95, row.num_missed, row.num_spurious) == (1, 1, 1)
    assert row.hd95_penalised_px == pytest.approx((3 + 2 * diagonal) / 4)


@pytest.mark.parametrize(
    ("distance", "predicted", "true", "expected"),
    [(2.5, 4, 4, 2.5), (0.0, 1, 1, 0.0), (None, 0, 3, 9.0), (None, 3, 0, 9.0), (None, 0, 0, 0.0)],
)
def test_penalised_distance(distance: float | None, predicted: int, true: int, expected: float) -> None:
    assert penalised_px(distance, predicted_px=predicted, true_px=true, diagonal_px=9.0) == expected


def test_the_row_of_the_mean_sums_misses_over_classes() -> None:
    class TwoReds(nn.Module):
        def forward(self, image_B3HW: torch.Tensor) -> torch.Tensor:
            return image_B3HW[:, :2] * 10 - 5  # the second class is never predicted

    class TwoClasses(Squares):
        def batch(self, indices: list[int]) -> tuple[np.ndarray, np.ndarray]:
            image, mask = super().batch(indices)
            return image, np.concatenate([mask, mask], axis=1)

    lesion = square(4, 4)
    rows, _ = evaluate_model(
        TwoReds(), TwoClasses([lesion, NOTHING], [lesion, lesion]), classes=("a", "b"), model_name="m", site="s",
        split="test", config=CONFIG, seed=1, device=torch.device("cpu"),
    )  # fmt: skip
    of = {row.class_name: row for row in rows}
    assert [of[name].num_missed for name in ("a", "b", MEAN_CLASS)] == [1, 2, 3]
    assert [of[name].num_hd95 for name in ("a", "b", MEAN_CLASS)] == [1, 0, 1]
    diagonal = 16 * math.sqrt(2)
    assert of[MEAN_CLASS].hd95_penalised_px == pytest.approx((0 + 3 * diagonal) / 4)


def test_padding_is_no_part_of_any_measure() -> None:
    lesion = square(6, 4)
    stray = lesion | square(0, 10, 3)  # what is predicted in the padding is nobody's fault
    (row,), (record,) = measure(Squares([stray], [lesion], padding=4))
    assert (row.dice, row.iou, row.hd95_px, record["predicted_px"]) == (1.0, 1.0, 0.0, 16)
    assert row.dice_five_thresholds == row.iou_five_thresholds == 1.0
    (row,), _ = measure(Squares([NOTHING], [lesion], padding=4))
    assert row.hd95_penalised_px == pytest.approx(math.hypot(12, 16)), "the diagonal is the picture's"
    (row,), _ = measure(Squares([stray], [lesion]))
    assert row.dice == pytest.approx(2 * 16 / (16 + 25))


def test_the_interval_is_two_and_a_half_per_cent_on_either_side() -> None:
    values = numpy_generator(5, "values").random(9)
    groups = ["a", "a", "a", "b", "b", "c", "", "", "d"]  # six patients: two images stand alone
    patients = [
        values[:3],
        values[3:5],
        values[5:6],
        values[8:],
        values[6:7],
        values[7:8],
    ]  # in the order of their keys
    keys = ["group a", "group b", "group c", "group d", "image 6", "image 7"]
    assert keys == sorted(keys)
    drawn = numpy_generator(5, "bootstrap").multinomial(6, [1 / 6] * 6, size=200)
    means = sorted(
        np.concatenate([np.tile(patient, count) for patient, count in zip(patients, row, strict=True)]).mean()
        for row in drawn
    )

    def quantile(share: float) -> float:
        place = share * 199
        low = int(place)
        return means[low] + (place - low) * (means[low + 1] - means[low])

    found = mean_interval(values, groups=groups, num_samples=200, rng=numpy_generator(5, "bootstrap"))
    assert found == pytest.approx((quantile(0.025), quantile(0.975)))
    assert count_groups(groups) == 6


def record(model: str, index: int, dice: float, *, group: str, site: str = "s") -> dict[str, Any]:
    measures = dict.fromkeys(("iou", "dice_five_thresholds", "iou_five_thresholds", "hd95_penalised_px"), dice)
    whose = {"model": model, "name": f"i{index}", "group": group, "site": site, "class_name": "c"}
    return {**whose, **measures, "dice": dice, "hd95_px": None, "missed": 0, "spurious": 0}


def test_a_row_is_the_mean_over_images_not_over_patients_or_pixels() -> None:
    values = [(0.2, "p1"), (0.4, "p1"), (0.9, "p2")]
    (row,) = summarise(
        [record("m", i, d, group=g) for i, (d, g) in enumerate(values)], split="test", config=CONFIG, seed=1
    )
    assert row.dice == pytest.approx(0.5) and (row.num_images, row.num_groups) == (3, 2)
    assert (row.dice_low, row.dice_high) == pytest.approx((0.3, 0.9)), "two patients: one twice, or the other twice"


def test_one_patient_has_no_interval_and_says_so() -> None:
    images = [record(m, i, 0.1 * i + bias, group="p1") for m, bias in (("a", 0.0), ("b", 0.1)) for i in range(3)]
    rows = summarise(images, split="test", config=CONFIG, seed=1)
    assert all((row.dice_low, row.dice_high, row.num_groups) == (None, None, 1) for row in rows)
    assert table_cells(rows[0])[4] == "0.100 [one patient]"
    (difference,) = compare_models(images, pairs=[("b", "a")], split="test", config=CONFIG, seed=1)
    assert difference.dice == pytest.approx(0.1) and difference.dice_low is None


def test_a_paired_bootstrap_sees_what_two_intervals_hide() -> None:
    rng = numpy_generator(4, "pairs")
    hard = rng.uniform(0.2, 0.9, size=40)
    gain = rng.normal(0.02, 0.01, size=40)
    images = [record("new", i, hard[i] + gain[i], group=f"p{i // 2}") for i in range(40)]
    images += [record("old", i, hard[i], group=f"p{i // 2}") for i in range(40)]
    new, old = summarise(images, split="test", config=CONFIG, seed=9)
    assert new.dice_low is not None and old.dice_high is not None and new.dice_low < old.dice_high
    (difference,) = compare_models(images, pairs=[("new", "old")], split="test", config=CONFIG, seed=9)
    assert difference.dice == pytest.approx(gain.mean()) == pytest.approx(new.dice - old.dice)
    # Davison and Hinkley's standard error of a mean of groups of two
    half = 1.96 * (gain.reshape(20, 2).mean(axis=1)).std() / math.sqrt(20)
    assert difference.dice_low == pytest.approx(gain.mean() - half, abs=half / 4) and difference.dice_low > 0
    assert difference.dice_high == pytest.approx(gain.mean() + half, abs=half / 4)
    (back,) = compare_models(images, pairs=[("old", "new")], split="test", config=CONFIG, seed=9)
    assert back.dice == -difference.dice


def test_pairs_are_made_site_by_site_of_the_same_images_or_not_at_all() -> None:
    images = [record(m, i, 0.5, group=f"p{i}", site=s) for m in ("a", "b") for s in ("x", "y") for i in range(2)]
    found = compare_models(images, pairs=[("a", "b"), ("a", "c")], split="test", config=CONFIG, seed=1)
    assert [(row.model, row.baseline, row.site) for row in found] == [("a", "b", "x"), ("a", "b", "y")]
    with pytest.raises(UserError) as caught:
        compare_models(images[:-1], pairs=[("a", "b")], split="test", config=CONFIG, seed=1)
    assert caught.value.code == "evaluation.unpaired"


def test_tables_carry_the_counts() -> None:
    row = EvaluationRow("m", "s", "test", "c", 9, 0.5, 0.4, 0.6, 0.4, 0.5, 0.4, 3.26, 4, 6, 2, 1, 20.04)
    cells = dict(zip(HEADER, table_cells(row), strict=True))
    assert cells["Images"] == "9 (4)" and cells["HD95 px (of)"] == "3.3 (6)"
    assert cells["Missed/false"] == "2/1" and cells["HD95 + misses"] == "20.0"
    difference = ModelDifference("distilled_student", "fedavg_student", "s", "test", "c", 9, 9, 0.0312, -0.01, 0.07)
    assert difference_cells(difference)[4:] == ("9", "+0.031 [-0.010, +0.070]")
    for cell in difference_cells(difference):
        assert cell in format_differences([difference]) and cell in format_differences([difference], style="markdown")


def site_row(
    model: str, site: str, dice: float, *, images: int = 4, split: Any = "test", name: str = MEAN_CLASS
) -> Any:
    return EvaluationRow(model, site, split, name, images, dice, None, None, dice, dice, dice, None)


def test_the_worst_site_and_the_spread_by_hand() -> None:
    """Sites 0.9, 0.6, 0.75: mean 0.75, deviations 0.15, -0.15, 0; sd = sqrt(0.045 / 3) = 0.12247."""
    rows = [
        site_row("m", "pool", (0.9 * 2 + 0.6 * 6 + 0.75 * 4) / 12, images=12),  # all of them together is no site
        site_row("m", "a", 0.9, images=2),
        site_row("m", "a", 0.1, images=2, name="cup"),
        site_row("m", "b", 0.6, images=6),
        site_row("m", "c", 0.75),
        site_row("other", "a", 0.3),
        site_row("m", "north", 0.5, split="validation"),
        site_row("m", "south", 0.5, split="validation"),
    ]
    first, second = site_spread(rows)
    assert (first.model, first.split, first.num_sites, first.worst_site) == ("m", "test", 3, "b")
    assert (first.dice, first.worst_dice, first.dice_sd) == pytest.approx((0.75, 0.6, 0.1224745))
    assert second == SiteSpread("m", "validation", 2, 0.5, 0.0, "north", 0.5)
    text = format_spread([first])
    assert text.splitlines()[-1].split() == ["m", "b", "3", "0.600", "0.750", "0.122"]


def test_a_single_class_is_its_own_mean() -> None:
    rows = [site_row("m", site, dice, name="polyp") for site, dice in (("a", 0.9), ("b", 0.5))]
    (spread,) = site_spread(rows)
    assert (spread.worst_site, spread.worst_dice, spread.dice) == ("b", 0.5, pytest.approx(0.7))


def test_classes_of_one_site_are_no_sites() -> None:
    """Without rows of the mean, as in old runs: sites 0.7 and 0.5; one site with two classes has no spread."""
    dice = {"a": {"disc": 0.8, "cup": 0.6}, "b": {"disc": 0.6, "cup": 0.4}}
    rows = [site_row("m", site, value, name=name) for site, of in dice.items() for name, value in of.items()]
    (spread,) = site_spread(rows)
    assert (spread.num_sites, spread.worst_site) == (2, "b")
    assert (spread.dice, spread.worst_dice, spread.dice_sd) == pytest.approx((0.6, 0.5, 0.1))
    assert site_spread(rows[:2]) == []


def test_a_large_site_is_not_taken_for_all_of_them() -> None:
    rows = [site_row("m", "a", 0.9), site_row("m", "b", 0.6), site_row("m", "c", 0.8, images=8)]
    (spread,) = site_spread(rows)
    assert (spread.num_sites, spread.worst_site) == (3, "b")
    assert site_spread(rows[:1]) == [] == site_spread([])
