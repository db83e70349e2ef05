"""The runs store: one SQLite file and one folder per run below a home folder. Torch-free.

``home/studio.sqlite`` holds every record, ``home/runs/<run_id>/`` the files. Any number of processes may read and
write: the worker of a run, the page, the command line.
"""

from __future__ import annotations

import itertools
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from engine.config import RunConfig
from engine.errors import UserError
from engine.methods import catalogue
from engine.runs import folders, schema
from engine.runs.database import ChangeCount, open_database
from engine.runs.extensions import copy_rows
from engine.runs.queue import QueueStore
from engine.runs.records import ACTIVE, RESUMABLE, ExtensionRecord, RunRecord, RunView, StageRecord
from engine.runs.results import Rows, add_log_line

DEFAULT_HOME = Path("studio_home")
UNQUEUED_S = 60.0
"""A run that waits so long without being in the queue never will be: the program that created it was killed."""
FULL_BYTES = 256 * 1024
"""With less free space than this, the next records and checkpoints do not fit."""
_STAGE_COLUMNS = tuple(c for c in schema.stages.c if c.name != "run_id")


def home_folder(home: Path | str | None = None) -> Path:
    """Return ``home``, or the environment's ``DSFEDMED_HOME``, or ``./studio_home``, as an absolute path."""
    return Path(home or os.environ.get("DSFEDMED_HOME") or DEFAULT_HOME).expanduser().resolve()


