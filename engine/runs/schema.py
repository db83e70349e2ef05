"""Tables of the runs store, and how its SQLite file is opened. Torch-free."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Boolean, Column, Float, ForeignKey, Integer, MetaData, PrimaryKeyConstraint, String, Table, Text

from engine.errors import UserError

SCHEMA_VERSION = 3
DATABASE_NAME = "studio.sqlite"
BUSY_TIMEOUT_MS = 15_000

metadata = MetaData()


def _run_id() -> Column[str]:
    return Column("run_id", String, ForeignKey("runs.run_id", ondelete="CASCADE"), nullable=False)


schema_info = Table("schema_info", metadata, Column("version", Integer, primary_key=True))

runs = Table(
    "runs",
    metadata,
    Column("run_id", String, primary_key=True),
    Column("name", String, nullable=False),
    Column("status", String, nullable=False, index=True),
    Column("method", String, nullable=False),
    Column("config_json", Text, nullable=False),
    Column("config_hash", String, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("queued_at", Float),
    Column("started_at", Float),
    Column("finished_at", Float),
    Column("parent", String),
    Column("fork_stage", String),
    Column("error", Text),
    Column("stage", String),
    Column("attempt", Integer, nullable=False, default=0),
    Column("pid", Integer),
    Column("pid_started", Float),
    Column("host", String),
    Column("heartbeat_at", Float),
    Column("cancel_requested", Boolean, nullable=False, default=False),
)

stages = Table(
    "stages",
    metadata,
    _run_id(),
    Column("name", String, nullable=False),
    Column("position", Integer, nullable=False),
    Column("status", String, nullable=False, default="pending"),
    Column("step", Integer, nullable=False, default=0),
    Column("total", Integer, nullable=False, default=0),
    Column("message", String, nullable=False, default=""),
    Column("started_at", Float),
    Column("finished_at", Float),
    Column("wall_s", Float, nullable=False, default=0.0),
    Column("eta_s", Float),
    Column("planned_s", Float),
    PrimaryKeyConstraint("run_id", "name"),
)

log = Table(
    "log",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("run_id", String, ForeignKey("runs.run_id", ondelete="CASCADE"), nullable=False, index=True),
    Column("at", Float, nullable=False),
    Column("stage", String),
    Column("level", String, nullable=False),
    Column("text", Text, nullable=False),
)

# SQLite treats NULLs in a key as different from each other, so "no site" is the empty string in keys.
metrics = Table(
    "metrics",
    metadata,
    _run_id(),
    Column("stage", String, nullable=False),
    Column("name", String, nullable=False),
    Column("site", String, nullable=False, default=""),
    Column("step", Integer, nullable=False),
    Column("value", Float),  # NULL is how SQLite stores NaN
    PrimaryKeyConstraint("run_id", "stage", "name", "site", "step"),
    sqlite_with_rowid=False,
)

traffic = Table(
    "traffic",
    metadata,
    _run_id(),
    Column("stage", String, nullable=False),
    Column("site", String, nullable=False),
    Column("direction", String, nullable=False),
    Column("kind", String, nullable=False),
    Column("round", Integer, nullable=False),
    Column("payload_bytes", Integer, nullable=False),
    PrimaryKeyConstraint("run_id", "stage", "site", "direction", "kind", "round"),
    sqlite_with_rowid=False,
)

samples = Table(
    "samples",
    metadata,
    _run_id(),
    Column("sample_id", String, nullable=False),
    Column("site", String, nullable=False),
    Column("index", Integer, nullable=False),
    Column("seed", Integer, nullable=False),
    Column("source_mask", String, nullable=False),
    Column("mask_sharing", String, nullable=False),
    Column("image_path", String, nullable=False),
    Column("mask_path", String, nullable=False),
    Column("faithfulness_dice", Float),
    Column("teacher_path", String),
    Column("student_path", String),
    Column("generator", String, nullable=False, server_default=""),
    PrimaryKeyConstraint("run_id", "sample_id"),
    sqlite_with_rowid=False,
)

scores = Table(
    "scores",
    metadata,
    _run_id(),
    Column("epoch", Integer, nullable=False),
    Column("sample_id", String, nullable=False),
    Column("l_gt", Float),
    Column("l_kl", Float),
    Column("score", Float),
    Column("rank", Integer, nullable=False),
    Column("selected", Boolean, nullable=False),
    Column("fresh", Boolean, nullable=False),
    PrimaryKeyConstraint("run_id", "epoch", "sample_id"),
    sqlite_with_rowid=False,
)

evaluation = Table(
    "evaluation",
    metadata,
    _run_id(),
    Column("position", Integer, nullable=False),
    Column("model", String, nullable=False),
    Column("site", String, nullable=False),
    Column("split", String, nullable=False),
    Column("class_name", String, nullable=False),
    Column("num_images", Integer, nullable=False),
    Column("dice", Float),
    Column("dice_low", Float),
    Column("dice_high", Float),
    Column("iou", Float),
    Column("dice_five_thresholds", Float),
    Column("iou_five_thresholds", Float),
    Column("hd95_px", Float),
    Column("num_groups", Integer),
    Column("num_hd95", Integer),
    Column("num_missed", Integer),
    Column("num_spurious", Integer),
    Column("hd95_penalised_px", Float),
    PrimaryKeyConstraint("run_id", "model", "site", "split", "class_name"),
)

differences = Table(
    "differences",
    metadata,
    _run_id(),
    Column("position", Integer, nullable=False),
    Column("model", String, nullable=False),
    Column("baseline", String, nullable=False),
    Column("site", String, nullable=False),
    Column("split", String, nullable=False),
    Column("class_name", String, nullable=False),
    Column("num_images", Integer, nullable=False),
    Column("num_groups", Integer, nullable=False),
    Column("dice", Float),
    Column("dice_low", Float),
    Column("dice_high", Float),
    PrimaryKeyConstraint("run_id", "model", "baseline", "site", "split", "class_name"),
)

artefacts = Table(
    "artefacts",
    metadata,
    _run_id(),
    Column("path", String, nullable=False),
    Column("kind", String, nullable=False),
    Column("stage", String, nullable=False),
    Column("created_at", Float, nullable=False),
    PrimaryKeyConstraint("run_id", "path"),
)


_COUNTED = ("num_groups INTEGER", "num_hd95 INTEGER", "num_missed INTEGER", "num_spurious INTEGER",
            "hd95_penalised_px FLOAT")  # fmt: skip
UPGRADES: dict[int, tuple[str, ...]] = {
    1: ("ALTER TABLE samples ADD COLUMN generator VARCHAR NOT NULL DEFAULT ''",),
    2: tuple(f"ALTER TABLE evaluation ADD COLUMN {column}" for column in _COUNTED),
}
"""The statements that make schema n + 1 of schema n; tables that are missing then are made as they are today."""


def open_database(home: Path) -> sa.Engine:
    """Return an engine on ``home/studio.sqlite``, made with its tables where it is missing, upgraded where it is older.

    WAL lets readers go on while a worker writes; ``synchronous=NORMAL`` loses nothing when a process is killed.
    Raises ``UserError`` for a home that cannot be written, a file that is not a store, and a newer schema.
    """
    path = Path(home) / DATABASE_NAME
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_writable(path.parent, error) from error
    address = sa.URL.create("sqlite", database=str(path))  # not written out: a path may hold ? and %
    engine = sa.create_engine(address, connect_args={"timeout": BUSY_TIMEOUT_MS / 1000})
    sa.event.listen(engine, "connect", _on_connect)
    sa.event.listen(engine, "begin", _on_begin)
    with database_errors(path), writing(engine) as connection:
        tables = sa.inspect(connection).get_table_names()
        version = connection.scalar(sa.select(sa.func.max(schema_info.c.version))) if "schema_info" in tables else None
        if version is not None and version > SCHEMA_VERSION:
            raise UserError(
                "run.store_newer",
                what=f"The runs store {path} has schema {version}; this version reads up to {SCHEMA_VERSION}.",
                why="An older program could damage what a newer one wrote.",
                fix="Update DSFedMed Studio, or choose another home with --home or DSFEDMED_HOME.",
            )
        if version is None:
            metadata.create_all(connection)
            connection.execute(schema_info.insert().values(version=SCHEMA_VERSION))
        elif version < SCHEMA_VERSION:
            for step in range(version, SCHEMA_VERSION):
                for statement in UPGRADES[step]:
                    connection.execute(sa.text(statement))
            metadata.create_all(connection)
            connection.execute(schema_info.update().values(version=SCHEMA_VERSION))
    return engine


@contextmanager
def writing(engine: sa.Engine) -> Iterator[sa.Connection]:
    """Open a write transaction at once (``BEGIN IMMEDIATE``): what is read inside it cannot change before it ends."""
    with engine.connect().execution_options(immediate=True) as connection, connection.begin():
        yield connection


@contextmanager
def database_errors(path: Path) -> Iterator[None]:
    """Turn SQLite's refusals (disk full, read-only, not a database) into ``UserError``."""
    try:
        yield
    except sa.exc.DBAPIError as error:
        raise _user_error(path, error) from error


