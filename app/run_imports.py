"""A run taken in from an uploaded zip: by operators, within bytes, telling how far it is. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from app import dataset_uploads, server_paths
from app import take_in_text as words
from app.access import Visitor
from app.studio import Studio
from app.uploads import MIB
from app.watched import watched
from engine.config import RunConfig
from engine.errors import UserError
from engine.runs.archive_import import import_run
from engine.runs.lifecycle import said_by

Step = tuple[int, int]
"""Bytes that are checked and unpacked, and all."""


def check(studio: Studio, *, by: Visitor) -> None:
    """Raise ``UserError`` ``app.read_only``, ``app.viewer`` or ``app.import_who`` for who is no operator."""
    studio.permissions.check_role(by)
    if by.role != "operator":
        raise UserError("app.import_who", what=words.WHO_WHAT, why=words.WHO_WHY, fix=words.WHO_FIX)


def _check_places(studio: Studio, config: RunConfig) -> None:
    """Raise ``UserError`` for a run that names folders which nobody may name here: forks of it would open them."""
    if studio.mode != "local":
        server_paths.check(config, roots=dataset_uploads.roots(studio.settings))


def steps(studio: Studio, upload: str, *, by: Visitor) -> Iterator[tuple[Step, str | None]]:
    """Take in the run in a zip that ``by`` has uploaded; yield how far that is, then its id, too.

    Left in between, nothing of it stays. Raises ``UserError``: those of :func:`check` and of ``import_run``; what is
    said of the file names it as its owner does.
    """
    check(studio, by=by)
    path = Path(upload)
    said = said_by(words.SAID, studio.permissions.signature(by)) or f"{words.SAID}."
    most_bytes = studio.settings.max_dataset_mb * MIB
    try:
        yield from watched(
            lambda tell: import_run(
                studio.store, path, on_step=tell, most_bytes=most_bytes, said=said, check=partial(_check_places, studio)
            ),
            first=(0, 0),
            name="run import",
        )
    except UserError as error:
        what = error.what.replace(str(path), studio.uploads.name_of(path)).replace(
            path.name, studio.uploads.name_of(path)
        )
        fix = words.TOO_LARGE_FIX if error.code == "run_archive.too_large" else error.fix
        raise UserError(error.code, what=what, why=error.why, fix=fix) from error
