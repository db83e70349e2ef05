"""Resizing, normalisation and augmentation: exact where they must be, and the same for training and serving."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from engine.data.augmentation import Change, augment_batch, draw_change, place, tone_curve, turn_hue
from engine.data.transforms import (
    mask_to_grid,
    normalise_image,
    percentile_range,
    prepare_image,
    resize_image,
    resize_mask,
)
from tests.unit.data_world import picture

PIXELS = hnp.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3)))


def test_none_divides_by_the_depth() -> None:
    for image, top in ((np.uint8([[[0, 51, 255]]]), 255), (np.uint16([[[0, 13107, 65535]]]), 65535)):
        np.testing.assert_allclose(normalise_image(image, "none"), image / top, atol=1e-7)
        assert normalise_image(image, "none").dtype == np.float32
    np.testing.assert_allclose(normalise_image(np.float32([[[0.2, 0.4, 1.0]]]), "none"), [[[0.2, 0.4, 1.0]]], atol=1e-6)


def test_per_image_maps_the_percentiles_to_the_ends_and_ignores_outliers() -> None:
    image = np.repeat(np.arange(40, 60, dtype=np.uint8), 100).reshape(40, 50, 1).repeat(3, axis=2).copy()
    image[0, 0], image[-1, -1] = 0, 255  # one dead and one hot pixel of 2,000
    out = normalise_image(image, "per_image")
    assert out[0, 0, 0] == 0 and out[-1, -1, 0] == 1
    np.testing.assert_allclose(out[2:-2, :, 0], (image[2:-2, :, 0] - 40.0) / 19, atol=1e-6)


@given(PIXELS)
@settings(max_examples=60, deadline=None)
def test_per_image_is_in_range_ordered_and_uses_all_of_it(image: np.ndarray) -> None:
    out = normalise_image(image, "per_image")
    assert out.dtype == np.float32 and out.min() >= 0 and out.max() <= 1
    if image.min() == image.max():
        assert (out == 0).all()
    else:
        assert out.min() == 0 and out.max() == 1
        order = np.argsort(image, axis=None, kind="stable")
        assert (np.diff(out.reshape(-1)[order]) >= 0).all()


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 20), st.integers(1, 20))))
@settings(max_examples=60, deadline=None)
def test_the_range_of_grey_does_not_depend_on_the_number_of_channels(grey: np.ndarray) -> None:
    assert percentile_range(grey) == percentile_range(np.repeat(grey[..., None], 3, axis=2))
    assert percentile_range(grey) == percentile_range(grey.astype(np.float32))


def test_a_black_field_with_one_cell_keeps_the_cell() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    image[30:33, 30:33] = 90  # 0.2 % of the pixels: both percentiles are 0
    out = normalise_image(image, "per_image")
    assert out[31, 31, 0] == 1 and out[0, 0, 0] == 0


def test_a_dark_deep_picture_keeps_its_detail_with_per_image() -> None:
    ramp = np.linspace(100, 400, 64 * 64).astype(np.uint16).reshape(64, 64, 1).repeat(3, axis=2)
    assert len(np.unique(normalise_image(ramp, "per_image"))) > 200
    assert len(np.unique(normalise_image(ramp, "none"))) <= 3  # what dividing by 65,535 leaves of it


def test_resize_is_pillows_antialiased_bilinear_and_keeps_depth() -> None:
    image = picture(3, height=40, width=60)
    small = resize_image(image, 16)
    np.testing.assert_array_equal(small, np.asarray(Image.fromarray(image).resize((16, 16), Image.Resampling.BILINEAR)))
    deep = resize_image(image.astype(np.uint16) * 257, 16)
    assert deep.dtype == np.float32
    np.testing.assert_allclose(deep * 255, small, atol=1.0)  # the 8-bit road rounds after each of its two passes
    assert resize_image(image[:16, :16], 16).base is image  # nothing to do, nothing copied


@pytest.mark.parametrize(("old", "new"), [(256, 256), (256, 128), (1024, 256), (8, 32), (7, 3), (100, 64), (3, 7)])
def test_masks_take_the_nearest_pixel_centre(old: int, new: int) -> None:
    mask = np.random.default_rng(old + new).integers(0, 2, (2, 3, old, old), dtype=np.uint8)
    expected = [min(int((k + 0.5) * old / new), old - 1) for k in range(new)]
    np.testing.assert_array_equal(mask_to_grid(mask, new), mask[:, :, expected][:, :, :, expected])


def test_a_mask_stored_small_comes_back_exactly_through_the_image_size() -> None:
    mask = np.random.default_rng(1).integers(0, 2, (1, 256, 256), dtype=np.uint8)  # methods.md: masks 256, images 1024
    np.testing.assert_array_equal(mask_to_grid(resize_mask(mask, 1024)[None], 256)[0], mask)


def test_prepare_is_resize_then_normalise() -> None:
    image = picture(1, height=50, width=30)
    np.testing.assert_array_equal(
        prepare_image(image, 20, "per_image"), normalise_image(resize_image(image, 20), "per_image")
    )


# ----------------------------------------------------------------------------------------------- augmentation

SQUARE = np.random.default_rng(5).random((3, 16, 16), dtype=np.float32)
MASK = (SQUARE[:2] > 0.5).astype(np.uint8)


def test_nothing_is_drawn_without_augmentation() -> None:
    rng = np.random.default_rng(0)
    assert draw_change(rng, "none") is None
    assert rng.random() == np.random.default_rng(0).random()


def test_flips_reach_all_eight_symmetries_and_move_image_and_mask_alike() -> None:
    rng, seen = np.random.default_rng(0), set()
    for _ in range(100):
        change = draw_change(rng, "flips")
        image, mask = place(SQUARE, MASK, change)
        np.testing.assert_array_equal(mask, image[:2] > 0.5)
        assert sorted(image.reshape(-1)) == sorted(SQUARE.reshape(-1))
        seen.add(image.tobytes())
    assert len(seen) == 8


def test_colour_changes_stay_in_range_and_leave_the_mask_binary() -> None:
    rng = np.random.default_rng(1)
    image, mask = augment_batch(SQUARE[None].repeat(40, 0), MASK[None].repeat(40, 0), mode="flips_colour", rng=rng)
    assert image.dtype == np.float32 and image.min() >= 0 and image.max() <= 1
    assert mask.dtype == np.uint8 and set(np.unique(mask)) == {0, 1}
    assert len({one.tobytes() for one in image}) == 40


def test_the_crop_moves_image_and_mask_to_the_same_place() -> None:
    image, mask = np.zeros((1, 64, 64), np.float32), np.zeros((1, 64, 64), np.uint8)
    image[0, 20:40, 10:30] = 1
    mask[0, 20:40, 10:30] = 1
    change = Change(False, False, False, crop=(0.1, 0.05, 0.8))
    cropped, cropped_mask = place(image, mask, change)
    assert np.abs(cropped - cropped_mask).max() <= 1 and np.mean((cropped > 0.5) != cropped_mask) < 0.01
    rows = np.flatnonzero(cropped_mask[0].any(axis=1))
    assert (rows[0], rows[-1]) == (17, 41)  # (20 - 6.4) / 0.8 and (40 - 6.4) / 0.8 - 1


def test_an_idle_crop_and_tone_change_nothing() -> None:
    whole = Change(False, False, False, crop=(0.0, 0.0, 1.0))
    image, mask = place(SQUARE, MASK, whole)
    np.testing.assert_allclose(image, SQUARE, atol=1e-6)
    np.testing.assert_array_equal(mask, MASK)
    np.testing.assert_allclose(tone_curve(SQUARE, whole), SQUARE, atol=1e-6)


def test_turning_the_hue_keeps_grey_and_brightness() -> None:
    grey = np.full((3, 4, 4), 0.4, np.float32)
    np.testing.assert_allclose(turn_hue(grey, 0.3), grey, atol=1e-6)
    soft = 0.4 + 0.1 * SQUARE  # far from the ends, so that nothing is clipped
    turned = turn_hue(soft, 0.3)
    luma = np.array([0.299, 0.587, 0.114])[:, None, None]
    np.testing.assert_allclose((luma * turned).sum(axis=0), (luma * soft).sum(axis=0), atol=1e-6)
    assert np.abs(turned - soft).max() > 0.01


def test_equal_generators_give_equal_batches() -> None:
    batches = [
        augment_batch(SQUARE[None], MASK[None], mode="flips_colour", rng=np.random.default_rng(9)) for _ in range(2)
    ]
    np.testing.assert_array_equal(batches[0][0], batches[1][0])
    assert not np.shares_memory(batches[0][0], SQUARE)
