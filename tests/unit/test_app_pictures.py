"""Figures and pictures show the numbers that they are given."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from app import overlays, plots
from app.pictures import read_maps, read_mask_planes, sample_pictures
from engine.distillation.pool import encode_mask
from engine.errors import UserError
from engine.methods import catalogue
from engine.runs.records import MetricSeries, TrafficTotal
from engine.types import EvaluationRow, SyntheticSample


def test_the_kl_of_two_predictions_is_that_of_both_directions() -> None:
    """KL(p||q) + KL(q||p), summed up from its definition."""
    teacher, student = np.array([[0.5, 0.8, 1.0]]), np.array([[0.5, 0.3, 0.0]])

    def one_way(p: float, q: float) -> float:
        return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))

    found = overlays.symmetric_kl(teacher, student)
    least = 0.5 / 255
    assert found[0].tolist() == pytest.approx(
        [0.0, one_way(0.8, 0.3) + one_way(0.3, 0.8), one_way(1 - least, least) + one_way(least, 1 - least)]
    )
    assert np.array_equal(found, overlays.symmetric_kl(student, teacher))
    assert overlays.heat(np.array([[0.0, 2.0, 9.0]]) / overlays.FULL_KL)[0, :, 0].tolist() == [0, 128, 255]


def test_one_line_a_curve_with_holes_where_a_value_is_not_a_number() -> None:
    series = [
        MetricSeries("f", "val_dice", "a", (1, 2), (0.5, float("nan"))),
        MetricSeries("f", "val_dice", None, (1,), (0.6,)),
    ]
    figure = plots.curves(series, title="t", empty="e", unit_range=True)
    assert [line.name for line in figure.data] == ["a", "mean of the sites"]
    assert figure.data[0].y == (0.5, None)
    assert figure.layout.yaxis.range == (0, 1)


def test_a_figure_without_data_says_so() -> None:
    for figure in (
        plots.curves([], title="t", empty="none"),
        plots.traffic([]),
        plots.results([]),
    ):
        assert len(figure.data) == 0 and len(figure.layout.annotations) == 1


def test_traffic_bars_hold_megabytes_by_kind_site_and_direction() -> None:
    totals = [
        TrafficTotal("a", "up", "student", "federated_training", 2_000_000, 1),
        TrafficTotal("a", "up", "student", "mutual_distillation", 1_000_000, 1),
        TrafficTotal("b", "down", "masks", "generation", 500_000, 1),
    ]
    bars = {bar.name: dict(zip(bar.y, bar.x, strict=True)) for bar in plots.traffic(totals).data}
    assert bars["student weights"]["a sent"] == 3.0
    assert bars["student weights"]["b received"] == 0.0
    assert bars["masks"]["b received"] == 0.5


def test_every_kind_of_message_looks_like_no_other() -> None:
    totals = [TrafficTotal("a", "up", kind, "federated_training", 1, 1) for kind in catalogue.kinds()]
    looks = [(bar.marker.color, bar.marker.pattern.shape) for bar in plots.traffic(totals).data]
    assert len(set(looks)) == len(looks) == len(catalogue.kinds()) > 9


def test_a_site_keeps_its_colour_beside_a_mean_over_sites() -> None:
    sites = [MetricSeries("federated_training", "loss", site, (1,), (0.5,)) for site in "ab"]
    mean = MetricSeries("federated_training", "loss", None, (1,), (0.5,))
    alone, beside = (
        {line.name: line.line.color for line in plots.curves(chosen, title="t", empty="e").data}
        for chosen in (sites, [mean, *sites])
    )
    assert alone == {"a": beside["a"], "b": beside["b"]} and len(set(beside.values())) == 3


def test_two_measures_of_a_site_are_told_apart_and_a_long_legend_takes_nothing_from_the_curves() -> None:
    series = [
        MetricSeries("mutual_distillation", name, site, (1, 2), (0.5, 0.6))
        for name in ("val_dice", "teacher_val_dice")
        for site in (None, "portable_yellow", "scope_octagon", "tower_hd")
    ]
    figure = plots.curves(series, title="t", empty="e", unit_range=True)
    looks = [(line.line.color, line.line.dash) for line in figure.data]
    assert len(set(looks)) == 8 and [dash for _, dash in looks[:4]] == ["dot", "solid", "solid", "solid"]
    short = plots.curves(series[1:2], title="t", empty="e")
    assert figure.layout.height - short.layout.height == 7 * plots.LINE_PX, "eight long names are a line each"
    many = [replace(series[1], site=f"a hospital with a long name, {n}") for n in range(40)]
    full = plots.curves(many, title="t", empty="e")
    assert full.layout.height - short.layout.height == (plots.MOST_LINES - 1) * plots.LINE_PX
    assert full.layout.legend.title.text == "40 curves" and figure.layout.legend.title.text is None


def test_the_horizontal_axis_says_what_it_counts() -> None:
    titles = [
        plots.curves([MetricSeries(stage, "loss", None, (1,), (1.0,))], title="t", empty="e").layout.xaxis.title.text
        for stage in ("federated_training", "generator_training", "mutual_distillation")
    ]
    assert titles == ["round", "optimiser step", "epoch"]


def test_a_kind_of_message_keeps_its_colour() -> None:
    def colours(*kinds: str) -> dict[str, str]:
        totals = [TrafficTotal("a", "up", kind, "generation", 1, 1) for kind in kinds]
        return {bar.name: bar.marker.color for bar in plots.traffic(totals).data}

    alone, all_kinds = colours("student"), colours("generator", "student", "of tomorrow")
    assert alone.items() < all_kinds.items()
    assert len(set(all_kinds.values())) == 3


def test_results_show_test_rows_with_the_ends_of_their_interval() -> None:
    rows = [
        EvaluationRow("fedavg_student", "d", split, "disc", 9, 0.8, 0.7, 0.85, 0.7, 0.8, 0.7, None)
        for split in ("test", "validation")
    ]
    bars = plots.results(rows).data
    assert len(bars) == 1 and bars[0].x == (0.8,)
    assert bars[0].error_x.array[0] == pytest.approx(0.05) and bars[0].error_x.arrayminus[0] == pytest.approx(0.1)


def test_disagreement_colours_who_saw_what() -> None:
    image = np.zeros((2, 2, 3), np.uint8)
    teacher, student = np.array([[1.0, 1.0], [0.0, 0.0]]), np.array([[1.0, 0.0], [1.0, 0.0]])
    shown = overlays.disagreement(image, teacher, student)
    both, teacher_only, student_only, nobody = shown[0, 0], shown[0, 1], shown[1, 0], shown[1, 1]
    assert (both == (126, 96, 159)).all()  # nine tenths of the key's (140, 107, 177) over black
    assert teacher_only[0] > teacher_only[2] and student_only[2] > student_only[0]
    assert not nobody.any()


@pytest.mark.parametrize(
    ("height", "width", "longest_px", "fitted"),
    [(100, 50, 200, (200, 100)), (1000, 500, 100, (100, 50)), (3000, 1, 100, (100, 1))],
)
def test_fit_keeps_the_aspect(height: int, width: int, longest_px: int, fitted: tuple) -> None:
    assert overlays.fit(height, width, longest_px=longest_px) == fitted


def test_nearest_resize_takes_pixel_centres() -> None:
    grid = np.arange(16).reshape(4, 4)
    assert overlays.resize_nearest(grid, 2, 2).tolist() == [[5, 7], [13, 15]]
    assert (overlays.resize_nearest(overlays.resize_nearest(grid, 8, 8), 4, 4) == grid).all()


@pytest.mark.parametrize("num_classes", [1, 2, 3])
def test_stored_masks_are_read_as_generation_writes_them(num_classes: int) -> None:
    mask = np.zeros((num_classes, 8, 8), np.uint8)
    for index in range(num_classes):
        mask[index, index : index + 3, 2:6] = 1
    assert (read_mask_planes(encode_mask(mask)) == mask).all()


def a_pair(folder: Path, *, prediction: np.ndarray | None = None) -> SyntheticSample:
    """Write a grey 16 px image with a disc in a two-class mask and, for both models, one stored prediction."""
    mask = np.zeros((2, 16, 16), np.uint8)
    mask[0, 4:12, 4:12] = 1
    Image.fromarray(np.full((16, 16, 3), 90, np.uint8)).save(folder / "i.png")
    encode_mask(mask).save(folder / "m.png")
    paths = {}
    if prediction is not None:
        Image.fromarray(prediction).save(folder / "p.png")
        paths = {"teacher_path": Path("p.png"), "student_path": Path("p.png")}
    return SyntheticSample("x", "s", 0, 0, "m", "real", Path("i.png"), Path("m.png"), 0.5, **paths)


def test_a_samples_pictures_before_there_are_predictions(tmp_path: Path) -> None:
    pictures = sample_pictures(tmp_path, a_pair(tmp_path), longest_px=32, class_names=("disc", "cup"))
    assert pictures.image.shape == (32, 32, 3) and (pictures.image == 90).all()
    assert (pictures.outlined != pictures.image).any()
    disc, cup = pictures.classes
    assert (disc.name, cup.name) == ("disc", "cup") and disc.teacher is None and disc.dispute is None
    assert disc.mask.any() and not cup.mask.any() and disc.mask.shape == (32, 32, 3)


def test_every_class_has_its_own_prediction(tmp_path: Path) -> None:
    planes = np.zeros((8, 8, 3), np.uint8)
    planes[2:6, 2:6, 0], planes[..., 1] = 255, 128
    disc, cup = sample_pictures(tmp_path, a_pair(tmp_path, prediction=planes), class_names=("disc", "cup")).classes
    assert disc.teacher is not None and cup.teacher is not None and cup.dispute is not None
    assert disc.teacher.min() == 0 and disc.teacher.max() == 255 and (cup.teacher == 128).all()


def test_older_runs_show_the_first_class_only(tmp_path: Path) -> None:
    sample = a_pair(tmp_path, prediction=np.full((8, 8), 255, np.uint8))
    first, second = sample_pictures(tmp_path, sample).classes
    assert (first.name, second.name) == ("class 1", "class 2")
    assert (first.teacher == 255).all() and first.dispute is not None
    assert second.teacher is None and second.dispute is None


@pytest.mark.parametrize("num_classes", [1, 2, 3])
def test_predictions_are_read_as_distillation_writes_them(tmp_path: Path, num_classes: int) -> None:
    from engine.stages.mutual_distillation import _write_map

    probability = torch.linspace(0.02, 0.98, num_classes * 64).reshape(num_classes, 8, 8)
    path = _write_map(tmp_path, Path("i.png"), "sam", probability.logit())
    maps = read_maps(tmp_path / path, (8, 8))
    assert path == Path("i_sam.png") and len(maps) == (1 if num_classes == 1 else 3)
    np.testing.assert_allclose(np.stack(maps[:num_classes]), probability.numpy(), atol=0.5 / 255 + 1e-6)


def test_a_missing_picture_is_a_clear_error(tmp_path: Path) -> None:
    gone = SyntheticSample("x", "s", 0, 0, "m", "real", Path("i.png"), Path("m.png"))
    with pytest.raises(UserError) as caught:
        sample_pictures(tmp_path, gone)
    assert caught.value.code == "app.sample_unreadable"


def test_a_legend_names_what_can_be_seen_only() -> None:
    """Of a bar of 1000 bytes, 5 are a two hundredth, which is drawn as a line; 4 nobody sees."""
    totals = [
        TrafficTotal("a", "up", "student", "federated_training", 991, 1),
        TrafficTotal("a", "up", "masks", "generation", 5, 1),
        TrafficTotal("a", "up", "metrics", "federated_training", 4, 1),
    ]
    named = {bar.name: bar.showlegend for bar in plots.traffic(totals).data}
    kinds = catalogue.kinds()
    assert named == {kinds["student"].title: True, kinds["masks"].title: True, kinds["metrics"].title: False}


def test_hatchings_lie_over_their_colour() -> None:
    totals = [TrafficTotal("a", "up", kind, "federated_training", 1, 1) for kind in catalogue.kinds()]
    assert {bar.marker.pattern.fillmode for bar in plots.traffic(totals).data} == {"overlay"}


@pytest.mark.parametrize(("last", "between"), [(2, 1), (10, 1), (11, None)])
def test_few_rounds_have_whole_ticks(last: int, between: int | None) -> None:
    steps = tuple(range(last + 1))
    curve = MetricSeries("federated_training", "", "val_dice", steps, tuple(0.5 for _ in steps))
    assert plots.curves([curve], title="t", empty="e").layout.xaxis.dtick == between
    assert plots.overlaid([("run", [curve])], title="t", empty="e").layout.xaxis.dtick == between
