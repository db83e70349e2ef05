"""Folders of a home: readable by their owner alone, whole or gone, tidied up after killed processes. Torch-free."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from engine.errors import UserError
from engine.runs.database import PRIVATE_FILE, PRIVATE_FOLDER

RUN_ID = re.compile(r"\d{6}-\d{6}-[0-9a-f]{4}")
NEXT, TRASH = ".next", ".trash"
"""Beside the runs' folders: those of longer runs that are being worked on, and what is about to be deleted."""
MARK = ".unfinished"
"""Lies in a folder while a process fills it, and is locked by that process: unlocked, the process is gone."""
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_PROGRAM = Path(__file__).resolve().parents[2]


def make(folder: Path, *, exist_ok: bool = True) -> None:
    """Make ``folder`` and the parents that it lacks, for their owner alone whatever the umask."""
    if not folder.parent.is_dir():
        make(folder.parent)
    try:
        folder.mkdir(mode=PRIVATE_FOLDER)
    except FileExistsError:
        if not exist_ok or not folder.is_dir():
            raise


def mark(folder: Path) -> int:
    """Mark ``folder`` as one that this process fills; return the descriptor that holds the lock while it is open.

    Raises ``BlockingIOError`` where somebody else holds it.
    """
    descriptor = os.open(folder / MARK, os.O_RDWR | os.O_CREAT, PRIVATE_FILE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def is_filled(folder: Path) -> bool:
    """Return whether a process that lives still fills ``folder``."""
    try:
        descriptor = os.open(folder / MARK, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def discard(folder: Path, *, runs: Path) -> None:
    """Move ``folder`` to the trash, at once and as a whole; ``empty_trash`` takes its time to delete it."""
    if folder.is_dir():
        make(runs / TRASH)
        target, number = runs / TRASH / folder.name, 0
        while target.exists():
            number += 1
            target = runs / TRASH / f"{folder.name}.{number}"
        folder.rename(target)


def empty_trash(runs: Path) -> None:
    """Delete what was discarded; what cannot be deleted now is left for the next time."""
    for path in (runs / TRASH).glob("*"):
        shutil.rmtree(path, ignore_errors=True)


def discard_leftovers(runs: Path, known: frozenset[str]) -> None:
    """Discard what killed processes left: folders of runs and extensions that were never recorded.

    ``known`` are the ids in the database. A folder of a run that is not in it and is not marked is left alone: the
    database may be the one that was lost. The caller holds the database's write lock, under which folders are marked.
    """
    for folder in _subfolders(runs):
        if not RUN_ID.fullmatch(folder.name) or is_filled(folder):
            continue
        if folder.name in known:
            (folder / MARK).unlink(missing_ok=True)  # recorded, then killed
        elif (folder / MARK).exists():
            discard(folder, runs=runs)
        else:
            with suppress(OSError):  # it holds something
                folder.rmdir()
    for holder in _subfolders(runs / NEXT):
        run_id = holder.name.partition("+")[0]
        if is_filled(holder / run_id):
            continue
        if holder.name in known:
            (holder / run_id / MARK).unlink(missing_ok=True)
        elif run_id in known or (holder / run_id / MARK).exists() or not any(holder.iterdir()):
            discard(holder, runs=runs)


def move_in_place(work: Path, folder: Path, *, runs: Path, kept: tuple[str, ...]) -> None:
    """Let the folder ``work`` take the place of ``folder``, of which only the files ``kept`` stay.

    Killed between any two steps, the next call does the rest.
    """
    if not work.is_dir():
        return
    for name in kept:
        if (folder / name).is_file():
            (folder / name).replace(work / name)
    discard(folder, runs=runs)
    work.rename(folder)


def tighten(home: Path) -> tuple[str, ...]:
    """Make what lies below ``home`` unreadable to others; return a sentence for what could not be done.

    A folder that serves other ends too (the root, a person's home, one that holds this program, a shared one with the
    sticky bit) keeps its mode; what is the store's own in it does not.
    """
    notes = []
    roots = [home]
    if _serves_others(home):
        roots = [home / "runs", *home.glob("studio.sqlite*")]
        notes.append(f"The folder {home} serves other ends too and keeps its permissions; the runs in it are private.")
    refused = [path for root in roots if root.exists() and _is_open(root) for path in _tighten_below(root)]
    if refused:
        notes.append(
            f"Others on this machine can read {refused[0]}"
            + (f" and {len(refused) - 1} more files or folders" if len(refused) > 1 else "")
            + f": their permissions can be changed by their owner only. Let the owner run: chmod -R go-rwx '{home}'."
        )
    return tuple(notes)


def _tighten_below(root: Path) -> list[Path]:
    """Take every right from others, the root's first; return what refused."""
    refused = []
    for path in (root, *(_everything_below(root) if root.is_dir() else ())):
        try:
            if not path.is_symlink() and _is_open(path):
                path.chmod(stat.S_IMODE(path.stat().st_mode) & ~_OTHERS)
        except FileNotFoundError:  # gone in the meantime
            continue
        except OSError:
            refused.append(path)
    return refused


def _everything_below(root: Path) -> Iterator[Path]:
    for folder, names, files in os.walk(root):
        yield from (Path(folder) / name for name in (*names, *files))


def _is_open(path: Path) -> bool:
    try:
        return bool(path.stat().st_mode & _OTHERS)
    except FileNotFoundError:  # gone in the meantime
        return False


def _serves_others(home: Path) -> bool:
    try:
        person = Path.home()
    except RuntimeError:  # a user without a home folder, as containers have them
        person = _PROGRAM
    mine = any(known == home or home in known.parents for known in (person, _PROGRAM))
    return mine or home == Path(home.anchor) or bool(home.stat().st_mode & stat.S_ISVTX)


def _subfolders(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*") if path.is_dir()] if folder.is_dir() else []


def not_writable(folder: Path, error: OSError) -> UserError:
    """Return the refusal of a folder that cannot be made or filled."""
    return UserError(
        "run.not_writable",
        what=f"The folder {folder} cannot be written: {error}.",
        why="A run keeps its checkpoints, samples and models there.",
        fix="Free some space, make the home folder writable, or choose another one with --home.",
    )
