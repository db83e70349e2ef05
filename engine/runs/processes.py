"""Worker processes: who works on what, who is gone, and whose turn it is. Torch-free."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil

from engine.errors import UserError
from engine.runs import outputs
from engine.runs.database import PRIVATE_FILE
from engine.runs.extensions import WORKER_LOG
from engine.runs.records import ACTIVE, RunRecord, RunStatus
from engine.runs.store import RunStore

STALE_S = 60.0
"""A worker beats every second; one that has been silent for so long, where it cannot be looked at, is gone."""
START_GRACE_S = 60.0
_ROOT = Path(__file__).resolve().parents[2]


def advance_queue(store: RunStore, *, max_running: int | None = None) -> tuple[str, ...]:
    """Mark dead workers' runs, start waiting runs while fewer than ``max_running`` run, and return the ids started.

    ``max_running`` is the environment's ``DSFEDMED_MAX_RUNNING``, or 1, when left out. Safe to call from anywhere at
    any time: two callers never start one run twice.
    """
    store.settle()
    if not store.list(status=ACTIVE, limit=1):
        return ()
    limit = max_running if max_running is not None else most_running()
    reap(store)
    started = []
    while (record := store.claim(max_running=limit)) is not None:
        _spawn(store, record)
        started.append(record.run_id)
    return tuple(started)


def reap(store: RunStore) -> tuple[str, ...]:
    """Mark running runs whose worker is gone as interrupted (cancelled, if that was asked for); return their ids.

    A run that was claimed by a process which died before it had started a worker waits again instead.
    """
    gone = tuple(record for record in store.list(status=("running",)) if not worker_alive(record))
    for record in gone:
        if record.host is None and record.pid is not None and not record.cancel_requested:
            store.release(record.run_id, attempt=record.attempt)
            continue
        error = UserError(
            "run.interrupted",
            what="The worker process of this run ended without a word (killed, out of memory, or a machine restart).",
            why="Nobody works on the run any more; everything up to its last checkpoint is kept.",
            fix=f"Resume it: `python -m engine resume {record.run_id}`.",
        )
        reason = None if record.cancel_requested else error
        status: RunStatus = "cancelled" if record.cancel_requested else "interrupted"
        if store.end_run(record.run_id, status, owner=record.attempt, error=reason):
            outputs.clear_leftovers(store.run_dir(store.work_id(record.run_id)))
    return tuple(record.run_id for record in gone)


def most_running() -> int:
    """Return how many runs may be at work at a time, as the environment says (1 where it does not)."""
    written = os.environ.get("DSFEDMED_MAX_RUNNING", "1")
    if not written.isdecimal():
        raise UserError(
            "run.max_running",
            what=f"DSFEDMED_MAX_RUNNING is '{written}'.",
            why="It says how many runs may work at a time.",
            fix="Set it to a whole number (0 lets all wait), or leave it out.",
        )
    return int(written)


def _spawn(store: RunStore, record: RunRecord) -> None:
    """Start the worker process of a claimed run, detached from this process's session and terminal."""
    command = [sys.executable, "-m", "engine.runs.worker", record.run_id]
    command += ["--home", str(store.home), "--attempt", str(record.attempt)]
    paths = [str(_ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
    environment["DSFEDMED_HOME"] = str(store.home)  # fetched weights lie there too
    # OpenMP threads that wait for each other by spinning made training 8 to 17 times slower while the page or another
    # program wanted the same two cores (888 and 414 ms against 52 and 40 ms an image).
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        # Beside the results, not below an extension's folder: whoever looks for it knows one place.
        path = store.run_dir(record.run_id) / WORKER_LOG
        path.touch(mode=PRIVATE_FILE)
        with path.open("ab") as log:
            process = subprocess.Popen(
                command,
                cwd=_ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
    except OSError as error:
        reason = UserError(
            "run.not_started",
            what=f"The worker process of the run '{record.run_id}' could not be started: {error}.",
            why="Without it nothing computes.",
            fix="Free some memory or disk space, then resume the run."
            if store.run_dir(record.run_id).is_dir()
            else "Its folder is not there any more: restore it from a backup, or start a new run.",
        )
        store.end_run(record.run_id, "failed", owner=record.attempt, error=reason)
        raise reason from error
    register_worker(store, record.run_id, attempt=record.attempt, pid=process.pid)
    # Waits for the child so that it does not stay behind as a zombie of a long-lived page.
    threading.Thread(target=process.wait, daemon=True).start()


def register_worker(store: RunStore, run_id: str, *, attempt: int, pid: int) -> bool:
    """Note which process works on the run; return ``False`` where it waits again or another attempt has it by now."""
    try:
        began = psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        began = None
    now = {"pid": pid, "pid_started": began, "host": socket.gethostname(), "heartbeat_at": time.time()}
    return store.update_run(run_id, owner=attempt, status_was="running", **now)


def worker_alive(record: RunRecord) -> bool:
    """Return whether a running run's worker, or the process that is about to start it, is there as far as one sees."""
    silent_s = time.time() - (record.heartbeat_at or 0.0)
    if record.pid is None:
        return abs(silent_s) < START_GRACE_S
    if record.host is None:  # claimed here; whoever claimed it registers the worker at once
        return abs(silent_s) < START_GRACE_S and _is_process(record)
    if record.host != socket.gethostname():
        return silent_s < STALE_S
    # Another process may have the number by now. Its start differs; so may the worker's own after the clock was set,
    # but then the worker still beats.
    return _is_process(record) or (psutil.pid_exists(record.pid) and not _is_zombie(record.pid) and silent_s < STALE_S)


def _is_process(record: RunRecord) -> bool:
    """Return whether the process that the record names is there, and not another with its number."""
    try:
        began = psutil.Process(record.pid).create_time()
    except psutil.Error:
        return False
    assert record.pid is not None
    same = record.pid_started is not None and abs(began - record.pid_started) < 2.0
    return same and not _is_zombie(record.pid)


def _is_zombie(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.Error:
        return True
