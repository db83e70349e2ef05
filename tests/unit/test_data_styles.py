"""Styles change how an image looks by amounts worked out by hand, and never where anything is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.config import DataConfig
from engine.data.datasets import load_federation
from engine.data.styles import Style, apply_style, draw_style, restyle
from engine.seeding import numpy_generator
from tests.unit.data_world import write_dataset

PLAIN = Style(gamma=1, contrast=1, brightness=0, gains=(1, 1, 1), hue_rad=0, blur=0, noise=0)


def grey(value: float, *, side: int = 8) -> np.ndarray:
    return np.full((3, side, side), value, np.float32)


def colour(*values: float) -> np.ndarray:
    return np.array(values, np.float32)[:, None, None] * np.ones((3, 8, 8), np.float32)


def styled(image: np.ndarray, seed: int = 1, *, is_padded: bool = False, **changes: object) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return apply_style(image, replace(PLAIN, **changes), rng=rng, is_padded=is_padded)


def test_each_change_is_its_formula() -> None:
    """0.8 at gamma 2 is 0.64, at twice the contrast 0.5 + 2 * 0.14 = 0.78, brighter by 0.1 it is 0.88."""
    assert styled(grey(0.8), gamma=2) == pytest.approx(0.64)
    assert styled(grey(0.8), gamma=2, contrast=2) == pytest.approx(0.78)
    assert styled(grey(0.8), gamma=2, contrast=2, brightness=0.1) == pytest.approx(0.88)
    assert styled(grey(0.8), brightness=0.5).max() == 1, "clipped to the range"
    gained = styled(colour(0.2, 0.4, 0.6), gains=(0.5, 1, 1.5))
    assert gained[:, 0, 0] == pytest.approx([0.1, 0.4, 0.9])
    assert styled(colour(0.2, 0.4, 0.6)) == pytest.approx(colour(0.2, 0.4, 0.6), abs=1e-6)


def test_a_third_of_a_turn_exchanges_what_colours_differ_from_their_grey_by() -> None:
    """Red's chroma becomes green's: luma 0.299 r + 0.587 g + 0.114 b of (0.5, 0.3, 0.3) is 0.3598."""
    image = colour(0.5, 0.3, 0.3)
    turned = styled(image, hue_rad=2 * np.pi / 3)
    luma = [float(np.dot([0.299, 0.587, 0.114], pixel[:, 0, 0])) for pixel in (image, turned)]
    assert luma[1] == pytest.approx(luma[0], abs=1e-6) and luma[0] == pytest.approx(0.3598)
    assert turned[1, 0, 0] > turned[0, 0, 0] == pytest.approx(turned[2, 0, 0])


def test_grey_images_stay_grey() -> None:
    image = np.repeat(np.random.default_rng(0).uniform(0.2, 0.8, (1, 8, 8)), 3, axis=0).astype(np.float32)
    same = styled(image, gains=(0.5, 1, 1.5), hue_rad=1.0)
    assert (same[0] == same[1]).all() and same == pytest.approx(image, abs=1e-6)
    noisy = styled(image, noise=0.1)
    assert (noisy[0] == noisy[1]).all() and (noisy[1] == noisy[2]).all() and (noisy != image).any()
    red = image.copy()
    red[0] += 0.1
    assert (styled(red, noise=0.1)[0] - red[0] != styled(red, noise=0.1)[1] - red[1]).any(), "each channel has its own"


def test_blur_keeps_the_mean_and_noise_has_its_deviation() -> None:
    dot = grey(0.0, side=33)
    dot[:, 16, 16] = 1
    blurred = styled(dot, blur=2 / 33)
    peak = 1 / (2 * np.pi * 2**2)
    assert blurred.sum() == pytest.approx(3, rel=1e-3) and blurred[0, 16, 16] == pytest.approx(peak, rel=0.02)
    noisy = styled(grey(0.5, side=200), noise=0.05)
    assert noisy.std() == pytest.approx(0.05, rel=0.02) and noisy.mean() == pytest.approx(0.5, abs=1e-3)


def test_padding_keeps_its_value_where_there_is_any() -> None:
    image = colour(0.2, 0.4, 0.6)
    image[:, :2] = 0
    assert (styled(image, brightness=0.3, is_padded=True)[:, :2] == 0).all()
    assert (styled(image, brightness=0.3)[:, :2] > 0.2).all(), "black of a picture is no padding"


def test_draws_fill_their_ranges_and_a_third_is_blurred() -> None:
    rng = np.random.default_rng(5)
    styles = [draw_style(rng) for _ in range(4000)]
    for values, low, high in (
        ([s.gamma for s in styles], np.exp(-0.7), np.exp(0.7)), ([s.contrast for s in styles], 1 / 1.9, 1.9),
        ([s.brightness for s in styles], -0.15, 0.15), ([s.gains[1] for s in styles], np.exp(-0.3), np.exp(0.3)),
        ([s.hue_rad for s in styles], -np.pi / 2, np.pi / 2),
    ):  # fmt: skip
        assert low <= min(values) < low + 0.01 * (high - low) and high - 0.01 * (high - low) < max(values) <= high
    assert np.median([s.gamma for s in styles]) == pytest.approx(1, abs=0.05), "darker as often as brighter"
    for values, share, most in (
        ([s.blur for s in styles], 0.3, 1.5 / 128), ([s.noise for s in styles], 0.3, 0.08)
    ):  # fmt: skip
        assert np.mean(np.array(values) > 0) == pytest.approx(share, abs=0.03) and 0.99 * most < max(values) <= most


def test_a_batch_has_a_style_for_each_image_and_the_same_again() -> None:
    images = np.stack([colour(0.2, 0.4, 0.6)] * 2)
    first, again = (restyle(images, rng=np.random.default_rng(3)) for _ in range(2))
    assert (first == again).all() and (first[0] != first[1]).any() and first.dtype == np.float32
    assert (images == np.stack([colour(0.2, 0.4, 0.6)] * 2)).all(), "a copy"


def test_training_images_of_sites_can_have_them_too(tmp_path: Path) -> None:
    """The control of the distillation: the same geometry as flips_colour's draw, then a style."""
    write_dataset(tmp_path / "set")
    sets = {
        kind: load_federation(
            DataConfig(source="folder", root=tmp_path / "set", image_px=32, augment=kind), seed=1
        ).sites["alpha"].train
        for kind in ("flips_colour", "flips_styles")
    }  # fmt: skip
    weak, mask = sets["flips_colour"].batch([0], rng=numpy_generator(1, "a"))
    strong, same = sets["flips_styles"].batch([0], rng=numpy_generator(1, "a"))
    assert (mask == same).all(), "styles move nothing"
    rng = numpy_generator(1, "a")
    rng.integers(0, 2, size=3), rng.uniform(-1, 1, size=7)
    assert strong[0] == pytest.approx(apply_style(weak[0], draw_style(rng), rng=rng), abs=1e-6)
    plain = sets["flips_styles"].batch([0])[0]
    assert (plain == sets["flips_colour"].batch([0])[0]).all(), "nothing is changed where nothing is augmented"
