"""A run's samples at one epoch, ranked and chosen anew with other values of lambda and of the selection rate. Pure.

The arithmetic is the engine's own (``engine.distillation.choice``) on the terms that the run has stored. Nothing of the
run changes, and what later epochs would have scored is not known: the models would have learnt from other samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from engine.config import RunConfig
from engine.distillation.choice import Boundary, Choice, boundary, choose
from engine.runs.scored_pool import ScoredPool

STEP = 0.01
"""Of both sliders; what is nearer to the run's own value than half of it is the run's own value (ours)."""


@dataclass(frozen=True)
class Values:
    """Lambda of Eq. 6, in [0, 1], and the share of the pool that is trained on, in (0, 1]."""

    weight: float
    rate: float


@dataclass(frozen=True, eq=False)
class Reranked:
    """The pool at some values beside what the run did; every array has shape (N,), in the order of ``pool``."""

    pool: ScoredPool
    own: Values
    values: Values
    score: np.ndarray
    """float64; NaN where the epoch has none."""
    rank: np.ndarray
    """int64; 0 where the epoch has no score."""
    selected: np.ndarray
    """bool: what the values choose."""
    own_boundary: Boundary | None
    boundary: Boundary | None
    """The lines between what is chosen and what is left, of the run's own values and of these."""
    differs: int
    """How many samples the run's own values choose otherwise than the run did: 0 where the terms tell all of it."""

    @property
    def is_own(self) -> bool:
        """Whether the values are the run's."""
        return self.values == self.own

    @property
    def comes_in(self) -> np.ndarray:
        """Which samples the values choose and the run did not, bool (N,)."""
        return self.selected & ~self.pool.selected

    @property
    def goes_out(self) -> np.ndarray:
        """Which samples the run chose and the values do not, bool (N,)."""
        return self.pool.selected & ~self.selected


@dataclass(frozen=True)
class Change:
    """What would change at one site (empty name: at all of them)."""

    site: str
    num_scored: int
    num_before: int
    num_after: int
    num_in: int
    num_out: int

    @property
    def num_changed(self) -> int:
        """How many samples would be treated otherwise."""
        return self.num_in + self.num_out


def own_values(config: RunConfig) -> Values:
    """Return the values that the run was made with."""
    return Values(config.distillation.learnability_lambda, config.distillation.selection_rate)


def can_rerank(config: RunConfig) -> bool:
    """Return whether stored terms say what the run chose: the in-batch rule chooses by batches that nobody has kept."""
    return config.distillation.selector != "in_batch_quantile"


def asked_values(weight: float | None, rate: float | None, *, own: Values) -> Values:
    """Return the values that two sliders ask for: within bounds, the run's own where a slider stands beside it."""
    return Values(
        _asked(weight, own=own.weight, least=0.0),
        _asked(rate, own=own.rate, least=STEP),
    )


def _asked(value: float | None, *, own: float, least: float) -> float:
    if value is None or not math.isfinite(value) or abs(value - own) < STEP / 2:
        return own
    return min(1.0, max(least, float(value)))


def rerank(pool: ScoredPool, config: RunConfig, values: Values, *, epoch: int) -> Reranked:
    """Return what ``values`` choose of the samples that are scored at ``epoch`` (from 0), beside what the run chose.

    At the run's own values ranks, scores and choice are those that it has stored.
    """
    at, own = np.flatnonzero(pool.is_scored), own_values(config)
    terms = pool.l_gt[at], pool.l_kl[at]

    def chosen(wanted: Values) -> tuple[Choice, Boundary | None]:
        part = config.distillation.model_copy(
            update={"learnability_lambda": wanted.weight, "selection_rate": wanted.rate}
        )
        choice = choose(*terms, config=part, seed=config.seed, epoch=epoch)
        return choice, boundary(*terms, choice, config=part)

    if not len(at):
        return as_it_was(pool, own=own)
    first, own_line = chosen(own)
    differs = int((_mask(len(pool), at[first.selected]) != pool.selected).sum())
    if values == own:
        return Reranked(pool, own, own, pool.score, pool.rank, pool.selected, own_line, own_line, differs)
    then, line = chosen(values)
    score, rank = np.full(len(pool), np.nan), np.zeros(len(pool), np.int64)
    score[at], rank[at] = then.scores, then.ranks
    return Reranked(pool, own, values, score, rank, _mask(len(pool), at[then.selected]), own_line, line, differs)


def as_it_was(pool: ScoredPool, *, own: Values) -> Reranked:
    """Return the pool as the run has stored it."""
    return Reranked(pool, own, own, pool.score, pool.rank, pool.selected, None, None, 0)


def changes(ranked: Reranked) -> tuple[Change, list[Change]]:
    """Return what would change in all, and at each site, sites by name."""
    pool = ranked.pool
    names = sorted(set(pool.sites.tolist()))
    number = {name: at for at, name in enumerate(names)}
    of_site = np.fromiter((number[name] for name in pool.sites), np.int64, len(pool))
    flags = (pool.is_scored, pool.selected, ranked.selected, ranked.comes_in, ranked.goes_out)
    counts = [np.bincount(of_site[flag], minlength=len(names)) for flag in flags]
    whole = Change("", *(int(count.sum()) for count in counts))
    return whole, [Change(name, *map(int, row)) for name, row in zip(names, zip(*counts, strict=True), strict=True)]


def _mask(length: int, indices: np.ndarray) -> np.ndarray:
    mask = np.zeros(length, dtype=bool)
    mask[indices] = True
    return mask
