"""Figures of runs that are kept where the runs are not: a table filled from them is the table of the runs."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest

from engine.errors import UserError
from engine.experiments import cells as cells_of
from engine.experiments import recorded, spec, tables
from engine.experiments.cells import Cell
from engine.experiments.results import CellRun, make_entries, traffic_rows
from engine.experiments.spec import load_experiment
from engine.experiments.standing import anywhere
from engine.experiments.sweep import Outcome, sweep
from engine.runs.report import write_report
from engine.runs.store import RunStore
from engine.version import program_version
from tests.unit.test_experiment_sites import FIGURES, stored

EXPERIMENT = load_experiment("pfedsam")


@pytest.fixture
def cells() -> tuple[Cell, ...]:
    made = cells_of.make_cells(EXPERIMENT, "mini", seeds=2)
    return tuple(cell for cell in made if cell.system.method in FIGURES)


@pytest.fixture
def done(tmp_path: Path, cells: tuple[Cell, ...]) -> tuple[RunStore, dict[str, Outcome]]:
    """A store with a finished run of each cell."""
    store = RunStore(tmp_path / "home")
    found = {}
    for cell in cells:
        run_id = stored(store, cell.system.method, seed=cell.seed - 1336, config=cell.config)
        write_report(store, run_id)
        found[cell.key] = Outcome("finished", run_id)
    return store, found


def as_runs(store: RunStore, cells: tuple[Cell, ...], found: dict[str, Outcome]) -> tuple[CellRun, ...]:
    return tuple(CellRun(cell, store, found.get(cell.key)) for cell in cells)


def test_a_table_of_records_is_that_of_the_runs(
    tmp_path: Path, cells: tuple[Cell, ...], done: tuple[RunStore, dict[str, Outcome]]
) -> None:
    store, found = done
    paths = recorded.write_all(store, found, tmp_path / "kept")
    assert len(paths) == 4 and recorded.write_all(store, found, tmp_path / "kept") == []
    assert sorted(recorded.write_all(store, found, tmp_path / "kept", renew=True)) == sorted(paths)
    empty = RunStore(tmp_path / "elsewhere")
    told = recorded.outcomes(cells, tmp_path / "kept")
    runs, before = as_runs(empty, cells, told), as_runs(store, cells, found)
    assert make_entries(EXPERIMENT, "mini", runs, {}) == make_entries(EXPERIMENT, "mini", before, {})
    assert traffic_rows(runs) == traffic_rows(before) and len(traffic_rows(runs)) > 4
    assert {run.status for run in runs} == {"finished"} and sweep(empty, {}, at_once=1, tell=print) == {}
    note = recorded.said([run.recorded for run in runs if run.recorded], len(cells))
    assert note.startswith(f"4 of 4 cells are figures that were recorded before, by version {program_version()} on ")
    assert note in tables.fill("pfedsam", EXPERIMENT, "mini", empty, cells, told).markdown
    assert note not in tables.fill("pfedsam", EXPERIMENT, "mini", store, cells, found).markdown


def test_where_images_lie_changes_no_record(
    tmp_path: Path, cells: tuple[Cell, ...], done: tuple[RunStore, dict[str, Outcome]]
) -> None:
    recorded.write_all(*done, tmp_path / "kept")
    moved = cells_of.make_cells(EXPERIMENT, "mini", seeds=2, data=tmp_path / "other" / "data")
    moved = tuple(cell for cell in moved if cell.system.method in FIGURES)
    assert not {cell.key for cell in moved} & {cell.key for cell in cells}
    assert len(recorded.outcomes(moved, tmp_path / "kept")) == 4
    other = cells_of.make_cells(EXPERIMENT, "mini", seeds=2, settings={"federation.learning_rate": 0.004})
    assert recorded.outcomes(other, tmp_path / "kept") == {}, "another setting is another run"


def test_a_finished_run_comes_before_its_record_and_a_record_before_one_that_failed(
    tmp_path: Path, cells: tuple[Cell, ...], done: tuple[RunStore, dict[str, Outcome]]
) -> None:
    store, found = done
    recorded.write_all(store, found, tmp_path / "kept")
    first, second, *_ = cells
    here = {first.key: Outcome("finished", "mine"), second.key: Outcome("failed", "theirs", "It is bad.")}
    told = recorded.beside(here, cells, tmp_path / "kept")
    assert told[first.key] == here[first.key] and len(told) == 4
    assert told[second.key].status == "finished" and told[second.key].recorded is not None
    assert recorded.beside(here, cells, tmp_path / "nowhere") == here


def test_equal_records_are_equal_files(tmp_path: Path, done: tuple[RunStore, dict[str, Outcome]]) -> None:
    store, found = done
    run_id = str(next(iter(found.values())).run_id)
    record = recorded.record_of(store, run_id)
    first, second = (recorded.write(record, tmp_path / name) for name in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()
    assert recorded.read(tmp_path / "a") == {record.key: record}


@pytest.mark.parametrize("fault", ["cut", "other", "bomb", "words", "more"])
def test_a_record_that_cannot_be_trusted_is_named(
    tmp_path: Path, done: tuple[RunStore, dict[str, Outcome]], fault: str
) -> None:
    store, found = done
    path = recorded.write(recorded.record_of(store, str(next(iter(found.values())).run_id)), tmp_path / "kept")
    whole = json.loads(gzip.decompress(path.read_bytes()))
    if fault == "cut":
        path.write_bytes(path.read_bytes()[:-9])
    if fault == "other":
        path = path.rename(path.with_name(f"{'0' * 16}.json.gz"))
    if fault == "bomb":
        path.write_bytes(gzip.compress(b" " * (recorded.MAX_BYTES + 1)))
    if fault == "words":
        path.write_bytes(b"git-lfs")
    if fault == "more":
        path.write_bytes(gzip.compress(json.dumps(whole | {"dice": 1.0}).encode()))
    with pytest.raises(UserError) as raised:
        recorded.read(tmp_path / "kept")
    assert raised.value.code == "experiment.bad_record" and path.name in raised.value.what
    assert str(path) in raised.value.fix


def test_a_run_that_told_no_program_is_recorded_as_of_an_unknown_one(
    done: tuple[RunStore, dict[str, Outcome]],
) -> None:
    store, found = done
    run_id = str(next(iter(found.values())).run_id)
    path = store.run_dir(run_id) / "run_report.json"
    report = json.loads(path.read_text(encoding="utf-8"))
    assert report.pop("program") == program_version()
    path.write_text(json.dumps(report), encoding="utf-8")
    assert recorded.record_of(store, run_id).version == "unknown"


def test_outcomes_with_records_are_compared_by_what_they_say(
    tmp_path: Path, cells: tuple[Cell, ...], done: tuple[RunStore, dict[str, Outcome]]
) -> None:
    recorded.write_all(*done, tmp_path / "kept")
    first, again = (recorded.outcomes(cells, tmp_path / "kept") for _ in range(2))
    assert first == again
    key, outcome = next(iter(first.items()))
    assert first | {key: replace(outcome, recorded=None)} != again


def test_every_record_of_this_repository_is_of_a_cell_of_a_table() -> None:
    experiments = [load_experiment(name) for name in spec.tables()]
    mini = [cell for one in experiments for cell in cells_of.make_cells(one, "mini") if cell.config is not None]
    known = {anywhere(cell.config) for cell in mini if cell.config is not None}
    found = recorded.read(recorded.FOLDER)
    assert found and set(found) <= known


def test_the_readme_says_what_is_recorded(tmp_path: Path) -> None:
    experiment = tables.chosen(load_experiment("gain"), "mini", systems=None, datasets="polypgen")
    made = cells_of.make_cells(experiment, "mini")
    found = tables.fill("gain", experiment, "mini", RunStore(tmp_path), made, recorded.outcomes(made, recorded.FOLDER))
    said = [
        f"{e.mean:.3f} ± {e.sd:.3f} [{e.low:.3f}, {e.high:.3f}]" for e in found.entries if e.mean is not None and e.sd
    ]
    readme = (recorded.FOLDER.parents[1] / "README.md").read_text(encoding="utf-8")
    assert len(said) >= 3 and all(figures in readme for figures in said)
