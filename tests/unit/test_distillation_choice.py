"""What an epoch chooses follows from the terms that a run stores: the page ranks them anew by the same functions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from app import reranking
from engine.config import DistillationConfig, RunConfig
from engine.distillation.choice import boundary, choose
from engine.runs.events import StoreReporter
from engine.runs.scored_pool import read_pool
from engine.runs.store import RunStore
from tests.unit.samples_world import a_sample
from tests.unit.test_distillation_step import make_loop


@pytest.mark.parametrize(
    "settings",
    [
        {"learnability_lambda": 0.3, "selection_rate": 0.4},
        {"learnability_lambda": 0.8, "score_scaling": "zscore"},
        {"selector": "sample", "selection_rate": 0.3},
        {"scoring_interval": 2},
        {"selection_rate": 1.0},
    ],
    ids=lambda settings: "-".join(settings),
)
def test_stored_terms_with_the_runs_values_give_its_stored_scores_ranks_and_choice(settings, tmp_path: Path) -> None:
    part = DistillationConfig(batch_size=3, epochs=2, scoring="exact", teacher_learning_rate=3e-3, **settings)
    config = RunConfig(precision="fp32", seed=11, distillation=part)
    loop, store = make_loop(config), RunStore(tmp_path / "home")
    run_id = store.create_run(config).run_id
    store.update_run(run_id, status="running", attempt=1)
    reporter = StoreReporter(store, run_id, "mutual_distillation", attempt=1)
    named = {name: f"s/{at:05d}" for at, name in enumerate(loop.pool.names)}
    reporter.samples([a_sample(name) for name in named.values()])
    for epoch in range(2):
        records = loop.begin_epoch(on_batch=lambda: None)
        reporter.scores([type(r)(**{**vars(r), "sample_id": named[r.sample_id]}) for r in records])
        reporter.flush()
        pool = read_pool(store, run_id, epoch=epoch)
        assert [pool.l_gt.tolist(), pool.rank.tolist()] == [[r.l_gt for r in records], [r.rank for r in records]]
        again = choose(pool.l_gt, pool.l_kl, config=part, seed=config.seed, epoch=epoch)
        np.testing.assert_allclose(again.scores, pool.score, rtol=1e-12, atol=1e-15)
        assert again.ranks.tolist() == pool.rank.tolist()
        assert again.selected.tolist() == loop.selected.tolist() == np.flatnonzero(pool.selected).tolist()
        own = reranking.rerank(pool, config, reranking.own_values(config), epoch=epoch)
        assert own.is_own and own.differs == 0
        for indices in loop.batches():
            loop.train_step(indices)
        loop.end_epoch()
    store.close()


@pytest.mark.parametrize("scaling", ["raw", "zscore"])
def test_the_score_is_one_number_all_along_the_boundary(scaling: str) -> None:
    """Two samples put on the line score alike, halfway between the last that is chosen and the first that is not."""
    rng = np.random.default_rng(4)
    l_gt, l_kl = rng.gamma(2.0, 0.2, 20), rng.gamma(2.0, 0.1, 20)
    part = DistillationConfig(learnability_lambda=0.6, selection_rate=0.35, score_scaling=scaling)
    choice = choose(l_gt, l_kl, config=part, seed=0, epoch=0)
    line = boundary(l_gt, l_kl, choice, config=part)
    assert line is not None and len(choice.selected) == 7
    best_first = np.sort(choice.scores)[::-1]
    moments = {"raw": ((0, 1), (0, 1)), "zscore": ((l_gt.mean(), l_gt.std()), (l_kl.mean(), l_kl.std()))}[scaling]
    for x in (0.1, 0.9):
        y = (line.level - line.l_gt * x) / line.l_kl
        scaled = [(value - mean) / spread for value, (mean, spread) in zip((x, y), moments, strict=True)]
        assert -0.6 * scaled[0] + 0.4 * scaled[1] == pytest.approx(best_first[6:8].mean())


def test_no_line_parts_what_chance_has_drawn_or_what_is_all_of_it() -> None:
    l_gt, l_kl = np.array([0.1, 0.2, 0.3]), np.array([0.3, 0.2, 0.1])
    for settings in ({"selector": "sample"}, {"selection_rate": 1.0}, {"selector": "in_batch_quantile"}):
        part = DistillationConfig(**settings)
        assert boundary(l_gt, l_kl, choose(l_gt, l_kl, config=part, seed=0, epoch=0), config=part) is None
    one_alike = DistillationConfig(score_scaling="zscore", learnability_lambda=0.5, selection_rate=0.4)
    flat = choose(np.ones(3), l_kl, config=one_alike, seed=0, epoch=0)
    line = boundary(np.ones(3), l_kl, flat, config=one_alike)
    assert line is not None and line.l_gt == 0 and line.level / line.l_kl == pytest.approx(0.25)
    unknown = np.array([np.nan, 0.2, 0.3])
    part = DistillationConfig(selection_rate=0.4)
    lost = boundary(unknown, l_kl, choose(unknown, l_kl, config=part, seed=0, epoch=0), config=part)
    assert lost is not None and lost.level == pytest.approx((0.0 - 0.1) / 2)
