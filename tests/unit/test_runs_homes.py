"""Homes as people and accidents leave them: damaged databases, open permissions, full disks, odd names."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from runs_world import config, finished_run, results

from engine.cli.options import open_store
from engine.errors import UserError
from engine.runs import database, folders, lifecycle, worker
from engine.runs.records import RunRecord
from engine.runs.schema import DATABASE_NAME
from engine.runs.store import RunStore
from engine.seeding import numpy_generator


@pytest.fixture
def home(tmp_path: Path) -> Path:
    store = RunStore(tmp_path / "home")
    finished_run(store)
    store.close()
    return tmp_path / "home"


def look(home: Path) -> None:
    """Everything that a page or the command line does first."""
    store = RunStore(home)
    try:
        for record in store.list():
            view = store.view(record.run_id)
            assert view.run.config.method
            results(store, record.run_id)
            store.samples(record.run_id)
            store.scores(record.run_id)
            store.events(record.run_id)
        lifecycle.advance_queue(store, max_running=0)
    finally:
        store.close()


def statement(*sql: str) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        with closing(sqlite3.connect(path)) as connection, connection:
            for one in sql:
                connection.execute(one)

    return apply


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (lambda path: path.write_bytes(b""), "run.store_damaged"),
        (lambda path: path.write_bytes(b"garbage " * 1000), "run.store_damaged"),
        (lambda path: path.write_bytes(path.read_bytes()[:100]), "run.store_damaged"),
        (lambda path: path.write_bytes(path.read_bytes()[:5000]), "run.store_damaged"),
        (lambda path: (path.unlink(), path.mkdir()), "run.not_writable"),
        (statement("DROP TABLE schema_info"), "run.store_damaged"),
        (statement("DELETE FROM schema_info"), "run.store_damaged"),
        (statement("UPDATE schema_info SET version = -3"), "run.store_damaged"),
        (statement("UPDATE schema_info SET version = 99"), "run.store_newer"),
        (statement("DROP TABLE scores"), "run.store_damaged"),
        (statement("ALTER TABLE stages DROP COLUMN message"), "run.store_damaged"),
        (statement("ALTER TABLE schema_info RENAME COLUMN version TO other"), "run.store_damaged"),
        (statement("UPDATE runs SET config_json = '{'"), "run.record_damaged"),
        (statement("UPDATE runs SET config_json = '[]'"), "config.invalid"),
        (statement('UPDATE runs SET config_json = \'{"data": {"source": 3}}\''), "config.invalid"),
        (statement("UPDATE runs SET name = CAST(x'ff' AS TEXT)"), "run.store_damaged"),
    ],
)
def test_a_damaged_database_is_said(home: Path, damage: Callable[[Path], None], code: str) -> None:
    for name in ("-wal", "-shm"):
        (home / f"{DATABASE_NAME}{name}").unlink(missing_ok=True)
    damage(home / DATABASE_NAME)
    with pytest.raises(UserError) as caught:
        look(home)
    assert caught.value.code == code
    assert len(list((home / "runs").glob("*/bundle/model.onnx"))) == 1  # whatever was done, the run's files stay


def test_another_program_s_database_is_not_written_to(tmp_path: Path) -> None:
    path = tmp_path / DATABASE_NAME
    statement("CREATE TABLE patients (name TEXT)", "INSERT INTO patients VALUES ('x')")(path)
    with pytest.raises(UserError, match="another program") as caught:
        RunStore(tmp_path)
    assert caught.value.code == "run.store_damaged"
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("patients",)]


def test_a_locked_database_is_said_after_a_while(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_TIMEOUT_MS", 50)
    with closing(sqlite3.connect(home / DATABASE_NAME)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(UserError) as caught:
            RunStore(home)
    assert caught.value.code == "run.store_busy"


def test_flipped_bytes_never_end_in_a_raw_exception(home: Path) -> None:
    path = home / DATABASE_NAME
    for name in ("-wal", "-shm"):
        (home / f"{DATABASE_NAME}{name}").unlink(missing_ok=True)
    whole, rng = path.read_bytes(), numpy_generator(5, "flips")
    for _ in range(40):
        damaged = bytearray(whole)
        for at in rng.integers(0, len(damaged), size=30):
            damaged[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        for name in ("-wal", "-shm"):
            (home / f"{DATABASE_NAME}{name}").unlink(missing_ok=True)
        try:
            look(home)
        except UserError:
            continue
    assert len(list((home / "runs").glob("*/bundle/model.onnx"))) == 1


def test_a_damaged_reason_does_not_hide_the_other_runs(home: Path) -> None:
    statement("UPDATE runs SET error = '{'")(home / DATABASE_NAME)
    (record,) = RunStore(home).list()
    assert record.error is not None and record.error["code"] == "run.record_damaged"


def test_another_store_of_the_same_process_leaves_the_locks_alone(home: Path) -> None:
    """A process that opens and closes the file loses its locks on it; who closes it next then removes the log of
    changes, although this process goes on writing to it."""
    first = RunStore(home)
    run_id = first.list()[0].run_id
    RunStore(home)
    log = home / f"{DATABASE_NAME}-wal"
    before = log.stat().st_ino
    program = "import sys; from engine.runs.store import RunStore; RunStore(sys.argv[1]).close()"
    subprocess.run([sys.executable, "-c", program, str(home)], check=True)
    assert log.stat().st_ino == before
    first.write_log(run_id, "info", "still here")
    assert RunStore(home).events(run_id)[-1].text == "still here"


def modes(home: Path) -> set[tuple[str, int]]:
    found = {("", stat.S_IMODE(home.stat().st_mode))}
    for path in home.rglob("*"):
        kind = "folder" if path.is_dir() else "file"
        found.add((kind, stat.S_IMODE(path.stat().st_mode) & 0o077))
    return found


@pytest.fixture
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("open_umask")
def test_what_the_store_makes_is_for_its_owner_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/bin/true")
    store = RunStore(tmp_path / "deep" / "home")
    run_id = lifecycle.submit(store, config())
    assert (store.run_dir(run_id) / "worker.log").is_file() and (store.home / f"{DATABASE_NAME}-wal").is_file()
    assert modes(store.home) == {("", 0o700), ("folder", 0), ("file", 0)}


@pytest.mark.usefixtures("open_umask")
def test_an_existing_home_is_tightened(home: Path) -> None:
    for path in (home, *home.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    outside = home.parent / "outside"
    outside.touch(mode=0o644)
    (home / "link").symlink_to(outside)
    store = RunStore(home)
    assert store.warnings == ()
    (home / "link").unlink()
    assert modes(home) == {("", 0o700), ("folder", 0), ("file", 0)}
    assert stat.S_IMODE(outside.stat().st_mode) == 0o644


@pytest.mark.parametrize("why", ["sticky", "person"])
def test_a_folder_that_serves_other_ends_keeps_its_mode(home: Path, monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    home.chmod(0o1777 if why == "sticky" else 0o755)
    (home / "runs").chmod(0o755)
    if why == "person":
        monkeypatch.setenv("HOME", str(home))
    before = home.stat().st_mode
    (warning,) = RunStore(home).warnings
    assert "keeps its permissions" in warning and home.stat().st_mode == before
    assert stat.S_IMODE((home / "runs").stat().st_mode) == 0o700
    assert stat.S_IMODE((home / DATABASE_NAME).stat().st_mode) == 0o600


def test_what_cannot_be_tightened_is_said(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home.chmod(0o755)

    def refused(_path: Path, _mode: int) -> None:
        raise PermissionError("not the owner")

    monkeypatch.setattr(Path, "chmod", refused)
    (warning,) = folders.tighten(home)
    assert str(home) in warning and "chmod -R go-rwx" in warning


def test_folders_that_nobody_vouches_for_are_left_alone(home: Path) -> None:
    """After a lost database every folder is unknown: none of them may be deleted."""
    (home / DATABASE_NAME).rename(home / "lost.sqlite")
    for name in ("-wal", "-shm"):
        (home / f"{DATABASE_NAME}{name}").unlink(missing_ok=True)
    (home / "runs" / "250101-000000-aaaa").mkdir()  # made, then killed: empty
    (home / "runs" / "my own notes").mkdir()
    assert RunStore(home).list() == ()
    assert len(list((home / "runs").glob("*/bundle/model.onnx"))) == 1
    assert not (home / "runs" / "250101-000000-aaaa").exists() and (home / "runs" / "my own notes").is_dir()


def test_a_folder_that_is_just_being_filled_is_no_leftover(home: Path) -> None:
    first = RunStore(home)
    with pytest.raises(RuntimeError), first.filling() as run_id:
        (first.run_dir(run_id) / "a").touch()
        RunStore(home).close()
        assert (first.run_dir(run_id) / "a").is_file()
        raise RuntimeError("given up")
    assert not first.run_dir(run_id).exists() and not list((home / "runs" / folders.TRASH).iterdir())


def test_a_run_that_was_created_but_never_queued_can_be_resumed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSFEDMED_MAX_RUNNING", "0")
    store = RunStore(home)
    old, new = (store.create_run(config()).run_id for _ in range(2))
    store.update_run(old, created_at=1.0)
    store = RunStore(home)
    assert [store.get(run).status for run in (old, new)] == ["interrupted", "queued"]
    assert store.get(old).error is not None
    lifecycle.resume(store, old)
    assert store.get(old).queued_at is not None and store.get(old).error is None


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=False)


def fill(folder: Path) -> None:
    with (folder / "ballast").open("wb", buffering=0) as file:
        for size in (65536, 4096, 512, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue


def running(store: RunStore) -> RunRecord:
    store.create_run(config(), queued=True)
    record = store.claim(max_running=1)
    assert record is not None
    lifecycle.register_worker(store, record.run_id, attempt=record.attempt, pid=os.getpid())
    return store.get(record.run_id)


def test_a_run_whose_disk_is_full_has_failed_at_once(small_disk: Path) -> None:
    store = RunStore(small_disk / "home")
    record = running(store)
    working = worker.Worker(store, record.run_id, attempt=record.attempt)
    working.hold_space()
    fill(small_disk)
    with pytest.raises(UserError) as caught:
        for _ in range(2000):  # the log of changes may still have some room
            store.write_log(record.run_id, "info", "x" * 10_000)
    assert caught.value.code == "run.disk_full"
    began = time.monotonic()
    working._fail(caught.value)
    assert time.monotonic() - began < worker.END_PAUSE_S
    ended = store.get(record.run_id)
    assert ended.status == "failed" and ended.error is not None and ended.error["code"] == "run.disk_full"
    assert not (store.run_dir(record.run_id) / worker.RESERVE).exists()
    store.close()


def test_while_nothing_can_be_recorded_a_reader_sees_why(small_disk: Path) -> None:
    store = RunStore(small_disk / "home")
    record = running(store)
    assert store.view(record.run_id).note is None
    fill(small_disk)
    note = store.view(record.run_id).note
    assert note is not None and "is full" in note
    (small_disk / "ballast").unlink()
    assert store.view(record.run_id).note is None
    store.close()


def test_a_run_that_does_not_fit_leaves_nothing(small_disk: Path) -> None:
    store = RunStore(small_disk / "home")
    record = running(store)
    fill(small_disk)
    (small_disk / "ballast").open("ab").close()
    refused = 0
    for _ in range(300):
        try:
            store.create_run(config(), queued=True)
        except UserError as error:
            assert error.code in ("run.disk_full", "run.not_writable")
            refused += 1
            break
    assert refused
    (small_disk / "ballast").unlink()
    store.close()
    store = RunStore(small_disk / "home")
    known = {known.run_id for known in store.list()}
    assert record.run_id in known
    assert {path.name for path in (store.home / "runs").iterdir()} - {folders.TRASH} == known
    store.close()


@pytest.mark.usefixtures("open_umask")
def test_what_a_command_writes_is_for_its_owner_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSFEDMED_HOME", "")  # the command sets it, and it is to go again
    open_store(tmp_path / "home")
    (tmp_path / "home" / "weights").mkdir()
    (tmp_path / "home" / "weights" / "fetched").touch()
    assert modes(tmp_path / "home") == {("", 0o700), ("folder", 0), ("file", 0)}
