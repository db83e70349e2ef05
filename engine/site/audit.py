"""The site's own record of every request and of everything that left: append-only, each line chained to the last.

A line is a JSON object with the SHA-256 of the line before it (``chain``). Who changes, removes or moves a line breaks
the chain there; who cuts off the end, and knows nothing of later copies, is found by comparing with one. That a record
was begun is noted beside it, so that one that is gone is told from one that nobody has needed yet.
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
"""Ending of the empty file beside a record that says that there was one."""
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
            before = file.seek(0, os.SEEK_END)
            try:
                if not before and self._begun.exists():  # moved away as we say, or lost: this record is not all
                    self._add(file, NEW_RECORD, why="the record before this one was not there any more")
                self._add(file, event, **fields)
                os.fsync(file.fileno())
                if not self._begun.exists():
                    self._begun.touch(mode=0o600)
            except OSError:
                file.truncate(before)
                raise

    def _add(self, file: IO[bytes], event: str, **fields: Any) -> None:
        line = {"at": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **fields}
        text = json.dumps({**line, "chain": _last(file, self._path)}, sort_keys=True).encode() + b"\n"
        file.seek(0, os.SEEK_END)
        if file.write(text) != len(text):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def entries(self) -> list[dict[str, Any]]:
        """Return all lines, oldest first, none where nothing was asked yet.

        ``UserError`` ``site.audit_broken`` names the first that is not right, ``site.audit_gone`` says that all are
        gone.
        """
        self.check_there()
        content = self._path.read_bytes() if self._path.is_file() else b""
        entries, expected = [], FIRST
        for number, line in enumerate(content.splitlines(keepends=True), start=1):
            entry = _parsed(line)
            if entry is None or entry.get("chain") != expected:
                raise _broken(self._path, number)
            entries.append(entry)
            expected = hashlib.sha256(line).hexdigest()
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


def _last(file: IO[bytes], path: Path) -> str:
    size = file.seek(0, os.SEEK_END)
    if not size:
        return FIRST
    file.seek(max(0, size - MAX_LINE_BYTES))
    lines = file.read().splitlines(keepends=True)
    if not lines[-1].endswith(b"\n"):
        file.seek(0)
        raise _broken(path, file.read().count(b"\n") + 1)
    return hashlib.sha256(lines[-1]).hexdigest()


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


def _broken(path: Path, number: int) -> UserError:
    return UserError(
        "site.audit_broken",
        what=f"The record {path} is not as it was written, from line {number} on.",
        why="It says what left this site; a record that somebody has changed proves nothing.",
        fix="Keep the file for whoever looks into it, and move it away: the next line begins a new record. A line that "
        "a crash has cut off at the very end can be removed.",
    )
