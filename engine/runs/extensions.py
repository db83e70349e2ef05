"""Work on a longer version of a run, kept apart from the run's results until it is whole. Torch-free.

An extension is recorded under an id of its own, ``RUN+N``, in a row whose ``extends`` names the run, and its files lie
below ``runs/.next``. The run's row says who works and how it goes; its results, files and configuration stay what they
were. When the last stage is done, one transaction gives the extension's records to the run, and the folder follows.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from engine.config import RunConfig
from engine.methods import catalogue
from engine.runs import folders, schema
from engine.runs.records import ACTIVE, ExtensionRecord, MetricSeries
from engine.runs.results import ResultStore, add_log_line

STAGED, ARRIVING = "staged", "arriving"
"""States of an extension's row: being worked on; its records are the run's by now, its folder not yet."""
WORKER_LOG = "worker.log"


class ExtensionStore(ResultStore):
    """The records of extensions, on top of the runs' results."""

    home: Path

    @property
    def runs_folder(self) -> Path:
        """Where the folders of runs lie."""
        return self.home / "runs"

    def run_dir(self, run_id: str) -> Path:
        """Return the folder of a run, or of the extension with that id."""
        run, plus, _ = run_id.partition("+")
        return self.runs_folder / folders.NEXT / run_id / run if plus else self.runs_folder / run_id

    def work_id(self, run_id: str) -> str:
        """Return the id under which a worker of this run records: its extension's while there is one, else its own."""
        row = schema.runs.c
        rows = self._rows(sa.select(row.run_id).where(row.extends == run_id, row.status == STAGED))
        return rows[0].run_id if rows else run_id

    def extension(self, run_id: str) -> ExtensionRecord | None:
        """Return what the run is being extended to, or was when that stopped; ``None`` where it is not extended."""
        row = schema.runs.c
        query = sa.select(row.run_id, row.config_json, row.config_hash)
        rows = self._rows(query.where(row.extends == run_id, row.status == STAGED))
        return ExtensionRecord(*tuple(rows[0])) if rows else None

    def metrics(
        self, run_id: str, *, stage: str | None = None, name: str | None = None, site: str | None = None
    ) -> tuple[MetricSeries, ...]:
        """Return the run's curves, ordered by stage, name and site; the arguments narrow them.

        While the run is being extended, the curves of the stages that have begun anew are those of the extension.
        """
        own = super().metrics(run_id, stage=stage, name=name, site=site)
        begun = self._begun_anew(run_id)
        if not begun:
            return own
        work = super().metrics(self.work_id(run_id), stage=stage, name=name, site=site)
        shown = [curve for curve in own if curve.stage not in begun] + [c for c in work if c.stage in begun]
        return tuple(sorted(shown, key=lambda curve: (curve.stage, curve.name, curve.site or "")))

    def begin_extension(
        self,
        run_id: str,
        work_id: str,
        config: RunConfig,
        *,
        source: str,
        go_on: str,
        said: str,
        planned_factor: float,
    ) -> bool:
        """Record the extension ``work_id`` of a run that has ended, in place of an earlier one, and queue the run.

        One transaction. The stage ``go_on`` keeps what it recorded under ``source`` (the run, or its earlier
        extension) and is expected to take ``planned_factor`` times as long; later stages start from nothing.
        ``False``, and nothing changed, where the run waits or runs.
        """
        table, stages = schema.runs, schema.stages
        now = time.time()
        with self._writing() as connection:
            query = sa.update(table).where(table.c.run_id == run_id, table.c.status.not_in(ACTIVE))
            query = query.values(status="queued", queued_at=now, error=None, cancel_requested=False)
            if connection.execute(query).rowcount != 1:
                return False
            row = dict(connection.execute(sa.select(table).where(table.c.run_id == run_id)).one()._mapping)
            row |= {"run_id": work_id, "extends": run_id, "status": STAGED, "created_at": now, "queued_at": None}
            row |= {"config_json": config.model_dump_json(), "config_hash": config.content_hash()}
            connection.execute(table.insert().values(**row))
            plan = sa.select(stages.c.name, stages.c.position, stages.c.planned_s).where(stages.c.run_id == run_id)
            for name, position, planned_s in connection.execute(plan).all():
                planned = planned_s * planned_factor if planned_s is not None and name == go_on else planned_s
                new = {"run_id": work_id, "name": name, "position": position, "planned_s": planned}
                connection.execute(stages.insert().values(**new))
            columns = (stages.c.step, stages.c.total, stages.c.wall_s, stages.c.cpu_s, table.c.config_json)
            done = sa.select(*columns).join(table, table.c.run_id == stages.c.run_id)
            done = done.where(stages.c.run_id == source, stages.c.name == go_on)
            step, total, wall_s, cpu_s, before = connection.execute(done).one()
            # a stage counts parts of rounds, each as it likes
            total = total * config.federation.rounds // json.loads(before)["federation"]["rounds"]
            mine = sa.and_(stages.c.run_id == work_id, stages.c.name == go_on)
            connection.execute(sa.update(stages).where(mine).values(step=step, wall_s=wall_s, cpu_s=cpu_s, total=total))
            copy_rows(connection, source, work_id, [go_on])
            connection.execute(
                sa.delete(table).where(table.c.extends == run_id, table.c.status == STAGED, table.c.run_id != work_id)
            )
            add_log_line(connection, run_id, "info", said)
        return True

    def adopt_extension(self, run_id: str, work_id: str, *, owner: int) -> bool:
        """Make what the extension recorded the run's results, and the run finished, in one transaction.

        Its folder follows with ``settle``. ``False``, and nothing changed, where another worker has the run.
        """
        table = schema.runs
        with self._writing() as connection:
            config = sa.select(table.c.config_json, table.c.config_hash).where(table.c.run_id == work_id)
            row = connection.execute(config).first()
            if row is None:
                return False
            query = sa.update(table).where(
                table.c.run_id == run_id, table.c.attempt == owner, table.c.status == "running"
            )
            ended: dict[str, Any] = {"status": "finished", "finished_at": time.time(), "queued_at": None}
            ended |= {"pid": None, "pid_started": None, "error": None}
            query = query.values(config_json=row.config_json, config_hash=row.config_hash, **ended)
            if connection.execute(query).rowcount != 1:
                return False
            for records in (schema.stages, *schema.RESULTS.values()):
                connection.execute(sa.delete(records).where(records.c.run_id == run_id))
                moved = sa.update(records).where(records.c.run_id == work_id)
                connection.execute(moved.values(run_id=run_id))
            connection.execute(sa.update(table).where(table.c.run_id == work_id).values(status=ARRIVING))
        return True

    def settle(self) -> None:
        """Move the folders of adopted extensions to their runs; whoever was killed on the way left that to the next."""
        row = schema.runs.c
        arriving = sa.select(row.run_id, row.extends).where(row.status == ARRIVING)
        if not self._rows(arriving):
            return
        with self._writing() as connection:
            for work_id, run_id in connection.execute(arriving).all():
                work, folder = self.run_dir(work_id), self.run_dir(run_id)
                folders.move_in_place(work, folder, runs=self.runs_folder, kept=(WORKER_LOG,))
                folders.discard(work.parent, runs=self.runs_folder)
                connection.execute(sa.delete(schema.runs).where(row.run_id == work_id))
        folders.empty_trash(self.runs_folder)

    def drop_extension(self, run_id: str, *, said: str) -> bool:
        """Give an extension up: the run is again what its results are. ``False`` where it has none or is active."""
        table, stages = schema.runs, schema.stages
        with self._writing() as connection:
            unfinished = sa.select(sa.func.count()).where(stages.c.run_id == run_id, stages.c.status != "finished")
            status = "finished" if not connection.scalar(unfinished) else "cancelled"
            staged = sa.delete(table).where(table.c.extends == run_id, table.c.status == STAGED)
            ended = sa.select(table.c.run_id).where(table.c.run_id == run_id, table.c.status.not_in(ACTIVE))
            if connection.execute(ended).first() is None or not connection.execute(staged).rowcount:
                return False
            values = {"status": status, "error": None, "cancel_requested": False}
            connection.execute(sa.update(table).where(table.c.run_id == run_id).values(**values))
            add_log_line(connection, run_id, "info", said)
        return True

    def _begun_anew(self, run_id: str) -> frozenset[str]:
        """Return the stages that the extension of a waiting or running run has begun."""
        stages, table = schema.stages, schema.runs
        run = table.alias()
        query = sa.select(stages.c.name).select_from(stages.join(table, table.c.run_id == stages.c.run_id))
        query = query.join(run, run.c.run_id == table.c.extends)
        query = query.where(table.c.extends == run_id, table.c.status == STAGED, run.c.status.in_(ACTIVE))
        return frozenset(row.name for row in self._rows(query.where(stages.c.status != "pending")))


def copy_rows(connection: sa.Connection, source: str, target: str, stages: list[str]) -> None:
    """Copy what ``stages`` recorded under ``source``, beside their own rows, to ``target``."""
    tables = [table for table in schema.RESULTS.values() if "stage" in table.c]
    named = {name for stage in catalogue.stages(stages) for name in stage.records}
    tables += [table for name, table in schema.RESULTS.items() if name in named]
    for table in tables:
        columns = [sa.literal(target) if c.name == "run_id" else c for c in table.c]
        query = sa.select(*columns).where(table.c.run_id == source)
        query = query.where(table.c.stage.in_(stages)) if "stage" in table.c else query
        connection.execute(table.insert().from_select([c.name for c in table.c], query))
