"""The percentile bootstrap of a mean, over images or over groups of images (patients)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def mean_interval(
    values: Sequence[float],
    *,
    groups: Sequence[str] | None = None,
    num_samples: int,
    rng: np.random.Generator,
    level: float = 0.95,
) -> tuple[float, float] | None:
    """Return the ends of the percentile-bootstrap interval of the mean of ``values``; None for a single group.

    Images of one patient are not independent, so whole groups are drawn with replacement when ``groups`` names them
    (Davison and Hinkley 1997, 3.8); the mean of a resample is over its images. An empty group name means that the
    image stands alone. A single group has no interval: one patient tells nothing about others. Few groups have one that
    is too narrow, which is why their number is reported beside it.

    Parameters
    ----------
    values : sequence of float
        One value an image, not empty.
    groups : sequence of str or None
        One name an image; every image stands alone when None.
    num_samples : int
        Number of resamples.
    rng : numpy.random.Generator
        Source of the resamples (``numpy_generator(seed, "bootstrap", ...)``).
    level : float
        Coverage in (0, 1).
    """
    assert len(values), "a mean of nothing has no interval"
    if count_groups(groups or [""] * len(values)) == 1:
        return None
    return percentiles(resampled_means(values, groups=groups, num_samples=num_samples, rng=rng), level=level)


def resampled_means(
    values: Sequence[float], *, groups: Sequence[str] | None = None, num_samples: int, rng: np.random.Generator
) -> np.ndarray:
    """Return the mean of ``values`` in each of ``num_samples`` resamples of whole groups, float64 (num_samples,)."""
    value_N = np.asarray(values, dtype=np.float64)
    group_N = _group_indices(groups or [""] * value_N.size)
    sum_G = np.bincount(group_N, weights=value_N)
    size_G = np.bincount(group_N)
    # Drawing G groups with replacement is a multinomial count of each: (samples, G), without a loop.
    drawn_SG = rng.multinomial(len(sum_G), np.full(len(sum_G), 1 / len(sum_G)), size=num_samples)
    return (drawn_SG @ sum_G) / (drawn_SG @ size_G)


def percentiles(mean_S: np.ndarray, *, level: float = 0.95) -> tuple[float, float]:
    """Return the ends of the percentile interval of resampled means."""
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(mean_S, [tail, 100 - tail])
    return float(low), float(high)


def count_groups(groups: Sequence[str]) -> int:
    """Return how many groups (patients) there are; an image without a name is its own."""
    return int(_group_indices(groups).max()) + 1


def _group_indices(groups: Sequence[str]) -> np.ndarray:
    names = [f"group {name}" if name else f"image {index}" for index, name in enumerate(groups)]
    return np.unique(names, return_inverse=True)[1]
