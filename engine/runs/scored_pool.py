"""The generated pairs of a run as columns, with their learnability at one epoch. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import sqlalchemy as sa

from engine.runs import schema
from engine.runs.results import ResultStore


@dataclass(frozen=True, eq=False)
class ScoredPool:
    """The N generated pairs of a run in the order of its pool; every array has shape (N,).

    Where ``is_scored`` is false the epoch has no score of the pair: terms and score are NaN, the rank is 0.
    """

    sample_ids: np.ndarray
    """str objects."""
    sites: np.ndarray
    """str objects."""
    index: np.ndarray
    """int64; numbers of a site's pairs."""
    faithfulness: np.ndarray
    """float64, a Dice in [0, 1]; NaN where it was not measured."""
    l_gt: np.ndarray
    l_kl: np.ndarray
    score: np.ndarray
    """float64, as stored."""
    rank: np.ndarray
    """int64, as stored; 1 is the most learnable."""
    selected: np.ndarray
    """bool: whether the epoch trained on it."""
    fresh: np.ndarray
    """bool: whether the terms were worked out for this epoch."""
    is_scored: np.ndarray
    """bool."""

    def __len__(self) -> int:
        return len(self.sample_ids)


def read_pool(store: ResultStore, run_id: str, *, epoch: int | None, joined: Sequence[str] = ()) -> ScoredPool:
    """Return the generated pairs of the run with their scores at ``epoch`` (none where that is ``None``).

    The order is that of the pool, by which ties and draws go: sites by name, then numbers; the pairs of sites that have
    ``joined`` a finished run come after those that it had.
    """
    s, c = schema.samples.c, schema.scores.c
    here = sa.and_(c.run_id == s.run_id, c.sample_id == s.sample_id, c.epoch == (-1 if epoch is None else epoch))
    columns = (s.sample_id, s.site, s.index, s.faithfulness_dice, c.l_gt, c.l_kl, c.score, c.rank, c.selected, c.fresh)
    query = sa.select(*columns).select_from(schema.samples.outerjoin(schema.scores, here)).where(s.run_id == run_id)
    rows = store.rows(query.order_by(s.site, s.index, s.sample_id))
    kinds = (object, object, np.int64, float, float, float, float, float, float, float)
    columns_read = zip(*rows, strict=True) if rows else ([] for _ in kinds)
    # NULL becomes NaN in a column of floats
    read = (np.array(column, dtype=kind) for column, kind in zip(columns_read, kinds, strict=True))
    ids, sites, index, faithfulness, l_gt, l_kl, score, rank, selected, fresh = read
    is_scored = ~np.isnan(rank)
    ranks, flags = np.nan_to_num(rank).astype(np.int64), (selected == 1, fresh == 1, is_scored)
    order = np.argsort(np.isin(sites, list(joined)), kind="stable")
    pool = (ids, sites, index, faithfulness, l_gt, l_kl, score, ranks, *flags)
    return ScoredPool(*(column[order] for column in pool))
