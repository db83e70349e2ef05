"""BatchNorm statistics that the sites have measured (``engine.site.statistics``), combined by the server (ours)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from engine.federation.tasks import SiteReply
from engine.models.batch_norm import MEAN, VARIANCE


def combine_statistics(replies: Mapping[str, SiteReply]) -> dict[str, np.ndarray]:
    """Return the statistics of all sites' images together, float32, from each site's mean m_k, variance v_k and n_k.

    m = sum_k w_k m_k and v = sum_k w_k (v_k + (m_k - m)^2) with w_k = n_k / n: the sites' means differ, and that is
    part of the variance. Exact where all images have one size. Sites are summed in the order of their names.
    """
    names = sorted(replies)
    total = sum(replies[name].num_examples for name in names)
    shares = {name: replies[name].num_examples / total for name in names}
    combined = {}
    for key in replies[names[0]].arrays:
        if not key.endswith(MEAN):
            continue
        other = key.removesuffix(MEAN) + VARIANCE
        means = {name: replies[name].arrays[key].astype(np.float64) for name in names}
        mean = sum(shares[name] * means[name] for name in names)
        variance = sum(
            shares[name] * (replies[name].arrays[other].astype(np.float64) + (means[name] - mean) ** 2)
            for name in names
        )
        combined[key], combined[other] = np.asarray(mean, np.float32), np.asarray(variance, np.float32)
    return combined