class RunStore(QueueStore):
    """Runs and their stages, on top of what :class:`QueueStore` and what it stands on keep of them.

    Raises ``UserError`` (``run.not_writable``, ``run.disk_full``, ``run.store_newer``, ``run.store_damaged``) where the
    home folder cannot be used. What killed programs have left is put in order; ``warnings`` are sentences about what
    others on this machine can read.
    """

    def __init__(self, home: Path | str | None = None) -> None:
        self.home = home_folder(home)
        super().__init__(open_database(self.home), self.home / schema.DATABASE_NAME)
        self.warnings = folders.tighten(self.home)
        self._changes = ChangeCount(self._database, self.home / schema.DATABASE_NAME)
        self._put_in_order()

    def changes(self) -> int:
        """Return a number that is another one when anything was written since it was asked last, by whomever."""
        return self._changes.now()

    def close(self) -> None:
        """Close the database's connections."""
        self._changes.close()
        self._database.dispose()

    def create_run(
        self,
        config: RunConfig,
        *,
        parent: str | None = None,
        fork_stage: str | None = None,
        stages: Sequence[str] | None = None,
        planned_s: Mapping[str, float] | None = None,
        by: str | None = None,
        queued: bool = False,
    ) -> RunRecord:
        """Store a new run and make its folder, in one transaction; with ``queued`` it is in the queue at once.

        ``stages`` are the method's when left out; ``planned_s`` is what the plan expects of each, in seconds; ``by``
        is who asked for it.
        """
        with self._writing() as connection:
            run_id = self._new_folder()
            row = {"run_id": run_id, "parent": parent, "fork_stage": fork_stage, "started_by": by}
            _insert_run(connection, config, row, stages=stages, planned_s=planned_s, queued=queued)
            if by is not None:
                add_log_line(connection, run_id, "info", f"Started by {by}.")
        return self.get(run_id)

    def create_fork(
        self,
        config: RunConfig,
        *,
        run_id: str,
        parent: RunRecord,
        fork_stage: str,
        stages: Sequence[str] | None,
        taken_over: Sequence[str],
        planned_s: Mapping[str, float] | None = None,
        by: str | None = None,
        said: str = "",
    ) -> bool:
        """Store the run ``run_id`` with what ``taken_over`` recorded in ``parent``, in the queue, in one transaction.

        Its folder is filled already (see ``filling``). ``False``, and nothing stored, where the parent is no longer
        what ``parent`` says: its results have been replaced in the meantime.
        """
        with self._writing() as connection:
            same = sa.select(schema.runs.c.config_hash).where(schema.runs.c.run_id == parent.run_id)
            if connection.scalar(same) != parent.config_hash:
                return False
            row = {"run_id": run_id, "parent": parent.run_id, "fork_stage": fork_stage, "started_by": by}
            _insert_run(connection, config, row, stages=stages, planned_s=planned_s, queued=True)
            _copy_results(connection, parent.run_id, run_id, taken_over)
            add_log_line(connection, run_id, "info", said)
        return True

    def create_imported(self, run_id: str, records: Mapping[str, Rows], *, said: str) -> None:
        """Store a run with all its rows by table, which are whole and checked, in one transaction.

        Its folder is filled already (see ``filling``).
        """
        tables = {"runs": schema.runs, "stages": schema.stages, "log": schema.log, **schema.RESULTS}
        with self._writing() as connection:
            for name, table in tables.items():
                if records[name]:  # rows of an older schema lack columns: those have defaults
                    connection.execute(table.insert(), [{"run_id": run_id, **row} for row in records[name]])
            add_log_line(connection, run_id, "info", said)

    @contextmanager
    def filling(self, *, extends: str | None = None, known_as: str | None = None) -> Iterator[str]:
        """Give a new folder's id, of a run or of an extension of ``extends``, to be filled and then recorded.

        ``known_as`` is the id of a run of another home; ``UserError`` ``run_archive.known`` where this one has it.

        The folder goes again where nothing was recorded: at once when the body raises, when a store is opened next
        where this process is killed.
        """
        with self._writing() as connection:  # under this lock nobody takes a folder without its mark for a leftover
            known = frozenset(connection.scalars(sa.select(schema.runs.c.run_id)))
            chosen = known_as or self._new_folder(extends=extends, known=known)
            folder = self.run_dir(chosen)
            if known_as is not None:
                self._make_known(folder, is_known=known_as in known)
            descriptor = folders.mark(folder)
        try:
            yield chosen
        finally:
            if self._rows(sa.select(schema.runs.c.run_id).where(schema.runs.c.run_id == chosen)):
                (folder / folders.MARK).unlink(missing_ok=True)
            else:
                folders.discard(folder if extends is None else folder.parent, runs=self.runs_folder)
                folders.empty_trash(self.runs_folder)
            os.close(descriptor)

    def stages(self, run_id: str) -> tuple[StageRecord, ...]:
        """Return the run's stages in order, with what each is expected to need still."""
        query = sa.select(*_STAGE_COLUMNS).where(schema.stages.c.run_id == run_id).order_by(schema.stages.c.position)
        return _with_estimates([StageRecord(**row._mapping) for row in self._rows(query)])

    def view(self, run_id: str) -> RunView:
        """Return the run with its stages and the expected seconds until its end (``None`` while unknown)."""
        run, kept, extension = self.get(run_id), self.stages(run_id), self.extension(run_id)
        stages = kept if extension is None else self.stages(extension.work_id)
        left = [stage.eta_s for stage in stages]
        known = [seconds for seconds in left if seconds is not None]
        eta_s = sum(known) if len(known) == len(left) else None
        return RunView(run, stages, eta_s, kept, extension, note=_note(run, extension, home=self.home))

    def copy_results(self, source: str, target: str, stages: Sequence[str]) -> None:
        """Copy what ``stages`` recorded in the run ``source``, and their own rows, to the run ``target``."""
        with self._writing() as connection:
            _copy_results(connection, source, target, stages)

    def delete(self, run_id: str) -> None:
        """Remove a run that is not active, with its folder.

        Raises ``UserError`` ``run.active`` for one that is, ``run.in_use`` where somebody else deletes it just now.
        """
        if self.get(run_id).active:
            raise _active(run_id)
        self.settle()
        work_id = self.work_id(run_id)
        gone = [folder for folder in {self.run_dir(run_id), self.run_dir(work_id)} if folder.is_dir()]
        with ExitStack() as held:
            try:
                for folder in gone:  # marked: killed below, whoever opens the store next deletes them
                    held.callback(os.close, folders.mark(folder))
            except (BlockingIOError, FileNotFoundError) as error:
                raise _in_use(run_id) from error
            with self._writing() as connection:
                mine = sa.or_(schema.runs.c.run_id == run_id, schema.runs.c.extends == run_id)
                began = connection.scalar(sa.select(schema.runs.c.run_id).where(mine, schema.runs.c.status.in_(ACTIVE)))
                if began is None:
                    connection.execute(sa.delete(schema.runs).where(mine))
            for folder in gone:
                if began is None:
                    folders.discard(folder, runs=self.runs_folder)
                else:
                    (folder / folders.MARK).unlink(missing_ok=True)
        if began is not None:  # somebody has put it back in the queue since it was looked at
            raise _active(run_id)
        self._put_in_order()

    def _put_in_order(self) -> None:
        """Do what killed programs have left undone, and remove what they have left half done."""
        self.settle()
        table = schema.runs
        lost = sa.update(table).where(table.c.status == "queued", table.c.queued_at.is_(None))
        lost = lost.where(table.c.created_at < time.time() - UNQUEUED_S)
        error = UserError(
            "run.not_queued",
            what="The program that created this run ended before the run was in the queue.",
            why="Nobody would ever have started it.",
            fix="Resume the run: it then waits its turn.",
        )
        with self._writing() as connection:
            connection.execute(lost.values(status="interrupted", error=json.dumps(error.as_dict())))
            known = frozenset(connection.scalars(sa.select(table.c.run_id)))
            folders.discard_leftovers(self.runs_folder, known)
        folders.empty_trash(self.runs_folder)

    def _make_known(self, folder: Path, *, is_known: bool) -> None:
        """Make the folder of a run whose id is not chosen here."""
        if is_known or folder.exists():
            raise UserError(
                "run_archive.known",
                what=f"The run '{folder.name}' is in {self.home} already, or its folder is.",
                why="A run that is taken in keeps its id, and nothing is overwritten.",
                fix="Delete the run that is there, or choose another home with --home.",
            )
        try:
            folders.make(folder, exist_ok=False)
        except OSError as error:
            raise folders.not_writable(folder, error) from error

    def _new_folder(self, *, extends: str | None = None, known: frozenset[str] = frozenset()) -> str:
        """Make a folder and return its id: a run's sorts by time, is short and safe in a URL."""
        stamp = time.strftime("%y%m%d-%H%M%S", time.gmtime())
        for number in itertools.count(1):
            chosen = f"{stamp}-{secrets.token_hex(2)}" if extends is None else f"{extends}+{number}"
            folder = self.run_dir(chosen)
            if chosen in known or (folder.parent.name == chosen and folder.parent.exists()):
                continue
            try:
                folders.make(folder, exist_ok=False)
            except FileExistsError:
                continue
            except OSError as error:
                raise folders.not_writable(folder, error) from error
            return chosen
        raise AssertionError("the numbers do not end")


