"""Looking in parts: at full resolution, blended where they overlap; what the whole gives where one part is all."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from app import answers, examples
from app.settings import Settings
from app.studio import Studio
from engine.cli import main
from engine.config import parse_config
from engine.data.tiling import places
from engine.evaluation.looks import compare_looks
from engine.evaluation.mask_dice import mean_dice
from export.manifest import LooksMeasured
from export.package import BundleContent, write_bundle
from export.runtime import BundleSession, load_bundle

SIDE, STRIDE = 64, 2


class Red(nn.Module):
    """Ten times the red channel minus five, on half the image's grid."""

    mask_stride = STRIDE

    def forward(self, image_B3HW: torch.Tensor) -> torch.Tensor:
        return nn.functional.avg_pool2d(image_B3HW[:, :1], STRIDE) * 10 - 5


class Brightness(nn.Module):
    """The mean of the red channel over all that it sees, everywhere on half the image's grid."""

    mask_stride = STRIDE

    def forward(self, image_B3HW: torch.Tensor) -> torch.Tensor:
        pooled = nn.functional.avg_pool2d(image_B3HW[:, :1], STRIDE)
        return pooled * 0 + image_B3HW[:, :1].mean(dim=(2, 3), keepdim=True)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., BundleSession]:
    def serve(model: nn.Module, *, normalise: str = "none", folder: Path | None = None) -> BundleSession:
        config = parse_config({"data": {"image_px": SIDE, "normalise": normalise}})
        content = BundleContent(
            name="red", role="distilled_student", task="t", modality="m", classes=("c",), model=config.student,
            config=config, metrics=(), run_id="run-1",
        )  # fmt: skip
        folder = folder or tmp_path_factory.mktemp("bundle") / "bundle"
        write_bundle(folder, model, content=content)
        return load_bundle(folder)

    return serve


def noise(*size: int, dtype: type = np.uint8, seed: int = 0) -> np.ndarray:
    drawn = np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, (*size, 3), dtype=dtype)
    return drawn


@given(height=st.integers(1, 700), width=st.integers(1, 700))
def test_parts_cover_the_image_and_overlap_by_a_quarter_at_least(height: int, width: int) -> None:
    covered = np.zeros((max(height, SIDE) + 1, max(width, SIDE) + 1), int)
    found = places((height, width), side=SIDE, stride=STRIDE)
    assert all(top % STRIDE == 0 and left % STRIDE == 0 for top, left in found) and len(set(found)) == len(found)
    for top, left in found:
        covered[top : top + SIDE, left : left + SIDE] += 1
    assert covered[:height, :width].all()
    for axis in (0, 1):
        starts = sorted({place[axis] for place in found})
        assert all(after - before <= 0.75 * SIDE for before, after in pairwise(starts))


def test_parts_worked_out_by_hand() -> None:
    assert places((64, 64), side=64, stride=2) == [(0, 0)] == places((10, 63), side=64, stride=2)
    assert places((64, 65), side=64, stride=2) == [(0, 0), (0, 2)], "65 pixels are 33 cells"
    assert places((64, 112), side=64, stride=2) == [(0, 0), (0, 48)], "a step of 48 at most"
    assert places((64, 114), side=64, stride=2) == [(0, 0), (0, 24), (0, 50)]
    assert len(places((383, 512), side=256, stride=2)) == 2 * 3


