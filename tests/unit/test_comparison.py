"""Runs side by side: which model, which images, and differences that were worked out by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from compared_world import MODEL, compared, write

from engine.config import parse_config
from engine.errors import UserError
from engine.evaluation.summary import summarise
from engine.experiments.compared_measures import COMPARED, HD95, IOU, SiteFigure
from engine.experiments.comparison import Comparison, compare, read_run
from engine.experiments.statistics import verdict
from engine.runs.events import StoreReporter
from engine.runs.records import MetricSeries
from engine.runs.store import RunStore
from engine.types import MEAN_CLASS, EvaluationRow

UNSEEN, KEPT = ("test", "z"), ("validation", "a")
LOW = {UNSEEN: [0.5, 0.7, 0.6, 0.6], KEPT: [0.8, 0.6]}
HIGH = {UNSEEN: [0.6, 0.8, 0.9, 0.7], KEPT: [0.4, 0.2]}


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "home")


def of(store: RunStore, *run_ids: str) -> Comparison:
    return compare(store, run_ids)


def test_differences_are_of_the_same_images_and_the_first_is_what_others_are_compared_with(store: RunStore) -> None:
    low, high = compared(store, "low", LOW), compared(store, "high", HIGH)
    found = of(store, low, high)
    assert found.places == (UNSEEN, KEPT)
    ((unseen, kept),) = found.differences()
    # Images differ by .1 .1 | .3 .1, patients of two: .1 and .2, mean .15. Resamples of two patients: .1, .15 or .2.
    assert unseen.paired is not None and unseen.paired.mean == pytest.approx(0.15)
    assert (unseen.paired.low, unseen.paired.high) == (pytest.approx(0.1), pytest.approx(0.2))
    assert unseen.paired.num_groups == 2 and unseen.paired.p_value == pytest.approx(0.5)  # both signs of two: 2 / 4
    assert kept.paired is not None and kept.paired.mean == pytest.approx(-0.4)
    assert kept.paired.low is None and kept.paired.num_groups == 1, "one patient tells nothing about others"
    ((turned, _),) = of(store, high, low).differences()
    assert turned.paired is not None and turned.paired.mean == pytest.approx(-0.15)


def test_a_run_tells_what_it_has_stored(store: RunStore) -> None:
    run = read_run(store, compared(store, "low", {UNSEEN: [0.5, 0.7], ("validation", "b"): [0.9], KEPT: [0.7]}))
    assert run.model == MODEL and run.minutes == pytest.approx(2.0)
    assert run.traffic == {"a": {"up": 2_000_000, "down": 3_000_000}}
    assert run.curves == (MetricSeries("federated_training", "val_dice", None, (1, 2), (0.2, 0.5)),)
    row = run.rows[UNSEEN]
    assert (row.dice, row.dice_low, row.dice_high) == pytest.approx((0.6, 0.5, 0.7)), "the run's own interval"
    ((worst),) = run.spread
    assert (worst.split, worst.worst_site, worst.worst_dice) == ("validation", "a", 0.7)


@pytest.mark.parametrize(("other", "why"), [
    ({"digests": {"test z": "2" * 64}}, "different test images of z"),
    ({"settings": {"seed": 3}}, "drawn anew"),
    ({"settings": {"data": {"source": "phantom", "task": "polyp"}}}, "drawn anew"),
    ({"class_name": "cup"}, "different classes: cup against disc"),
], ids=["images", "seed", "task", "classes"])  # fmt: skip
def test_other_images_have_no_difference_and_a_sentence(store: RunStore, other: dict[str, Any], why: str) -> None:
    ((unseen, _),) = of(store, compared(store, "low", LOW), compared(store, "high", HIGH, **other)).differences()
    assert unseen.paired is None and why in unseen.why


def test_images_of_one_site_may_be_the_same_where_anothers_are_not(store: RunStore) -> None:
    high = compared(store, "high", HIGH, digests={"validation a": "2" * 64})
    ((unseen, kept),) = of(store, compared(store, "low", LOW), high).differences()
    assert unseen.paired is not None and "different validation images of a" in kept.why


def test_runs_on_a_folder_of_images_may_have_other_seeds(store: RunStore, tmp_path: Path) -> None:
    data = {"data": {"source": "folder", "root": str(tmp_path)}}
    low = compared(store, "low", LOW, settings={**data, "seed": 1})
    ((unseen, _),) = of(store, low, compared(store, "high", HIGH, settings={**data, "seed": 2})).differences()
    assert unseen.paired is not None


@pytest.mark.parametrize(("name", "content", "why"), [
    ("evaluation/images.json", None, "high keeps no figures of single images of z"),
    ("evaluation/images.json", [{"model": MODEL}, 3, {"dice": "x"}], "high keeps no figures of single images of z"),
    ("evaluation/images.json", {"a": 1}, "high keeps no figures of single images of z"),
    ("data/identity.json", None, "high has not noted which images"),
    ("data/identity.json", [1], "high has not noted which images"),
])  # fmt: skip
def test_what_a_run_lacks_is_said(store: RunStore, name: str, content: Any, why: str) -> None:
    low, high = compared(store, "low", LOW), compared(store, "high", HIGH)
    if content is None:
        (store.run_dir(high) / name).unlink()
    else:
        write(store, high, name, content)
    ((unseen, _),) = of(store, low, high).differences()
    assert unseen.paired is None and why in unseen.why


def test_a_place_where_one_was_not_measured(store: RunStore) -> None:
    found = of(store, compared(store, "low", {UNSEEN: [0.5, 0.7]}), compared(store, "high", HIGH))
    assert found.places == (UNSEEN, KEPT)
    assert found.differences()[0][1].why == "low was not measured on validation images of a."


def test_the_mean_over_classes_and_all_sites_of_a_test_are_one_place_each(store: RunStore) -> None:
    run_id = compared(store, "many", {("test", "y"): [0.5], ("test", "z"): [0.7, 0.9]})
    reporter = StoreReporter(store, run_id, "evaluation", attempt=1)
    row = EvaluationRow(MODEL, "all", "test", "disc", 3, 0.7, None, None, 0.1, 0.1, 0.1, None)
    mean = EvaluationRow(MODEL, "z", "test", MEAN_CLASS, 2, 0.65, None, None, 0.1, 0.1, 0.1, None)
    reporter.evaluation([row, mean])
    reporter.flush()
    run = read_run(store, run_id)
    assert [image.name for image in run.images["test", "all"]] == ["y/00000", "z/00000", "z/00001"]
    assert run.rows[UNSEEN].dice == 0.65 and UNSEEN not in run.images, "its images' means over classes are not kept"


def test_an_interval_of_iou_is_what_evaluation_would_have_stored(store: RunStore) -> None:
    run_id = compared(store, "low", {UNSEEN: [0.5, 0.75, 0.625, 0.125, 0.875], KEPT: [0.8, 0.6]}, settings={"seed": 5})
    config = parse_config({"data": {"source": "phantom"}}).evaluation
    records = [
        {"model": "m", "site": "z", "class_name": "disc", "name": f"{n:05d}", "dice": value / 2,
         "group": f"{n // 2 + 1:05d}"}
        for n, value in enumerate([0.5, 0.75, 0.625, 0.125, 0.875])
    ]  # fmt: skip
    blank = {"iou": 0.0, "dice_five_thresholds": 0.0, "iou_five_thresholds": 0.0, "hd95_px": None, "missed": 0,
             "spurious": 0, "hd95_penalised_px": 0.0}  # fmt: skip
    (row,) = summarise([{**record, **blank} for record in records], split="test", config=config, seed=5)
    found = read_run(store, run_id).at(UNSEEN, COMPARED[IOU])
    assert found is not None and row.dice_low is not None
    assert (found.value, found.low, found.high) == (pytest.approx(0.2875), row.dice_low, row.dice_high)
    alone = read_run(store, run_id).at(KEPT, COMPARED[IOU])
    assert alone == SiteFigure(pytest.approx(0.35), None, None, 2, 1, None, None), "one patient tells nothing"


def test_hd95_is_of_the_images_that_have_one_and_lower_is_better(store: RunStore) -> None:
    low = compared(store, "low", LOW, hd95={UNSEEN: [4.0, 6.0, None, 9.0], KEPT: [1.0, 1.0]})
    high = compared(store, "high", HIGH, hd95={UNSEEN: [3.0, 4.0, 2.0, 8.0], KEPT: [None, None]})
    found, hd95 = of(store, low, high), COMPARED[HD95]
    first, second = (run.at(UNSEEN, hd95) for run in found.runs)
    assert first is not None and second is not None
    assert first.value == pytest.approx(19 / 3) and (first.num_images, first.num_groups, first.num_missed) == (3, 2, 1)
    assert second.value == pytest.approx(4.25) and (second.num_images, second.num_missed) == (4, 0)
    # Two patients, of 2 images (sum 10) and of 1 (9): a resample has 10 / 2, 19 / 3 or 18 / 2.
    assert (first.low, first.high) == (pytest.approx(5.0), pytest.approx(9.0))
    ((unseen, kept),) = found.differences(hd95)
    # Of both: -1, -2 | -1. Resamples of the two patients: -1.5, -4 / 3 or -1.
    assert unseen.paired is not None and unseen.num_images == 3 and unseen.paired.mean == pytest.approx(-4 / 3)
    assert (unseen.paired.low, unseen.paired.high) == (pytest.approx(-1.5), pytest.approx(-1.0))
    assert kept.paired is None and kept.why == "No image of a has HD95 (px) of both."
    nothing = found.runs[1].at(KEPT, hd95)
    assert nothing == SiteFigure(None, None, None, 0, None, 2, 0)


def test_a_run_without_a_measure_of_its_images_says_so(store: RunStore) -> None:
    found = of(store, compared(store, "low", LOW), compared(store, "high", HIGH, hd95={UNSEEN: [3.0, 4.0, 2.0, 8.0]}))
    ((unseen, _),) = found.differences(COMPARED[HD95])
    assert unseen.why == "low keeps no HD95 (px) of single images of z."
    assert found.differences(COMPARED[IOU])[0][0].paired is not None


@pytest.mark.parametrize(("low", "high", "said", "of_a_distance"), [
    (0.01, 0.2, "better", "worse"), (-0.2, -0.01, "worse", "better"), (-0.1, 0.1, "undecided", "undecided"),
    (0.0, 0.2, "undecided", "undecided"), (None, None, "undecided", "undecided"),
])  # fmt: skip
def test_a_difference_is_called_by_its_interval(
    low: float | None, high: float | None, said: str, of_a_distance: str
) -> None:
    assert verdict(low, high) == said and verdict(low, high, higher_is_better=False) == of_a_distance


@pytest.mark.parametrize("chosen", [(), (0,), (0, 0), (0,) * 7])
def test_two_to_six_different_runs_are_compared(store: RunStore, chosen: tuple[int, ...]) -> None:
    runs = [compared(store, "low", LOW)]
    with pytest.raises(UserError, match="2 to 6"):
        of(store, *(runs[at] for at in chosen))
    with pytest.raises(UserError) as caught:
        of(store, runs[0], "nothing")
    assert caught.value.code == "run.unknown"
