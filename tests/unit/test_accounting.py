"""Epsilon against values worked out by hand and against the exact curve of the Gaussian mechanism."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from engine.accounting import epsilon_words, gaussian_epsilon, sampled_epsilon

DELTA = 1e-5


def by_renyi(*, multiplier: float, releases: int, delta: float = DELTA, sensitivity: float = 1.0) -> float:
    """T Gaussians have eps(alpha) = T alpha s^2 / (2 z^2) (Mironov 2017, Prop. 7); converted by Canonne et al. 2020,
    Prop. 12: eps = eps(alpha) + log((alpha - 1) / alpha) - (log delta + log alpha) / (alpha - 1)."""
    alphas = 1 + np.geomspace(1e-4, 1e4, 200_001)
    renyi = releases * alphas * sensitivity**2 / (2 * multiplier**2)
    found = renyi + np.log1p(-1 / alphas) - (math.log(delta) + np.log(alphas)) / (alphas - 1)
    return float(found.min())


def exact(*, multiplier: float, releases: int, delta: float = DELTA) -> float:
    """T Gaussians of multiplier z are one of z / sqrt(T), whose curve is known (Balle and Wang 2018, Theorem 8)."""
    mu = math.sqrt(releases) / multiplier

    def too_much(epsilon: float) -> float:
        far = norm.logcdf(-epsilon / mu - mu / 2) + epsilon
        return float(norm.cdf(mu / 2 - epsilon / mu) - math.exp(far) - delta)

    return float(brentq(too_much, 0.0, 1e4))


@pytest.mark.parametrize(
    ("multiplier", "releases"), [(1.0, 1), (1.0, 10), (4.0, 100), (0.5, 20), (20.0, 10), (0.1, 50)]
)
def test_epsilon_is_that_of_renyi_and_no_less_than_the_exact_one(multiplier: float, releases: int) -> None:
    found = gaussian_epsilon(noise_multiplier=multiplier, releases=releases, delta=DELTA)
    assert found == pytest.approx(by_renyi(multiplier=multiplier, releases=releases), rel=0.02)
    assert found >= by_renyi(multiplier=multiplier, releases=releases) - 1e-9, "orders on a grid only give more"
    least = exact(multiplier=multiplier, releases=releases)
    assert least <= found <= 1.25 * least


def test_one_value_by_hand() -> None:
    """z = 1, one release, delta 1e-5, alpha = 5.4: 2.7 + log(4.4 / 5.4) - (log 1e-5 + log 5.4) / 4.4 = 4.7286."""
    assert gaussian_epsilon(noise_multiplier=1.0, releases=1, delta=DELTA) == pytest.approx(4.7286, abs=2e-3)


def test_a_neighbour_twice_as_far_is_half_the_noise() -> None:
    twice = gaussian_epsilon(noise_multiplier=2.0, releases=7, delta=DELTA, sensitivity=2.0)
    assert twice == gaussian_epsilon(noise_multiplier=1.0, releases=7, delta=DELTA)
    assert twice == pytest.approx(by_renyi(multiplier=2.0, releases=7, sensitivity=2.0), rel=0.02)


def test_it_grows_with_releases_and_falls_with_noise_and_delta() -> None:
    def value(multiplier: float = 1.0, releases: int = 10, delta: float = DELTA) -> float:
        return gaussian_epsilon(noise_multiplier=multiplier, releases=releases, delta=delta)

    assert value(releases=9) < value() < value(releases=11)
    assert value(multiplier=1.1) < value() < value(multiplier=0.9)
    assert value(delta=1e-4) < value() < value(delta=1e-6)
    assert value(releases=0) == 0


def test_sampling_amplifies_as_whole_orders_say() -> None:
    """Mironov et al. 2019, eq. 3 at whole alpha: A = sum_k C(alpha, k) (1-q)^(alpha-k) q^k exp((k^2 - k) / (2 z^2))."""
    rate, multiplier, steps = 0.1, 1.3, 40
    best = math.inf
    for alpha in range(2, 33):
        terms = [
            math.comb(alpha, k) * (1 - rate) ** (alpha - k) * rate**k * math.exp((k * k - k) / (2 * multiplier**2))
            for k in range(alpha + 1)
        ]
        renyi = steps * math.log(math.fsum(terms)) / (alpha - 1)
        best = min(best, renyi + math.log1p(-1 / alpha) - (math.log(DELTA) + math.log(alpha)) / (alpha - 1))
    found = sampled_epsilon(noise_multiplier=multiplier, sampling_rate=rate, steps=steps, delta=DELTA)
    assert found == pytest.approx(best, rel=1e-6)
    assert found < gaussian_epsilon(noise_multiplier=multiplier, releases=steps, delta=DELTA)
    whole = sampled_epsilon(noise_multiplier=multiplier, sampling_rate=1.0, steps=steps, delta=DELTA)
    assert whole == gaussian_epsilon(noise_multiplier=multiplier, releases=steps, delta=DELTA)
    assert sampled_epsilon(noise_multiplier=multiplier, sampling_rate=rate, steps=0, delta=DELTA) == 0


@pytest.mark.parametrize(
    ("epsilon", "words"),
    [(7.0711, "7.08"), (0.12301, "0.124"), (19.0, "19"), (123.4, "124"), (12345.0, "1.2e+04"), (0, "0")],
)
def test_a_bound_is_rounded_up(epsilon: float, words: str) -> None:
    assert epsilon_words(epsilon) == words
