"""Finished runs that come with the program: a home without runs begins with them, so that every tab has something.

Each is taken in once, as any exported run is, and is then a run like another: who deletes it does not get it back.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from engine.errors import UserError
from engine.runs.archive_import import import_run
from engine.runs.store import RunStore

TAKEN_FILE = "shipped_runs.json"
"""In the home: the ids of the runs that were taken in."""


def take_in(store: RunStore, folder: Path) -> tuple[str, ...]:
    """Take in the runs of ``folder`` (``*.zip``) where the home has had none yet, and return their ids.

    Raises ``UserError`` where an archive cannot be taken in; those before it stay.
    """
    taken = store.home / TAKEN_FILE
    if taken.is_file() or store.list():
        return ()
    ids = []
    for archive in sorted(folder.glob("*.zip")):
        try:
            ids.append(import_run(store, archive))
        except UserError as error:
            if error.code != "run_archive.known":  # another page of this home was a moment earlier
                raise
    half = taken.with_suffix(f".{os.getpid()}.part")
    half.write_text(json.dumps(ids), encoding="utf-8")
    half.replace(taken)
    return tuple(ids)


def ids(home: Path) -> frozenset[str]:
    """Return the ids of the runs that came with the program."""
    try:
        return frozenset(json.loads((home / TAKEN_FILE).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return frozenset()
