"""Runs with scored samples in a store, made from a table of their terms, without torch and without a worker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.config import load_config
from engine.runs.events import StoreReporter
from engine.runs.scored_pool import ScoredPool, read_pool
from engine.runs.store import RunStore
from engine.types import SampleScore, SyntheticSample

Terms = Sequence[tuple[str, float, float]]
"""(sample id, L_GT, L_KL) of each sample; the site is what stands before the slash."""
FOUR: Terms = (("a/0", 0.1, 0.2), ("a/1", 0.5, 0.9), ("b/0", 0.3, 0.38), ("b/1", 0.9, 0.5))
"""At lambda 0.5 the scores are 0.05, 0.2, 0.04 and -0.2: a/1, a/0, b/0, b/1 from the best."""

LATER: Terms = (("a/0", 0.1, 0.9), ("a/1", 0.5, 0.5), ("b/0", 0.3, 0.38), ("b/1", 0.9, 0.5))
"""Of a second epoch. At lambda 0.5 a/0 is the most learnable now (0.4), then b/0 (0.04), a/1 (0.0), b/1 (-0.2)."""


def a_sample(sample_id: str) -> SyntheticSample:
    """Return a pair of that id without files."""
    site, _, number = sample_id.partition("/")
    return SyntheticSample(sample_id, site, int(number), 1, "m", "real", Path("i.png"), Path("m.png"), 0.5)


def scores_of(terms: Terms, *, epoch: int = 0, weight: float = 0.5, rate: float = 0.5) -> list[SampleScore]:
    """Return what a run with these values records, worked out in plain Python."""
    score = {name: -weight * l_gt + (1 - weight) * l_kl for name, l_gt, l_kl in terms}
    ranked = sorted(score, key=lambda name: -score[name])
    chosen = ranked[: max(1, round(rate * len(terms)))]
    return [
        SampleScore(name, epoch, l_gt, l_kl, score[name], ranked.index(name) + 1, name in chosen)
        for name, l_gt, l_kl in terms
    ]


def a_run(
    store: RunStore,
    *,
    terms: Sequence[Terms] = (FOUR,),
    settings: Mapping[str, Any] | None = None,
    status: str = "finished",
) -> str:
    """Make a run that has scored its samples once for each of ``terms``, one epoch after the other; return its id."""
    run_id = store.create_run(load_config("phantom_cpu_smoke", overrides=dict(settings or {}))).run_id
    store.update_run(run_id, status="running", attempt=1)
    reporter = StoreReporter(store, run_id, "mutual_distillation", attempt=1)
    part = store.get(run_id).config.distillation
    values = {"weight": part.learnability_lambda, "rate": part.selection_rate}
    reporter.samples([a_sample(name) for name, _, _ in terms[0]])
    for epoch, of_epoch in enumerate(terms):
        reporter.scores(scores_of(of_epoch, epoch=epoch, **values))
    reporter.flush()
    for stage in store.stages(run_id):
        store.set_stage_status(run_id, stage.name, "finished")
    store.set_status(run_id, status)
    return run_id


def pool_of(terms: Terms, *, folder: Path, **values: float) -> ScoredPool:
    """Return the pool of a run with these terms at one epoch."""
    store = RunStore(folder / "pool")
    run_id = a_run(store, terms=(terms,), settings={f"distillation.{key}": value for key, value in values.items()})
    try:
        return read_pool(store, run_id, epoch=0)
    finally:
        store.close()


def names(pool: ScoredPool, mask: np.ndarray) -> list[str]:
    """Return the ids of the samples that ``mask`` (N,) holds for."""
    return pool.sample_ids[mask].tolist()
