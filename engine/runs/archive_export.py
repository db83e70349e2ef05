"""A finished run written to one zip, as :mod:`engine.runs.archive` says. Torch-free."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import sqlalchemy as sa

from engine.errors import UserError
from engine.runs import archive, outputs
from engine.runs.archive_places import Places, report_for_others
from engine.runs.outputs import REPORT_NAME, files_of
from engine.runs.schema import SCHEMA_VERSION
from engine.runs.store import RunStore

CHUNK_BYTES = 2**20
_STORED = (".safetensors", ".png", ".onnx")
"""Small already, or larger than what deflating would save is worth in time."""


def files_to_export(store: RunStore, run_id: str, *, with_models: bool = True) -> list[tuple[Path, str]]:
    """Return what goes into the archive: files, and their paths below the run's folder; links are left out."""
    folder = store.run_dir(run_id)
    stages = [stage.name for stage in store.stages(run_id)]
    there = [*files_of(store, run_id, stages), folder / REPORT_NAME]
    named = {path.relative_to(folder).as_posix(): path for path in there if path.is_file() and not path.is_symlink()}
    found = [(path, name) for name, path in sorted(named.items()) if archive.goes_along(PurePosixPath(name))]
    if not with_models:
        left_out = {PurePosixPath(made.path) for made in store.artefacts(run_id) if made.kind in outputs.MODELS}
        found = [
            (path, name) for path, name in found if not left_out & {PurePosixPath(name), *PurePosixPath(name).parents}
        ]
    for _, name in found:
        if archive.plain_path(name) is None:
            raise UserError(
                "run_archive.name",
                what=f"{name!r:.120} has a name that not every system can have.",
                why="An archive with it could not be taken in.",
                fix="Name sites with letters, digits, spaces, dots, hyphens and underscores.",
            )
    return found


def export_run(
    store: RunStore,
    run_id: str,
    to: Path,
    *,
    most_bytes: int | None = None,
    with_models: bool = True,
    with_places: bool = True,
) -> int:
    """Write the run to the zip ``to``, whole or not at all, and return its bytes.

    Without models it can be read and compared, but nobody can go on from it. Without places it names folders by their
    last name alone, no address and nobody who started it: its configuration has another hash then.
    Raises ``UserError``: ``run_archive.unfinished`` for a run without all its results, ``run_archive.exists``,
    ``run_archive.too_large`` for files of more than ``most_bytes``, ``run_archive.changed`` where the run was changed
    meanwhile.
    """
    record = store.get(run_id)
    if record.status != "finished" or store.extension(run_id) is not None:
        raise UserError(
            "run_archive.unfinished",
            what=f"The run '{run_id}' is not finished, or is being extended.",
            why="An archive holds a run with all its results: what sites need to go on stays with them.",
            fix=f"Let it finish (python -m engine resume {run_id}), or give up its extension, and export it then.",
        )
    if to.exists():
        raise UserError(
            "run_archive.exists",
            what=f"{to} is there already.",
            why="Nothing is overwritten.",
            fix="Give another name, or move the file away.",
        )
    found = files_to_export(store, run_id, with_models=with_models)
    _check_size(found, run_id, most_bytes)
    partial = to.with_name(f".{to.name}.part")
    file = partial.open("wb")
    try:
        with file:
            _write(file, store, run_id, found, None if with_places else _places(store, run_id))
        if store.get(run_id).config_hash != record.config_hash or store.get(run_id).status != "finished":
            raise _changed(run_id)
        partial.replace(to)
    except FileNotFoundError as error:
        raise _changed(run_id) from error
    finally:
        partial.unlink(missing_ok=True)
    return to.stat().st_size


def records_of(store: RunStore, run_id: str) -> dict[str, list[dict[str, Any]]]:
    """Return the run's rows of every table, without what is of this machine and its people."""
    records = {}
    for name, table in archive.TABLES.items():
        query = sa.select(*archive.columns_of(name)).where(table.c.run_id == run_id)
        keys = [table.c.id] if name == "log" else list(table.primary_key)
        records[name] = [dict(row._mapping) for row in store.rows(query.order_by(*keys))]
    return records


def _places(store: RunStore, run_id: str) -> Places:
    return Places(store.get(run_id).config, folders=(str(store.run_dir(run_id)), str(store.home)))


def _write(file: BinaryIO, store: RunStore, run_id: str, found: list[tuple[Path, str]], places: Places | None) -> None:
    rows = records_of(store, run_id)
    there = frozenset(name for _, name in found)
    there |= archive.folders_above(there)
    rows["artefacts"] = [row for row in rows["artefacts"] if row["path"] in there]  # those that go along
    records = archive.as_json(rows if places is None else places.records(rows))
    named: list[dict[str, Any]] = []
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr(archive.RECORDS, records)
        for path, name in found:
            how = zipfile.ZIP_STORED if path.suffix in _STORED else zipfile.ZIP_DEFLATED
            about = zipfile.ZipInfo(archive.FILES + name)
            about.compress_type, about.external_attr = how, 0o100600 << 16
            is_report = name == REPORT_NAME
            source = io.BytesIO(report_for_others(path, places)) if is_report else path.open("rb")
            named.append({"path": name, **_copied(zipped, about, source)})
        manifest = {
            "format": archive.FORMAT,
            "schema": SCHEMA_VERSION,
            "run_id": run_id,
            "records": {"bytes": len(records), "sha256": hashlib.sha256(records).hexdigest()},
            "files": named,
        }
        zipped.writestr(archive.MANIFEST, archive.as_json(manifest))


def _copied(zipped: zipfile.ZipFile, about: zipfile.ZipInfo, source: BinaryIO) -> dict[str, Any]:
    digest, count = hashlib.sha256(), 0
    with source, zipped.open(about, "w", force_zip64=True) as target:
        while chunk := source.read(CHUNK_BYTES):
            digest.update(chunk)
            count += len(chunk)
            target.write(chunk)
    return {"bytes": count, "sha256": digest.hexdigest()}


def _check_size(found: list[tuple[Path, str]], run_id: str, most_bytes: int | None) -> None:
    total = sum(path.stat().st_size for path, _ in found)
    if len(found) > archive.MAX_FILES or (most_bytes is not None and total > most_bytes):
        limit = f"{archive.MAX_FILES:,} files" + ("" if most_bytes is None else f" and {most_bytes / 1e6:,.0f} MB")
        raise UserError(
            "run_archive.too_large",
            what=f"The run '{run_id}' has {len(found):,} files of {total / 1e6:,.0f} MB; an archive takes {limit}.",
            why="Such an archive could not be taken in, or would fill the disk of this page.",
            fix=f"In a terminal: python -m engine export-run {run_id} --to FILE.zip",
        )


def _changed(run_id: str) -> UserError:
    return UserError(
        "run_archive.changed",
        what=f"The run '{run_id}' was changed or deleted while it was exported.",
        why="The archive would hold a part of one run and a part of another.",
        fix="Export it again when nobody works on it.",
    )
