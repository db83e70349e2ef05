"""The parts of a run's life that need no worker: who is alive, what is refused, which paths are kept."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from engine.config import RunConfig, parse_config
from engine.config_keys import place_keys
from engine.errors import UserError
from engine.methods import catalogue
from engine.runs import lifecycle
from engine.runs.report import build_report
from engine.runs.store import RunStore
from engine.types import EvaluationRow, ModelDifference

STAGES = catalogue.method("dsfedmed").stage_names

HERE = socket.gethostname()


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "home")


def claimed(store: RunStore, **columns: Any) -> str:
    run_id = store.create_run(RunConfig(method="fedtinysam")).run_id
    store.enqueue(run_id)
    assert store.claim(max_running=100, run_id=run_id) is not None
    store.update_run(run_id, **columns)
    return run_id


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def own_start() -> float:
    return psutil.Process().create_time()


@pytest.mark.parametrize(
    ("host", "pid", "started_off_by", "silent_s", "alive"),
    [
        (HERE, "own", 0.0, 0.0, True),
        (HERE, "own", 0.0, 1e6, True),  # it works on something long, or the machine slept: it is there
        (HERE, "own", -500.0, 1e6, False),  # another process has the number now
        (HERE, "own", -500.0, 1.0, True),  # the clock was set; it beats
        (HERE, "dead", 0.0, 0.0, False),
        (HERE, None, 0.0, 1.0, True),  # just claimed, not started yet
        (HERE, None, 0.0, 1e3, False),  # whoever claimed it died
        ("elsewhere", "own", 0.0, 1.0, True),
        ("elsewhere", "own", 0.0, 1e3, False),  # another machine's processes cannot be looked at
    ],
)
def test_whose_worker_is_gone(
    store: RunStore, host: str, pid: str | None, started_off_by: float, silent_s: float, alive: bool
) -> None:
    number = {"own": os.getpid(), "dead": dead_pid(), None: None}[pid]
    run_id = claimed(
        store,
        host=host,
        pid=number,
        pid_started=own_start() + started_off_by,
        heartbeat_at=time.time() - silent_s,
    )
    assert lifecycle.reap(store) == (() if alive else (run_id,))
    record = store.get(run_id)
    assert record.status == ("running" if alive else "interrupted")
    assert (record.error is None) == alive and lifecycle.reap(store) == ()


def test_a_worker_that_died_while_it_was_asked_to_stop_was_cancelled(store: RunStore) -> None:
    run_id = claimed(store, host=HERE, pid=dead_pid(), cancel_requested=True)
    store.set_stage_status(run_id, "federated_training", "running")
    lifecycle.reap(store)
    assert store.get(run_id).status == "cancelled" and store.get(run_id).error is None
    assert store.stages(run_id)[0].status == "cancelled"


def test_the_queue_is_first_come_first_served_and_as_wide_as_asked(store: RunStore) -> None:
    ids = [store.create_run(RunConfig(method="fedtinysam")).run_id for _ in range(3)]
    for run_id in reversed(ids):
        store.enqueue(run_id)
        time.sleep(0.002)
    taken = [store.claim(max_running=2) for _ in range(3)]
    assert [record and record.run_id for record in taken] == [ids[2], ids[1], None]
    assert taken[0] is not None and taken[0].attempt == 1 and taken[0].started_at is not None


def test_relative_paths_are_made_absolute_and_names_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.safetensors").touch()
    (tmp_path / "backbones" / "sd").mkdir(parents=True)
    config = parse_config(
        {
            "data": {"source": "folder", "root": "data/x", "protocol": "fixed-test", "test_root": "~/y"},
            "student": {"name": "tinysam", "weights": "w.safetensors"},
            "teacher": {"name": "sam", "weights": "sam-mini"},
            "generator": {"backbone": "backbones/sd", "controlnet": "controlnet-mini"},
        }
    )
    found = lifecycle.with_absolute_paths(config)
    assert found.data.root == tmp_path / "data" / "x" and found.data.test_root == Path.home() / "y"
    assert found.student.weights == str(tmp_path / "w.safetensors") and found.teacher.weights == "sam-mini"
    assert found.generator.backbone == str(tmp_path / "backbones" / "sd")
    assert found.generator.controlnet == "controlnet-mini"


def test_every_key_that_names_a_place_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of a key that somebody adds: the worker would look in its own folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p").mkdir()
    here = str(tmp_path / "p")
    for key, place in place_keys().items():
        section, _, leaf = key.rpartition(".")
        owner = getattr(RunConfig(), section) if section else RunConfig()
        value = Path("p") if place.kind == "folder" else "p"
        part = owner.model_copy(update={leaf: value})
        config = RunConfig().model_copy(update={section: part}) if section else part
        found = lifecycle.with_absolute_paths(config)
        made = getattr(getattr(found, section) if section else found, leaf)
        assert str(made) == ("p" if place.kind == "address" else here), key
    assert found.generator.controlnet == "controlnet-mini"
    assert lifecycle.with_absolute_paths(found) == found


@pytest.mark.parametrize(
    ("stage", "finished", "edit", "code"),
    [
        ("nothing", 0, {}, "run.fork_stage"),
        ("evaluation", 0, {}, "run.fork_stage"),
        ("evaluation", 1, {"seed": 4}, "run.fork_edit"),
        ("evaluation", 1, {"data": {"image_px": 64}}, "run.fork_edit"),
        ("evaluation", 1, {"method": "dsfedmed"}, "run.fork_edit"),
        ("export", 2, {"evaluation": {"bootstrap_samples": 9}}, "run.fork_edit"),
    ],
)
def test_forks_that_would_mix_experiments_are_refused(
    store: RunStore, stage: str, finished: int, edit: dict[str, Any], code: str
) -> None:
    parent = store.create_run(parse_config({"method": "fedtinysam"})).run_id
    for record in store.stages(parent)[:finished]:
        store.set_stage_status(parent, record.name, "finished")
    with pytest.raises(UserError) as caught:
        lifecycle.fork(store, parent, stage=stage, config=parse_config({"method": "fedtinysam", **edit}))
    assert caught.value.code == code and len(store.list()) == 1


def test_a_fork_from_the_first_stage_may_change_the_method(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSFEDMED_MAX_RUNNING", "0")
    parent = store.create_run(parse_config({"method": "fedtinysam"})).run_id
    child = lifecycle.fork(store, parent, stage="federated_training", config=parse_config({"method": "dsfedmed"}))
    assert tuple(stage.name for stage in store.stages(child)) == STAGES


def test_more_rounds_are_expected_to_take_longer(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSFEDMED_MAX_RUNNING", "0")
    config = parse_config({"method": "fedtinysam", "federation": {"rounds": 4}})
    run_id = store.create_run(config, planned_s={"federated_training": 20.0, "evaluation": 3.0}).run_id
    store.set_status(run_id, "cancelled")
    lifecycle.extend(store, run_id, rounds=6)
    assert [stage.planned_s for stage in store.view(run_id).stages] == [30.0, 3.0, None]
    assert [stage.planned_s for stage in store.stages(run_id)] == [20.0, 3.0, None]


def test_resuming_completes_an_extension_that_an_earlier_version_began(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It extended in place and was killed before it had removed the shorter run's files."""
    monkeypatch.setenv("DSFEDMED_MAX_RUNNING", "0")
    run_id = store.create_run(parse_config({"method": "dsfedmed"})).run_id
    store.set_stage_status(run_id, "federated_training", "running")
    store.update_stage(run_id, "federated_training", status="pending")
    store.set_status(run_id, "interrupted")
    old, kept = store.run_dir(run_id) / "samples" / "0.png", store.run_dir(run_id) / "sites" / "a.safetensors"
    for path in (old, kept):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x")
    lifecycle.resume(store, run_id)
    assert kept.exists() and not old.exists()


