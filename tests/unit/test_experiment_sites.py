"""Tables of systems that leave each site a model of its own, and what cells take and send before they run."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import stdev

import pytest

from engine.config import RunConfig, parse_config
from engine.experiments import cells as cells_of
from engine.experiments import tables
from engine.experiments.measures import MEASURES, MIB
from engine.experiments.planned import AS_PHANTOMS, planned_grid, planned_rows
from engine.experiments.results import IMAGES_FILE, CellRun, make_entries
from engine.experiments.spec import load_experiment
from engine.experiments.sweep import Outcome
from engine.runs.events import StoreReporter
from engine.runs.store import RunStore
from engine.types import EvaluationRow, Traffic

# Dice of each image by model and site; the site "new" trains nothing. Site "b" keeps two images, "a" one.
FIGURES = {
    "fedavg_lora": {("lora_student", "a"): [0.4], ("lora_student", "b"): [0.6, 0.8], ("lora_student", "new"): [0.5]},
    "pfedsam": {
        ("pfedsam_global", "a"): [0.1],
        ("pfedsam_global", "b"): [0.1, 0.1],
        ("pfedsam_global", "new"): [0.45],
        ("pfedsam_personal", "a"): [0.7],
        ("pfedsam_personal", "b"): [0.7, 0.9],
    },
}


def stored(store: RunStore, method: str, *, seed: int, config: RunConfig | None = None) -> str:
    """A run as evaluation leaves it, its Dice higher by 0.1 for seed 2, and three rounds' traffic."""
    run_id = store.create_run(config or parse_config({"method": method, "seed": seed})).run_id
    images = [
        {"model": model, "site": site, "name": str(k), "group": "", "class_name": "polyp", "dice": d + (seed - 1) / 10}
        for (model, site), values in FIGURES[method].items()
        for k, d in enumerate(values)
    ]
    path = store.run_dir(run_id) / IMAGES_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(images), encoding="utf-8")
    work_id = store.work_id(run_id)
    reporter = StoreReporter(store, run_id, "evaluation", attempt=store.get(run_id).attempt, work_id=work_id)
    splits = {"a": "validation", "b": "validation", "new": "test"}
    figures = ("polyp", 1, 0.5, 0.1, 0.9, 0.4, 0.5, 0.3, None)
    reporter.evaluation([EvaluationRow("m", site, split, *figures) for site, split in splits.items()])  # type: ignore[arg-type]
    for site in ("a", "b"):
        for number in (1, 2, 3, 4):  # the last average goes down once more
            reporter.traffic(Traffic(site, "down", "student", 3 * MIB, round=number))
        for number in (1, 2, 3):
            reporter.traffic(Traffic(site, "up", "student", 2 * MIB, round=number))
        reporter.traffic(Traffic(site, "down", "evaluated", 100 * MIB, round=1))
    reporter.flush()
    return run_id


@pytest.fixture
def runs(tmp_path: Path) -> tuple[CellRun, ...]:
    store = RunStore(tmp_path / "home")
    cells = [
        cell
        for cell in cells_of.make_cells(load_experiment("pfedsam"), "mini", seeds=2)
        if cell.system.method in FIGURES
    ]
    return tuple(
        CellRun(cell, store, Outcome("finished", stored(store, cell.system.method, seed=cell.seed - 1336)))
        for cell in cells
    )


