"""The runs store: one SQLite file and one folder per run below a home folder. Torch-free.

``home/studio.sqlite`` holds every record, ``home/runs/<run_id>/`` the files. Any number of processes may read and
write: the worker of a run, the page, the command line.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from engine.config import RunConfig
from engine.errors import UserError
from engine.runs import schema
from engine.runs.identity import METHOD_STAGES
from engine.runs.records import RunRecord, RunStatus, RunView, StageRecord, StageStatus
from engine.runs.results import ResultStore

DEFAULT_HOME = Path("studio_home")
_RUN_COLUMNS = tuple(c for c in schema.runs.c)
_STAGE_COLUMNS = tuple(c for c in schema.stages.c if c.name != "run_id")


def home_folder(home: Path | str | None = None) -> Path:
    """Return ``home``, or the environment's ``DSFEDMED_HOME``, or ``./studio_home``, as an absolute path."""
    return Path(home or os.environ.get("DSFEDMED_HOME") or DEFAULT_HOME).expanduser().resolve()


class RunStore(ResultStore):
    """Runs and their stages, on top of what :class:`ResultStore` keeps of their results.

    Raises ``UserError`` (``run.not_writable``, ``run.disk_full``, ``run.store_newer``, ``run.store_damaged``) where the
    home folder cannot be used.
    """

    def __init__(self, home: Path | str | None = None) -> None:
        self.home = home_folder(home)
        super().__init__(schema.open_database(self.home), self.home / schema.DATABASE_NAME)

    def close(self) -> None:
        """Close the database's connections."""
        self._database.dispose()

    def run_dir(self, run_id: str) -> Path:
        """Return the run's folder (made by ``create_run``)."""
        return self.home / "runs" / run_id

    def create_run(
        self,
        config: RunConfig,
        *,
        parent: str | None = None,
        fork_stage: str | None = None,
        stages: Sequence[str] | None = None,
        planned_s: Mapping[str, float] | None = None,
    ) -> RunRecord:
        """Store a new run with status ``queued`` but not yet in the queue, and make its folder.

        ``stages`` are the method's when left out; ``planned_s`` is what the plan expects of each, in seconds.
        """
        now = time.time()
        planned = planned_s or {}
        row: dict[str, Any] = {
            "name": config.name,
            "status": "queued",
            "method": config.method,
            "config_json": config.model_dump_json(),
            "config_hash": config.content_hash(),
            "created_at": now,
            "parent": parent,
            "fork_stage": fork_stage,
            "attempt": 0,
            "cancel_requested": False,
        }
        names = tuple(stages) if stages is not None else METHOD_STAGES[config.method]
        run_id = self._new_folder(now)
        with schema.database_errors(self._path), schema.writing(self._database) as connection:
            connection.execute(schema.runs.insert(), row | {"run_id": run_id})
            connection.execute(
                schema.stages.insert(),
                [
                    {"run_id": run_id, "name": name, "position": i, "planned_s": planned.get(name)}
                    for i, name in enumerate(names)
                ],
            )
        return self.get(run_id)

    def get(self, run_id: str) -> RunRecord:
        """Return one run; raises ``UserError`` ``run.unknown`` where there is none of this id."""
        found = self._runs(schema.runs.c.run_id == run_id, limit=1)
        if not found:
            raise UserError(
                "run.unknown",
                what=f"There is no run '{run_id}' in {self.home}.",
                why="Only runs of this home folder can be read or changed.",
                fix="`python -m engine list` shows the runs; another home folder is chosen with --home.",
            )
        return found[0]

    def list(
        self, *, status: Iterable[RunStatus] | None = None, offset: int = 0, limit: int | None = None
    ) -> tuple[RunRecord, ...]:
        """Return the runs, newest first, optionally only those in one of the states ``status``."""
        conditions = [] if status is None else [schema.runs.c.status.in_(tuple(status))]
        return self._runs(*conditions, offset=offset, limit=limit)

    def stages(self, run_id: str) -> tuple[StageRecord, ...]:
        """Return the run's stages in order, with what each is expected to need still."""
        query = sa.select(*_STAGE_COLUMNS).where(schema.stages.c.run_id == run_id).order_by(schema.stages.c.position)
        return _with_estimates([StageRecord(**row._mapping) for row in self._rows(query)])

    def view(self, run_id: str) -> RunView:
        """Return the run with its stages and the expected seconds until its end (``None`` while unknown)."""
        stages = self.stages(run_id)
        left = [stage.eta_s for stage in stages]
        known = [seconds for seconds in left if seconds is not None]
        return RunView(self.get(run_id), stages, sum(known) if len(known) == len(left) else None)

    def update_run(
        self, run_id: str, *, owner: int | None = None, status_was: str | None = None, **values: Any
    ) -> bool:
        """Set columns of the run's row; return whether it did.

        With ``owner`` only while that attempt owns it, with ``status_was`` only while it is in that status.
        """
        table = schema.runs
        query = sa.update(table).where(table.c.run_id == run_id).values(**values)
        query = query if owner is None else query.where(table.c.attempt == owner)
        query = query if status_was is None else query.where(table.c.status == status_was)
        with schema.database_errors(self._path), schema.writing(self._database) as connection:
            return connection.execute(query).rowcount == 1

    def set_status(
        self,
        run_id: str,
        status: RunStatus,
        *,
        owner: int | None = None,
        status_was: RunStatus | None = None,
        error: Mapping[str, str] | None = None,
    ) -> bool:
        """Move the run to ``status``, with the reason where it failed.

        Return ``False``, and change nothing, where ``owner`` lost it or it is not in ``status_was`` any more.
        """
        values: dict[str, Any] = {"status": status, "error": json.dumps(dict(error)) if error else None}
        if status != "running":
            values |= {"pid": None, "pid_started": None}
        if status not in ("queued", "running"):
            values |= {"finished_at": time.time(), "queued_at": None}
        return self.update_run(run_id, owner=owner, status_was=status_was, **values)

    def claim(self, *, max_running: int, run_id: str | None = None) -> RunRecord | None:
        """Give the oldest waiting run (or ``run_id``, if it waits) to the caller, who must start a worker for it.

        One transaction: of two callers only one gets a run. ``None`` where nothing waits or ``max_running`` run.
        """
        table = schema.runs
        waiting = sa.select(table.c.run_id).where(table.c.status == "queued", table.c.queued_at.is_not(None))
        waiting = waiting if run_id is None else waiting.where(table.c.run_id == run_id)
        running = sa.select(sa.func.count()).where(table.c.status == "running")
        now = time.time()
        with schema.database_errors(self._path), schema.writing(self._database) as connection:
            if (connection.scalar(running) or 0) >= max_running:
                return None
            chosen = connection.scalar(waiting.order_by(table.c.queued_at, table.c.run_id).limit(1))
            if chosen is None:
                return None
            connection.execute(
                sa.update(table)
                .where(table.c.run_id == chosen)
                .values(
                    status="running",
                    attempt=table.c.attempt + 1,
                    queued_at=None,
                    started_at=sa.func.coalesce(table.c.started_at, now),
                    finished_at=None,
                    heartbeat_at=now,
                    pid=None,
                    pid_started=None,
                    host=None,
                )
            )
        return self.get(chosen)

    def enqueue(self, run_id: str) -> bool:
        """Put the run at the end of the queue, its errors and requests to stop forgotten.

        Return ``False``, and change nothing, where it runs: somebody else has resumed it in the meantime.
        """
        table = schema.runs
        query = sa.update(table).where(table.c.run_id == run_id, table.c.status != "running")
        query = query.values(status="queued", queued_at=time.time(), error=None, cancel_requested=False)
        with schema.database_errors(self._path), schema.writing(self._database) as connection:
            return connection.execute(query).rowcount == 1

    def withdraw(self, run_id: str) -> bool:
        """Cancel the run if it still waits in the queue; return whether it did."""
        table = schema.runs
        query = sa.update(table).where(table.c.run_id == run_id, table.c.status == "queued")
        query = query.values(status="cancelled", queued_at=None, finished_at=time.time())
        with schema.database_errors(self._path), schema.writing(self._database) as connection:
            return connection.execute(query).rowcount == 1

    def request_cancel(self, run_id: str) -> None:
        """Ask the run's worker to stop at its next step boundary."""
        self.update_run(run_id, cancel_requested=True)

    def beat(self, run_id: str, *, attempt: int) -> bool | None:
        """Write the heartbeat; return whether a stop was asked for, ``None`` where the run has another worker now."""
        table = schema.runs
        query = sa.update(table).where(
            table.c.run_id == run_id, table.c.attempt == attempt, table.c.status == "running"
        )
        query = query.values(heartbeat_at=time.time()).returning(table.c.cancel_requested)
        with schema.database_errors(self._path), schema.writing(self._database) as connection:
            row = connection.execute(query).first()
        return None if row is None else bool(row[0])

    def update_stage(self, run_id: str, stage: str, **values: Any) -> None:
        """Set columns of one stage's row."""
        table = schema.stages
        query = sa.update(table).where(table.c.run_id == run_id, table.c.name == stage).values(**values)
        with schema.database_errors(self._path), schema.writing(self._database) as connection:
            connection.execute(query)

    def set_stage_status(self, run_id: str, stage: str, status: StageStatus, **values: Any) -> None:
        """Move a stage to ``status`` and note the time; ``values`` are further columns of its row."""
        now = time.time()
        if status == "running":
            values |= {"started_at": sa.func.coalesce(schema.stages.c.started_at, now), "finished_at": None}
        elif status != "pending":
            values |= {"finished_at": now}
        if status == "finished":
            values |= {"eta_s": 0.0}
        self.update_stage(run_id, stage, status=status, **values)

    def reconfigure(self, run_id: str, config: RunConfig, *, go_on: str, anew: Sequence[str]) -> bool:
        """Give a run that has ended another configuration, in one transaction with what follows from it.

        The stage ``go_on`` is pending again and keeps what it recorded, those of ``anew`` start from nothing, and the
        run is ``interrupted``: whatever happens next, resuming it does the rest. ``False`` where it runs.
        """
        table = schema.runs
        query = sa.update(table).where(table.c.run_id == run_id, table.c.status.not_in(("queued", "running")))
        query = query.values(
            status="interrupted", config_json=config.model_dump_json(), config_hash=config.content_hash()
        )
        with schema.database_errors(self._path), schema.writing(self._database) as connection:
            if connection.execute(query).rowcount != 1:
                return False
            _reset_stage(connection, run_id, go_on, keep_results=True)
            for stage in anew:
                _reset_stage(connection, run_id, stage, keep_results=False)
        return True

    def copy_results(self, source: str, target: str, stages: Sequence[str]) -> None:
        """Copy what ``stages`` recorded in the run ``source``, and their own rows, to the run ``target``."""
        staged = [schema.stages, schema.metrics, schema.traffic, schema.artefacts]
        whole = [table for stage in stages for table in _TABLES_OF_STAGE.get(stage, ())]
        with schema.database_errors(self._path), schema.writing(self._database) as connection:
            for stage in stages:
                of_target = sa.and_(schema.stages.c.run_id == target, schema.stages.c.name == stage)
                connection.execute(sa.delete(schema.stages).where(of_target))
            for table in staged + whole:
                key = table.c.name if table is schema.stages else table.c.get("stage")
                columns = [sa.literal(target) if c.name == "run_id" else c for c in table.c]
                query = sa.select(*columns).where(table.c.run_id == source)
                query = query if key is None else query.where(key.in_(stages))
                connection.execute(table.insert().from_select([c.name for c in table.c], query))
            if "mutual_distillation" not in stages:
                maps = sa.update(schema.samples).where(schema.samples.c.run_id == target)
                connection.execute(maps.values(teacher_path=None, student_path=None))

    def delete(self, run_id: str) -> None:
        """Remove a run that is not active, with its folder. Raises ``UserError`` ``run.active`` for one that is."""
        if self.get(run_id).active:
            raise UserError(
                "run.active",
                what=f"The run '{run_id}' is queued or running.",
                why="Its worker still writes to its folder.",
                fix=f"Cancel it first: `python -m engine cancel {run_id}`.",
            )
        with schema.database_errors(self._path), schema.writing(self._database) as connection:
            connection.execute(sa.delete(schema.runs).where(schema.runs.c.run_id == run_id))
        shutil.rmtree(self.run_dir(run_id), ignore_errors=True)

    def _runs(
        self, *conditions: sa.ColumnElement[bool], offset: int = 0, limit: int | None = None
    ) -> tuple[RunRecord, ...]:
        query = sa.select(*_RUN_COLUMNS).where(*conditions)
        query = query.order_by(schema.runs.c.created_at.desc(), schema.runs.c.run_id.desc()).offset(offset).limit(limit)
        return tuple(_run_record(row) for row in self._rows(query))

    def _new_folder(self, now: float) -> str:
        """Make and return a run id that sorts by time, is short and safe in a URL; its folder claims it."""
        stamp = time.strftime("%y%m%d-%H%M%S", time.gmtime(now))
        while True:
            run_id = f"{stamp}-{secrets.token_hex(2)}"
            try:
                self.run_dir(run_id).mkdir(parents=True)
            except FileExistsError:
                continue
            except OSError as error:
                raise UserError(
                    "run.not_writable",
                    what=f"The folder {self.run_dir(run_id)} cannot be made: {error}.",
                    why="A run keeps its checkpoints, samples and models there.",
                    fix="Free some space, make the home folder writable, or choose another one with --home.",
                ) from error
            return run_id


