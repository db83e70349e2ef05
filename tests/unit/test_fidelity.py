"""Fréchet distance, kernel distance and FLD, by hand and beside a few independent lines."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.errors import UserError
from engine.evaluation.feature_likelihood import (
    BACKGROUND_SCALE,
    feature_likelihood_divergence,
    fit_log_variances,
    negative_log_likelihood,
)
from engine.evaluation.fidelity import frechet_distance, kernel_distance
from engine.evaluation.image_features import inception_features, sam_features
from engine.models.registry import build_model
from engine.models.weights import load_weights
from engine.seeding import numpy_generator


def test_the_frechet_distance_of_two_normals_by_hand() -> None:
    """Two corners of squares: means 3 and 4 apart, covariances diag(a) and diag(b): sum of (sqrt a - sqrt b)^2."""
    square = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    real, drawn = square, square * [2.0, 3.0] + [3.0, 4.0]
    variance = 4 / 3  # of 1, 1, -1, -1 with n - 1
    expected = 25 + variance * ((1 - 2) ** 2 + (1 - 3) ** 2)
    assert frechet_distance(real, drawn) == pytest.approx(expected)
    assert frechet_distance(drawn, real) == pytest.approx(expected)
    assert frechet_distance(real.astype(np.float32), real) == pytest.approx(0.0, abs=1e-9)


def test_the_kernel_distance_of_two_pairs_by_hand() -> None:
    """Unbiased MMD^2 with k(x, y) = (x y / 2 + 1)^3: one pair within each set, four between."""
    real, drawn = np.array([[2.0, 0.0], [0.0, 2.0]]), np.array([[2.0, 2.0], [0.0, 0.0]])
    within_real, within_drawn = 1.0, 1.0  # products 0 and 0
    between = (27.0 + 1.0 + 27.0 + 1.0) / 4  # products 4, 0, 4, 0
    assert kernel_distance(real, drawn) == pytest.approx(within_real + within_drawn - 2 * between)


def test_the_likelihood_is_that_of_a_mixture() -> None:
    points, centres = np.array([[0.0, 0.0], [1.0, 2.0]]), np.array([[0.0, 1.0], [3.0, 0.0]])
    variances = np.array([0.5, 2.0])
    total = 0.0
    for x in points:
        p = sum(
            math.exp(-((x - c) ** 2).sum() / (2 * v)) / (2 * math.pi * v) / 2
            for c, v in zip(centres, variances, strict=True)
        )
        total -= math.log(p) / 2
    found = negative_log_likelihood(
        torch.from_numpy(points), torch.from_numpy(centres), torch.from_numpy(np.log(variances))
    )
    assert found == pytest.approx(total / 2)


def test_fitting_comes_near_the_best_variance_of_a_grid() -> None:
    """One Gaussian and the background: the likelihood of the training points, over a grid of both variances."""
    train = np.array([[0.0], [1.0], [-1.5], [2.5], [-3.0]])
    centre = np.array([[0.5]])
    near, far = ((train - 0.5) ** 2)[:, 0], BACKGROUND_SCALE * ((train - train.mean()) ** 2)[:, 0]

    def loss(a: float, b: float) -> float:
        p = [np.exp(-d / (2 * v)) / np.sqrt(2 * math.pi * v) / 2 for d, v in ((near, math.exp(a)), (far, math.exp(b)))]
        return float(-np.log(p[0] + p[1]).mean())

    fitted = float(fit_log_variances(torch.from_numpy(centre), torch.from_numpy(train))[0])
    grid = np.linspace(-4, 4, 81)
    best = min(loss(a, b) for a in grid for b in grid)
    assert min(loss(fitted, b) for b in grid) < best + 0.02


@pytest.fixture(scope="module")
def features() -> dict[str, np.ndarray]:
    rng = numpy_generator(4, "features")
    return {name: rng.normal(size=(60, 4)) for name in ("train", "unseen", "fresh")}


def test_fresh_samples_are_near_zero_copies_and_far_ones_are_worse(features: dict[str, np.ndarray]) -> None:
    def fld(drawn: np.ndarray) -> float:
        return feature_likelihood_divergence(features["train"], features["unseen"], drawn, seed=1)

    fresh, copied, far = fld(features["fresh"]), fld(features["train"] + 1e-6), fld(features["fresh"] + 3.0)
    same = fld(np.repeat(features["fresh"][:1], 60, axis=0))
    assert abs(fresh) < 15
    assert copied > fresh + 20 and far > fresh + 20 and same > fresh + 5


def test_fld_standardises_by_the_unseen_images_and_its_seed_chooses_the_half(features: dict[str, np.ndarray]) -> None:
    train, unseen, fresh = features.values()
    score = feature_likelihood_divergence(train, unseen, fresh, seed=1)
    scaled = [found * [10.0, 0.1, 5.0, 1.0] + 7.0 for found in (train, unseen, fresh)]
    assert feature_likelihood_divergence(*scaled, seed=1) == pytest.approx(score, abs=0.1)
    assert feature_likelihood_divergence(train, unseen, fresh, seed=1) == score
    assert feature_likelihood_divergence(train, unseen, fresh, seed=2) != score


def test_a_constant_feature_is_no_number_less() -> None:
    rng = numpy_generator(5, "constant")
    train, unseen, drawn = (np.concatenate([rng.normal(size=(8, 2)), np.ones((8, 1))], axis=1) for _ in range(3))
    assert math.isfinite(feature_likelihood_divergence(train, unseen, drawn, seed=1))


def test_fld_beside_its_definition_spelt_out(features: dict[str, np.ndarray]) -> None:
    train, unseen, drawn = features.values()
    mean, sd = unseen.mean(0), unseen.std(0) + 1e-6
    a, b, g = ((x - mean) / sd for x in (train, unseen, drawn))

    def nll(centres: np.ndarray, fitted_to: np.ndarray) -> float:
        v = fit_log_variances(torch.from_numpy(centres), torch.from_numpy(fitted_to)).exp().numpy()
        d = ((b[:, None] - centres[None]) ** 2).sum(-1)
        p = (np.exp(-d / (2 * v)) / (2 * math.pi * v) ** 2).mean(1)
        return float(-np.log(p).mean() / 4)

    order = numpy_generator(3, "fld", "baseline").permutation(60)
    expected = 100 * (nll(g, a) - nll(a[order[:30]], a[order[30:]]))
    assert feature_likelihood_divergence(train, unseen, drawn, seed=3) == pytest.approx(expected)


def adam(centres: np.ndarray, train: np.ndarray) -> tuple[np.ndarray, int]:
    """Return the log variances of FLD's fit in numpy, the gradient worked out by hand, and the epochs that it took."""
    num_features = train.shape[1]
    to_mean = 0.81 * ((train - train.mean(0)) ** 2).sum(1, keepdims=True)
    d = np.concatenate([((train[:, None] - centres[None]) ** 2).sum(-1), to_mean], axis=1)
    logs = np.log((d.min(0) + 1e-3) / num_features)
    first, second, losses = np.zeros_like(logs), np.zeros_like(logs), list[float]()
    for epoch in range(1, 51):
        densities = -d / (2 * np.exp(logs)) - num_features / 2 * (logs + math.log(2 * math.pi))
        peak = densities.max(1, keepdims=True)
        total = peak[:, 0] + np.log(np.exp(densities - peak).sum(1))
        loss = float(-(total - math.log(d.shape[1])).mean() / num_features)
        share = np.exp(densities - total[:, None])
        gradient = -(share * (d / (2 * np.exp(logs)) - num_features / 2)).mean(0) / num_features
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        step = first / (1 - 0.9**epoch) / (np.sqrt(second / (1 - 0.999**epoch)) + 1e-8)
        logs = np.clip(logs - 0.5 * step, -40, 40)
        if len(losses) >= 5 and all(abs(loss - before) < 5e-4 for before in losses[-5:]):
            return logs[:-1], epoch
        losses.append(loss)
    return logs[:-1], 50


