"""How the scores of a run's samples lie in each epoch of distillation, counted by the store. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import sqlalchemy as sa

from engine.runs import schema
from engine.runs.store import RunStore

NUM_BINS = 24
"""Of equal width between the lowest and the highest score of all epochs (ours)."""
MAX_EPOCHS = 200
"""Epochs that are counted, spread evenly over a longer run, the last among them (ours)."""


@dataclass(frozen=True)
class ScoreSpread:
    """Counts of samples by epoch and score.

    ``epochs`` are as people count, from 1; ``edges`` are scores, ascending, one more than bins; ``counts_EB`` are
    samples, int64; ``boundary`` is the lowest score that was trained on in each epoch, None where none was.
    """

    epochs: tuple[int, ...]
    edges: tuple[float, ...]
    counts_EB: np.ndarray
    boundary: tuple[float | None, ...]


def stamp(store: RunStore, run_id: str) -> tuple[int, int]:
    """Return figures that change when another epoch is scored, from the ends of an index: a millisecond or less."""
    c = schema.scores.c
    rows = store.rows(sa.select(sa.func.max(c.epoch)).where(c.run_id == run_id))
    last = rows[0][0]
    if last is None:
        return -1, 0
    counted = store.rows(sa.select(sa.func.count()).where(c.run_id == run_id, c.epoch == last))
    return int(last), int(counted[0][0])


def read_spread(store: RunStore, run_id: str, *, num_bins: int = NUM_BINS) -> ScoreSpread | None:
    """Return how the scores lie; None where nothing was scored. Scores that are no number count nowhere."""
    c, of_run = schema.scores.c, schema.scores.c.run_id == run_id
    epochs = thinned(store.epochs(run_id))
    among = sa.and_(of_run, c.epoch.in_(epochs), c.score.is_not(None))
    ((low, high),) = (
        tuple(row) for row in store.rows(sa.select(sa.func.min(c.score), sa.func.max(c.score)).where(among))
    )
    if low is None:
        return None
    width = (high - low) / num_bins or 1.0
    place = sa.func.min(sa.cast((c.score - low) / width, sa.Integer), num_bins - 1)
    chosen = sa.func.min(sa.case((c.selected, c.score)))
    rows = store.rows(
        sa.select(c.epoch, place.label("place"), sa.func.count(), chosen).where(among).group_by(c.epoch, "place")
    )
    at = {epoch: row for row, epoch in enumerate(epochs)}
    counts_EB = np.zeros((len(epochs), num_bins), np.int64)
    boundary: list[float | None] = [None] * len(epochs)
    for epoch, where, count, lowest in (tuple(row) for row in rows):
        counts_EB[at[epoch], where] = count
        if lowest is not None:
            before = boundary[at[epoch]]
            boundary[at[epoch]] = lowest if before is None else min(before, lowest)
    edges = tuple(low + width * number for number in range(num_bins + 1))
    return ScoreSpread(tuple(epoch + 1 for epoch in epochs), edges, counts_EB, tuple(boundary))


def thinned(epochs: tuple[int, ...], *, most: int = MAX_EPOCHS) -> tuple[int, ...]:
    """Return every n-th epoch, at most ``most``, counted back from the last."""
    step = -(-len(epochs) // most) or 1
    return epochs[::-1][::step][::-1]
