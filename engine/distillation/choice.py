"""Which samples of the pool an epoch trains on, from the two terms of each (Eq. 6 and 8). Numpy alone, without torch.

Distillation chooses by :func:`choose`; the page asks the same function what other values of lambda and of the rate
would have chosen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from engine.config import DistillationConfig
from engine.distillation.selection import select_pool
from engine.seeding import numpy_generator

Scaling = Literal["raw", "zscore"]


@dataclass(frozen=True, eq=False)
class Choice:
    """What an epoch's terms come to for the N samples of the pool, in pool order."""

    scores: np.ndarray
    """Eq. 6, float64, (N,)."""
    ranks: np.ndarray
    """int64, (N,); 1 is the most learnable, ties in pool order."""
    selected: np.ndarray
    """Indices of those that the epoch trains on, ascending, (k,)."""


@dataclass(frozen=True)
class Boundary:
    """The line ``l_gt * x + l_kl * y = level`` in the plane of the terms, on which the score of Eq. 6 is one number."""

    l_gt: float
    l_kl: float
    level: float


def learnability(l_gt: np.ndarray, l_kl: np.ndarray, *, weight: float, scaling: Scaling = "raw") -> np.ndarray:
    """Return s = lambda * (-L_GT) + (1 - lambda) * L_KL (Eq. 6), shape (N,); ``weight`` is lambda.

    ``zscore`` first brings both terms to zero mean and unit variance over the pool (ours), so that lambda weighs terms
    of equal spread; a term without spread contributes nothing.
    """
    if scaling == "zscore":
        l_gt, l_kl = _standardise(l_gt), _standardise(l_kl)
    return weight * -l_gt + (1.0 - weight) * l_kl


def ranks_of(scores: np.ndarray) -> np.ndarray:
    """Return the rank of each score, int64, (N,): 1 for the highest, ties in the given order."""
    ranks = np.empty(len(scores), dtype=np.int64)
    ranks[np.argsort(-scores, kind="stable")] = np.arange(1, len(scores) + 1)
    return ranks


def choose(l_gt: np.ndarray, l_kl: np.ndarray, *, config: DistillationConfig, seed: int, epoch: int) -> Choice:
    """Return what ``epoch`` (from 0) of a run with this configuration and seed trains on, given both terms, (N,) each.

    The in-batch rule takes the whole pool here, for it chooses while it trains.
    """
    scores = learnability(l_gt, l_kl, weight=config.learnability_lambda, scaling=config.score_scaling)
    rng = numpy_generator(seed, "distillation", "selection", epoch)
    return Choice(scores, ranks_of(scores), select_pool(scores, config=config, rng=rng))


def boundary(l_gt: np.ndarray, l_kl: np.ndarray, choice: Choice, *, config: DistillationConfig) -> Boundary | None:
    """Return the line between what ``choice`` takes of these terms, (N,) each, and what it leaves.

    It lies halfway between the lowest score that is taken and the highest that is not. ``None`` where no line parts
    them: all are taken, or chance has a part in it, or the in-batch rule, or a score that is taken is no number.
    """
    left = np.setdiff1d(np.arange(len(choice.scores)), choice.selected, assume_unique=True)
    left = left[np.isfinite(choice.scores[left])]
    if config.selector != "top_k" or not len(left):
        return None
    level = (choice.scores[choice.selected].min() + choice.scores[left].max()) / 2
    if not np.isfinite(level):
        return None
    weight = config.learnability_lambda
    if config.score_scaling == "raw":
        return Boundary(-weight, 1.0 - weight, float(level))
    of_gt, of_kl = (factor / _spread(term) for factor, term in ((-weight, l_gt), (1.0 - weight, l_kl)))
    return Boundary(of_gt, of_kl, float(level + of_gt * l_gt.mean() + of_kl * l_kl.mean()))


def _standardise(values: np.ndarray) -> np.ndarray:
    return (values - values.mean()) / _spread(values)


def _spread(values: np.ndarray) -> float:
    """Return the standard deviation; infinite for values that are all one, which then weigh nothing."""
    return float(values.std()) or np.inf
