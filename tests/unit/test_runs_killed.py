"""A SIGKILL between any two lines of what changes runs: nothing is lost, nothing is left lying about.

The action runs in a forked child that kills itself before a line of ``engine/runs``. Then a store is opened as anybody
would, and must show runs that are finished, in the queue or resumable, with the old results whole. A first pass looks
at the files before every line: lines between which no file has changed leave the same home behind, and one is tried.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import joins_world
import pytest
from runs_world import ROUNDS, config, finished_run, results, work

from engine.runs import folders, lifecycle, processes
from engine.runs import store as store_module
from engine.runs.earlier import read_earlier
from engine.runs.store import RunStore
from engine.runs.worker import Worker
from tests.patience import wait

RUNS = str(Path(store_module.__file__).parent)
LONGER = ROUNDS + 3
Action = Callable[[RunStore, str], object]


@pytest.fixture(autouse=True)
def no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes are started, but they do nothing."""
    monkeypatch.setattr(sys, "executable", "/bin/true")
    monkeypatch.setattr(processes, "STALE_S", 1e6)


def fingerprint(home: Path) -> list[tuple[str, int, int]]:
    """What a kill now would leave: every name below ``home`` with the file's size and its time of writing."""
    found = []
    for folder, names, files in os.walk(home):
        found += [(f"{folder}/{name}", 0, 0) for name in names]
        for name in files:
            if not name.endswith("-shm"):  # SQLite makes it anew from the log
                status = Path(folder, name).stat()
                found.append((f"{folder}/{name}", status.st_size, status.st_mtime_ns))
    return sorted(found)


