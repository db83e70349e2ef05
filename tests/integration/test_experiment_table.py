"""A small table of real runs, whose command and worker are killed in the middle: it goes on, and its figures hold."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean, stdev

import pytest

from engine.experiments import cells as cells_of
from engine.experiments.spec import FOLDER, load_experiment
from engine.runs.processes import worker_alive
from engine.runs.store import RunStore
from tests.patience import RUN_S, wait

ROOT = Path(__file__).resolve().parents[2]
SYSTEMS, SEEDS = ("fedtinysam", "fast"), (1337, 1338)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunStore]:
    monkeypatch.setenv("DSFEDMED_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    store = RunStore(tmp_path / "home")
    yield store
    for record in store.list(status=("running",)):
        if record.pid is not None and worker_alive(record):
            os.kill(record.pid, signal.SIGKILL)
    store.close()


def command(out: Path) -> list[str]:
    words = ["table", str(FOLDER / "smoke.toml"), "--scale", "mini", "--runs", "2", "--out", str(out)]
    return [sys.executable, "-m", "engine", *words]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
@pytest.mark.timeout(4 * RUN_S)
def test_a_table_that_was_killed_goes_on(store: RunStore, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = subprocess.Popen(command(out), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    working = ("running",)
    wait(lambda: any(r.host is not None and r.stage is not None for r in store.list(status=working)), timeout_s=RUN_S)
    first.kill()
    first.communicate()
    victim = next(r for r in store.list(status=working) if r.host is not None)
    assert victim.pid is not None
    os.kill(victim.pid, signal.SIGKILL)
    assert not out.exists()
    second = subprocess.run(command(out), cwd=ROOT, capture_output=True, text=True, timeout=4 * RUN_S, check=False)
    assert second.returncode == 0, second.stderr
    assert "A system of another version: not in this version" in second.stdout

    runs = store.list()
    assert len(runs) == len({run.config_hash for run in runs}) == len(SYSTEMS) * len(SEEDS), "each once"
    assert {run.status for run in runs} == {"finished"}
    assert store.get(victim.run_id).attempt > 1
    check_figures(store, rows(out / "smoke_mini.csv"), rows(out / "smoke_mini_cells.csv"))

    before = [run.attempt for run in runs]
    third = subprocess.run(command(out), cwd=ROOT, capture_output=True, text=True, timeout=RUN_S, check=False)
    assert third.returncode == 0 and "4 of 4 runs were there already" in third.stderr
    assert third.stdout == second.stdout and [run.attempt for run in store.list()] == before

    kept, elsewhere = ["--recorded", str(tmp_path / "kept")], ["--home", str(tmp_path / "elsewhere")]
    recorded = subprocess.run([*command(out), *kept, "--record"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert recorded.returncode == 0 and recorded.stdout.count(".json.gz") == 4, recorded.stderr
    filled = [*command(tmp_path / "again"), *kept, *elsewhere]
    fourth = subprocess.run(filled, cwd=ROOT, capture_output=True, text=True, timeout=RUN_S, check=False)
    assert fourth.returncode == 0 and "0 of 0 runs were there already" in fourth.stderr
    assert (tmp_path / "again" / "smoke_mini.csv").read_text() == (out / "smoke_mini.csv").read_text()
    assert "4 of 6 cells are figures that were recorded before, by version " in fourth.stdout
    anew = subprocess.run([*filled, "--anew", "--dry"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "4 of 6 cells have not been run" in anew.stdout


def check_figures(store: RunStore, entries: list[dict[str, str]], cells: list[dict[str, str]]) -> None:
    """Hold the table to the runs' files and records, worked out anew."""
    ids = {(cell["system"], int(cell["seed"])): cell["run_id"] for cell in cells if cell["run_id"]}
    assert set(ids) == {(system, seed) for system in SYSTEMS for seed in SEEDS}
    dice: dict[str, list[list[float]]] = {}
    for system in SYSTEMS:
        for seed in SEEDS:
            path = store.run_dir(ids[system, seed]) / "evaluation" / "images.json"
            images = [image for image in json.loads(path.read_text()) if image["site"] == "guided_inset"]
            dice.setdefault(system, []).append([i["dice"] for i in images if i["model"] == "fedavg_student"])
    found = {(entry["system"], entry["measure"]): entry for entry in entries}
    for system in SYSTEMS:
        of_seeds = [fmean(values) for values in dice[system]]
        entry = found[system, "dice"]
        assert float(entry["mean"]) == pytest.approx(fmean(of_seeds))
        assert float(entry["sd"]) == pytest.approx(stdev(of_seeds))
        assert float(entry["low"]) <= float(entry["mean"]) <= float(entry["high"])
        mib = []
        for seed in SEEDS:
            apart = ("evaluated", "figures", "appearance")
            totals = [t for t in store.traffic(ids[system, seed]) if t.kind not in apart]
            trains = [t for t in totals if t.site in ("tower_hd", "scope_octagon")]
            mib.append(sum(t.payload_bytes for t in trains) / 2 / 2**20)
        assert float(found[system, "traffic_client_mib"]["mean"]) == pytest.approx(fmean(mib))
    by_image = [fmean(a) - fmean(b) for a, b in zip(zip(*dice["fast"], strict=True),
                                                    zip(*dice["fedtinysam"], strict=True), strict=True)]  # fmt: skip
    assert float(found["fast", "dice"]["difference"]) == pytest.approx(fmean(by_image))
    assert found["fedtinysam", "dice"]["difference"] == ""
    assert found["future", "dice"]["status"] == "not in this version" and found["future", "dice"]["mean"] == ""


def test_the_table_of_the_test_is_the_shipped_one() -> None:
    cells = cells_of.make_cells(load_experiment("smoke"), "mini")
    assert [(cell.system.name, cell.seed) for cell in cells if cell.config] == [(s, n) for s in SYSTEMS for n in SEEDS]
