"""data.fit = "letterbox": ratios kept, masks back as they were, padding black and counted nowhere; served alike."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from engine.config import DataConfig, parse_config
from engine.data.augmentation import draw_change, place
from engine.data.datasets import load_federation
from engine.data.imagesets import ImageSet
from engine.data.transforms import Box, content_box, fit_mask, normalise_image, prepare_image, resize_mask
from engine.models.execution import Placement
from engine.models.objective import Objective
from engine.seeding import numpy_generator
from engine.site.local_training import evaluate_site
from export.manifest import MANIFEST_FILE, read_manifest
from export.package import BundleContent, write_bundle
from export.runtime import BundleSession, load_bundle
from tests.unit.data_world import blob, picture, write_dataset, write_png

SIDES = st.integers(1, 200)
IMAGE_PX = 32


@given(height=SIDES, width=SIDES, image_px=st.integers(32, 256))
def test_the_ratio_of_the_sides_is_kept_to_half_a_pixel(height: int, width: int, image_px: int) -> None:
    box = content_box((height, width), image_px, "letterbox")
    scale = image_px / max(height, width)
    assert max(box.height, box.width) == image_px
    assert box.height == pytest.approx(max(1, height * scale), abs=0.5)
    assert box.width == pytest.approx(max(1, width * scale), abs=0.5)
    below, right = image_px - box.top - box.height, image_px - box.left - box.width
    assert below - box.top in (0, 1) and right - box.left in (0, 1), "in the middle, the odd pixel below or right"


@given(height=SIDES, width=SIDES)
def test_squashing_is_what_it_was(height: int, width: int) -> None:
    assert content_box((height, width), 64, "squash") == Box(0, 0, 64, 64)


@pytest.mark.parametrize(
    ("size", "box"),
    [((1080, 1920), Box(7, 0, 18, 32)), ((1920, 1080), Box(0, 7, 32, 18)), ((5, 5), Box(0, 0, 32, 32)),
     ((1, 3000), Box(15, 0, 1, 32)), ((30, 32), Box(1, 0, 30, 32)), ((31, 32), Box(0, 0, 31, 32))],
)  # fmt: skip
def test_boxes_worked_out_by_hand(size: tuple[int, int], box: Box) -> None:
    assert content_box(size, 32, "letterbox") == box


@settings(max_examples=60)
@given(height=st.integers(1, 64), width=st.integers(1, 64), seed=st.integers(0, 99), fit=st.sampled_from(["letterbox"]))
def test_a_mask_comes_back_from_the_square_exactly(height: int, width: int, seed: int, fit: str) -> None:
    mask = numpy_generator(seed, "mask").integers(0, 2, (2, height, width), dtype=np.uint8)
    box = content_box((height, width), 64, fit)
    square = fit_mask(mask, 64, box)
    assert square.shape == (2, 64, 64) and square.dtype == np.uint8
    np.testing.assert_array_equal(resize_mask(box.of(square), height, width), mask)
    outside = box.mask(64) == 0
    assert not square[:, outside].any()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("mode", ["none", "per_image"])
def test_padding_is_black_whatever_the_window_and_takes_no_part_in_it(dtype: type, mode: str) -> None:
    image = picture(4, height=18, width=32).astype(dtype) // 2 + 60
    image = image / np.float32(255) if dtype == np.float32 else image * (1 if dtype == np.uint8 else 200)
    out = prepare_image(image, 32, mode, "letterbox")
    box = content_box((18, 32), 32, "letterbox")
    inside = box.mask(32) > 0
    assert (out[~inside] == 0).all() and out[inside].mean() > 0.2
    np.testing.assert_array_equal(out[7:25], normalise_image(image, mode))  # nothing to resize: as it is


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a dataset of pictures of 12 x 16, one of them grey and one upright."""
    root = write_dataset(tmp_path_factory.mktemp("wide") / "set")
    write_png(root / "gamma" / "images" / "img_1.png", picture(8)[..., 0])
    write_png(root / "gamma" / "images" / "img_2.png", picture(9, height=16, width=12))
    write_png(root / "gamma" / "masks" / "img_2.png", blob(height=16, width=12))
    return root


def images_of(root: Path, **change: object) -> ImageSet:
    values = {"source": "folder", "root": root, "image_px": IMAGE_PX, "validation_fraction": 0.25, "fit": "letterbox"}
    return load_federation(DataConfig(**{**values, **change}), seed=1).test.test


