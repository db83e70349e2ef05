"""A visitor's mask beside an answered picture: figures worked out by hand, refusals in the words of the field."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
import tifffile
from PIL import Image

from app import answers
from app.corrections import Click
from app.references import Place, Reference, read
from app.settings import REPOSITORY, Settings
from app.studio import Studio
from app.tabs.reference import Comparing
from app.tabs.segment_answers import SHOWN, Handlers
from engine.data.geometry import Geometry
from engine.errors import UserError
from export.levels import above, levels

MODEL = "shipped/nuclei_cpu"
LEGEND, DOWNLOAD, CSV, CHANGES, NOTE = range(5)


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    models = tmp_path_factory.mktemp("models") / "models"
    shutil.copytree(REPOSITORY / "assets" / "models", models, ignore=shutil.ignore_patterns("examples"))
    return Studio(Settings(home=tmp_path_factory.mktemp("home"), models_dir=models))


@pytest.fixture
def shown(studio: Studio) -> answers.Shown:
    """An example of 256 x 256 pixels that was answered."""
    return dict(zip(SHOWN, Handlers(studio).answer_example(MODEL, "whole", 0), strict=True))["result"]


def own_mask(studio: Studio, shown: answers.Shown, *, percent: int = 50) -> np.ndarray:
    answer = studio.answers.get(shown.key)
    assert answer is not None
    return above(levels(answer.kept.plane(0)), percent)


def saved(path: Path, mask: np.ndarray) -> str:
    Image.fromarray(mask.astype(np.uint8) * 255).save(path)
    return str(path)


def row_of(values: tuple[Any, ...]) -> dict[str, str]:
    with Path(values[CSV].value["path"] if isinstance(values[CSV].value, dict) else values[CSV].value).open() as file:
        (row,) = csv.DictReader(file)
    return row


def test_a_mask_gives_figures_that_follow_threshold_and_corrections(
    studio: Studio, shown: answers.Shown, tmp_path: Path
) -> None:
    mask = own_mask(studio, shown)
    path = saved(tmp_path / "mine.png", mask)
    found = Comparing(studio).compare(shown, 0.5, path)
    row = row_of(found)
    assert (row["dice"], row["iou"], row["hd95"], row["surface_dice"], row["surface_tolerance"]) == (
        "1",
        "1",
        "0",
        "1",
        "2",
    )
    assert "<td>1.000 (within 2.00 px)</td>" in found[LEGEND] and "Compared with mine.png" in found[NOTE]
    assert Comparing(studio).compare(shown, 0.5, path) == (gr.skip(),) * 5  # the same mask is not read again
    answer = studio.answers.get(shown.key)
    assert answer is not None
    lower = own_mask(studio, shown, percent=20)
    (figures,) = answers.settled(answer, percent=20, corrections=()).figures
    assert figures.dice == pytest.approx(2 * mask.sum() / (mask.sum() + lower.sum()))
    row, column = np.argwhere(mask)[0].tolist()
    corrected = answers.settled(answer, percent=50, corrections=(Click("remove", 0, row, column, 300),))
    left = mask.sum() - corrected.last_px
    assert corrected.last_px > 0 and corrected.figures[0].iou == pytest.approx(left / mask.sum())
    without = Comparing(studio).compare(shown, 0.5, None)
    assert row_of(without)["dice"] == "" and "Dice" not in without[LEGEND] and without[NOTE] == ""


def test_another_answer_of_the_picture_is_compared_when_it_comes(
    studio: Studio, shown: answers.Shown, tmp_path: Path
) -> None:
    path = saved(tmp_path / "mine.png", own_mask(studio, shown))
    again = dict(zip(SHOWN, Handlers(studio).answer_example(MODEL, "whole", 0), strict=True))["result"]
    assert again.key != shown.key and row_of(Comparing(studio).compare(again, 0.5, path))["dice"] == "1"
    assert Comparing(studio).compare(None, 0.5, path)[NOTE] == ""


def test_a_mask_that_does_not_fit_is_refused_by_its_name_and_not_read_again(
    studio: Studio, shown: answers.Shown, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path / "image.png", np.zeros((100, 256)))
    monkeypatch.setattr(studio.uploads, "name_of", lambda _: "other.png")
    found = Comparing(studio).compare(shown, 0.5, path)
    assert "other.png has 1 slices of 256 x 100 pixels, the image 1 of 256 x 256" in found[NOTE]
    assert "In the field for the reference mask" in found[NOTE] and str(path) not in found[NOTE]
    assert row_of(found)["dice"] == "" and Comparing(studio).compare(shown, 0.5, path) == (gr.skip(),) * 5
    (tmp_path / "image.png").write_bytes(b"no picture")
    other = shutil.copy(path, tmp_path / "junk.png")
    assert "dataset" not in Comparing(studio).compare(shown, 0.5, str(other))[NOTE]
    gone = answers.Shown("no such key", None)
    assert "again" in Comparing(studio).compare(gone, 0.5, path)[NOTE] and studio.answers.compare("no", None) is None


def test_a_slice_is_compared_with_the_same_slice(studio: Studio, tmp_path: Path) -> None:
    stack = np.zeros((4, 5, 19), np.uint8)
    stack[2, 1, 3], stack[1] = 1, 1
    tifffile.imwrite(tmp_path / "masks.tif", stack, photometric="minisblack")
    place = Place(lambda: Geometry(5, 19, num_slices=4), number=2, num_slices=4)
    found = read(studio, tmp_path / "masks.tif", place, size_hw=(5, 19), num_classes=1)
    assert np.argwhere(found.plane(0)).tolist() == [[1, 3]] and found.num_bytes == 5 * 3  # a bit each, rows in bytes
    with pytest.raises(UserError, match="has 4 slices"):
        read(studio, tmp_path / "masks.tif", Place(lambda: Geometry(5, 19)), size_hw=(5, 19), num_classes=1)


def test_planes_of_several_classes_are_kept_as_bits() -> None:
    planes = np.random.default_rng(1).random((2, 7, 11)) > 0.5
    kept = Reference("a", "a", (7, 11), np.packbits(planes, axis=2))
    np.testing.assert_array_equal([kept.plane(index) for index in (0, 1)], planes)
