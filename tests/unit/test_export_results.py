"""Mask files and overlays read back with Pillow."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from engine.data.transforms import normalise_image
from engine.errors import UserError
from export import results


def two_classes() -> np.ndarray:
    """Return a disc of 6 x 6 pixels with a cup of 2 x 2 inside it, (2, 10, 12)."""
    mask = np.zeros((2, 10, 12), dtype=np.uint8)
    mask[0, 2:8, 3:9] = 1
    mask[1, 4:6, 5:7] = 1
    return mask


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def test_one_class_downloads_as_a_binary_png() -> None:
    mask = two_classes()[:1]
    name, data = results.mask_file(mask, classes=("disc",), stem="eye 1/left")
    assert name == "eye_1_left_mask.png"
    image = opened(data)
    assert image.mode == "L"
    assert np.array_equal(np.asarray(image), mask[0] * 255)


def test_several_classes_download_as_a_zip_that_keeps_the_overlap() -> None:
    mask = two_classes()
    name, data = results.mask_file(mask, classes=("disc", "cup"), stem="eye")
    assert name == "eye_masks.zip"
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.namelist() == ["disc.png", "cup.png", "labels.png"]
        for index, part in enumerate(("disc.png", "cup.png")):
            assert np.array_equal(np.asarray(opened(archive.read(part))), mask[index] * 255)
        labels = opened(archive.read("labels.png"))
    assert labels.mode == "P"
    assert np.array_equal(np.asarray(labels), np.where(mask[1] > 0, 2, mask[0]))
    assert tuple(np.asarray(labels.convert("RGB"))[5, 6]) == results.class_colour(1)


def test_a_hostile_class_name_stays_inside_the_zip() -> None:
    _, data = results.mask_file(two_classes(), classes=("../../evil", "cup"), stem="..")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert all("/" not in name and not name.startswith(".") for name in archive.namelist())


def test_files_need_one_mask_a_class_and_fit_a_palette() -> None:
    with pytest.raises(ValueError, match="2 masks for 1"):
        results.mask_file(two_classes(), classes=("disc",), stem="eye")
    with pytest.raises(UserError) as caught:
        results.label_png(np.zeros((256, 1, 1), np.uint8))
    assert caught.value.code == "mask.too_many_classes"


@pytest.mark.parametrize(("opacity", "expected"), [(0.0, (100, 100, 100)), (1.0, (0, 200, 40)), (0.5, (50, 150, 70))])
def test_overlay_blends_inside_and_leaves_the_rest(opacity: float, expected: tuple[int, int, int]) -> None:
    image = np.full((10, 12, 3), 100, dtype=np.uint8)
    mask = two_classes()[:1]
    shown = results.overlay(image, mask, opacity=opacity, colours=[(0, 200, 40)])
    assert shown.dtype == np.uint8
    assert (shown[mask[0] > 0] == expected).all()
    assert (shown[mask[0] == 0] == 100).all()
    assert (image == 100).all()


def test_overlay_draws_later_classes_over_earlier_ones_and_refuses_another_size() -> None:
    image = np.zeros((10, 12, 3), dtype=np.uint8)
    shown = results.overlay(image, two_classes(), opacity=1.0, outline_px=1)
    assert tuple(shown[4, 5]) == results.class_colour(1)
    assert tuple(shown[2, 3]) == results.class_colour(0)
    with pytest.raises(ValueError, match="does not cover"):
        results.overlay(image[:9], two_classes())


def test_outline_is_the_inner_border() -> None:
    mask = two_classes()[0]
    border = results.outline(mask)
    assert border.sum() == 4 * 6 - 4
    assert not border[mask == 0].any()
    assert results.outline(mask, width_px=3).sum() == 36
    assert not results.outline(np.ones((5, 5), np.uint8)).any()


def test_other_depths_are_stretched_for_display() -> None:
    deep = np.array([[[0, 0, 0], [40_000, 40_000, 40_000]]], dtype=np.uint16)
    assert results.displayable(deep).tolist() == [[[0, 0, 0], [255, 255, 255]]]
    assert results.displayable(np.full((2, 2, 3), 7.0)).max() == 0


def test_probability_png_spans_the_grey_levels() -> None:
    data = results.probability_png(np.array([[0.0, 0.5, 1.0, 1.2]]))
    assert np.asarray(opened(data)).tolist() == [[0, 128, 255, 255]]


def test_a_dark_image_is_shown_as_the_model_sees_it() -> None:
    """0.5 % of 200 pixels is one: the window is from the lowest to the highest level but one."""
    image = np.full((10, 20, 3), 4, np.uint8)
    image[0, :10], image[1, 0] = 12, 200
    seen = results.as_seen(image, "per_image")
    assert (
        seen.dtype == np.uint8 and (seen[2:] == 0).all() and (seen[0, :10] == 255).all() and (seen[1, 0] == 255).all()
    )
    assert np.array_equal(results.as_seen(image, "none"), image)
    assert (results.as_seen(np.full((4, 4, 3), 9, np.uint8), "per_image") == 9).all()
    deep = image.astype(np.uint16) * 16
    assert np.array_equal(
        results.as_seen(deep, "per_image"), np.rint(normalise_image(deep, "per_image") * 255).astype(np.uint8)
    )
