"""nnU-Net's changes of training images: each against numbers worked out by hand, and their chances."""

from __future__ import annotations

import numpy as np
import pytest

from engine.data import nnunet_augmentation as changes

SQUARE = np.arange(16, dtype=np.float32).reshape(1, 4, 4) / 16
MASK = np.zeros((1, 4, 4), np.uint8)
MASK[0, 0, :2] = 1


def test_a_quarter_turn_moves_image_and_mask_alike() -> None:
    image, mask = changes.turn_and_scale(SQUARE, MASK, angle_rad=np.pi / 2, scale=1.0)
    turned = np.rot90(SQUARE[0], k=1 if np.allclose(image[0], np.rot90(SQUARE[0])) else -1)
    np.testing.assert_allclose(image[0], turned, atol=1e-6)
    direction = 1 if np.allclose(image[0], np.rot90(SQUARE[0])) else -1
    assert np.array_equal(mask[0], np.rot90(MASK[0], k=direction))


def test_a_scale_above_one_shows_more_with_the_mean_outside() -> None:
    image, mask = changes.turn_and_scale(np.ones((1, 8, 8), np.float32), np.ones((1, 8, 8), np.uint8), angle_rad=0.0,
                                         scale=2.0)  # fmt: skip
    assert image.min() == pytest.approx(1.0)  # the mean of a constant image is that constant
    assert mask[0, 2:6, 2:6].all() and mask.sum() == 16


def test_stretch_multiplies_the_distance_from_the_mean() -> None:
    values = np.array([0.2, 0.4, 0.6], np.float32).reshape(1, 1, 3)
    assert changes.stretch(values, 1.25).ravel() == pytest.approx([0.15, 0.4, 0.65])


def test_gamma_bends_between_the_extremes_and_keeps_mean_and_deviation() -> None:
    values = np.array([0.2, 0.3, 0.6], np.float32).reshape(1, 1, 3)
    bent = np.array([0.0, 0.25**1.5, 1.0])
    expected = (bent - bent.mean()) / bent.std() * values.std() + values.mean()
    found = changes.bend(values, 1.5)
    assert found.ravel() == pytest.approx(expected, rel=1e-5)
    assert (found.mean(), found.std()) == pytest.approx((values.mean(), values.std()), rel=1e-5)
    assert np.array_equal(changes.bend(np.full((1, 2, 2), 0.5), 1.5), np.full((1, 2, 2), 0.5))


def test_coarse_images_are_picked_by_nearest_and_stretched_back() -> None:
    row = np.array([0.0, 0.1, 0.2, 0.3], np.float32)
    image = np.broadcast_to(row, (1, 4, 4))
    # Half of the pixels: columns 1 and 3 (0.1, 0.3), then at places -0.25 (cut to 0), 0.25, 0.75, 1.25 (cut to 1).
    assert changes.coarsen(image, 0.5)[0, 0] == pytest.approx([0.1, 0.15, 0.25, 0.3])


def test_the_same_stream_gives_the_same_images_and_most_are_changed() -> None:
    rng = np.random.default_rng(1)
    image = rng.random((3, 16, 16), dtype=np.float32)
    mask = (image[:1] > 0.5).astype(np.uint8)
    first = [changes.augment(image, mask, np.random.default_rng(seed)) for seed in range(200)]
    again = [changes.augment(image, mask, np.random.default_rng(seed)) for seed in range(3)]
    assert all(np.array_equal(a[0], b[0]) and np.array_equal(a[1], b[1]) for a, b in zip(first, again, strict=False))
    for changed, moved in first:
        assert changed.dtype == np.float32 and changed.min() >= 0 and changed.max() <= 1
        assert moved.dtype == np.uint8 and set(np.unique(moved)) <= {0, 1}
    kept_area = np.mean([moved.sum() == mask.sum() for _, moved in first])
    assert kept_area == pytest.approx(0.64, abs=0.12)  # neither turned nor scaled: 0.8 x 0.8


def test_grey_images_stay_grey() -> None:
    grey = np.repeat(np.random.default_rng(2).random((1, 16, 16), dtype=np.float32), 3, axis=0)
    for seed in range(40):
        image, _ = changes.augment(grey, np.zeros((1, 16, 16), np.uint8), np.random.default_rng(seed))
        assert np.allclose(image[0], image[1], atol=1e-6) and np.allclose(image[0], image[2], atol=1e-6)
