"""The vertical cup-to-disc ratio: heights counted by hand, in the mask, the page, the CSV and the terminal."""

from __future__ import annotations

import csv
import io
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from volume_files import manifest

from app import overlay_view
from app.picture_results import Result, result
from app.probability import Kept
from app.volume_figures import figures_table
from engine.cli.cases import Job, print_job
from engine.data.archives import Member
from export.cases import find_cases, segment_case
from export.outputs.fundus import Vertical, verticals
from export.pairs import Models

DISC, CUP = np.zeros((2, 40, 50), np.uint8)
DISC[5:30, 10:32] = 1  # 25 rows
DISC[2, 45] = DISC[36:39, 45] = 1  # specks above and below count for nothing
CUP[9:19, 15:22] = 1  # 10 rows
CUP[35, 2] = 1


def ellipse(height: int, width: int, *, at: tuple[float, float], radii: tuple[float, float], turn: float) -> np.ndarray:
    row, column = np.mgrid[:height, :width].astype(float)
    row, column = row - at[0], column - at[1]
    along = column * np.cos(turn) + row * np.sin(turn)
    across = row * np.cos(turn) - column * np.sin(turn)
    return ((along / radii[0]) ** 2 + (across / radii[1]) ** 2 <= 1).astype(np.uint8)


@pytest.mark.parametrize(("classes", "order"), [
    (("disc", "cup"), (0, 1)), (("Cup", "DISC"), (1, 0)), (("optic_disk", "Optic cup"), (0, 1)),
])  # fmt: skip
def test_largest_pieces_are_compared_by_their_rows_in_any_order_and_case(classes: tuple, order: tuple) -> None:
    masks = np.stack([(DISC, CUP)[index] for index in order])
    found = verticals(masks, classes, row_step=0.5)
    disc, cup = (found[order.index(index)] for index in (0, 1))
    assert (disc, cup) == (Vertical(12.5, 0.4), Vertical(5.0, 0.4))


def test_tilted_ellipses_have_the_extent_of_their_rows() -> None:
    """An ellipse with half axes a and b, turned by t, is 2 sqrt(a² sin² t + b² cos² t) high."""
    disc = ellipse(200, 400, at=(100, 100), radii=(80, 50), turn=0.6)
    cup = ellipse(200, 400, at=(96, 104), radii=(40, 22), turn=0.6)
    high = [2 * np.hypot(a * np.sin(0.6), b * np.cos(0.6)) for a, b in ((80, 50), (40, 22))]
    found = verticals(np.stack([disc, cup]), ("disc", "cup"), row_step=1)
    assert [one.vertical_extent for one in found] == [pytest.approx(each, abs=1.5) for each in high]
    assert found[0].cup_to_disc == pytest.approx(high[1] / high[0], abs=0.02)
    outside = np.roll(cup, 200, axis=1)  # a cup that lies beside its disc is as high
    beside = verticals(np.stack([disc, outside]), ("disc", "cup"), row_step=1)
    assert beside[0].cup_to_disc == found[0].cup_to_disc


def test_without_a_disc_there_is_no_ratio_and_without_a_cup_it_is_0() -> None:
    empty = np.zeros_like(DISC)
    assert verticals(np.stack([empty, CUP]), ("disc", "cup"), row_step=1) == [Vertical(), Vertical(10, None)]
    assert verticals(np.stack([DISC, empty]), ("disc", "cup"), row_step=1) == [Vertical(25, 0), Vertical(None, 0)]
    for classes in (("disc", "vessel"), ("discus", "cup"), ("disc left", "cup"), ("disc", "disk")):
        assert verticals(np.stack([DISC, CUP]), classes, row_step=1) == [Vertical(), Vertical()]


def picture(masks: np.ndarray, *, percent: int = 50) -> Result:
    """Return the page's answer; pixels in the masks have probability 0.62, all others 0.18."""
    logits = np.where(masks > 0, 0.5, -1.5).astype(np.float32)
    return result(
        Kept(logits, (40, 50), lambda plane: plane), classes=("disc", "cup"), stem="eye", name="eye.png",
        spacing_mm=(0.02, 0.01), shown_hw=(40, 50), percent=percent,
    )  # fmt: skip


def test_the_answer_and_its_csv_have_the_ratio_and_both_heights() -> None:
    found = picture(np.stack([DISC, CUP]))
    rows = list(csv.DictReader(io.StringIO(found.csv[1].decode())))
    assert [(row["vertical_extent"], row["cup_to_disc"]) for row in rows] == [("0.5", "0.4"), ("0.2", "0.4")]
    told = unescape(overlay_view.figures_table(found.figures, remark="", told=""))
    assert "ratio 0.40: the cup's largest piece is 0.20 mm high, the disc's 0.50 mm" in told
    none = overlay_view.figures_table(picture(np.stack([DISC * 0, CUP])).figures, remark="", told="")
    assert "the mask has no disc" in none
    no_cup = overlay_view.figures_table(picture(np.stack([DISC, CUP * 0])).figures, remark="", told="")
    assert "ratio 0: the mask has a disc (0.50 mm high) and no cup" in no_cup
    everywhere = picture(np.stack([DISC, CUP]), percent=10)  # it follows the threshold: all of the picture is both
    assert everywhere.figures[0].cup_to_disc == 1 and everywhere.figures[1].vertical_extent == pytest.approx(0.8)


class Painted:
    """A model that finds what was painted red and green."""

    manifest = manifest(classes=("disc", "cup")).model_copy(update={"value_range": None})

    def levels(self, image_HW3: np.ndarray) -> np.ndarray:
        return np.where(np.moveaxis(image_HW3[..., :2], -1, 0) > 100, 70, 20).astype(np.uint8)

    def num_looks(self, size_hw: tuple[int, int]) -> int:
        return 1


def test_pictures_among_volumes_and_the_terminal_have_it_too(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    Image.fromarray(np.stack([DISC, CUP, CUP * 0], axis=-1) * 255).save(tmp_path / "eye.png")
    (case,) = find_cases([Member(tmp_path / "eye.png", "eye.png")])
    disc, cup = segment_case(Painted(), case).measurements  # type: ignore[arg-type]
    assert (disc.vertical_extent, cup.vertical_extent, disc.cup_to_disc, cup.cup_to_disc) == (25, 10, 0.4, 0.4)
    told = figures_table([(disc, None), (cup, None)])
    assert "Vertical cup-to-disc ratio" in told and told.count("<td>0.400</td>") == 2
    models = Models.of(Painted())  # type: ignore[arg-type]
    job = Job(models, tmp_path, overlay=False, reference=None, quiet=True)
    job.segment(*models.cases([case]))
    print_job(job, as_json=False)
    lines = capsys.readouterr().out.splitlines()[4:]
    assert lines[0].split() == ["Image", "Class", "Vertical", "cup-to-disc"]
    assert [line.split() for line in lines[2:]] == [["eye.png", "disc", "0.400"], ["eye.png", "cup", "0.400"]]
