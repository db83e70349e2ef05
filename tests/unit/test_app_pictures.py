"""Figures and pictures show the numbers that they are given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app import overlays, plots
from app.studio import read_mask_planes, sample_pictures
from engine.distillation.pool import encode_mask
from engine.errors import UserError
from engine.runs.records import MetricSeries, ScoredSample, TrafficTotal
from engine.types import EvaluationRow, SampleScore, SyntheticSample


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
        plots.learnability([]),
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


def test_results_show_test_rows_with_the_ends_of_their_interval() -> None:
    rows = [
        EvaluationRow("fedavg_student", "d", split, "disc", 9, 0.8, 0.7, 0.85, 0.7, 0.8, 0.7, None)
        for split in ("test", "validation")
    ]
    bars = plots.results(rows).data
    assert len(bars) == 1 and bars[0].x == (0.8,)
    assert bars[0].error_x.array[0] == pytest.approx(0.05) and bars[0].error_x.arrayminus[0] == pytest.approx(0.1)


def test_the_scatter_parts_selected_from_rejected_and_rings_the_chosen() -> None:
    scored = [
        ScoredSample(
            SyntheticSample(str(i), "s", i, 0, "m", "real", Path("i"), Path("m")),
            SampleScore(str(i), 0, 0.1 * i, 0.2, 0.0, i, i < 2),
        )
        for i in range(5)
    ]
    figure = plots.learnability(scored, chosen="3")
    assert [(line.name, len(line.x)) for line in figure.data] == [("not selected", 3), ("selected", 2), ("3", 1)]
    assert figure.data[1].customdata == ("0", "1")


def test_disagreement_colours_who_saw_what() -> None:
    image = np.zeros((2, 2, 3), np.uint8)
    teacher, student = np.array([[1.0, 1.0], [0.0, 0.0]]), np.array([[1.0, 0.0], [1.0, 0.0]])
    shown = overlays.disagreement(image, teacher, student)
    both, teacher_only, student_only, nobody = shown[0, 0], shown[0, 1], shown[1, 0], shown[1, 1]
    assert both[0] == both[1] == both[2] > 0
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


def test_a_samples_pictures(tmp_path: Path) -> None:
    mask = np.zeros((2, 16, 16), np.uint8)
    mask[0, 4:12, 4:12] = 1
    Image.fromarray(np.full((16, 16, 3), 90, np.uint8)).save(tmp_path / "i.png")
    encode_mask(mask).save(tmp_path / "m.png")
    Image.fromarray(np.full((8, 8), 255, np.uint8)).save(tmp_path / "t.png")
    bare = SyntheticSample("x", "s", 0, 0, "m", "real", Path("i.png"), Path("m.png"))
    pictures = sample_pictures(tmp_path, bare, longest_px=32)
    assert pictures.image.shape == (32, 32, 3) and pictures.teacher is None and pictures.dispute is None
    assert pictures.num_classes == 2 and (pictures.image == 90).all()
    assert pictures.mask.any() and (pictures.outlined != pictures.image).any()
    full = SyntheticSample(
        "x", "s", 0, 0, "m", "real", *map(Path, ("i.png", "m.png")), 0.5, Path("t.png"), Path("t.png")
    )
    assert sample_pictures(tmp_path, full, longest_px=32).dispute.shape == (32, 32, 3)


def test_a_missing_picture_is_a_clear_error(tmp_path: Path) -> None:
    gone = SyntheticSample("x", "s", 0, 0, "m", "real", Path("i.png"), Path("m.png"))
    with pytest.raises(UserError) as caught:
        sample_pictures(tmp_path, gone)
    assert caught.value.code == "app.sample_unreadable"
