"""A run taken in from one zip, as :mod:`engine.runs.archive` says: checked before it is stored. Torch-free.

Nothing in the archive is believed: sizes are added up before anything is inflated, names are compared with the
manifest, bytes with its digests, rows with the schema and with each other. Files go to a marked folder and records
follow in one transaction, so that whatever fails or is killed leaves no run.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from engine.config import RunConfig, parse_stored_config
from engine.data.zip_lists import CHUNK_BYTES, lists_more_than
from engine.errors import UserError
from engine.runs import archive, folders, labels
from engine.runs.archive import refused
from engine.runs.database import PRIVATE_FILE
from engine.runs.records import StageStatus
from engine.runs.results import Rows
from engine.runs.schema import SCHEMA_VERSION
from engine.runs.store import RunStore

SPARE_BYTES = 2**28
"""That the disk keeps free beside what is taken in (ours)."""
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OverflowError)
_CHOICES = {
    ("stages", "status"): get_args(StageStatus),
    ("evaluation", "split"): ("test", "validation"),
    ("differences", "split"): ("test", "validation"),
    ("traffic", "direction"): ("up", "down"),
    ("log", "level"): ("info", "warning", "error"),
    ("site_failures", "outcome"): ("asked_again", "left_out", "stopped"),
}


@dataclass(frozen=True)
class Manifest:
    """What the archive says of itself, each part of a kind that it can be."""

    run_id: str
    records: tuple[int, str]
    """Bytes and SHA-256."""
    files: Mapping[str, tuple[int, str]]
    """Of every file below the run's folder."""


def import_run(
    store: RunStore,
    path: Path,
    *,
    on_step: Callable[[tuple[int, int]], None] = lambda _: None,
    most_bytes: int | None = None,
    check: Callable[[RunConfig], None] = lambda _: None,
    said: str | None = None,
) -> str:
    """Store the run in the archive ``path`` and return its id.

    ``on_step`` is called with the bytes that are unpacked and all; what it raises ends the import, and nothing stays.
    Files of more than ``most_bytes`` together are refused before anything is inflated; ``check`` is given the run's
    configuration before anything is stored, and may raise. ``said`` is the line of its log.

    Raises ``UserError``: ``run_archive.damaged``, ``run_archive.newer``, ``run_archive.too_large``,
    ``run_archive.known`` where the store has a run of that id.
    """
    with _opened(path) as zipped:
        manifest = _manifest(zipped)
        _check_contents(zipped, manifest)
        _check_space(store, manifest, most_bytes=most_bytes)
        records = _records(zipped, manifest)
        check(parse_stored_config(json.loads(records["runs"][0]["config_json"])))
        with store.filling(known_as=manifest.run_id) as run_id:
            _extract(zipped, manifest, store.run_dir(run_id), on_step=on_step)
            store.create_imported(run_id, records, said=said or f"Imported from {path.name}.")
    return run_id


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    if not path.is_file():
        raise refused(f"There is no file {path}.", code="run_archive.missing")
    if lists_more_than(2 * archive.MAX_FILES, path):  # twice: files of the run may be zips themselves
        raise refused(f"{path.name} holds more than {archive.MAX_FILES:,} files.", code="run_archive.too_large")
    try:
        zipped = zipfile.ZipFile(path)
    except (*_BROKEN, ValueError) as error:  # names that are no text, too
        raise refused(f"{path.name} is no zip archive: {error}.") from error
    with zipped:
        try:
            yield zipped
        except _BROKEN as error:
            raise refused(f"{path.name} cannot be unpacked: {error}.") from error


def _manifest(zipped: zipfile.ZipFile) -> Manifest:
    told = _json(zipped, archive.MANIFEST)
    if not isinstance(told, dict) or not isinstance(told.get("schema"), int) or isinstance(told["schema"], bool):
        raise refused("The archive has no manifest of a run.")
    if told.get("format") != archive.FORMAT or told["schema"] > SCHEMA_VERSION:
        raise UserError(
            "run_archive.newer",
            what=f"The archive is of format {told.get('format')!r:.40} and schema {told['schema']!r:.20}.",
            why=f"This version reads {archive.FORMAT!r} up to schema {SCHEMA_VERSION}.",
            fix="Update DSFedMed Studio, or export the run with a version like this one.",
        )
    run_id, files = told.get("run_id"), told.get("files")
    if not isinstance(run_id, str) or not folders.RUN_ID.fullmatch(run_id) or not isinstance(files, list):
        raise refused("The manifest names no run, or no files.")
    named = {}
    for file in files:
        path = archive.plain_path(file.get("path") if isinstance(file, dict) else None)
        if path is None or not archive.goes_along(path) or path.as_posix() in named:
            raise refused(f"The manifest names a file that no run can have: {file!r:.120}.")
        named[path.as_posix()] = _size_and_digest(file)
    if overlap := named.keys() & archive.folders_above(named):
        raise refused(f"{sorted(overlap)[0]!r:.80} is both a file and a folder.")
    return Manifest(run_id, _size_and_digest(told.get("records")), named)


def _size_and_digest(told: Any) -> tuple[int, str]:
    count, digest = (told.get("bytes"), told.get("sha256")) if isinstance(told, dict) else (None, None)
    if type(count) is not int or count < 0 or not isinstance(digest, str) or len(digest) != 64:
        raise refused(f"The manifest gives no bytes and digest: {told!r:.120}.")
    return count, digest