@pytest.mark.parametrize("normalise", ["none", "per_image"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_one_part_gives_what_the_whole_gives(served: Callable, normalise: str, dtype: type) -> None:
    session, image = served(Red(), normalise=normalise), noise(SIDE, SIDE, dtype=dtype)
    whole, parts = session.predict(image), session.looking("parts").predict(image)
    np.testing.assert_allclose(parts.probability_KHW, whole.probability_KHW, atol=1e-6)
    assert 0.1 < whole.mask_KHW.mean() < 0.9 and np.array_equal(whole.mask_KHW, parts.mask_KHW)


@pytest.mark.parametrize("size", [(64, 200), (130, 97), (65, 64), (20, 300), (3, 1)])
def test_every_cell_is_that_of_the_image_at_full_resolution(served: Callable, size: tuple[int, int]) -> None:
    """A model that looks at each cell alone gives the same in every part: what is blended is the image's own pixels."""
    image = noise(*size)
    logits = served(Red()).looking("parts").logits(image)[0]
    even = np.pad(image[..., 0], [(0, length % STRIDE) for length in size], mode="edge").astype(np.float64) / 255
    height, width = (length // STRIDE for length in even.shape)
    expected = even.reshape(height, STRIDE, width, STRIDE).mean(axis=(1, 3)) * 10 - 5
    np.testing.assert_allclose(logits[:height, :width], expected, atol=1e-5)


def test_small_things_apart_stay_apart(served: Callable) -> None:
    session, image = served(Red()), np.zeros((256, 256, 3), np.uint8)
    image[40:200, 100:104] = image[40:200, 106:110] = 255  # a gap of two pixels, half of one when four become one
    assert session.predict(image).mask_KHW[0, 120, 104:106].any()
    apart = session.looking("parts").predict(image).mask_KHW[0]
    assert not apart[120, 104:106].any() and apart[120, 100:104].all() and apart[120, 106:110].all()
    assert session.looking("whole") is session


def test_where_parts_overlap_the_nearer_to_its_middle_counts_more(served: Callable) -> None:
    """Two parts of 64 px that begin at 0 and 48: brightness 1 on the left of 64, 0 beyond; 32 cells each, 8 shared."""
    image = np.zeros((SIDE, 112, 3), np.uint8)
    image[:, :64] = 255
    row = served(Brightness()).looking("parts").logits(image)[0][16]
    np.testing.assert_allclose(row[:24], 1, atol=1e-6)
    np.testing.assert_allclose(row[32:], 16 / 64, atol=1e-6)
    # cell 24 is the left part's eighth from its border and the right part's first
    first, last = (8 * 1 + 1 * 16 / 64) / 9, (1 * 1 + 8 * 16 / 64) / 9
    np.testing.assert_allclose(row[[24, 31]], [first, last], atol=1e-6)


def test_the_window_is_that_of_the_whole_image(served: Callable) -> None:
    """A part of faint noise only must not be stretched until the noise is foreground."""
    image = np.random.default_rng(1).integers(0, 12, (SIDE, 400, 3)).astype(np.uint8)
    image[20:40, 10:40] = 255
    mask = served(Red(), normalise="per_image").looking("parts").predict(image).mask_KHW[0]
    assert mask[20:40, 10:40].all() and not mask[:, 60:].any()


def test_parts_are_counted_told_and_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    studio = Studio(Settings(home=tmp_path / "home"))
    key = "shipped/nuclei_cpu"
    session, image = studio.session(key, looks="parts"), np.tile(examples.image(studio, key, 0)[:256, :256], (2, 3, 1))
    whole = answers.segment(studio.session(key, looks="whole"), lambda: image, title="a.png", stem="a", anyway=True)
    found = answers.segment(session, lambda: image, title="a.png", stem="a", anyway=True)
    assert image.shape[:2] == (512, 768) and found.num_looks == 3 * 4 and whole.num_looks == 1
    assert "in 12 parts of 256 x 256 pixels" in found.answer.told and "parts" not in whole.answer.told
    assert found.result.file[0] == "a_unlike_training_parts_mask.png" or found.result.file[0] == "a_parts_mask.png"
    assert (whole.reduced_to, found.reduced_to) == (pytest.approx(1 / 3), 1.0)
    assert found.result.figures[0].components > whole.result.figures[0].components
    monkeypatch.setattr(answers, "MOST_LOOKED_PX", 11 * 256**2)
    fewer = answers.segment(session, lambda: image, title="a.png", stem="a", anyway=True)
    assert (fewer.num_looks, fewer.num_wanted) == (1, 12) and fewer.result.figures == whole.result.figures


def test_parts_need_no_more_memory_than_the_page_counts_on(served: Callable) -> None:
    import tracemalloc

    session = served(Red(), normalise="per_image").looking("parts")
    for dtype, kind in ((np.uint8, "8 bits"), (np.uint16, "more")):
        image = noise(1500, 1000, dtype=dtype)
        tracemalloc.start()
        session.logits(image)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak / (1500 * 1000) < answers.BYTES_PER_PIXEL[kind], dtype


def test_dice_of_masks_worked_out_by_hand() -> None:
    mask, true = np.zeros((3, 4, 4), np.uint8), np.zeros((3, 4, 4), np.uint8)
    mask[0, :2], true[0, 1:3] = 1, 1  # 8 and 8 pixels, 4 of them shared
    mask[1, 0, 0] = 1  # found where there is nothing
    assert mean_dice(mask[:1], true[:1]) == 0.5 and mean_dice(mask, true) == pytest.approx((0.5 + 0 + 1) / 3)


def test_the_better_way_of_looking_is_measured_on_masks_of_full_resolution(served: Callable) -> None:
    """Stripes of a pixel that the whole, four pixels in one, sees as grey; a large square that both see."""
    session, image = served(Red()), np.zeros((256, 256, 3), np.uint8)
    image[:, ::4] = image[:, 1::4] = 255
    stripes = (image[..., 0] > 0)[None].astype(np.uint8)
    square = np.zeros((256, 256, 3), np.uint8)
    square[64:192, 64:192] = 255
    large = (square[..., 0] > 0)[None].astype(np.uint8)

    def compared(*pairs: tuple[np.ndarray, np.ndarray]) -> dict[str, float] | None:
        return compare_looks(session.manifest.eye, lambda given: session.run(given)[0], pairs)

    of_stripes, of_both = compared((image, stripes)), compared((image, stripes), (square, large))
    assert of_stripes is not None and of_both is not None and of_both["num_images"] == 2
    assert of_stripes["parts"] == of_both["parts"] == 1.0 and of_stripes["whole"] < 0.8 < of_stripes["fine"]
    of_square = compared((square, large))
    assert of_square is not None and of_square["parts"] == 1.0 and of_square["whole"] > 0.97
    assert of_both["whole"] == pytest.approx((of_stripes["whole"] + of_square["whole"]) / 2, abs=1e-6)
    lines = np.zeros((64, 64, 3), np.uint8)
    lines[:, ::6] = 255  # of one pixel: half of a cell, and a logit of nought
    of_lines = compared((lines, (lines[..., 0] > 0)[None].astype(np.uint8)))
    assert of_lines is not None and of_lines["whole"] == of_lines["parts"] == 0 < of_lines["fine"]
    assert compared() is None


@pytest.mark.parametrize(
    ("whole", "parts", "fine", "best"),
    [
        (0.8, 0.806, 0.81, "parts"),
        (0.8, 0.804, 0.8, "whole"),
        (0.8, 0.7, 0.7, "whole"),
        (0, 1, 1, "parts"),
        (0.8, 0.81, 0.816, "fine"),
        (0.8, 0.804, 0.806, "fine"),
        (0.8, 0.7, 0.806, "fine"),
        (1, 1, 1, "whole"),
    ],
)
def test_a_model_looks_in_parts_by_itself_where_that_is_worth_it(
    served: Callable, whole: float, parts: float, fine: float, best: str
) -> None:
    manifest = served(Red()).manifest
    assert manifest.best_looks == "whole", "nobody has measured it"
    for images, expected in ((8, best), (7, "whole")):
        measured = LooksMeasured(whole=whole, parts=parts, fine=fine, num_images=images)
        assert manifest.model_copy(update={"looks": measured}).best_looks == expected


def test_a_bundle_looks_as_it_says_unless_somebody_says_otherwise(
    served: Callable, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """An image of 130 x 64 has parts at 0, 32 and 66; enlarged to 173 x 85 two by four of them."""
    Image.fromarray(noise(SIDE, 130)).save(tmp_path / "a.png")
    served(Red(), folder=tmp_path / "bundle")
    session, path = load_bundle(tmp_path / "bundle"), tmp_path / "bundle" / "manifest.json"
    for measured, option, parts in (
        (None, [], 1), (None, ["--looks", "parts"], 3), (0.6, [], 3), (0.6, ["--looks", "parts"], 3),
        (0.6, ["--looks", "whole"], 1), (0.4, [], 1), (0.6, ["--looks", "fine"], 2 * 4),
    ):  # fmt: skip
        looks = {"whole": 0.5, "parts": measured, "fine": 0.5, "num_images": 8} if measured else None
        path.write_text(json.dumps(session.manifest.model_dump(mode="json") | {"looks": looks}))
        arguments = ["predict", str(path.parent), str(tmp_path / "a.png"), "--out", str(tmp_path / "masks"), *option]
        assert main([*arguments, "--json"]) == 0
        (row,) = json.loads(capsys.readouterr().out)["predictions"]
        expected = session.looking({1: "whole", 3: "parts", 8: "fine"}[parts]).masks(noise(SIDE, 130))[0][0]
        assert row["parts"] == parts and np.array_equal(np.asarray(Image.open(row["mask"])) > 0, expected > 0)
    assert main(["predict", str(path.parent), str(tmp_path / "a.png"), "--looks", "twice", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "looks.unknown"


def test_fine_parts_are_those_of_the_image_enlarged_by_a_third(served: Callable) -> None:
    image = noise(90, 60)
    fine, parts = served(Red()).looking("fine"), served(Red()).looking("parts")
    assert (fine.part_px, parts.part_px, parts.looking("whole").part_px) == (48, 64, 64)
    enlarged = np.asarray(Image.fromarray(image).resize((80, 120), Image.Resampling.BILINEAR))
    assert np.array_equal(fine.logits(image), parts.logits(enlarged))
    block = np.zeros((90, 60, 3), np.uint8)
    block[20:50, 10:40] = 255
    found = fine.predict(block)
    assert found.mask_KHW.shape == (1, 90, 60) and fine.num_looks((90, 60)) == 3 * 2
    assert mean_dice(found.mask_KHW, (block[..., 0] > 0)[None].astype(np.uint8)) > 0.97