@pytest.mark.parametrize("mode", ["none", "per_image"])
def test_training_sees_what_the_served_model_sees(wide: Path, mode: str) -> None:
    images = images_of(wide, normalise=mode)
    batch, mask = images.batch(range(4))
    content = images.content(range(4))
    assert content.shape == (4, 1, IMAGE_PX, IMAGE_PX) and content.dtype == np.uint8
    assert [int(plane.sum()) for plane in content] == [24 * 32] * 4
    for index in range(4):
        image, stored = images.items[index].read()
        np.testing.assert_array_equal(
            batch[index], prepare_image(image, IMAGE_PX, mode, "letterbox").transpose(2, 0, 1)
        )
        box = content_box(image.shape[:2], IMAGE_PX, "letterbox")
        np.testing.assert_array_equal(resize_mask(box.of(mask[index]), *image.shape[:2]), stored)
        np.testing.assert_array_equal(images.read_mask(index), mask[index])
    assert images_of(wide, fit="squash").content(range(4)).all()


def test_padding_stays_black_under_every_tone_and_moves_with_the_picture(wide: Path) -> None:
    images = images_of(wide, augment="flips_colour")
    content = images.content(range(4))
    seen = set()
    for seed in range(12):
        batch, _ = images.batch(range(4), rng=numpy_generator(seed, "augment"))
        rng = numpy_generator(seed, "augment")
        for index in range(4):
            change = draw_change(rng, "flips_colour")
            assert change is not None
            marked, _ = place(content[index].astype(np.float32), content[index], change)
            assert (batch[index][:, marked[0] == 0] == 0).all()
            seen.add(bool((marked[0] == 0).any()))
    assert True in seen


class Red(nn.Module):
    """A real network of no weights: ten times the red channel minus five, on half the image's grid."""

    mask_stride = 2

    def forward(self, image_B3HW: torch.Tensor) -> torch.Tensor:
        return nn.functional.avg_pool2d(image_B3HW[:, :1], 2) * 10 - 5


@pytest.fixture(scope="module", params=["letterbox", "squash"])
def session(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> BundleSession:
    config = parse_config({"data": {"image_px": 64, "fit": request.param}})
    content = BundleContent(
        name="red", role="distilled_student", task="t", modality="m", classes=("c",), model=config.student,
        config=config, metrics=(), run_id="run-1",
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("bundle") / request.param
    assert write_bundle(folder, Red(), content=content).fit == request.param
    return load_bundle(folder)


@pytest.mark.parametrize(("height", "width"), [(32, 64), (64, 32), (64, 64), (30, 64), (128, 72)])
def test_a_served_mask_lies_where_the_lesion_is(session: BundleSession, height: int, width: int) -> None:
    image = np.zeros((height, width, 3), np.uint8)
    image[8:20, 12:24, 0] = 255
    found = session.predict(image)
    assert found.mask_KHW.shape == (1, height, width)
    true = image[..., 0] > 0
    overlap = 2 * (found.mask_KHW[0] & true).sum() / (found.mask_KHW[0].sum() + true.sum())
    exact = session.manifest.fit == "letterbox" and (height, width) in ((32, 64), (64, 32), (64, 64))
    assert overlap == 1.0 if exact else overlap > 0.9
    assert not found.mask_KHW[0, 24:].any() and not found.mask_KHW[0, :, 28:].any()
    assert np.array_equal(session.masks(image)[0], found.mask_KHW)  # what the page and whole volumes are answered with


def test_a_bundle_of_before_is_squashed(session: BundleSession, tmp_path: Path) -> None:
    values = session.manifest.model_dump(mode="json")
    del values["fit"], values["config"]["data"]["fit"]
    (tmp_path / MANIFEST_FILE).write_text(json.dumps(values))
    assert read_manifest(tmp_path).fit == "squash"


def test_a_site_validates_the_picture_alone(wide: Path) -> None:
    """A model that calls everything foreground is wrong about the picture's background, not about the bars."""

    class Everything(nn.Module):
        def forward(self, image_B3HW: torch.Tensor) -> torch.Tensor:
            return torch.ones(len(image_B3HW), 1, *image_B3HW.shape[-2:])

    images = images_of(wide)
    score = evaluate_site(
        Everything(), images, batch_size=3, objective=Objective(), placement=Placement(), check_cancelled=lambda: None
    )
    areas = [images.read_mask(index).sum() for index in range(4)]
    expected = np.mean([2 * area / (area + 24 * 32) for area in areas])
    assert score is not None and score.dice == pytest.approx(expected, abs=1e-4)
