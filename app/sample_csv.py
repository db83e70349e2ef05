"""The run's samples at one epoch as CSV, line by line: what the run scored and chose, and what other values would."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from io import StringIO
from typing import Any

import numpy as np

from app.reranking import Reranked
from engine.experiments.spreadsheet import plain

COLUMNS = (
    "sample_id", "site", "index", "epoch", "faithfulness_dice", "l_gt", "l_kl", "is_fresh",
    "run_lambda", "run_selection_rate", "run_score", "run_rank", "run_selected",
    "lambda", "selection_rate", "score", "rank", "selected",
)  # fmt: skip


def lines(ranked: Reranked, *, epoch: int, within: np.ndarray | None = None) -> Iterator[str]:
    """Yield the header, then a line for each sample in the order of the pool; ``epoch`` is from 0, its column from 1.

    ``within``, bool (N,), says which samples are listed where not all are.
    Numbers have as many digits as the store keeps. What an epoch did not score has empty cells.
    """
    yield _line(COLUMNS)
    pool, own, values = ranked.pool, ranked.own, ranked.values
    for at in range(len(pool)) if within is None else np.flatnonzero(within).tolist():
        scored = bool(pool.is_scored[at])
        of_run = (own.weight, own.rate, _number(pool.score[at]), int(pool.rank[at]), int(pool.selected[at]))
        anew = (values.weight, values.rate, _number(ranked.score[at]), int(ranked.rank[at]), int(ranked.selected[at]))
        terms = (_number(pool.l_gt[at]), _number(pool.l_kl[at]), int(pool.fresh[at]))
        known = (*terms, *of_run, *anew) if scored else ("",) * 13
        about = (plain(pool.sample_ids[at]), plain(pool.sites[at]), int(pool.index[at]), epoch + 1)
        yield _line((*about, _number(pool.faithfulness[at]), *known))


def _number(value: float) -> float | str:
    return float(value) if math.isfinite(value) else ""


def _line(cells: tuple[Any, ...]) -> str:
    text = StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()
