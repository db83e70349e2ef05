"""Two epochs side by side, beside numbers that were worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from app import epoch_pair
from app.epoch_pair import EpochPair
from app.settings import Settings
from app.studio import Studio
from app.tabs import sample_epochs
from engine.runs.scored_pool import ScoredPool, read_pool
from engine.runs.store import RunStore
from tests.unit.samples_world import FOUR, a_run, names

LATER = (("a/0", 0.1, 0.3), ("a/1", 0.5, 0.5), ("b/0", 0.3, 0.9), ("b/1", 0.9, 0.5))
"""Scores 0.1, 0, 0.3 and -0.2: b/0, a/0, a/1, b/1. Before they were a/1, a/0, b/0, b/1."""


@pytest.fixture
def pools(tmp_path: Path) -> tuple[ScoredPool, ScoredPool]:
    store = RunStore(tmp_path / "home")
    run_id = a_run(store, terms=(FOUR, LATER), settings={"distillation.selection_rate": 0.5})
    first, second = (read_pool(store, run_id, epoch=epoch) for epoch in (0, 1))
    store.close()
    return first, second


def pair(pools: tuple[ScoredPool, ScoredPool]) -> EpochPair:
    return epoch_pair.pair_of(*pools, epochs=(0, 1))


def test_what_came_and_went_between_two_epochs(pools) -> None:
    found = pair(pools)
    assert names(pools[0], found.came) == ["b/0"] and names(pools[0], found.went) == ["a/1"]
    assert names(pools[0], found.stayed) == ["a/0"]
    # Ranks 2 1 3 4 and 2 3 1 4: the sum of squared differences is 8, so rho = 1 - 6 * 8 / (4 * 15)
    assert found.correlation == pytest.approx(0.2)
    told = epoch_pair.said(found)
    assert "From epoch 1 to epoch 2: 1 came in, 1 went out, 1 stayed selected." in told and "agree by 0.20" in told
    assert "<th scope='row'>a</th><td>2</td><td>0</td><td>1</td><td>1</td>" in told
    assert "<th scope='row'>b</th><td>2</td><td>1</td><td>0</td><td>0</td>" in told
    back = epoch_pair.pair_of(*reversed(pools), epochs=(1, 0))
    assert names(pools[0], back.came) == ["a/1"] and back.correlation == pytest.approx(0.2)


def test_ranks_agree_wholly_with_themselves_and_oppose_their_reverse(pools) -> None:
    first = pools[0]
    assert epoch_pair.pair_of(first, first, epochs=(0, 0)).correlation == pytest.approx(1.0)
    assert pair((first, replace(first, rank=5 - first.rank))).correlation == pytest.approx(-1.0)


def test_only_what_both_epochs_have_scored_counts(pools) -> None:
    """Without a/0 the ranks are 1 3 4 and 3 1 4: as ranks of three 1 2 3 and 2 1 3, rho = 1 - 6 * 2 / (3 * 8)."""
    first, second = pools
    found = pair((first, replace(second, is_scored=np.array([False, True, True, True]))))
    assert found.sample_ids.tolist() == ["a/1", "b/0", "b/1"] and found.correlation == pytest.approx(0.5)
    none = pair((first, replace(second, is_scored=np.zeros(4, dtype=bool))))
    assert none.correlation is None and "No sample has a score in both" in epoch_pair.said(none)
    assert epoch_pair.figure(none).layout.annotations


def test_the_plot_and_the_pictures_have_those_that_moved(pools) -> None:
    found = pair(pools)
    drawn = {trace.name: trace for trace in epoch_pair.figure(found).data}
    assert (drawn["came in"].x, drawn["came in"].y) == ((3,), (1,))
    assert (drawn["went out"].x, drawn["went out"].y) == ((1,), (3,)) and list(drawn["stayed"].customdata) == ["a/0"]
    assert list(drawn["not selected in either"].customdata) == ["b/1"]
    moved = replace(found, ranks=(found.ranks[0], np.array([1, 4, 2, 3])))  # by 1, 3, 1 and 1
    assert moved.strongest(np.ones(4, dtype=bool), count=2).tolist() == [1, 0]
    assert epoch_pair.captions(found, [2]) == ["rank 3 → 1"]


def test_the_tab_compares_two_epochs_of_a_run(tmp_path: Path) -> None:
    studio = Studio(Settings(home=tmp_path / "home"))
    run_id = a_run(studio.store, terms=(FOUR, LATER), settings={"distillation.selection_rate": 0.5})
    told, figure = sample_epochs.compared(studio, run_id, 0, 1)
    assert "1 came in" in told and told.count("<figure>") == 2 and "b/0, rank 3 → 1" in told
    assert "Rank in epoch 2" in figure.layout.yaxis.title.text
    assert "No sample has a score in both" in sample_epochs.compared(studio, run_id, 0, 9)[0]