def _on_connect(connection: sqlite3.Connection, _record: Any) -> None:
    connection.isolation_level = None  # transactions begin where `_on_begin` says, not where sqlite3 guesses
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
    cursor.execute("PRAGMA foreign_keys=ON")
    if cursor.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()


def _on_begin(connection: sa.Connection) -> None:
    immediate = connection.get_execution_options().get("immediate", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


def _not_writable(path: Path, error: Exception) -> UserError:
    return UserError(
        "run.not_writable",
        what=f"The runs store {path} cannot be written: {error}.",
        why="Runs, their curves and their checkpoints are kept there.",
        fix="Make the folder writable, or choose another one with --home or DSFEDMED_HOME.",
    )


def _user_error(path: Path, error: sa.exc.DBAPIError) -> Exception:
    text = str(error.orig).lower()
    if "full" in text:
        return UserError(
            "run.disk_full",
            what=f"The disk is full: {path} could not be written.",
            why="The run's records are kept there; everything written before is untouched.",
            fix="Free some space and resume the run.",
        )
    if any(word in text for word in ("readonly", "read-only", "unable to open", "disk i/o")):
        return _not_writable(path, error.orig or error)
    if "locked" in text or "busy" in text:
        return UserError(
            "run.store_busy",
            what=f"The runs store {path} has been locked by another process for more than {BUSY_TIMEOUT_MS // 1000} s.",
            why="Only one process can write at a time.",
            fix="End the program that holds the file open (a database viewer, a backup), then resume the run.",
        )
    if "not a database" in text or "malformed" in text:
        return UserError(
            "run.store_damaged",
            what=f"{path} is not a whole SQLite database ({error.orig}).",
            why="The list of runs is kept there.",
            fix="Move the file away (run folders beside it stay as they are), or restore it from a backup.",
        )
    return error
