"""Runs in real worker processes: to the end, killed, cancelled, failed, queued, resumed, extended, forked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from engine.config import RunConfig, parse_config
from engine.errors import UserError
from engine.runs import lifecycle
from engine.runs.store import RunStore
from tests.patience import is_over, slowness, wait


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunStore]:
    monkeypatch.setenv("DSFEDMED_STAND_INS", "tests.integration.lifecycle_stages:STAGES")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    store = RunStore(tmp_path / "home")
    yield store
    for record in store.list():
        if record.status == "queued":
            store.withdraw(record.run_id)
    for record in store.list(status=("running",)):
        if record.pid is not None and psutil.pid_exists(record.pid):
            os.kill(record.pid, signal.SIGKILL)
    store.close()


def config(*, rounds: int = 5, pause_ms: int = 1, task: str = "fundus", samples: int = 500) -> RunConfig:
    return parse_config(
        {
            "method": "fedtinysam",
            "data": {"task": task, "images_per_site": pause_ms},
            "federation": {"rounds": rounds},
            "evaluation": {"bootstrap_samples": samples},
        }
    )


def wait_for_status(store: RunStore, run_id: str, *wanted: str) -> None:
    def reached() -> bool:
        lifecycle.advance_queue(store)
        return store.get(run_id).status in wanted

    wait(reached)


def steps_done(store: RunStore, run_id: str) -> int:
    return store.stages(run_id)[0].step


def result(store: RunStore, run_id: str) -> str:
    store.settle()  # an extension is finished a moment before its worker has moved its folder
    return (store.run_dir(run_id) / "bundle" / "walk.txt").read_text()


def test_a_run_ends_with_its_records_and_report(store: RunStore) -> None:
    run_id = lifecycle.submit(store, config())
    wait_for_status(store, run_id, "finished", "failed")
    view = store.view(run_id)
    assert view.run.status == "finished", (store.run_dir(run_id) / "worker.log").read_text()
    assert [stage.status for stage in view.stages] == ["finished"] * 3 and view.eta_s == 0.0
    assert store.metrics(run_id, name="x")[0].steps == (1, 2, 3, 4, 5)
    report = json.loads((store.run_dir(run_id) / "run_report.json").read_text())
    assert report["status"] == "finished" and report["seed"] == 1337
    assert report["traffic"] == {
        "by_site": {"a": {"up": 60, "down": 0}},
        "by_kind": {"student": {"up": 60, "down": 0}},
        "total_bytes": 60,
    }
    assert [row["dice"] for row in report["evaluation"]] == [0.5]
    assert {row["path"] for row in report["artefacts"]} == {"walk.txt", "bundle"}
    assert report["config"]["federation"]["rounds"] == 5 and report["versions"]["torch"]


def test_a_killed_run_is_noticed_and_its_resumption_equals_the_run_that_was_not_killed(store: RunStore) -> None:
    whole = lifecycle.submit(store, config(rounds=40))
    wait_for_status(store, whole, "finished")
    killed = lifecycle.submit(store, config(rounds=40, pause_ms=20))
    for steps in (5, 20):
        wait(lambda steps=steps: steps_done(store, killed) >= steps)
        os.kill(store.get(killed).pid, signal.SIGKILL)
        wait(lambda: lifecycle.reap(store) == (killed,) or store.get(killed).status == "interrupted")
        record = store.get(killed)
        assert record.status == "interrupted" and record.error["code"] == "run.interrupted" and record.resumable
        lifecycle.resume(store, killed)
    wait_for_status(store, killed, "finished")
    assert result(store, killed) == result(store, whole)
    curves = [store.metrics(run_id, name="x")[0] for run_id in (whole, killed)]
    assert curves[0] == curves[1] and len(curves[0].steps) == 40
    assert store.traffic(whole) == store.traffic(killed)
    assert store.get(killed).attempt == 3


def test_cancelling_takes_less_than_5_s_and_the_run_goes_on_afterwards(store: RunStore) -> None:
    run_id = lifecycle.submit(store, config(rounds=30, pause_ms=50))
    wait(lambda: steps_done(store, run_id) >= 3)
    began = time.monotonic()
    lifecycle.cancel(store, run_id)
    wait_for_status(store, run_id, "cancelled")
    assert time.monotonic() - began < 5.0 * slowness()
    assert store.stages(run_id)[0].status == "cancelled"
    with pytest.raises(UserError, match="cancelled"):
        lifecycle.cancel(store, run_id)
    done = store.metrics(run_id, name="x")[0].steps
    assert done == tuple(range(1, len(done) + 1))
    lifecycle.resume(store, run_id)
    wait_for_status(store, run_id, "finished")
    assert store.metrics(run_id, name="x")[0].steps == tuple(range(1, 31))


def test_a_stage_that_never_looks_up_is_cancelled_within_5_s_too(store: RunStore) -> None:
    run_id = lifecycle.submit(store, config(task="deaf"))
    wait(lambda: store.stages(run_id)[0].status == "running")
    began = time.monotonic()
    lifecycle.cancel(store, run_id)
    wait_for_status(store, run_id, "cancelled")
    assert time.monotonic() - began < 5.0 * slowness()
    assert store.stages(run_id)[0].status == "cancelled"


def test_sigterm_cancels(store: RunStore) -> None:
    run_id = lifecycle.submit(store, config(rounds=1000, pause_ms=20))
    wait(lambda: steps_done(store, run_id) >= 2)
    os.kill(store.get(run_id).pid, signal.SIGTERM)
    wait_for_status(store, run_id, "cancelled")


def test_forcing_kills_the_worker(store: RunStore) -> None:
    run_id = lifecycle.submit(store, config(task="deaf"))
    wait(lambda: store.stages(run_id)[0].status == "running")
    lifecycle.cancel(store, run_id, force=True)
    wait_for_status(store, run_id, "cancelled")


@pytest.mark.parametrize(("task", "code"), [("bad", "data.bad"), ("crash", "run.crashed"), ("full", "run.disk_full")])
def test_a_failure_is_recorded_with_its_reason(store: RunStore, task: str, code: str) -> None:
    run_id = lifecycle.submit(store, config(task=task))
    wait_for_status(store, run_id, "failed", "finished")
    record = store.get(run_id)
    assert record.status == "failed" and record.error["code"] == code
    assert store.stages(run_id)[0].status == "failed"
    assert any(line.level == "error" and line.stage == "federated_training" for line in store.events(run_id))
    traced = "ZeroDivisionError" in (store.run_dir(run_id) / "worker.log").read_text()
    assert traced == (task == "crash")
    kept = sorted(path.name for path in (store.run_dir(run_id) / "checkpoints").rglob("*"))
    assert kept == (["federated_training.safetensors"] if task == "full" else [])


def test_one_run_at_a_time_and_the_next_starts_by_itself(store: RunStore) -> None:
    first = lifecycle.submit(store, config(rounds=10, pause_ms=20))
    second = lifecycle.submit(store, config())
    third = lifecycle.submit(store, config())
    assert [store.get(run_id).status for run_id in (first, second, third)] == ["running", "queued", "queued"]
    lifecycle.cancel(store, second)
    assert store.get(second).status == "cancelled"
    wait(lambda: store.get(third).status == "finished")  # started by the first run's worker: nobody here calls it
    assert store.get(first).status == "finished" and store.get(second).started_at is None


def test_two_spawners_at_once_start_a_run_once(store: RunStore) -> None:
    for _ in range(3):
        store.enqueue(store.create_run(config()).run_id)
    code = (
        "import sys; from engine.runs.store import RunStore;"
        "print(RunStore(sys.argv[1]).claim(max_running=1) is not None)"
    )
    command = [sys.executable, "-c", code, str(store.home)]
    claims = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert sorted(claim.communicate()[0].strip() for claim in claims) == ["False", "False", "False", "True"]


def test_only_one_worker_may_write(store: RunStore) -> None:
    """A second attempt takes the run; the first worker stops without touching its state."""
    run_id = lifecycle.submit(store, config(rounds=2000, pause_ms=20))
    wait(lambda: steps_done(store, run_id) >= 2)
    pid = store.get(run_id).pid
    store.update_run(run_id, attempt=2)
    wait(lambda: is_over(pid))
    assert store.get(run_id).status == "running"


def test_a_run_is_extended_from_its_checkpoint(store: RunStore) -> None:
    whole = lifecycle.submit(store, config(rounds=12))
    wait_for_status(store, whole, "finished")
    run_id = lifecycle.submit(store, config(rounds=7))
    wait_for_status(store, run_id, "finished")
    with pytest.raises(UserError, match="7 rounds"):
        lifecycle.extend(store, run_id, rounds=7)
    with pytest.raises(UserError, match="finished"):
        lifecycle.resume(store, run_id)
    lifecycle.extend(store, run_id, rounds=12)
    wait_for_status(store, run_id, "finished", "failed")
    assert store.get(run_id).status == "finished" and store.get(run_id).config.federation.rounds == 12
    assert result(store, run_id) == result(store, whole)
    assert store.metrics(run_id, name="x") == store.metrics(whole, name="x")
    assert store.traffic(run_id) == store.traffic(whole) and store.evaluation(run_id) == store.evaluation(whole)
    assert store.get(run_id).config_hash == store.get(whole).config_hash
    reports = [json.loads((store.run_dir(r) / "run_report.json").read_text()) for r in (run_id, whole)]
    for key in ("config", "stage_hashes", "status", "evaluation", "traffic"):
        assert reports[0][key] == reports[1][key], key


@pytest.mark.slow
def test_an_extension_that_is_killed_leaves_the_results_and_goes_on(store: RunStore) -> None:
    run_id = lifecycle.submit(store, config(rounds=7, pause_ms=50))
    wait_for_status(store, run_id, "finished")
    before, curves = result(store, run_id), store.metrics(run_id)
    lifecycle.extend(store, run_id, rounds=60)
    wait(lambda: store.view(run_id).stages[0].step >= 12)
    assert result(store, run_id) == before and len(store.metrics(run_id, name="x")[0].steps) > 7
    os.kill(store.get(run_id).pid, signal.SIGKILL)
    wait_for_status(store, run_id, "interrupted")
    assert result(store, run_id) == before and store.metrics(run_id) == curves
    assert store.view(run_id).note is not None and store.get(run_id).config.federation.rounds == 7
    lifecycle.resume(store, run_id)
    wait(lambda: store.view(run_id).stages[0].step >= 20)
    lifecycle.cancel(store, run_id)
    wait_for_status(store, run_id, "cancelled")
    assert result(store, run_id) == before
    lifecycle.extend(store, run_id, rounds=61)
    wait_for_status(store, run_id, "finished")
    whole = lifecycle.submit(store, config(rounds=61, pause_ms=50))
    wait_for_status(store, whole, "finished")
    assert result(store, run_id) == result(store, whole)
    assert store.metrics(run_id) == store.metrics(whole) and store.traffic(run_id) == store.traffic(whole)


def test_a_fork_takes_earlier_stages_over_and_refuses_edits_of_them(store: RunStore) -> None:
    parent = lifecycle.submit(store, config(samples=500))
    wait_for_status(store, parent, "finished")
    with pytest.raises(UserError) as caught:
        lifecycle.fork(store, parent, stage="evaluation", config=config(rounds=6))
    assert caught.value.code == "run.fork_edit" and "federation.rounds" in caught.value.what
    with pytest.raises(UserError, match="no stage"):
        lifecycle.fork(store, parent, stage="generation", config=config())
    child = lifecycle.fork(store, parent, stage="evaluation", config=config(samples=800))
    wait_for_status(store, child, "finished", "failed")
    record = store.get(child)
    assert (record.status, record.parent, record.fork_stage) == ("finished", parent, "evaluation")
    assert [row.dice for row in store.evaluation(child)] == [0.8]
    assert [row.dice for row in store.evaluation(parent)] == [0.5]
    assert result(store, child) == result(store, parent)
    assert store.metrics(child) == store.metrics(parent)
    started = [stage.started_at for stage in store.stages(child)]
    assert started[0] == store.stages(parent)[0].started_at and started[1] > record.created_at
    # The fork's own checkpoints are whole: it can be extended, and that leaves its parent alone.
    before = (store.run_dir(parent) / "checkpoints" / "federated_training.safetensors").read_bytes()
    lifecycle.extend(store, child, rounds=9)
    wait_for_status(store, child, "finished", "failed")
    assert store.get(child).status == "finished" and result(store, child) != result(store, parent)
    assert (store.run_dir(parent) / "checkpoints" / "federated_training.safetensors").read_bytes() == before


def test_an_active_run_is_neither_resumed_nor_extended(store: RunStore) -> None:
    run_id = lifecycle.submit(store, config(rounds=2000, pause_ms=50))
    for action in (lambda: lifecycle.resume(store, run_id), lambda: lifecycle.extend(store, run_id, rounds=3000)):
        with pytest.raises(UserError) as caught:
            action()
        assert caught.value.code == "run.active"
    lifecycle.cancel(store, run_id)
    wait_for_status(store, run_id, "cancelled")


def test_a_damaged_checkpoint_is_said_in_the_log(store: RunStore) -> None:
    run_id = lifecycle.submit(store, config(rounds=2000, pause_ms=20))
    wait(lambda: steps_done(store, run_id) >= 4)
    lifecycle.cancel(store, run_id, force=True)
    wait_for_status(store, run_id, "cancelled")
    path = store.run_dir(run_id) / "checkpoints" / "federated_training.safetensors"
    damaged = path.read_bytes()[:-5]
    path.unlink()  # killed while it rotated, the worker leaves both names on one file
    path.write_bytes(damaged)
    lifecycle.resume(store, run_id)
    wait(lambda: any(line.level == "warning" and "damaged" in line.text for line in store.events(run_id)))
    lifecycle.cancel(store, run_id)
    wait_for_status(store, run_id, "cancelled")


def test_a_worker_can_be_started_by_hand(store: RunStore) -> None:
    record = store.create_run(config())
    command = [sys.executable, "-m", "engine.runs.worker", record.run_id, "--home", str(store.home)]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 1  # it is not in the queue
    store.enqueue(record.run_id)
    subprocess.run(command, check=True)
    assert store.get(record.run_id).status == "finished"
