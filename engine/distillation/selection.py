"""Which samples an epoch trains on (Eq. 8), given their learnability."""

from __future__ import annotations

import numpy as np

from engine.config import DistillationConfig


def num_selected(num_samples: int, rate: float) -> int:
    """Return how many of ``num_samples`` a selection rate keeps: the nearest whole number, at least one."""
    return max(1, round(rate * num_samples))


def select_top_k(scores: np.ndarray, *, rate: float) -> np.ndarray:
    """Return the indices of the best scores, ascending; ties go to the earlier sample."""
    best = np.argsort(-scores, kind="stable")[: num_selected(len(scores), rate)]
    return np.sort(best)


def select_sampled(scores: np.ndarray, *, rate: float, rng: np.random.Generator) -> np.ndarray:
    """Return indices drawn without replacement with probability proportional to exp(s) (Eq. 8), ascending.

    The k largest of s + Gumbel noise are distributed exactly so (Gumbel top-k), and no exponential can overflow.
    """
    return select_top_k(scores + rng.gumbel(size=len(scores)), rate=rate)


def select_in_batch(
    teacher_loss: np.ndarray, student_loss: np.ndarray, divergence: np.ndarray, *, quantile: float, rate: float
) -> np.ndarray:
    """Return the indices that the authors' code picks inside one batch, best first; all arguments have shape (B,).

    Reliable samples lie at or below the ``quantile`` of both losses (all of them when none does); the others are sorted
    last by a score of -1e9, so they are still picked where fewer than k samples are reliable, as in their code.
    """
    reliable = (teacher_loss <= np.quantile(teacher_loss, quantile)) & (
        student_loss <= np.quantile(student_loss, quantile)
    )
    if not reliable.any():
        reliable[:] = True
    scores = np.where(reliable, divergence, -1e9)
    return np.argsort(-scores, kind="stable")[: max(1, int(rate * len(scores)))]


def select_pool(scores: np.ndarray, *, config: DistillationConfig, rng: np.random.Generator) -> np.ndarray:
    """Return the indices of the pool that the next epoch trains on; the in-batch rule takes the whole pool."""
    if config.selector == "in_batch_quantile" or config.selection_rate == 1.0:
        return np.arange(len(scores))
    if config.selector == "sample":
        return select_sampled(scores, rate=config.selection_rate, rng=rng)
    return select_top_k(scores, rate=config.selection_rate)