def child(home: Path, act: Action, run_id: str, *, kill_at: int | None) -> tuple[int, list[int]]:
    """Run ``act`` in a forked child and kill it before its line ``kill_at``.

    Returns its exit code; without ``kill_at`` also the numbers of its lines before which files had changed, and the
    number of all its lines.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 7
        try:
            store, seen, changed = RunStore(home), 0, [0]
            last = fingerprint(home)

            def on_line(_frame: FrameType, event: str, _argument: Any) -> Any:
                nonlocal seen, last
                if event == "line":
                    if seen == kill_at:
                        os.kill(os.getpid(), signal.SIGKILL)
                    if kill_at is None and (now := fingerprint(home)) != last:
                        changed.append(seen)
                        last = now
                    seen += 1
                return on_line

            def on_call(frame: FrameType, _event: str, _argument: Any) -> Any:
                return on_line if frame.f_code.co_filename.startswith(RUNS) else None

            sys.settrace(on_call)
            act(store, run_id)
            sys.settrace(None)
            os.write(writer, json.dumps([*changed, seen]).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader, "rb") as said:
        lines = json.loads(said.read() or b"[]")
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), lines


def finished(store: RunStore) -> str:
    return finished_run(store)


def cancelled(store: RunStore) -> str:
    run_id = store.create_run(config(), queued=True).run_id
    store.claim(max_running=9)
    work(store, run_id, rounds=2, stages=("federated_training",))
    store.set_stage_status(run_id, "federated_training", "running")
    store.end_run(run_id, "cancelled", owner=1)
    return run_id


def waiting(store: RunStore) -> str:
    return store.create_run(config(), queued=True).run_id


def running_elsewhere(store: RunStore) -> str:
    run_id = store.create_run(config(), queued=True).run_id
    store.claim(max_running=9)
    store.update_run(run_id, host="elsewhere", heartbeat_at=time.time(), pid=1)
    return run_id


def stopped_extension(store: RunStore) -> str:
    run_id = finished_run(store)
    lifecycle.extend(store, run_id, rounds=LONGER)
    store.claim(max_running=9)
    work(store, run_id, rounds=LONGER - 1, stages=("federated_training",))
    store.end_run(run_id, "cancelled", owner=store.get(run_id).attempt)
    return run_id


def done_extension(store: RunStore) -> str:
    run_id = finished_run(store)
    lifecycle.extend(store, run_id, rounds=LONGER)
    store.claim(max_running=9)
    work(store, run_id, rounds=LONGER)
    process = subprocess.Popen(["/bin/true"])
    process.wait()
    lifecycle.register_worker(store, run_id, attempt=store.get(run_id).attempt, pid=process.pid)
    return run_id


def to_be_joined(store: RunStore) -> str:
    return joins_world.finish(store, store.create_run(joins_world.config(), queued=True).run_id)


def end_as_the_worker(store: RunStore, run_id: str) -> None:
    Worker(store, run_id, attempt=store.get(run_id).attempt)._end("finished")


ACTIONS: dict[str, tuple[Callable[[RunStore], str], Action]] = {
    "submit": (finished, lambda store, _: lifecycle.submit(store, config(), by="A")),
    "extend": (finished, lambda store, run: lifecycle.extend(store, run, rounds=LONGER, by="A")),
    "extend further": (stopped_extension, lambda store, run: lifecycle.extend(store, run, rounds=LONGER + 1)),
    "extend less": (stopped_extension, lambda store, run: lifecycle.extend(store, run, rounds=LONGER - 2)),
    "drop": (stopped_extension, lambda store, run: lifecycle.drop_extension(store, run, by="A")),
    "fork": (
        finished,
        lambda store, run: lifecycle.fork(store, run, stage="evaluation", config=config(samples=9), by="A"),
    ),
    "join": (to_be_joined, lambda store, run: joins_world.joined(store, run, "east")),
    "resume": (cancelled, lambda store, run: lifecycle.resume(store, run, by="A")),
    "resume extension": (stopped_extension, lambda store, run: lifecycle.resume(store, run)),
    "cancel waiting": (waiting, lambda store, run: lifecycle.cancel(store, run, by="A")),
    "cancel running": (running_elsewhere, lambda store, run: lifecycle.cancel(store, run, by="A")),
    "finish extension": (done_extension, end_as_the_worker),
    "delete": (finished, lambda store, run: store.delete(run)),
}


def state_after(home: Path, run_id: str, before: dict[str, object], *, name: str) -> None:
    """Open a store as anybody would, and check that everything in it is whole and has a way on."""
    store = RunStore(home)
    # What a killed process has started does nothing, but on a busy machine it may be there still.
    begun = [record for record in store.list() if record.status == "running" and record.host != "elsewhere"]
    wait(lambda: not any(processes.worker_alive(record) for record in begun))
    lifecycle.advance_queue(store, max_running=0)
    records = store.list()
    for record in records:
        assert record.status in ("finished", *lifecycle_states(record)), record
        assert store.run_dir(record.run_id).is_dir()
    kept = {path.name for path in (home / "runs").iterdir()} - {folders.NEXT, folders.TRASH}
    assert kept == {record.run_id for record in records}
    works = {store.work_id(record.run_id) for record in records} - kept
    assert {path.name for path in (home / "runs").glob(".next/*")} == works
    assert not list((home / "runs").rglob(folders.MARK)) and not list((home / "runs").glob(".trash/*"))
    if name == "delete":
        assert run_id not in kept or results(store, run_id) == before
    else:
        found = results(store, run_id)
        assert found == before or (name == "finish extension" and is_the_longer(found))
        assert name != "finish extension" or (store.run_dir(run_id) / "worker.log").is_file()
    for record in records:
        if record.parent is not None:
            child_is_whole(store, record, before, name=name)
        if record.resumable:
            lifecycle.resume(store, record.run_id)
            assert store.get(record.run_id).queued_at is not None
    store.close()


def child_is_whole(store: RunStore, record: Any, before: dict[str, object], *, name: str) -> None:
    """Check that a fork, or a run that a site has joined, has all that it needs of its parent."""
    given = results(store, record.run_id)["files"]
    states = [stage.status for stage in store.stages(record.run_id)]
    if name == "join":
        models = {"fedavg_student": "fedavg_student", "earlier_student": "distilled_student"}
        models |= {"earlier_teacher": "distilled_teacher"}
        expected = {f"earlier/models/{new}.safetensors": f"{old} of {record.parent}" for new, old in models.items()}
        for site in joins_world.SITES:
            expected |= {
                f"earlier/generators/{site}/weights.safetensors": site,
                f"earlier/samples/{site}/00000.png": site,
            }
        expected["earlier/samples/samples.json"] = "[]"
        assert {path: text.decode() for path, text in given.items() if path != "earlier/earlier.json"} == expected
        assert read_earlier(store.run_dir(record.run_id)).sources == joins_world.SITES
        assert set(states) == {"pending"} and not store.metrics(record.run_id)
        return
    assert given.keys() == {"checkpoints/federated_training.safetensors", "models/student.safetensors"}
    assert states == ["finished", "pending", "pending"]
    assert store.metrics(record.run_id) == before["curves"]


def lifecycle_states(record: Any) -> tuple[str, ...]:
    """Return the states with a way on that are right for ``record``: in the queue for real, or resumable."""
    queued = ("queued",) if record.queued_at is not None else ()
    running = ("running",) if record.host == "elsewhere" else ()
    return (*queued, *running, "failed", "cancelled", "interrupted")


def is_the_longer(found: dict[str, Any]) -> bool:
    evaluated = [row.dice for row in found["evaluation"]]
    steps = [curve.steps for curve in found["curves"]]
    texts = {found["files"][f"bundle/{file}"] for file in ("model.onnx", "manifest.json")}
    return (
        found["rounds"] == LONGER
        and evaluated == [LONGER / 100]
        and steps == [tuple(range(1, LONGER + 1))]
        and texts == {f"{LONGER} rounds".encode()}
        and found["traffic"][0].num_messages == LONGER
    )


@pytest.mark.parametrize("name", ACTIONS)
def test_killed_before_any_line_nothing_is_lost_and_nothing_is_left(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare, act = ACTIONS[name]
    monkeypatch.setenv("DSFEDMED_MAX_RUNNING", "0")
    store = RunStore(tmp_path / "template")
    run_id = prepare(store)
    before = results(store, run_id)
    store.close()
    monkeypatch.setenv("DSFEDMED_MAX_RUNNING", "1")

    def attempt(kill_at: int | None) -> tuple[int, list[int]]:
        home = tmp_path / "home"
        shutil.rmtree(home, ignore_errors=True)
        shutil.copytree(tmp_path / "template", home)
        ended = child(home, act, run_id, kill_at=kill_at)
        monkeypatch.setenv("DSFEDMED_MAX_RUNNING", "0")
        try:
            state_after(home, run_id, before, name=name)
        except Exception as error:
            error.add_note(f"killed at line {kill_at} of {name}")
            raise
        monkeypatch.setenv("DSFEDMED_MAX_RUNNING", "1")
        return ended

    code, lines = attempt(None)
    assert code == 0 and lines[-1] > 20 and len(lines) > 2
    for kill_at in lines[:-1]:
        assert attempt(kill_at)[0] == -signal.SIGKILL
