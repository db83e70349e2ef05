"""One sample's scores and ranks over the epochs."""

from __future__ import annotations

import math
import re
from pathlib import Path

from app import score_history
from app.settings import Settings
from app.studio import Studio
from engine.types import SampleScore
from tests.unit.samples_world import FOUR, LATER, a_run


def score(epoch: int, value: float, rank: int, selected: bool) -> SampleScore:
    return SampleScore("a/0", epoch, 0.25, 0.5, value, rank, selected)


def test_a_samples_history_has_a_dot_for_each_epoch_filled_where_it_was_selected() -> None:
    shown = score_history.html([score(0, -0.1, 4, False), score(1, 0.3, 1, True)], num_samples=4)
    assert "Selected in 1 of 2 epochs; rank 1 to 4 of 4." in shown
    dots = re.findall(r"<circle cx='([\d.]+)' cy='([\d.]+)' r='3.5' stroke='#\w+' fill='(\S+)'/>", shown)
    # Both pictures: the first epoch at the lower left, the second at the upper right.
    assert dots == 2 * [("8.0", "88.0", "none"), ("312.0", "8.0", "#0072b2")]
    assert "Learnability, epoch 1 to 2; from -0.1000 (bottom) to 0.3000 (top)" in shown
    assert "Rank, epoch 1 to 2; from 4 (bottom) to 1 (top)" in shown
    assert "<th scope='row'>2</th><td>0.3000</td><td>1</td><td>selected</td><td>0.2500</td><td>0.5000</td>" in shown
    assert score_history.html([score(0, 0.3, 1, True)], num_samples=4) == ""


def test_a_history_without_numbers_or_with_very_many_epochs_is_drawn_all_the_same() -> None:
    lost = score_history.html([score(0, math.nan, 2, False), score(1, math.nan, 1, True)], num_samples=2)
    assert "Learnability, epoch" not in lost and "Rank, epoch 1 to 2" in lost and "nan" not in lost
    many = [score(epoch, 0.1, 1, True) for epoch in range(1000)]
    kept = score_history.thinned(many)
    assert kept[:2] == [many[0], many[9]] and kept[-1] is many[-1] and len(kept) <= score_history.MAX_POINTS + 1


def test_the_stores_history_of_a_sample_is_its_own(tmp_path: Path) -> None:
    studio = Studio(Settings(home=tmp_path / "home"))
    run_id = a_run(studio.store, terms=(FOUR, LATER))
    history = studio.store.scores(run_id, sample_id="a/0")
    assert [(s.epoch, s.rank, s.selected) for s in history] == [(0, 2, True), (1, 1, True)]
    assert [s.rank for s in studio.store.scores(run_id, epoch=1, sample_id="b/0")] == [2]
    assert studio.store.samples_named(run_id, ["b/1", "none", "a/0"])[0].sample_id == "b/1"
    assert len(studio.store.samples_named(run_id, ["b/1", "none", "a/0"])) == 2
