"""What page and command line show of a gated distillation: values by hand, through a real store. Torch-free."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from app import kept_epoch, plots
from engine.cli.gate_table import print_gate
from engine.config import load_config
from engine.runs.events import StoreReporter
from engine.runs.gates import GATE_FILE, GateRecord, judged_epochs
from engine.runs.records import MetricSeries
from engine.runs.sites import site_views
from engine.runs.store import RunStore
from engine.stages.files import write_json
from engine.types import SiteActivity

DICE = (0.5, 0.4, 0.62, 0.62)
STAGE = "mutual_distillation"
CURVES = [
    MetricSeries("federated_training", "val_dice", None, (0, 1), (0.1, 0.9)),
    MetricSeries(STAGE, "val_dice", "north", (0, 1, 2, 3), (0.9, 0.9, 0.9, 0.9)),
    MetricSeries(STAGE, "val_dice", None, (0, 1, 2, 3), DICE),
    MetricSeries(STAGE, "teacher_val_dice", None, (0,), (0.3,)),
]


def test_only_the_pooled_curve_of_distillation_is_the_gate_s() -> None:
    assert judged_epochs(CURVES) == dict(enumerate(DICE))
    assert judged_epochs(CURVES[:2]) == {}, "rounds are no epochs, and a site is not all sites"


@pytest.mark.parametrize(("is_over", "words"), [(True, "kept: epoch 2, 0.620"), (False, "best so far: epoch 2, 0.620")])
def test_the_plot_has_the_line_of_before_and_a_ring_at_the_kept_epoch(is_over: bool, words: str) -> None:
    of_stage = CURVES[1:]
    figure = kept_epoch.marked(plots.curves(of_stage, title="t", empty="e"), of_stage, is_over=is_over)
    before, ring = figure.data[-2:]
    assert (list(before.x), list(before.y), before.name) == ([0, 3], [0.5, 0.5], "before distillation: 0.500")
    assert (list(ring.x), list(ring.y), ring.name) == ([2], [0.62], words)  # of equal ones the earlier
    plain = plots.curves(CURVES[:1], title="t", empty="e")
    assert len(kept_epoch.marked(plain, CURVES[:1], is_over=True).data) == 1, "nothing is marked without a gate"


def test_of_watched_epochs_the_best_is_not_called_kept() -> None:
    figure = plots.curves(CURVES[1:], title="t", empty="e")
    assert kept_epoch.marked(figure, CURVES[1:], is_over=True, is_watched=True).data[-1].name == "best: epoch 2, 0.620"
    watched = GateRecord("fedavg_student", "distilled_student", 3, (0.5, 0.4, 0.7, 0.6), is_watched=True)
    assert watched.sentences() == (
        "Distillation ends with a validation Dice of 0.600; FedAvg's model has 0.500.",
        "The best there was epoch 2 (0.700); distillation.gate = 'best' would keep it.",
    )
    worse = GateRecord("fedavg_student", "distilled_student", 1, (0.5, 0.4), is_watched=True)
    assert worse.sentences()[1].startswith("The best there was FedAvg's model;")
    better = GateRecord("fedavg_student", "distilled_student", 1, (0.5, 0.6), is_watched=True)
    assert len(better.sentences()) == 1


def test_the_page_says_what_came_of_it() -> None:
    assert kept_epoch.said(None) == ""
    said = kept_epoch.said(GateRecord("fedavg_student", "distilled_student", 0, (0.5, 0.4)))
    assert "Distillation did not help; FedAvg&#x27;s model is kept" in said and "0.400" in said


def test_show_lists_every_epoch_and_the_sites_score_is_of_the_latest_stage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = RunStore(tmp_path)
    run_id = store.create_run(load_config("phantom_cpu_smoke")).run_id
    for stage, curves in (("federated_training", ((9, 0.8),)), (STAGE, tuple(enumerate(DICE)))):
        reporter = StoreReporter(store, run_id, stage, attempt=0)
        for step, value in curves:
            reporter.metric("val_dice", value, step=step)
            reporter.metric("val_dice", value / 2, step=step, site="north")
        reporter.site(SiteActivity("north"))
        reporter.flush()
    print_gate(store, run_id)
    assert "best so far" in capsys.readouterr().out
    record = GateRecord("fedavg_student", "distilled_student", 2, DICE)
    write_json(store.run_dir(run_id) / GATE_FILE, asdict(record))
    print_gate(store, run_id)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["before", "0.500"] in lines and ["1", "0.400"] in lines and ["3", "0.620"] in lines
    assert ["2", "0.620", "kept"] in lines
    (north,) = site_views(store, run_id, active=False)
    assert north.score == pytest.approx(0.31), "that of the last epoch, not the round's, though its number is higher"
    store.close()