_TABLES_OF_STAGE: dict[str, tuple[sa.Table, ...]] = {
    "generation": (schema.samples,),
    "mutual_distillation": (schema.scores,),
    "evaluation": (schema.evaluation, schema.differences),
}


def _run_record(row: sa.Row[Any]) -> RunRecord:
    values = dict(row._mapping)
    values["error"] = json.loads(values["error"]) if values["error"] else None
    return RunRecord(**values)


def _with_estimates(stages: list[StageRecord]) -> tuple[StageRecord, ...]:
    """Fill in ``eta_s``: a running stage has its own; waiting ones have the plan's, scaled by how the plan has done."""
    spent = planned = 0.0
    for stage in stages:
        if stage.planned_s and (stage.status == "finished" or stage.eta_s is not None):
            spent += stage.wall_s + (stage.eta_s or 0.0)
            planned += stage.planned_s
    factor = spent / planned if planned > 0 and spent > 0 else 1.0
    filled = []
    for stage in stages:
        eta_s = 0.0 if stage.status == "finished" else stage.eta_s
        if eta_s is None and stage.planned_s is not None:
            eta_s = max(0.0, stage.planned_s * factor - stage.wall_s)
        filled.append(StageRecord(**{**stage.__dict__, "eta_s": eta_s}))
    return tuple(filled)


def _reset_stage(connection: sa.Connection, run_id: str, stage: str, *, keep_results: bool) -> None:
    """Make ``stage`` pending again and, unless ``keep_results``, remove what it recorded."""
    blank: dict[str, Any] = {"status": "pending", "started_at": None, "finished_at": None, "eta_s": None, "message": ""}
    gone = {} if keep_results else {"step": 0, "total": 0, "wall_s": 0.0}
    mine = sa.and_(schema.stages.c.run_id == run_id, schema.stages.c.name == stage)
    connection.execute(sa.update(schema.stages).where(mine).values(**blank, **gone))
    if keep_results:
        return
    for table in (schema.metrics, schema.traffic, schema.artefacts):
        connection.execute(sa.delete(table).where(table.c.run_id == run_id, table.c.stage == stage))
    for table in _TABLES_OF_STAGE.get(stage, ()):
        connection.execute(sa.delete(table).where(table.c.run_id == run_id))
