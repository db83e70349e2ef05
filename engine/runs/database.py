"""How the runs store's SQLite file is opened, checked and written, and what its refusals mean. Torch-free."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from engine.errors import UserError
from engine.runs.schema import DATABASE_NAME, SCHEMA_VERSION, UPGRADES, metadata, schema_info

BUSY_TIMEOUT_MS = 15_000
PRIVATE_FILE, PRIVATE_FOLDER = 0o600, 0o700
_PROGRAM_FAULTS = (sa.exc.IntegrityError, sa.exc.ProgrammingError, sa.exc.InterfaceError, sa.exc.NotSupportedError)


def open_database(home: Path) -> sa.Engine:
    """Return an engine on ``home/studio.sqlite``, made with its tables where it is missing, upgraded where it is older.

    WAL lets readers go on while a worker writes; ``synchronous=NORMAL`` loses nothing when a process is killed.
    Raises ``UserError`` for a home that cannot be written, a file that is not a whole store, and a newer schema.
    """
    path = Path(home) / DATABASE_NAME
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=PRIVATE_FOLDER)
        _refuse_lost(path)
        _make_private_file(path)
    except OSError as error:
        raise _not_writable(path, error) from error
    address = sa.URL.create("sqlite", database=str(path))  # not written out: a path may hold ? and %
    engine = sa.create_engine(address, connect_args={"timeout": BUSY_TIMEOUT_MS / 1000})
    sa.event.listen(engine, "connect", _on_connect)
    sa.event.listen(engine, "begin", _on_begin)
    try:
        with database_errors(path), writing(engine) as connection:
            _make_or_upgrade(connection, path)
            _check_tables(connection, path)
    except BaseException:
        engine.dispose()
        raise
    return engine


class ChangeCount:
    """Tells whether anything was written to a database since it was asked last, without reading a row.

    SQLite counts, for each connection, what all others write: this one never does.
    """

    def __init__(self, engine: sa.Engine, path: Path) -> None:
        self._engine, self._path = engine, path
        self._connection: sa.PoolProxiedConnection | None = None
        self._lock = threading.Lock()

    def now(self) -> int:
        """Return a number that is another one when the database has changed; raises as every query does."""
        with self._lock, database_errors(self._path):
            self._connection = self._connection or self._engine.raw_connection()
            (count,) = self._connection.cursor().execute("PRAGMA data_version").fetchone()
            return count

    def close(self) -> None:
        """Give the connection back."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None


def _make_private_file(path: Path) -> None:
    """Make an empty file for its owner alone where there is none; SQLite gives -wal and -shm the same mode.

    It gets its name by a link and is never opened under it: to close it would end all locks that this process has on
    the database.
    """
    if path.exists():
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    temporary.touch(mode=PRIVATE_FILE)
    try:
        path.hardlink_to(temporary)
    except FileExistsError:  # another process was quicker
        pass
    except OSError:  # a file system without hard links
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _make_or_upgrade(connection: sa.Connection, path: Path) -> None:
    tables = sa.inspect(connection).get_table_names()
    if not tables:
        metadata.create_all(connection)
        connection.execute(schema_info.insert().values(version=SCHEMA_VERSION))
        return
    if "schema_info" not in tables:
        raise _damaged(path, f"it holds the tables of another program ({', '.join(sorted(tables)[:3])})")
    version = connection.scalar(sa.select(sa.func.max(schema_info.c.version)))
    if not isinstance(version, int) or version < min(UPGRADES):
        raise _damaged(path, f"its schema version is {version!r}")
    if version > SCHEMA_VERSION:
        raise UserError(
            "run.store_newer",
            what=f"The runs store {path} has schema {version}; this version reads up to {SCHEMA_VERSION}.",
            why="An older program could damage what a newer one wrote.",
            fix="Update DSFedMed Studio, or choose another home with --home or DSFEDMED_HOME.",
        )
    for step in range(version, SCHEMA_VERSION):
        for statement in UPGRADES[step]:
            connection.execute(sa.text(statement))
    if version < SCHEMA_VERSION:
        metadata.create_all(connection)
        connection.execute(schema_info.update().values(version=SCHEMA_VERSION))


def _check_tables(connection: sa.Connection, path: Path) -> None:
    """Refuse a store that lacks a table or column: every later query would fail with words about SQL."""
    query = "SELECT m.name, c.name FROM sqlite_master m JOIN pragma_table_info(m.name) c WHERE m.type = 'table'"
    found = {tuple(row) for row in connection.exec_driver_sql(query)}
    wanted = {(table.name, column.name) for table in metadata.tables.values() for column in table.c}
    if missing := sorted(wanted - found):
        raise _damaged(path, f"{'.'.join(missing[0])} is missing")


def _refuse_lost(path: Path) -> None:
    """Refuse an empty file beside folders of runs: SQLite would take it for a new store, and the runs for none."""
    if path.is_file() and path.stat().st_size == 0 and not path.with_name(f"{DATABASE_NAME}-wal").exists():
        runs = path.parent / "runs"
        kept = runs.is_dir() and any(any(folder.iterdir()) for folder in runs.iterdir() if folder.is_dir())
        if kept:
            raise _damaged(path, "it has 0 bytes, but folders of runs lie beside it")


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
    except (sa.exc.DBAPIError, sqlite3.Error) as error:
        raise _user_error(path, error) from error
    except UnicodeDecodeError as error:  # SQLite's own words about a damaged file quote its bytes
        raise _damaged(path, "it holds bytes that are no text") from error


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


def _not_writable(path: Path, error: BaseException) -> UserError:
    return UserError(
        "run.not_writable",
        what=f"The runs store {path} cannot be written: {error}.",
        why="Runs, their curves and their checkpoints are kept there.",
        fix="Make the folder writable, or choose another one with --home or DSFEDMED_HOME.",
    )


def _damaged(path: Path, how: object) -> UserError:
    return UserError(
        "run.store_damaged",
        what=f"{path} is not a whole runs store: {how}.",
        why="The list of runs is kept there.",
        fix="Restore the file from a backup, or move it away and start anew (run folders beside it stay as they are).",
    )


def _user_error(path: Path, error: sa.exc.DBAPIError | sqlite3.Error) -> Exception:
    origin = error.orig if isinstance(error, sa.exc.DBAPIError) else error
    text = str(origin).lower()
    if "full" in text:
        return UserError(
            "run.disk_full",
            what=f"The disk is full: {path} could not be written.",
            why="The run's records are kept there; everything written before is untouched.",
            fix="Free some space and resume the run.",
        )
    if any(word in text for word in ("readonly", "read-only", "unable to open", "disk i/o")):
        return _not_writable(path, origin or error)
    if "locked" in text or "busy" in text:
        return UserError(
            "run.store_busy",
            what=f"The runs store {path} has been locked by another process for more than {BUSY_TIMEOUT_MS // 1000} s.",
            why="Only one process can write at a time.",
            fix="End the program that holds the file open (a database viewer, a backup), then resume the run.",
        )
    if isinstance(error, _PROGRAM_FAULTS) or isinstance(origin, sqlite3.IntegrityError | sqlite3.ProgrammingError):
        return error
    return _damaged(path, origin)