def _check_contents(zipped: zipfile.ZipFile, manifest: Manifest) -> None:
    """Compare the list of contents with the manifest: each name once, of the bytes that it says, an ordinary file."""
    told = {archive.FILES + path: count for path, (count, _) in manifest.files.items()}
    told[archive.RECORDS] = manifest.records[0]
    there = [info for info in zipped.infolist() if info.filename != archive.MANIFEST]
    names = [info.filename for info in there]
    if len(names) != len(set(names)) or len(there) + 1 != len(zipped.infolist()) or set(names) != told.keys():
        odd = sorted(set(names) ^ told.keys())
        raise refused(f"Archive and manifest name different files: {odd[0] if odd else names[0]!r:.80}.")
    for info in zipped.infolist():
        if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG) or info.is_dir():
            raise refused(f"{info.filename!r:.80} is no ordinary file: links are not followed.")
        if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise refused(f"{info.filename!r:.80} is locked, or compressed otherwise than an export does.")
        if info.file_size != told.get(info.filename, info.file_size):
            raise refused(f"{info.filename!r:.80} has {info.file_size:,} bytes, not those of the manifest.")


def _check_space(store: RunStore, manifest: Manifest, *, most_bytes: int | None) -> None:
    """Refuse what does not fit on the disk, before anything is inflated; zipfile inflates nothing beyond its size."""
    needed, free = sum(count for count, _ in manifest.files.values()), shutil.disk_usage(store.home).free
    room = free - SPARE_BYTES if most_bytes is None else min(free - SPARE_BYTES, most_bytes)
    if len(manifest.files) > archive.MAX_FILES or needed > room:
        raise UserError(
            "run_archive.too_large",
            what=f"The archive holds {len(manifest.files):,} files of {needed / 1e6:,.0f} MB.",
            why=f"At most {archive.MAX_FILES:,} files are taken in, and there is room for {room / 1e6:,.0f} MB.",
            fix="Free some space, or choose another home with --home. If it should be small, the archive is damaged.",
        )


def _json(zipped: zipfile.ZipFile, name: str, *, sha256: str | None = None) -> Any:
    try:
        info = zipped.getinfo(name)
    except KeyError:
        raise refused(f"The archive has no {name}: it is no run of this program.") from None
    if info.file_size > archive.MAX_RECORDS_BYTES:
        raise refused(f"{name} has {info.file_size:,} bytes.", code="run_archive.too_large")
    if info.flag_bits & 1:
        raise refused(f"{name} is locked by a password.")
    content = zipped.read(info)
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise refused(f"{name} is not what the manifest says: its digest differs.")
    try:
        return json.loads(content, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise refused(f"{name} is no JSON: {error!s:.100}.") from error


def _no_number(word: str) -> float:
    raise ValueError(f"{word} is no number")


def _records(zipped: zipfile.ZipFile, manifest: Manifest) -> dict[str, Rows]:
    told = _json(zipped, archive.RECORDS, sha256=manifest.records[1])
    if not isinstance(told, dict) or not told.keys() <= archive.TABLES.keys():
        raise refused("The records are of other tables than this version has.")
    told = {table: told.get(table, []) for table in archive.TABLES}  # an older schema has fewer
    files, above = frozenset(manifest.files), archive.folders_above(manifest.files)
    for table, rows in told.items():
        if not isinstance(rows, list):
            raise refused(f"The records of '{table}' are no rows.")
        for number, row in enumerate(rows):
            problem = archive.problem_of_row(table, row, files, above) or _odd_choice(table, row)
            if problem is not None:
                raise refused(f"Row {number} of '{table}' cannot be: {problem}.")
        if not archive.are_different(table, rows):
            raise refused(f"Two rows of '{table}' are of the same thing, or have different columns.")
    _check_run(told)
    return told


def _odd_choice(table: str, row: Mapping[str, Any]) -> str | None:
    for (of_table, name), choices in _CHOICES.items():
        if of_table == table and row.get(name) not in choices:
            return f"'{name}' is {row.get(name)!r:.60}"
    return None


def _check_run(records: Mapping[str, Rows]) -> None:
    """Refuse a run that is not finished, or whose configuration is not what its own row says."""
    if len(records["runs"]) != 1:
        raise refused("The records are not of one run.")
    (run,) = records["runs"]
    unfinished = [stage["name"] for stage in records["stages"] if stage["status"] != "finished"]
    if run["status"] != "finished" or run["error"] is not None or unfinished or not records["stages"]:
        raise refused("The run in the archive is not finished.")
    if run["parent"] is not None and not folders.RUN_ID.fullmatch(run["parent"]):
        raise refused(f"The run names a parent that is none: {run['parent']!r:.60}.")
    try:
        labels.of_row(run)
    except (UserError, ValueError, RecursionError) as error:
        raise refused(f"The run's name, tags or notes cannot be: {error!s:.200}") from error
    try:
        config: RunConfig = parse_stored_config(json.loads(run["config_json"]))
    except (UserError, ValueError, RecursionError) as error:
        raise refused(f"The run's configuration cannot be read: {error!s:.300}") from error
    if (config.name, config.method, config.content_hash()) != (run["name"], run["method"], run["config_hash"]):
        raise refused("The run's name, method or hash is not that of its configuration.")


def _extract(
    zipped: zipfile.ZipFile, manifest: Manifest, folder: Path, *, on_step: Callable[[tuple[int, int]], None]
) -> None:
    done, total = 0, sum(count for count, _ in manifest.files.values())
    for name, (_, sha256) in manifest.files.items():
        path, digest = folder / name, hashlib.sha256()
        folders.make(path.parent)
        with zipped.open(archive.FILES + name) as source, path.open("xb") as target:
            while chunk := source.read(CHUNK_BYTES):
                digest.update(chunk)
                target.write(chunk)
                done += len(chunk)
                on_step((done, total))
        path.chmod(PRIVATE_FILE)
        if digest.hexdigest() != sha256:
            raise refused(f"{name!r:.80} is not what the manifest says: its digest differs.")
