"""Small files that a program leaves for the one that is started after it: whole, or as they were before."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from engine.errors import UserError


def write_note(path: Path, content: bytes) -> bool:
    """Write ``path`` so that a full disk or a power cut leaves the file of before; return whether there was room."""
    part = path.with_suffix(".part")
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        part.write_bytes(content)
        descriptor = os.open(part, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # else the name may reach the disk before what is in it
        finally:
            os.close(descriptor)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        if error.errno != errno.ENOSPC:
            raise
        return False
    return True


def read_number(path: Path) -> int | None:
    """Return the whole number in a note; None where there is none, or a damaged one, for it can be made anew."""
    try:
        text = path.read_bytes().strip()
    except FileNotFoundError:
        return None
    return int(text) if text.isdigit() and len(text) < 40 else None


def damaged(path: Path) -> UserError:
    """Return what is said of a note about a question, which nobody can make anew."""
    return UserError(
        "federation.site_note_damaged",
        what=f"{path} is damaged: it says which question this site is at work on.",
        why="Without it the question cannot be gone on with, and the server waits for its answer.",
        fix="Delete the file and start the program again; the coordinator then resumes the run, if it has stopped.",
    )