def test_what_cannot_be_started_is_said_and_marked(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(UserError) as caught:
        lifecycle.submit(store, RunConfig(method="fedtinysam"))
    assert caught.value.code == "run.not_started"
    (record,) = store.list()
    assert record.status == "failed" and record.error is not None and record.resumable


@pytest.mark.parametrize("act", [
    lambda store, run_id: lifecycle.resume(store, run_id),
    lambda store, run_id: lifecycle.extend(store, run_id, rounds=999),
    lambda store, run_id: lifecycle.fork(store, run_id, stage="federated_training", config=RunConfig()),
], ids=["resume", "extend", "fork"])  # fmt: skip
def test_a_run_whose_folder_is_gone_is_left_as_it_is(store: RunStore, act: Any) -> None:
    run_id = store.create_run(RunConfig()).run_id
    store.set_stage_status(run_id, "federated_training", "finished")
    store.set_status(run_id, "interrupted")
    shutil.rmtree(store.run_dir(run_id))
    with pytest.raises(UserError, match="not there any more") as caught:
        act(store, run_id)
    assert caught.value.code == "run.folder_missing"
    assert store.stages(run_id)[0].status == "finished" and len(store.list()) == 1


def test_a_relative_folder_of_weights_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bb").mkdir()
    config = lifecycle.with_absolute_paths(parse_config({"generator": {"backbone": "bb"}}))
    assert config.generator.backbone == str(tmp_path / "bb")
    assert lifecycle.with_absolute_paths(RunConfig()).generator.backbone == "ldm-mini"


def test_a_report_of_a_failed_run_says_why(store: RunStore) -> None:
    run_id = store.create_run(RunConfig()).run_id
    error = UserError("training.nan", what="w", why="y", fix="f")
    assert build_report(store, run_id, status="failed", error=error)["error"]["code"] == "training.nan"


def test_a_report_has_the_results_and_the_differences(store: RunStore) -> None:
    run_id = store.create_run(RunConfig()).run_id
    row = EvaluationRow("m", "z", "test", "c", 4, 0.5, None, None, 0.4, 0.5, 0.3, 2.0, 1, 3, 1, 0, 9.5)
    store.write_evaluation(run_id, [row])
    store.write_differences(run_id, [ModelDifference("m", "n", "z", "test", "c", 4, 1, 0.25, None, None)])
    report = json.loads(json.dumps(build_report(store, run_id), allow_nan=False))
    (line,), (difference,) = report["evaluation"], report["differences"]
    assert EvaluationRow(**line) == row and (line["num_missed"], line["hd95_penalised_px"]) == (1, 9.5)
    assert (difference["baseline"], difference["dice"], difference["dice_low"]) == ("n", 0.25, None)


def test_homes_whose_names_hold_the_signs_of_addresses_are_kept_apart(tmp_path: Path) -> None:
    for name in ("a?b", "a?c", "a%20d"):
        RunStore(tmp_path / name).create_run(RunConfig(name=name))
        assert [run.name for run in RunStore(tmp_path / name).list()] == [name]
        assert (tmp_path / name / "studio.sqlite").is_file()
