"""A finished run as one zip: what lies in it, how large it may be, and which names in it can be. Torch-free.

``manifest.json`` names every file with its bytes and SHA-256, ``records.json`` holds the run's rows of the store, and
the files of the run's folder lie below ``run/``. What sites keep for themselves (``sites``, unfinished work in
``checkpoints``) never goes along, nor does anything that no stage has handed to the run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import sqlalchemy as sa

from engine.errors import UserError
from engine.runs import schema

FORMAT = "dsfedmed-run-1"
MANIFEST, RECORDS, FILES = "manifest.json", "records.json", "run/"
SITES_OWN = frozenset({"sites", "checkpoints"})
"""Folders of what is a site's own: its optimiser, its part of a model, work that it has not finished."""
IDENTITY = PurePosixPath("data/identity.json")
"""The one file of the folder ``data`` that goes along: digests."""
MAX_FILES = 100_000
"""Some 20,000 synthetic pairs with their maps (ours)."""
MAX_RECORDS_BYTES = 256 * 2**20
MAX_PATH_LETTERS = 400
LEFT_OUT = {"runs": ("host", "pid", "pid_started", "heartbeat_at", "started_by", "extends"), "log": ("id",)}
"""Columns of another machine and its people; a number of the log is the store's own."""
_SURROGATE = re.compile(r"[\ud800-\udfff]")
"""Half a sign, which JSON can spell and no file can hold."""
TABLES: dict[str, sa.Table] = {
    table.name: table for table in (schema.runs, schema.stages, schema.log, *schema.RESULTS.values())
}
PATHS = {
    "samples": ("image_path", "mask_path", "teacher_path", "student_path"),
    "artefacts": ("path",),
}
"""Columns that name files below the run's folder."""


def goes_along(path: PurePosixPath) -> bool:
    """Return whether a file of a run, by its path below the run's folder, belongs into its archive."""
    parts = path.parts[1:] if path.parts[:1] == ("earlier",) else path.parts
    if not parts or parts[0] in SITES_OWN or any(part.startswith(".") for part in path.parts):
        return False
    return parts[0] != "data" or PurePosixPath(*parts) == IDENTITY


def plain_path(text: Any) -> PurePosixPath | None:
    """Return the path that ``text`` is, below a folder and written the one way it can be; None for anything else."""
    if not isinstance(text, str) or not 0 < len(text) <= MAX_PATH_LETTERS or not text.isprintable():
        return None
    path = PurePosixPath(text)
    odd = path.is_absolute() or ".." in path.parts or "\\" in text or ":" in path.parts[0]
    return None if odd or path.as_posix() != text else path


def columns_of(table: str) -> tuple[sa.Column[Any], ...]:
    """Return the columns of a table that an archive holds; the run's id is said once, in the manifest."""
    left_out = ("run_id", *LEFT_OUT.get(table, ()))
    return tuple(column for column in TABLES[table].c if column.name not in left_out)


def as_json(value: Any) -> bytes:
    """Return ``value`` as JSON; NaN and infinities are null, as the store has them."""
    from engine.runs.report import finite

    return json.dumps(finite(value), ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def refused(what: str, *, code: str = "run_archive.damaged") -> UserError:
    """Return the refusal of an archive of which ``what`` is wrong."""
    return UserError(
        code,
        what=what,
        why="A run is taken in whole, as it was written, or not at all; nothing was stored.",
        fix="Copy the file once more, or export the run again: python -m engine export-run RUN --to FILE.zip",
    )


def problem_of_row(table: str, row: Any, files: frozenset[str], folders: frozenset[str]) -> str | None:
    """Return what is wrong with a row of an archive; None where it can be stored.

    ``files`` are the archive's files below the run's folder, and ``folders`` all folders above them.
    """
    known = {column.name: column for column in columns_of(table)}
    if not isinstance(row, dict) or not row.keys() <= known.keys():
        return "it has other columns than this version knows"
    for name, column in known.items():
        value = row.get(name)
        if value is None:
            if not column.nullable and not (name not in row and column.server_default is not None):
                return f"'{name}' is missing"
        elif not _is_of(column, value):
            return f"'{name}' is {value!r:.60}"
    for name in PATHS.get(table, ()):
        path = row.get(name)
        may_be_folder = table == "artefacts"
        if path is not None and path not in files and not (may_be_folder and path in folders):
            return f"'{name}' names {path!r:.80}, which is not in the archive"
    return None


def are_different(table: str, rows: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether checked rows have the same columns and no key twice, so that the store can take them."""
    keys = [column.name for column in TABLES[table].primary_key if column in columns_of(table)]
    found = [tuple(row[name] for name in keys) for row in rows]
    return len({frozenset(row) for row in rows}) < 2 and (not keys or len(set(found)) == len(found))


def folders_above(files: Iterable[str]) -> frozenset[str]:
    """Return every folder that ``files`` lie in, directly or deeper."""
    return frozenset(
        folder.as_posix() for file in files for folder in PurePosixPath(file).parents if folder.as_posix() != "."
    )


def _is_of(column: sa.Column[Any], value: Any) -> bool:
    if isinstance(column.type, sa.Boolean):
        return isinstance(value, bool)
    if isinstance(column.type, sa.Integer):
        return type(value) is int and abs(value) < 2**63
    if isinstance(column.type, sa.Float):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and abs(value) < 2**63  # neither infinite nor longer than the store's numbers
    return isinstance(value, str) and "\x00" not in value and not _SURROGATE.search(value)
