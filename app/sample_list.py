"""Which of a run's samples the gallery lists, and in which order: filters, search, order and pages. Pure."""

from __future__ import annotations

import numpy as np

from app.reranking import Reranked

SELECTED, REJECTED, COMES_IN, GOES_OUT = "selected", "rejected", "comes_in", "goes_out"
"""What the gallery can be asked to show; anything else is everything."""


def listed(
    ranked: Reranked, *, site: str, show: str, order: str, search: str, within: np.ndarray | None = None
) -> np.ndarray:
    """Return the indices into the pool of what is listed, int64, in order.

    ``site`` and ``search`` narrow where they are not empty; ``search`` is a part of an id, in capitals or not.
    ``within``, bool (N,), narrows to what is chosen in the plot. Samples without the value that orders them come last,
    ties keep the order of the pool.
    """
    pool = ranked.pool
    flags = {
        SELECTED: pool.selected,
        REJECTED: pool.is_scored & ~pool.selected,
        COMES_IN: ranked.comes_in,
        GOES_OUT: ranked.goes_out,
    }
    wanted = flags.get(show, np.ones(len(pool), dtype=bool))
    if site:
        wanted = wanted & (pool.sites == site)
    if words := search.strip().casefold():
        wanted = wanted & np.fromiter((words in name.casefold() for name in pool.sample_ids), bool, len(pool))
    at = np.flatnonzero(wanted if within is None else wanted & within)
    return at[np.argsort(_key(ranked, order)[at], kind="stable")]


def _key(ranked: Reranked, order: str) -> np.ndarray:
    """Return what orders the pool, lowest first; NaN comes last."""
    pool = ranked.pool
    keys = {
        "score": np.where(pool.is_scored, ranked.rank, np.nan),
        "l_gt": pool.l_gt,
        "l_kl": -pool.l_kl,
        "faithfulness": pool.faithfulness,
    }
    return keys.get(order, np.zeros(len(pool)))


def place_of(indices: np.ndarray, wanted: int) -> int:
    """Return at which place of the list the sample ``wanted`` stands, from 0; 0 where it is not listed."""
    found = np.flatnonzero(indices == wanted)
    return int(found[0]) if len(found) else 0