@pytest.mark.parametrize(("num_features", "num_epochs"), [(2, 50), (32, 40)])
def test_the_fit_of_fld_beside_adam_in_numpy(num_features: int, num_epochs: int) -> None:
    rng = numpy_generator(6, "fit")
    centres, train = rng.normal(size=(12, num_features)), rng.normal(size=(40, num_features))
    expected, epochs = adam(centres, train)
    found = fit_log_variances(torch.from_numpy(centres), torch.from_numpy(train))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-4)
    assert epochs == num_epochs, "one ends because nothing moves any more, one at the limit"


def test_inception_needs_a_file_and_downloads_nothing(tmp_path: Path) -> None:
    image = np.zeros((1, 3, 32, 32), np.float32)
    with pytest.raises(UserError, match=r"no Inception weights at .*release\.inception") as caught:
        inception_features(image, weights=tmp_path / "absent.pth", device=torch.device("cpu"))
    assert caught.value.code == "release.inception_absent"


def test_sam_features_are_the_means_of_the_encoders_cells() -> None:
    """At the native side as they are; of another side after resizing, and of any number of images at once."""
    model = build_model("sam", size="mini", image_px=128, seed=0)
    load_weights(model, "sam-mini")
    image = numpy_generator(1, "image").random((2, 3, 128, 128), dtype=np.float32)
    with torch.inference_mode():
        expected = model.eval().image_encoder(torch.from_numpy(image)).flatten(2).mean(2).double().numpy()
    found = sam_features(image, device=torch.device("cpu"))
    assert found.dtype == np.float64 and np.allclose(found, expected, atol=1e-5)
    assert sam_features(image[:, :, ::2, ::2], device=torch.device("cpu")).shape == found.shape
