"""The samples of runs as columns, read once for all visitors for as long as nothing of them changes."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import sqlalchemy as sa
from cachetools import LRUCache

from engine.runs import schema
from engine.runs.scored_pool import ScoredPool, read_pool
from engine.runs.store import RunStore

KEPT = 6
"""Pools in memory at a time (ours); one of 10,000 samples takes some 3 MB."""


class Pools:
    """Reads from ``store`` what a run's samples scored at an epoch, and keeps the last few."""

    def __init__(self, store: RunStore) -> None:
        self._store = store
        self._kept: LRUCache[tuple[object, ...], ScoredPool] = LRUCache(KEPT)
        self._lock = threading.Lock()

    def at(self, run_id: str, epoch: int | None, *, joined: Sequence[str] = ()) -> ScoredPool:
        """Return the run's samples with their scores at ``epoch``; see :func:`read_pool`."""
        key = (run_id, epoch, tuple(joined), self._stamp(run_id, epoch))
        with self._lock:
            found = self._kept.get(key)
        if found is None:
            found = read_pool(self._store, run_id, epoch=epoch, joined=joined)
            with self._lock:
                self._kept[key] = found
        return found

    def _stamp(self, run_id: str, epoch: int | None) -> tuple[object, ...]:
        """Return figures that change when a stage writes samples or scores: SQLite adds them up in milliseconds."""
        s, c = schema.samples.c, schema.scores.c
        samples = sa.select(sa.func.count(), sa.func.total(s.faithfulness_dice)).where(s.run_id == run_id)
        sums = [sa.func.total(term) for term in (c.l_gt, c.l_kl, c.score, c.score * c.selected)]
        scores = sa.select(sa.func.count(), *sums).where(c.run_id == run_id, c.epoch == epoch)
        return tuple(value for query in (samples, scores) for row in self._store.rows(query) for value in row)
