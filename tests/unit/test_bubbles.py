"""The figure of traffic, Dice and inference time: the published points, a run's own, and what is said of both."""

from __future__ import annotations

import math
from html import unescape
from pathlib import Path

import pytest
from compared_world import compared

from app import bubble_text, bubble_view
from app.access import Visitor
from app.settings import Settings
from app.studio import Studio
from app.tabs import compare_bubbles
from engine.experiments import bubbles
from engine.experiments.bubbles import Bubble, published_bubbles, run_bubble
from engine.experiments.comparison import read_run
from engine.runs.events import StoreReporter
from engine.runs.store import RunStore
from engine.types import EvaluationRow, Traffic

DICE = {("test", "z"): [0.5, 0.7, 0.6, 0.6], ("validation", "a"): [0.8, 0.6]}
OPERATOR, VIEWER = Visitor("user:a", "a", "operator"), Visitor("user:b", "b", "viewer")


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "home")


@pytest.fixture(autouse=True)
def seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every exported model take 10, 20 or 60 ms: the median is 20."""
    monkeypatch.setattr("engine.experiments.inference.bundle_seconds", lambda store, run_id: (0.06, 0.01, 0.02))


def test_published_points_are_those_of_the_papers_prostate_column() -> None:
    found = {point.name: point for point in published_bubbles()}
    assert list(found) == ["FedSAM", "FedMSA", "FedU-Net", "FednnU-Net", "FedTinySAM", "DSFedMed"]
    ours = found["DSFedMed"]
    assert (ours.traffic_mib, ours.dice, ours.inference_s) == (8920, 0.813, 0.015)
    assert (found["FedMSA"].traffic_mib, found["FedMSA"].dice, found["FedMSA"].inference_s) == (11230, 0.799, 0.127)
    assert all("arXiv 2601.16073" in point.about for point in found.values())


def test_a_runs_point_is_of_one_site_of_unseen_images_and_of_the_median_time(store: RunStore) -> None:
    run = read_run(store, compared(store, "mine", DICE))
    point = run_bubble(store, run, is_timed=True)
    assert isinstance(point, Bubble)
    # One site: two rounds of 1.0 MB up and 1.5 MB down.
    assert point.traffic_mib == pytest.approx(5_000_000 / 2**20)
    assert (point.dice, point.inference_s) == (pytest.approx(0.6), pytest.approx(0.02))
    assert point.about.startswith("4 unseen images of z, ") and "tinysam/mini" in point.about
    untimed = run_bubble(store, run, is_timed=False)
    assert isinstance(untimed, Bubble) and untimed.inference_s is None


def test_what_was_sent_to_measure_is_no_traffic_and_a_site_is_the_mean_of_those_that_train(store: RunStore) -> None:
    run_id = compared(store, "mine", DICE)
    reporter = StoreReporter(store, run_id, "federated_training", attempt=1)
    reporter.traffic(Traffic("b", "up", "student", 1_000_000, round=1))
    reporter.traffic(Traffic("a", "down", "evaluated", 9_000_000, round=1))
    reporter.evaluation(
        [EvaluationRow("fedavg_student", "all", "test", "disc", 9, 0.9, None, None, 0.1, 0.1, 0.1, None)]
    )
    reporter.flush()
    point = run_bubble(store, read_run(store, run_id), is_timed=False)
    assert isinstance(point, Bubble) and point.traffic_mib == pytest.approx(3_000_000 / 2**20)
    assert point.dice == 0.9, "all sites of the test together"


def test_a_run_without_a_point_says_why(store: RunStore) -> None:
    kept = read_run(store, compared(store, "kept", {("validation", "a"): [0.8]}))
    assert run_bubble(store, kept, is_timed=False) == "kept was not measured on unseen images."
    run = read_run(store, compared(store, "alone", DICE))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bubbles, "MEASURES", {**bubbles.MEASURES, bubbles.TRAFFIC: bubbles.MEASURES["distillation_s"]})
        assert "nothing but numbers" in str(run_bubble(store, run, is_timed=False))


def test_areas_are_times_and_a_point_without_one_has_another_mark() -> None:
    published = [Bubble("P <b>", 9000.0, 0.8, 0.1, "paper")]
    runs = [(1, Bubble("mine <i>", 5.0, 0.7, 0.025, "phantoms")), (3, Bubble("other", 6.0, 0.5, None, "phantoms"))]
    made = bubble_view.figure(published, runs)
    paper, mine, other = made.data
    for line in (paper, mine):
        assert line.marker.sizemode == "area"
        # Diameter in px as plotly draws it: sqrt of (2 size / sizeref).
        assert math.sqrt(2 * line.marker.size[0] / line.marker.sizeref) == pytest.approx(44 if line is paper else 22)
    assert other.marker.symbol == "x" and other.name.endswith(f"({bubble_text.UNTIMED})")
    assert (list(mine.x), list(mine.y), list(mine.text)) == ([5.0], [0.7], ["B"]) and mine.name == "B: mine &lt;i&gt;"
    assert made.layout.xaxis.type == "log" and list(paper.text) == ["P &lt;b&gt;"]
    assert bubble_view.figure(published, []).data[0].marker.size == (0.1,)


def test_the_page_says_that_scales_differ_and_takes_no_name_for_html() -> None:
    shown = bubble_view.html([Bubble("P", 9000.0, 0.8, 0.1, "paper")], [(0, Bubble("<b>", 5.0, 0.7, None, "x"))],
                             ["<i> was not measured."], is_timed=True)  # fmt: skip
    assert "<b>" not in shown and "<i>" not in shown and "A: <b>" in unescape(shown)
    assert bubble_text.SCALES in unescape(shown) and bubble_text.TIMES in unescape(shown)
    assert "<td>9,000.0</td><td>0.800</td><td>100.0</td><td>paper</td>" in shown


def test_only_who_may_start_runs_makes_the_server_time_models(tmp_path: Path) -> None:
    studio = Studio(Settings(home=tmp_path / "home"))
    chosen = [compared(studio.store, name, DICE) for name in ("a", "b")]
    _, told = compare_bubbles.drawn(studio, chosen, by=OPERATOR)
    assert told.count("<td>20.0</td>") == 2
    _, told = compare_bubbles.drawn(studio, chosen, by=VIEWER)
    assert "<td>20.0</td>" not in told and bubble_text.NOT_TIMED in unescape(told)
