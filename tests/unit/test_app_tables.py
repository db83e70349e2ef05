"""The Tables tab without a browser: how runs stand, what is shown of them, and what a browser may ask for."""

from __future__ import annotations

from html import unescape
from pathlib import Path

import pytest

from app import table_text, table_view, tables
from app.settings import Settings
from app.studio import Studio
from app.tabs import tables as tab
from engine.errors import UserError
from engine.experiments import cells as cells_of
from engine.experiments import recorded
from engine.experiments.results import CellRun
from engine.experiments.spec import load_experiment
from engine.experiments.standing import standing
from engine.experiments.sweep import Outcome
from engine.runs.report import write_report
from engine.runs.store import RunStore
from tests.unit import runs_world
from tests.unit.test_experiment_sites import stored


@pytest.fixture
def studio(tmp_path: Path) -> Studio:
    return Studio(Settings(home=tmp_path / "home"))


def ended(store: RunStore, config: cells_of.RunConfig, status: str, *, error: UserError | None = None) -> str:
    run_id = store.create_run(config, queued=True).run_id
    assert store.claim(max_running=9, run_id=run_id) is not None
    if status == "finished":
        runs_world.work(store, run_id, rounds=2)
    if status != "running":
        assert store.end_run(run_id, status, owner=1, error=error)  # type: ignore[arg-type]
    return run_id


def test_runs_stand_by_what_their_numbers_depend_on_wherever_the_images_lie(tmp_path: Path) -> None:
    store, experiment = RunStore(tmp_path / "home"), load_experiment("smoke")
    first, second, third, fourth, *_ = cells_of.make_cells(experiment, "mini")
    assert first.config and second.config and third.config and fourth.config
    data = first.config.data
    elsewhere = first.config.model_copy(update={"data": data.model_copy(update={"public_root": tmp_path / "p"})})
    there = first.config.model_copy(update={"data": data.model_copy(update={"public_root": tmp_path / "q" / "p"})})
    cell = cells_of.Cell(first.system, first.dataset, first.held_out, first.seed, elsewhere)
    done = ended(store, there.model_copy(update={"threads": 1, "name": "x"}), "finished")
    ended(store, there, "failed")  # newer, and not finished
    bad = UserError("x.bad", what="It is bad.", why="So.", fix="Mend it.")
    failed = ended(store, second.config, "failed", error=bad)
    running = ended(store, third.config, "running")
    assert standing(store, [cell, second, third, fourth]) == {
        cell.key: Outcome("finished", done),
        second.key: Outcome("failed", failed, "It is bad. Mend it."),
        third.key: Outcome("running", running),
    }
    other = first.config.model_copy(update={"data": data.model_copy(update={"public_root": tmp_path / "other"})})
    assert standing(store, [cells_of.Cell(first.system, first.dataset, "", 1, other)]) == {}, "another folder's name"


def runs(store: RunStore, statuses: list[str | None]) -> list[CellRun]:
    """The first cells of the smallest table with these outcomes; the last two are of a system of another version."""
    cells = cells_of.make_cells(load_experiment("smoke"), "mini")
    outcomes = [None if s is None else Outcome(s, None, "<b>why</b> & fix." if s == "failed" else "") for s in statuses]
    return [CellRun(c, store, o) for c, o in zip(cells, [*outcomes, None, None], strict=True)]


def test_a_line_counts_the_cells_of_a_system(tmp_path: Path) -> None:
    found = runs(RunStore(tmp_path), ["finished", "failed", "running", None])
    assert table_view.cell_rows(found) == [
        ["FedTinySAM", "Polyps, phantom", "1 of 2", "", "1", ""],
        ["FedTinySAM, larger steps", "Polyps, phantom", "0 of 2", "1", "", "1"],
        ["A system of another version", "Polyps, phantom", "not in this version", "", "", ""],
    ]
    (said,) = table_view.failures(found)
    assert said == "FedTinySAM on Polyps, phantom, without guided_inset, seed 1338: failed. <b>why</b> & fix."
    shown = table_view.standing("smoke", "mini", found)
    assert "1 of 4 runs are finished." in shown and "<b>why" not in shown and said in unescape(shown)
    assert "python -m engine table smoke --scale mini --data DATA" in shown


def test_every_table_is_offered_and_shown(studio: Studio) -> None:
    names = tables.titles()
    assert list(names)[:2] == ["2", "3"] and {"fig7", "samfed", "pfedsam"} <= names.keys() and "smoke" not in names
    for name in ("2", "pfedsam"):
        found = studio.tables.fill(name, "mini")
        shown = table_view.filled(found)
        assert (table_text.PUBLISHED_UNKNOWN in shown) == (name == "pfedsam")
        assert all(f"<h4>{grid.heading}</h4>" in shown for grid in found.grids)
    assert "0.949" in table_view.filled(studio.tables.fill("2", "mini")), "published figures stand beside"


def test_a_table_is_filled_anew_when_a_run_stands_otherwise(studio: Studio, tmp_path: Path) -> None:
    found = tables.Tables(studio.store, recorded=tmp_path)
    before = found.fill("pfedsam", "mini")
    assert found.fill("pfedsam", "mini") is before
    config = before.runs[0].cell.config
    assert config is not None
    ended(studio.store, config, "failed")
    after = found.fill("pfedsam", "mini")
    assert after is not before and table_view.cell_rows(after.runs)[0][2:] == ["0 of 3", "", "1", "2"]


def test_figures_that_were_recorded_fill_a_table_of_a_home_without_runs(studio: Studio, tmp_path: Path) -> None:
    cells = cells_of.make_cells(load_experiment("pfedsam"), "mini")
    cell = next(cell for cell in cells if cell.system.name == "fedavg_lora")
    assert cell.config is not None
    run_id = stored(studio.store, cell.system.method, seed=1, config=cell.config)
    write_report(studio.store, run_id)
    recorded.write(recorded.record_of(studio.store, run_id), tmp_path / "kept")
    found = tables.Tables(RunStore(tmp_path / "other"), recorded=tmp_path / "kept").fill("pfedsam", "mini")
    (line,) = [row for row in table_view.cell_rows(found.runs) if row[0] == cell.system.title]
    assert line[2:] == ["1 of 3", "", "", "2"]
    assert "1 of 15 runs are finished. Of 1 of them the figures were recorded" in table_view.standing(
        "pfedsam", "mini", found.runs
    )
    assert f"1 of {len(cells)} cells are figures that were recorded before" in table_view.filled(found)


def test_the_page_does_not_measure_inference(studio: Studio) -> None:
    found = studio.tables.fill("3", "mini")
    assert {entry.measure for entry in found.entries} == {
        "traffic_client_mib", "traffic_all_mib", "sync_min", "async_min",
    }  # fmt: skip


@pytest.mark.parametrize(("which", "scale"), [("../x.toml", "mini"), ("smoke", "mini"), ("2", "large"), (None, "mini")])
def test_a_browser_names_a_table_of_the_program_and_nothing_else(studio: Studio, which: str, scale: str) -> None:
    with pytest.raises(UserError, match="no such table"):
        tab._filled(studio, which, scale)


def test_files_to_download_are_the_commands(studio: Studio) -> None:
    found = studio.tables.fill("4", "paper")
    for suffix in table_text.DOWNLOADS:
        path = Path(tab._file(studio, found, suffix, "4_paper"))
        assert path.name == f"4_paper{suffix}" and path.read_text(encoding="utf-8") == found.texts[suffix]
