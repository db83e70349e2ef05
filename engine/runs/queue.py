"""The states that runs and stages go through: waiting, claimed, running, ended. Torch-free."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping
from typing import Any

import psutil
import sqlalchemy as sa

from engine.errors import UserError
from engine.runs import labels, schema
from engine.runs.extensions import ExtensionStore
from engine.runs.records import RunRecord, RunStatus, StageStatus
from engine.runs.results import add_log_line

_RUN_COLUMNS = tuple(c for c in schema.runs.c if c.name != "extends")
_Conditions = list[sa.ColumnElement[bool]]


class QueueStore(ExtensionStore):
    """Changes of state, each one statement or transaction that only happens where the state is still the expected."""

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
        self,
        *,
        status: Iterable[RunStatus] | None = None,
        complete: bool = False,
        offset: int = 0,
        limit: int | None = None,
    ) -> tuple[RunRecord, ...]:
        """Return the runs, newest first, optionally only those in one of the states ``status``.

        With ``complete`` only those whose every stage has its results, also while the run is being extended.
        """
        conditions: _Conditions = [] if status is None else [schema.runs.c.status.in_(tuple(status))]
        if complete:
            stages = schema.stages.c
            unfinished = sa.exists().where(stages.run_id == schema.runs.c.run_id, stages.status != "finished")
            conditions.append(sa.not_(unfinished))
        return self._runs(*conditions, offset=offset, limit=limit)

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
        with self._writing() as connection:
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

    def end_run(
        self, run_id: str, status: RunStatus, *, owner: int, error: UserError | None = None, said: str | None = None
    ) -> bool:
        """Record in one transaction how a running run ended: its state, the stage that was running, the reason.

        ``said`` goes to the log, the reason's sentence where it is left out. Return ``False``, and change nothing,
        where ``owner`` does not run it any more.
        """
        table, stages, now = schema.runs, schema.stages, time.time()
        query = sa.update(table).where(table.c.run_id == run_id, table.c.attempt == owner, table.c.status == "running")
        values = {"status": status, "error": json.dumps(error.as_dict()) if error else None, "finished_at": now}
        work = sa.select(table.c.run_id).where(sa.or_(table.c.run_id == run_id, table.c.extends == run_id))
        stopped = sa.update(stages).where(stages.c.run_id.in_(work), stages.c.status == "running")
        with self._writing() as connection:
            if connection.execute(query.values(**values, queued_at=None, pid=None, pid_started=None)).rowcount != 1:
                return False
            as_stage = "cancelled" if status == "cancelled" else "failed"
            connection.execute(stopped.values(status=as_stage, finished_at=now))
            if said or error:
                add_log_line(connection, run_id, "error" if error else "info", said or (error.what if error else ""))
        return True

    def claim(self, *, max_running: int, run_id: str | None = None) -> RunRecord | None:
        """Give the oldest waiting run (or ``run_id``, if it waits) to the caller, who must start a worker for it.

        One transaction: of two callers only one gets a run. ``None`` where nothing waits or ``max_running`` run. Until
        the worker is registered, the run's process is the caller's, without a host: see ``release``.
        """
        table = schema.runs
        waiting = sa.select(table.c.run_id).where(table.c.status == "queued", table.c.queued_at.is_not(None))
        waiting = waiting if run_id is None else waiting.where(table.c.run_id == run_id)
        running = sa.select(sa.func.count()).where(table.c.status == "running")
        now = time.time()
        with self._writing() as connection:
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
                    started_at=sa.func.coalesce(table.c.started_at, now),
                    finished_at=None,
                    heartbeat_at=now,
                    pid=os.getpid(),
                    pid_started=psutil.Process().create_time(),
                    host=None,
                )
            )
        return self.get(chosen)

    def release(self, run_id: str, *, attempt: int) -> bool:
        """Put a run back to its place in the queue whose claimer died before a worker began; return whether it did."""
        table = schema.runs
        query = sa.update(table).where(table.c.run_id == run_id, table.c.attempt == attempt)
        query = query.where(table.c.status == "running", table.c.host.is_(None))
        values = {"queued_at": sa.func.coalesce(table.c.queued_at, time.time()), "pid": None, "pid_started": None}
        with self._writing() as connection:
            return connection.execute(query.values(status="queued", **values)).rowcount == 1

    def enqueue(self, run_id: str, *, said: str | None = None) -> bool:
        """Put the run at the end of the queue, its errors, failed stages and requests to stop forgotten.

        Return ``False``, and change nothing, where it runs: somebody else has resumed it in the meantime.
        """
        table, stages = schema.runs, schema.stages
        query = sa.update(table).where(table.c.run_id == run_id, table.c.status != "running")
        query = query.values(status="queued", queued_at=time.time(), error=None, cancel_requested=False)
        work = sa.select(table.c.run_id).where(sa.or_(table.c.run_id == run_id, table.c.extends == run_id))
        again = sa.update(stages).where(stages.c.run_id.in_(work), stages.c.status.not_in(("pending", "finished")))
        with self._writing() as connection:
            if connection.execute(query).rowcount != 1:
                return False
            connection.execute(again.values(status="pending", finished_at=None))
            if said is not None:
                add_log_line(connection, run_id, "info", said)
        return True

    def withdraw(self, run_id: str, *, said: str | None = None) -> bool:
        """Cancel the run if it still waits in the queue; return whether it did."""
        table = schema.runs
        query = sa.update(table).where(table.c.run_id == run_id, table.c.status == "queued")
        query = query.values(status="cancelled", queued_at=None, finished_at=time.time())
        with self._writing() as connection:
            done = connection.execute(query).rowcount == 1
            if done and said is not None:
                add_log_line(connection, run_id, "info", said)
        return done

    def request_cancel(self, run_id: str, *, said: str | None = None) -> None:
        """Ask the run's worker to stop at its next step boundary."""
        table = schema.runs
        with self._writing() as connection:
            connection.execute(sa.update(table).where(table.c.run_id == run_id).values(cancel_requested=True))
            if said is not None:
                add_log_line(connection, run_id, "info", said)

    def beat(self, run_id: str, *, attempt: int) -> bool | None:
        """Write the heartbeat; return whether a stop was asked for, ``None`` where the run has another worker now."""
        table = schema.runs
        query = sa.update(table).where(
            table.c.run_id == run_id, table.c.attempt == attempt, table.c.status == "running"
        )
        query = query.values(heartbeat_at=time.time()).returning(table.c.cancel_requested)
        with self._writing() as connection:
            row = connection.execute(query).first()
        return None if row is None else bool(row[0])

    def update_stage(self, run_id: str, stage: str, **values: Any) -> None:
        """Set columns of one stage's row."""
        table = schema.stages
        query = sa.update(table).where(table.c.run_id == run_id, table.c.name == stage).values(**values)
        with self._writing() as connection:
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

    def _runs(
        self, *conditions: sa.ColumnElement[bool], offset: int = 0, limit: int | None = None
    ) -> tuple[RunRecord, ...]:
        query = sa.select(*_RUN_COLUMNS).where(schema.runs.c.extends.is_(None), *conditions)
        query = query.order_by(schema.runs.c.created_at.desc(), schema.runs.c.run_id.desc()).offset(offset).limit(limit)
        return tuple(_run_record(row) for row in self._rows(query))


def _run_record(row: sa.Row[Any]) -> RunRecord:
    values = dict(row._mapping)
    values["error"] = _error(values["error"]) if values["error"] else None
    written = {name: values.pop(name) for name in ("title", "tags", "notes")}
    return RunRecord(**values, labels=labels.readable(written))


def _error(text: str) -> dict[str, str]:
    """Return a stored error; one that is damaged says so instead of taking the whole list of runs with it."""
    try:
        stored = json.loads(text)
        return {key: str(stored[key]) for key in ("code", "what", "why", "fix")}
    except (ValueError, KeyError, TypeError):
        what, why = "The run stopped, and the stored reason cannot be read.", "The runs store is damaged there."
        return {"code": "run.record_damaged", "what": what, "why": why, "fix": "Resume the run."}
