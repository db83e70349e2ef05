"""How learnability lies over the epochs: counted by a real store, drawn as shares. Values by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from app import learnability_view
from engine.config import load_config
from engine.runs.events import StoreReporter
from engine.runs.score_spread import read_spread, stamp, thinned
from engine.runs.store import RunStore
from engine.types import SampleScore

SCORES = {0: (0.0, 0.1, 0.9, 1.0), 1: (0.5, 0.5, 0.5, 1.0), 2: (float("nan"), 0.0, 0.0, 0.74)}
"""By epoch; the upper two are trained on."""


def scored(store: RunStore, epochs: tuple[int, ...]) -> str:
    run_id = store.list()[0].run_id if store.list() else store.create_run(load_config("phantom_cpu_smoke")).run_id
    reporter = StoreReporter(store, run_id, "mutual_distillation", attempt=0)
    for epoch in epochs:
        reporter.scores(
            [SampleScore(f"a/{n}", epoch, 0.1, 0.1, score, 4 - n, n >= 2) for n, score in enumerate(SCORES[epoch])]
        )
    reporter.flush()
    return run_id


def test_scores_are_counted_by_epoch(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    run_id = store.create_run(load_config("phantom_cpu_smoke")).run_id
    assert read_spread(store, run_id) is None and stamp(store, run_id) == (-1, 0)
    scored(store, (0,))
    assert stamp(store, run_id) == (0, 4)
    scored(store, (1, 2))
    assert stamp(store, run_id) == (2, 4)
    spread = read_spread(store, run_id, num_bins=4)
    assert spread is not None and spread.epochs == (1, 2, 3) and spread.edges == (0.0, 0.25, 0.5, 0.75, 1.0)
    assert spread.counts_EB.tolist() == [[2, 0, 0, 2], [0, 0, 3, 1], [2, 0, 1, 0]]  # the highest is in the last
    assert spread.boundary == (0.9, 0.5, 0.0)
    store.close()


def test_one_score_alone_and_many_epochs(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    run_id = store.create_run(load_config("phantom_cpu_smoke")).run_id
    reporter = StoreReporter(store, run_id, "mutual_distillation", attempt=0)
    reporter.scores([SampleScore("a/0", 0, 0.1, 0.1, 0.3, 1, selected=False)])
    reporter.flush()
    spread = read_spread(store, run_id, num_bins=2)
    assert spread is not None and spread.counts_EB.sum() == 1 and spread.boundary == (None,)
    assert thinned(tuple(range(10)), most=4) == (0, 3, 6, 9) and thinned((5, 6), most=4) == (5, 6)
    assert thinned(()) == ()
    store.close()


def test_the_figure_shows_shares_and_the_boundary(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    run_id = scored(store, (0, 1, 2))
    drawn = learnability_view.figure(read_spread(store, run_id, num_bins=4))
    shares, boundary = drawn.data
    assert [list(row) for row in shares.z] == [[50, None, 200 / 3], [None] * 3, [None, 75, 100 / 3], [50, 25, None]]
    assert list(shares.y) == [0.125, 0.375, 0.625, 0.875] and list(boundary.y) == [0.9, 0.5, 0.0]
    assert len(learnability_view.figure(None).data) == 0
    assert learnability_view.percent(np.array([[0, 0], [1, 3]])).tolist() == [[0, 0], [25, 75]]
    store.close()