def test_each_site_is_measured_with_its_own_model_and_counts_the_same(runs: tuple[CellRun, ...]) -> None:
    entries = {(e.system, e.measure): e for e in make_entries(load_experiment("pfedsam"), "mini", runs, {})}
    shared, own = entries["fedavg_lora", "site_dice"], entries["pfedsam", "site_dice"]
    # a: 0.4; b: (0.6 + 0.8) / 2 = 0.7; their mean 0.55, and 0.1 more with the second seed.
    assert shared.mean == pytest.approx(0.6) and shared.sd == pytest.approx(stdev([0.55, 0.65]))
    assert own.mean == pytest.approx(0.8)  # (0.7 + 0.8) / 2 and 0.1 more, not the global model's 0.1
    assert (shared.worst, shared.worst_site) == (pytest.approx(0.45), "a, without C6_alexandria")
    # a: 0.4 - 0.7 = -0.3; b: (-0.1 - 0.1) / 2 = -0.1; their mean.
    assert shared.difference == pytest.approx(-0.2) and shared.num_groups == 3
    assert entries["fedavg_lora", "dice"].mean == pytest.approx(0.55), "the site held out, by the model of all"
    assert entries["pfedsam", "dice"].mean == pytest.approx(0.5)
    assert entries["pfedsam", "round_mib"].mean == pytest.approx(5.0), "a message down and one up"
    assert entries["pfedsam", "traffic_all_mib"].mean == pytest.approx(2 * (4 * 3 + 3 * 2)), "without measuring"


def test_a_cells_row_has_the_same_figure(runs: tuple[CellRun, ...]) -> None:
    run = next(run for run in runs if run.cell.system.name == "pfedsam")
    (column,) = run.cell.dataset.all_columns
    assert run.value(MEASURES["site_dice"], column) == pytest.approx(0.75)


def test_the_table_says_whether_patience_chose_by_the_same_images(tmp_path: Path) -> None:
    store, experiment = RunStore(tmp_path / "home"), load_experiment("pfedsam")
    said = []
    for patience in ({}, {"federation.patience": 3}):
        cells = cells_of.make_cells(experiment, "mini", seeds=1, settings=patience)
        said.append(tables.fill("pfedsam", experiment, "mini", store, cells, {}).markdown)
    assert "keep from training" in said[0] and "Patience has chosen" not in said[0]
    assert "Patience has chosen the round by these very images" in said[1]


def test_a_plan_of_cells_states_minutes_and_bytes(tmp_path: Path) -> None:
    cells = cells_of.make_cells(load_experiment("smoke"), "mini")
    rows = planned_rows(cells, {cells[0].key: None}, home=tmp_path)
    first, _, future = rows
    assert (first.system, first.cells, first.finished) == ("fedtinysam", 2, 1)
    assert first.minutes is not None and first.minutes > 0
    # Two rounds: a model down and one up in each, and the last average down to two sites; headers and figures beside.
    state_mib = 5_572_568 / MIB
    assert first.round_mib == pytest.approx(2 * state_mib, rel=0.02)
    assert first.site_mib == pytest.approx(5 * state_mib, rel=0.02)
    assert first.all_mib == pytest.approx(2 * 5 * state_mib, rel=0.02)
    assert future.minutes is None and "not_registered" in future.note
    line = planned_grid(rows).rows[0]
    assert line[2] == "2 (1)" and line[3:6] == (
        f"{first.minutes:.1f}",
        f"{first.minutes:.0f}",
        f"{first.round_mib:.3f}",
    )


def test_without_images_the_bytes_are_those_of_phantoms(tmp_path: Path) -> None:
    cells = cells_of.make_cells(load_experiment("pfedsam"), "paper")
    rows = {(row.system, row.dataset): row for row in planned_rows(cells, {}, home=tmp_path)}
    lora = rows["fedavg_lora", "Prostate"]
    assert lora.note == AS_PHANTOMS and lora.minutes is None
    # ViT-B: rank 4 on q and v of 12 blocks of width 768, and the mask decoder of 4,058,340 parameters; both ways.
    parameters = 12 * 2 * 2 * 4 * 768 + 4_058_340
    assert lora.round_mib == pytest.approx(2 * 4 * parameters / MIB, rel=0.01)
    assert rows["pfedsam", "Prostate"].round_mib == lora.round_mib, "no expert crosses"
    assert rows["local_only", "Prostate"].round_mib == 0.0
    assert rows["fedsam", "Prostate"].round_mib == pytest.approx(715.0, rel=0.01)
