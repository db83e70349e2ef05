"""What other values of lambda and the selection rate would choose, beside numbers that were worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from app import reranking, sample_list, scatter, what_if_view
from app.pools import Pools
from app.reranking import Reranked, Values
from engine.config import RunConfig, parse_config
from engine.distillation.choice import Boundary
from engine.runs.scored_pool import ScoredPool, read_pool
from engine.runs.store import RunStore
from tests.patience import slowness
from tests.unit.samples_world import FOUR, a_run, a_sample, names, pool_of

CONFIG = parse_config({"distillation": {"learnability_lambda": 0.5, "selection_rate": 0.5}})


@pytest.fixture
def pool(tmp_path: Path) -> ScoredPool:
    return pool_of(FOUR, folder=tmp_path, learnability_lambda=0.5, selection_rate=0.5)


def ranked_at(pool: ScoredPool, weight: float, rate: float, config: RunConfig = CONFIG) -> Reranked:
    return reranking.rerank(pool, config, Values(weight, rate), epoch=0)


def test_the_runs_own_values_give_what_it_has_stored(pool: ScoredPool) -> None:
    ranked = ranked_at(pool, 0.5, 0.5)
    assert ranked.is_own and ranked.differs == 0
    assert ranked.rank.tolist() == [2, 1, 3, 4] and names(pool, ranked.selected) == ["a/0", "a/1"]
    assert not ranked.comes_in.any() and not ranked.goes_out.any()
    assert ranked.boundary == ranked.own_boundary
    assert ranked.boundary is not None and ranked.boundary.level == pytest.approx(0.045)


@pytest.mark.parametrize(
    ("weight", "rate", "ranks", "comes_in", "goes_out", "line"),
    [
        # reliability alone: the least L_GT; the line between 0.3 and 0.5 stands upright
        (1.0, 0.5, [1, 3, 2, 4], ["b/0"], ["a/1"], Boundary(-1.0, 0.0, -0.4)),
        # dispute alone: the highest L_KL; the line between 0.38 and 0.2 lies flat
        (0.0, 0.75, [4, 1, 3, 2], ["b/0", "b/1"], ["a/0"], Boundary(0.0, 1.0, 0.29)),
        # the same order, one less
        (0.5, 0.25, [2, 1, 3, 4], [], ["a/0"], Boundary(-0.5, 0.5, 0.125)),
        (0.5, 1.0, [2, 1, 3, 4], ["b/0", "b/1"], [], None),
    ],
)
def test_other_values_rank_anew(pool, weight, rate, ranks, comes_in, goes_out, line) -> None:
    ranked = ranked_at(pool, weight, rate)
    assert ranked.rank.tolist() == ranks
    assert names(pool, ranked.comes_in) == comes_in and names(pool, ranked.goes_out) == goes_out
    assert (ranked.boundary is None) == (line is None)
    if line is not None:
        found = ranked.boundary
        assert (found.l_gt, found.l_kl, found.level) == pytest.approx((line.l_gt, line.l_kl, line.level))


def test_changes_are_counted_in_all_and_by_site(pool: ScoredPool) -> None:
    whole, sites = reranking.changes(ranked_at(pool, 0.0, 0.75))
    assert (whole.num_scored, whole.num_before, whole.num_after) == (4, 2, 3)
    assert (whole.num_changed, whole.num_in, whole.num_out) == (3, 2, 1)
    assert [(site.site, site.num_in, site.num_out) for site in sites] == [("a", 0, 1), ("b", 2, 0)]
    shown = what_if_view.count(ranked_at(pool, 0.0, 0.75), by_chance=False)
    assert "<b>3 of 4 samples would change</b>: 2 in, 1 out; 3 selected in place of 2." in shown
    assert "data-own='0.5,0.5'" in shown
    own = what_if_view.count(ranked_at(pool, 0.5, 0.5), by_chance=False)
    assert "the run&#x27;s own values: 2 of 4" in own and "would change" not in own


def test_a_slider_beside_the_runs_own_value_is_that_value_and_bounds_hold() -> None:
    own = Values(0.333, 0.125)
    assert reranking.asked_values(0.33, 0.13, own=own) == Values(0.333, 0.13)
    assert reranking.asked_values(0.33, 0.125, own=own) == own
    assert reranking.asked_values(None, float("nan"), own=own) == own
    assert reranking.asked_values(7.0, -3.0, own=own) == Values(1.0, reranking.STEP)


def test_a_run_whose_choice_the_terms_do_not_tell_says_so(pool: ScoredPool) -> None:
    """The run has chosen b/1 in place of a/0: as one would that chose before its scores were mended."""
    other = replace(pool, selected=np.array([False, True, False, True]))
    ranked = ranked_at(other, 0.5, 0.5)
    assert ranked.differs == 2 and names(other, ranked.selected) == ["a/1", "b/1"]
    assert "2 samples come out otherwise" in what_if_view.count(ranked, by_chance=False)
    assert names(other, ranked_at(other, 0.5, 0.25).goes_out) == ["b/1"]
    assert not reranking.can_rerank(
        parse_config({"distillation": {"mode": "reference", "selector": "in_batch_quantile"}})
    )


def test_samples_without_a_score_have_no_part_in_it(tmp_path: Path) -> None:
    store = RunStore(tmp_path / "home")
    run_id = a_run(store)
    store.write(run_id, samples=[{**vars_of("a/9")}])
    pool = read_pool(store, run_id, epoch=0)
    ranked = ranked_at(pool, 0.0, 0.5)
    assert pool.is_scored.tolist() == [True, True, False, True, True]
    assert ranked.rank.tolist() == [4, 1, 0, 3, 2] and names(pool, ranked.selected) == ["a/1", "b/1"]
    listed = sample_list.listed(ranked, site="", show="all", order="score", search="")
    assert pool.sample_ids[listed].tolist() == ["a/1", "b/1", "b/0", "a/0", "a/9"]
    nothing = read_pool(store, run_id, epoch=7)
    assert not nothing.is_scored.any() and ranked_at(nothing, 0.0, 0.5).rank.tolist() == [0] * 5
    assert what_if_view.by_site(ranked_at(nothing, 0.0, 0.5)) == ""
    assert len(read_pool(store, "none", epoch=0)) == 0
    store.close()


def vars_of(sample_id: str) -> dict[str, object]:
    from engine.runs.results import sample_row

    return sample_row(a_sample(sample_id))


@pytest.mark.parametrize(
    ("asked", "ids"),
    [
        ({"order": "score"}, ["a/1", "b/1", "b/0", "a/0"]),
        ({"order": "l_gt"}, ["a/0", "b/0", "a/1", "b/1"]),
        ({"order": "l_kl"}, ["a/1", "b/1", "b/0", "a/0"]),
        ({"order": "faithfulness"}, ["a/0", "a/1", "b/0", "b/1"]),
        ({"order": "index", "site": "b"}, ["b/0", "b/1"]),
        ({"show": "selected"}, ["a/0", "a/1"]),
        ({"show": "rejected"}, ["b/0", "b/1"]),
        ({"show": "comes_in"}, ["b/0", "b/1"]),
        ({"show": "goes_out"}, ["a/0"]),
        ({"search": " A/ ", "order": "score"}, ["a/1", "a/0"]),
        ({"search": "%"}, []),
        ({"site": "nowhere"}, []),
    ],
)
def test_the_list_is_narrowed_and_ordered_by_the_values(pool: ScoredPool, asked: dict, ids: list[str]) -> None:
    at = sample_list.listed(
        ranked_at(pool, 0.0, 0.75), **{"site": "", "show": "all", "order": "", "search": "", **asked}
    )
    assert pool.sample_ids[at].tolist() == ids


def test_the_plot_has_both_lines_and_what_would_change(pool: ScoredPool) -> None:
    figure = scatter.learnability(ranked_at(pool, 1.0, 0.5), chosen="b/1")
    drawn = {trace.name: trace for trace in figure.data}
    assert list(drawn["not selected"].customdata) == ["b/1"] and list(drawn["selected"].customdata) == ["a/0"]
    assert list(drawn["+ would come in"].customdata) == ["b/0"] and drawn["+ would come in"].x == (0.3,)
    assert list(drawn["− would go out"].customdata) == ["a/1"]
    assert drawn["with these values"].x == (0.4, 0.4) and drawn["with these values"].y == (0.2, 0.9)
    slanted = drawn["the run's boundary"]  # -0.5 x + 0.5 y = 0.045 from the left edge to the upper one
    assert slanted.x == pytest.approx((0.11, 0.81)) and slanted.y == pytest.approx((0.2, 0.9))
    assert list(drawn["b/1"].customdata) == ["b/1"]
    own = scatter.learnability(ranked_at(pool, 0.5, 0.5), site="a")
    assert [trace.name for trace in own.data] == ["not selected", "selected", "the run's boundary"]
    assert list(own.data[1].customdata) == ["a/1", "a/0"] and not own.data[0].x
    assert scatter.learnability(reranking.as_it_was(pool, own=Values(0, 1)), site="no").layout.annotations


def test_a_plot_of_many_shows_every_nth_rank_and_says_so(pool: ScoredPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scatter, "MAX_POINTS", 2)
    figure = scatter.learnability(ranked_at(pool, 0.5, 0.5))
    assert [list(trace.customdata) for trace in figure.data[:2]] == [["b/0"], ["a/1"]]  # ranks 3 and 1
    assert "2 of 4" in figure.layout.title.text


def test_a_pool_is_read_again_only_when_something_of_it_has_changed(tmp_path: Path) -> None:
    store = RunStore(tmp_path / "home")
    run_id = a_run(store)
    pools = Pools(store)
    first = pools.at(run_id, 0)
    assert pools.at(run_id, 0) is first and pools.at(run_id, 1) is not first
    store.write(run_id, scores=[{"epoch": 0, "sample_id": "a/0", "l_gt": 0.7, "l_kl": 0.2, "score": -0.25, "rank": 4,
                                 "selected": False, "fresh": True}])  # fmt: skip
    assert pools.at(run_id, 0).l_gt[0] == 0.7 and not pools.at(run_id, 0).selected[0]
    store.close()


def test_ten_thousand_samples_are_ranked_anew_in_a_tenth_of_a_second(tmp_path: Path) -> None:
    """All that the sliders' answer works out; the pictures come after it."""
    import time

    rng = np.random.default_rng(0)
    terms = [(f"s{i % 3}/{i}", *rng.gamma(2.0, 0.2, 2)) for i in range(10_000)]
    pool = pool_of(terms, folder=tmp_path, learnability_lambda=0.5, selection_rate=0.5)
    took_s = []
    for rate in (0.5, 0.3, 0.2, 0.1):
        began = time.perf_counter()
        ranked = ranked_at(pool, 0.7, rate)
        what_if_view.count(ranked, by_chance=False)
        assert what_if_view.by_site(ranked)
        assert scatter.learnability(ranked).to_json()
        took_s.append(time.perf_counter() - began)
    assert min(took_s) < 0.1 * slowness()
