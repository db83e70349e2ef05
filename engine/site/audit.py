"""The site's own record of every request and of everything that left: append-only, each line chained to the last.

A line is a JSON object with the SHA-256 of the line before it (``chain``). Who changes, removes or moves a line breaks
the chain there. The SHA-256 of the last line is noted beside it: an end that was cut off or changed is found, and a
record that is gone is told from one that nobody has needed yet. Who rewrites both is found by comparing with a copy.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import numpy as np

from engine.errors import UserError
from engine.federation.tasks import Arrays

MAX_LINE_BYTES = 10_000
FIRST = "0" * 64
"""What the first line is chained to."""
BEGUN = "begun"
"""Ending of the file beside a record that has the SHA-256 of its last line; empty where an older version wrote it."""
NEW_RECORD = "new record"
"""Event of the first line after a record that is gone."""


class AuditLog:
    """The record in the file ``path``; several processes of one machine may write to it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, event: str, **fields: Any) -> None:
        """Add a line and wait until it is on the disk; raises ``UserError`` ``site.audit_broken`` over a broken one.

        A line for which there is no place leaves nothing of itself: half of one would make the record a broken one.
        """
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._path.open("a+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not file.seek(0, os.SEEK_END) and self._begun.exists():  # moved away as we say, or lost
                self._add(file, NEW_RECORD, FIRST, why="the record before this one was not there any more")
            self._add(file, event, self._chain(file), **fields)

    def _add(self, file: IO[bytes], event: str, chain: str, **fields: Any) -> None:
        line = {"at": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **fields}
        text = json.dumps({**line, "chain": chain}, sort_keys=True).encode() + b"\n"
        before = file.seek(0, os.SEEK_END)
        try:
            if file.write(text) != len(text):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file.fileno())
            self._note_end(hashlib.sha256(text).hexdigest())
        except OSError:
            file.truncate(before)
            raise

    def _chain(self, file: IO[bytes]) -> str:
        """Return what the next line is chained to; ``UserError`` where the end is not the one that was written."""
        found, end = _last(file, self._path), self._noted_end()
        if found is None:
            return FIRST
        last, chain = found
        if end and end not in (last, chain):  # the latter where this was killed between the line and the note
            raise _broken(self._path, "at its end: the last line was changed, or others behind it are missing")
        return last

    def _noted_end(self) -> str:
        return self._begun.read_text(encoding="ascii", errors="replace") if self._begun.exists() else ""

    def _note_end(self, last: str) -> None:
        """Write over the SHA-256 of the line before, in its place: a full disk has room for that."""
        descriptor = os.open(self._begun, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, last.encode())
        finally:
            os.close(descriptor)

    def entries(self) -> list[dict[str, Any]]:
        """Return all lines, oldest first, none where nothing was asked yet.

        ``UserError`` ``site.audit_broken`` names the first that is not right, ``site.audit_gone`` says that all are
        gone.
        """
        self.check_there()
        end = self._noted_end()  # before the lines: others may be added meanwhile
        content = self._path.read_bytes() if self._path.is_file() else b""
        entries, expected, is_end_there = [], FIRST, not end
        for number, line in enumerate(content.splitlines(keepends=True), start=1):
            entry = _parsed(line)
            if entry is None or entry.get("chain") != expected:
                raise _broken(self._path, f"from line {number} on")
            entries.append(entry)
            expected = hashlib.sha256(line).hexdigest()
            is_end_there |= expected == end
        if entries and not is_end_there:
            where = f"from line {len(entries)} on: it was changed, or others behind it are missing"
            raise _broken(self._path, where)
        return entries

    def check_there(self) -> None:
        """Raise ``UserError`` ``site.audit_gone`` where there was a record and there is none.

        What else a site's folder has of runs is a sign of one, too: records of before have nothing beside them.
        """
        if self._path.is_file():
            problem = "" if self._path.stat().st_size else "is empty"
        elif os.path.lexists(self._path):
            raise _gone(self._path, "is no file")
        else:
            problem = "is not there"
        folder = self._path.parent
        signs = (self._begun, *sorted(folder.glob("decisions/*.json")), *sorted(folder.glob("runs/*")))
        sign = next((path for path in signs if path.exists()), None)
        if problem and sign is not None:
            raise _gone(self._path, f"{problem}, though this site has answered requests, as {sign} shows")

    @property
    def _begun(self) -> Path:
        return self._path.with_suffix(f".{BEGUN}")


def digest(arrays: Arrays) -> str:
    """Return the SHA-256 of arrays by name, in the order of their names: types, shapes and bytes."""
    found = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        found.update(json.dumps([name, str(array.dtype), array.shape]).encode())
        found.update(array.tobytes())
    return found.hexdigest()


def _last(file: IO[bytes], path: Path) -> tuple[str, str] | None:
    """Return the SHA-256 of the last line and what it is chained to; None where there is no line."""
    size = file.seek(0, os.SEEK_END)
    if not size:
        return None
    file.seek(max(0, size - MAX_LINE_BYTES))
    lines = file.read().splitlines(keepends=True)
    entry = _parsed(lines[-1])
    if entry is None:
        file.seek(0)
        raise _broken(path, f"from line {len(file.read().splitlines())} on")
    return hashlib.sha256(lines[-1]).hexdigest(), str(entry.get("chain"))


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _gone(path: Path, problem: str) -> UserError:
    return UserError(
        "site.audit_gone",
        what=f"The record {path} {problem}.",
        why="It says what left this site; without it nobody can tell.",
        fix="Put the file back from a copy. Where there is none, keep the rest of the folder for who looks into it: "
        "the next line begins a new record, and says so.",
    )


def _broken(path: Path, where: str) -> UserError:
    return UserError(
        "site.audit_broken",
        what=f"The record {path} is not as it was written, {where}.",
        why="It says what left this site; a record that somebody has changed proves nothing.",
        fix="Keep the file for whoever looks into it, and move it away: the next line begins a new record. A line that "
        "a crash has cut off at the very end can be removed.",
    )