def _active(run_id: str) -> UserError:
    return UserError(
        "run.active",
        what=f"The run '{run_id}' is queued or running.",
        why="Its worker still writes to its folder.",
        fix=f"Cancel it first: `python -m engine cancel {run_id}`.",
    )


def _in_use(run_id: str) -> UserError:
    return UserError(
        "run.in_use",
        what=f"The run '{run_id}' is being deleted by somebody else just now, or its files are changed.",
        why="Only one of two may move them.",
        fix="Wait for a moment and look whether the run is still there.",
    )


def _insert_run(
    connection: sa.Connection,
    config: RunConfig,
    row: dict[str, Any],
    *,
    stages: Sequence[str] | None,
    planned_s: Mapping[str, float] | None,
    queued: bool,
) -> None:
    now, planned = time.time(), planned_s or {}
    names = tuple(stages) if stages is not None else catalogue.method(config.method).stage_names
    about = {"name": config.name, "method": config.method, "status": "queued", "attempt": 0, "cancel_requested": False}
    stored = {"config_json": config.model_dump_json(), "config_hash": config.content_hash()}
    times = {"created_at": now, "queued_at": now if queued else None}
    connection.execute(schema.runs.insert(), row | about | stored | times)
    blank = [
        {"run_id": row["run_id"], "name": name, "position": i, "planned_s": planned.get(name)}
        for i, name in enumerate(names)
    ]
    connection.execute(schema.stages.insert(), blank)


def _copy_results(connection: sa.Connection, source: str, target: str, stages: Sequence[str]) -> None:
    table = schema.stages
    connection.execute(sa.delete(table).where(table.c.run_id == target, table.c.name.in_(stages)))
    columns = [sa.literal(target) if c.name == "run_id" else c for c in table.c]
    own = sa.select(*columns).where(table.c.run_id == source, table.c.name.in_(stages))
    connection.execute(table.insert().from_select([c.name for c in table.c], own))
    copy_rows(connection, source, target, list(stages))
    if not catalogue.records_of(stages, catalogue.PREDICTIONS):
        maps = sa.update(schema.samples).where(schema.samples.c.run_id == target)
        connection.execute(maps.values(teacher_path=None, student_path=None))


def _note(run: RunRecord, extension: ExtensionRecord | None, *, home: Path) -> str | None:
    """Return what holds a run up or has become of its extension."""
    if run.status == "running" and run.host is not None and shutil.disk_usage(home).free < FULL_BYTES:
        return f"The disk that holds {home} is full: the run cannot go on until some space is freed."
    if extension is not None and run.status in RESUMABLE:
        return (
            f"Extending the run to {extension.config.federation.rounds} rounds has stopped; the results are those of "
            "before, whole and usable. Resume the run to go on with the extension, or give it up."
        )
    return None


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
