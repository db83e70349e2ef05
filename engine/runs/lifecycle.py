"""Starting, stopping and going on with runs: what the page and the command line call. Torch-free.

A run waits in the store's queue until :func:`advance_queue` gives it a worker process; whoever reads the store may
call that, and a worker that ends does. Nothing here computes.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import psutil

from engine.config import ModelConfig, RunConfig, parse_config
from engine.errors import UserError
from engine.runs import outputs
from engine.runs.identity import changed_keys, first_stage_of
from engine.runs.records import RunRecord, RunStatus
from engine.runs.store import RunStore

STALE_S = 60.0
"""A worker beats every second; one that has been silent for so long, where it cannot be looked at, is gone."""
START_GRACE_S = 60.0
WORKER_LOG = "worker.log"
_ROOT = Path(__file__).resolve().parents[2]


def submit(store: RunStore, config: RunConfig, *, planned_s: Mapping[str, float] | None = None) -> str:
    """Store a run of ``config``, put it in the queue, start it if nothing else runs, and return its id."""
    record = store.create_run(with_absolute_paths(config), planned_s=planned_s)
    store.enqueue(record.run_id)
    advance_queue(store)
    return record.run_id


def advance_queue(store: RunStore, *, max_running: int | None = None) -> tuple[str, ...]:
    """Mark dead workers' runs, start waiting runs while fewer than ``max_running`` run, and return the ids started.

    ``max_running`` is the environment's ``DSFEDMED_MAX_RUNNING``, or 1, when left out. Safe to call from anywhere at
    any time: two callers never start one run twice.
    """
    if not store.list(status=("queued", "running"), limit=1):
        return ()
    limit = max_running if max_running is not None else _max_running()
    reap(store)
    started = []
    while (record := store.claim(max_running=limit)) is not None:
        _spawn(store, record)
        started.append(record.run_id)
    return tuple(started)


def reap(store: RunStore) -> tuple[str, ...]:
    """Mark running runs whose worker is gone as interrupted (cancelled, if that was asked for); return their ids."""
    gone = tuple(record for record in store.list(status=("running",)) if not _worker_alive(record))
    for record in gone:
        error = UserError(
            "run.interrupted",
            what="The worker process of this run ended without a word (killed, out of memory, or a machine restart).",
            why="Nobody works on the run any more; everything up to its last checkpoint is kept.",
            fix=f"Resume it: `python -m engine resume {record.run_id}`.",
        )
        status: RunStatus = "cancelled" if record.cancel_requested else "interrupted"
        reason = None if record.cancel_requested else error.as_dict()
        if store.set_status(record.run_id, status, owner=record.attempt, status_was="running", error=reason):
            stop_stages(store, record.run_id, failed=not record.cancel_requested)
            if reason:
                store.write_log(record.run_id, "error", reason["what"])
    return tuple(record.run_id for record in gone)


def cancel(store: RunStore, run_id: str, *, force: bool = False) -> None:
    """Ask for the run to stop: a waiting one at once, a running one at its next step boundary, within 5 s.

    What exists is kept and the run can be resumed. ``force`` kills the worker instead of asking it. Raises
    ``UserError`` ``run.not_active`` for a run that neither waits nor runs.
    """
    if store.withdraw(run_id):
        return
    reap(store)
    record = store.get(run_id)
    if record.status != "running":
        raise UserError(
            "run.not_active",
            what=f"The run '{run_id}' is {record.status}.",
            why="Only a queued or running run can be cancelled.",
            fix="Nothing needs to be done.",
        )
    store.request_cancel(run_id)
    if force and record.pid is not None and record.host == socket.gethostname() and _worker_alive(record):
        os.kill(record.pid, signal.SIGKILL)


def resume(store: RunStore, run_id: str) -> None:
    """Put a cancelled, failed or interrupted run back in the queue; it goes on from its last checkpoint.

    Raises ``UserError`` ``run.active``, ``run.finished`` or ``run.folder_missing``.
    """
    reap(store)
    record = store.get(run_id)
    _refuse_active(record)
    if record.status == "finished":
        raise UserError(
            "run.finished",
            what=f"The run '{run_id}' is finished.",
            why="There is nothing left to do in it.",
            fix=f"Add rounds with `python -m engine extend {run_id} --rounds N`, or fork it from a stage.",
        )
    _refuse_without_folder(store, run_id)
    stages = store.stages(run_id)
    # An extension that was killed before it had removed them would leave files of the shorter run.
    unbegun = [s.name for s in stages if s.status == "pending" and s.started_at is None and not s.wall_s]
    outputs.discard(outputs.files_of(store, run_id, unbegun))
    for stage in stages:
        if stage.status in ("failed", "cancelled", "running"):
            store.update_stage(run_id, stage.name, status="pending", finished_at=None)
    if not store.enqueue(run_id):
        _refuse_active(store.get(run_id))
    advance_queue(store)


def longer_config(record: RunRecord, *, rounds: int) -> RunConfig:
    """Return the configuration of a run with ``rounds`` federated rounds in total; UserError ``run.extend_rounds``."""
    config = record.config
    if rounds <= config.federation.rounds:
        raise UserError(
            "run.extend_rounds",
            what=f"The run '{record.run_id}' already has {config.federation.rounds} rounds; {rounds} were asked for.",
            why="Rounds that were trained cannot be taken back.",
            fix=f"Ask for more than {config.federation.rounds} rounds in total, or fork the run.",
        )
    values = config.model_dump(mode="json")
    values["federation"]["rounds"] = rounds
    return parse_config(values)


def extend(store: RunStore, run_id: str, *, rounds: int) -> None:
    """Give a run ``rounds`` federated rounds in total: training goes on from its checkpoint, later stages run again.

    Raises ``UserError`` ``run.active``, or ``run.extend_rounds`` unless ``rounds`` is above the present number.
    """
    reap(store)
    record = store.get(run_id)
    _refuse_active(record)
    _refuse_without_folder(store, run_id)
    longer = longer_config(record, rounds=rounds)
    trained = record.config.federation.rounds
    stages = store.stages(run_id)
    names = [stage.name for stage in stages]
    first = names.index("federated_training")
    stale = outputs.files_of(store, run_id, names[first + 1 :])
    if not store.reconfigure(run_id, longer, go_on=names[first], anew=names[first + 1 :]):
        _refuse_active(store.get(run_id))
    if (planned_s := stages[first].planned_s) is not None:  # later stages' estimates follow from how the plan has done
        store.update_stage(run_id, names[first], planned_s=planned_s * rounds / trained)
    outputs.discard(stale)
    store.write_log(run_id, "info", f"Extended from {trained} to {rounds} rounds.")
    store.enqueue(run_id)
    advance_queue(store)


def fork(
    store: RunStore,
    run_id: str,
    *,
    stage: str,
    config: RunConfig,
    planned_s: Mapping[str, float] | None = None,
) -> str:
    """Start a new run that takes everything before ``stage`` from ``run_id`` and runs the rest as ``config`` says.

    Returns the new run's id. Raises ``UserError`` ``run.fork_stage`` for a stage that the run does not have or whose
    predecessors are not finished, ``run.fork_edit`` for an edit that would change a stage taken over.
    """
    parent = store.get(run_id)
    stages = store.stages(run_id)
    names = [known.name for known in stages]
    config = with_absolute_paths(config)
    _refuse_without_folder(store, run_id)
    check_fork(store, run_id, config, stage=stage)
    earlier = names[: names.index(stage)]
    own_stages = names if config.method == parent.config.method else None  # another method: nothing is taken over
    child = store.create_run(config, parent=run_id, fork_stage=stage, stages=own_stages, planned_s=planned_s)
    # Files first: killed in between, the child has no stage marked finished that has none.
    outputs.take_over(store, source=run_id, target=child.run_id, stages=earlier)
    store.copy_results(run_id, child.run_id, earlier)
    store.write_log(child.run_id, "info", f"Forked from {run_id} at {stage}.")
    store.enqueue(child.run_id)
    advance_queue(store)
    return child.run_id


def with_absolute_paths(config: RunConfig) -> RunConfig:
    """Return ``config`` with its files and folders made absolute: a worker does not run where the person stood."""

    def absolute(path: Path | None) -> Path | None:
        return None if path is None else path.expanduser().resolve()

    def source(name: str | None) -> str | None:
        if name is None or not Path(name).expanduser().exists():
            return name  # a name of the registry
        return str(Path(name).expanduser().resolve())

    def model(part: ModelConfig) -> ModelConfig:
        return part.model_copy(update={"weights": source(part.weights)})

    roots = {"root": absolute(config.data.root), "test_root": absolute(config.data.test_root)}
    generator = config.generator.model_copy(
        update={"backbone": source(config.generator.backbone), "controlnet": source(config.generator.controlnet)}
    )
    parts = {
        "data": config.data.model_copy(update=roots),
        "generator": generator,
        "student": model(config.student),
        "teacher": model(config.teacher),
    }
    return config.model_copy(update=parts)


def stop_stages(store: RunStore, run_id: str, *, failed: bool) -> None:
    """Mark the stage that was running as failed or cancelled."""
    for stage in store.stages(run_id):
        if stage.status == "running":
            store.set_stage_status(run_id, stage.name, "failed" if failed else "cancelled")


def check_fork(store: RunStore, run_id: str, config: RunConfig, *, stage: str) -> None:
    """Raise ``UserError`` ``run.fork_stage`` or ``run.fork_edit`` where ``run_id`` cannot be forked so at ``stage``."""
    parent, stages, config = store.get(run_id), store.stages(run_id), with_absolute_paths(config)
    names, finished = [s.name for s in stages], [s.name for s in stages if s.status == "finished"]
    if stage not in names:
        raise UserError(
            "run.fork_stage",
            what=f"The run '{parent.run_id}' has no stage '{stage}'.",
            why="A fork begins at a stage of its parent.",
            fix=f"Choose one of: {', '.join(names)}.",
        )
    missing = [name for name in names[: names.index(stage)] if name not in finished]
    if missing:
        raise UserError(
            "run.fork_stage",
            what=f"The stage '{missing[0]}' of the run '{parent.run_id}' is not finished.",
            why=f"A fork at '{stage}' takes over everything before it.",
            fix=f"Fork at '{missing[0]}' or earlier, or finish the run first.",
        )
    for key in changed_keys(parent.config, config):
        concerned = first_stage_of(key, names)
        if concerned is not None and names.index(concerned) < names.index(stage):
            raise UserError(
                "run.fork_edit",
                what=f"The edit of '{key}' changes the stage '{concerned}', which the fork at '{stage}' takes over.",
                why="The stages taken over would not be what the configuration says.",
                fix=f"Fork at '{concerned}' or earlier, or leave '{key}' as it is.",
            )


def _max_running() -> int:
    written = os.environ.get("DSFEDMED_MAX_RUNNING", "1")
    if not written.isdecimal():
        raise UserError(
            "run.max_running",
            what=f"DSFEDMED_MAX_RUNNING is '{written}'.",
            why="It says how many runs may work at a time.",
            fix="Set it to a whole number (0 lets all wait), or leave it out.",
        )
    return int(written)


def _refuse_active(record: RunRecord) -> None:
    if record.active:
        raise UserError(
            "run.active",
            what=f"The run '{record.run_id}' is {record.status}.",
            why="A run has one worker at a time.",
            fix=f"Wait for it, or cancel it first: `python -m engine cancel {record.run_id}`.",
        )


def _refuse_without_folder(store: RunStore, run_id: str) -> None:
    if not store.run_dir(run_id).is_dir():
        raise UserError(
            "run.folder_missing",
            what=f"The folder {store.run_dir(run_id)} of the run '{run_id}' is not there any more.",
            why="Its models, samples and checkpoints lay there; the store keeps only its figures.",
            fix="Restore the folder from a backup, or start a new run.",
        )


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
        with (store.run_dir(record.run_id) / WORKER_LOG).open("ab") as log:
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
            fix="Free some memory or disk space, then resume the run.",
        )
        store.set_status(record.run_id, "failed", owner=record.attempt, error=reason.as_dict())
        raise reason from error
    register_worker(store, record.run_id, attempt=record.attempt, pid=process.pid)
    # Waits for the child so that it does not stay behind as a zombie of a long-lived page.
    threading.Thread(target=process.wait, daemon=True).start()


def register_worker(store: RunStore, run_id: str, *, attempt: int, pid: int) -> bool:
    """Note which process works on the run; return ``False`` where another attempt has it by now."""
    try:
        began = psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        began = None
    return store.update_run(
        run_id, owner=attempt, pid=pid, pid_started=began, host=socket.gethostname(), heartbeat_at=time.time()
    )


def _worker_alive(record: RunRecord) -> bool:
    silent_s = time.time() - (record.heartbeat_at or 0.0)
    if record.pid is None:
        return silent_s < START_GRACE_S
    if record.host != socket.gethostname():
        return silent_s < STALE_S
    try:
        process = psutil.Process(record.pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        began = process.create_time()
    except psutil.NoSuchProcess:
        return False
    # Another process may have the number by now. Its start differs; so may the worker's own after the clock was set,
    # but then the worker still beats.
    same = record.pid_started is not None and abs(began - record.pid_started) < 2.0
    return same or silent_s < STALE_S
