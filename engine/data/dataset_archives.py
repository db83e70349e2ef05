"""A dataset folder out of a zip: whole or not at all, within bytes known before anything is inflated. Torch-free.

Unlike :mod:`engine.data.archives`, names of members become paths here, for sites and files are called by them. Each is
refused unless it is plain: no way up, no root, no link, no sign that a name should not have.
"""

from __future__ import annotations

import os
import shutil
import stat
import zipfile
from pathlib import Path, PurePosixPath

from engine.data.archives import reading, refuse_kinds
from engine.data.description import FILE_NAME
from engine.data.found_folders import NNUNET_FILE, find_datasets
from engine.data.meta import FILE_NAME as META_NAME
from engine.data.names import folded, is_litter
from engine.data.readers import is_supported
from engine.data.zip_lists import CHUNK_BYTES, lists_more_than
from engine.errors import UserError

MAX_FILES = 50_000
MAX_DEPTH, MAX_NAME_BYTES = 8, 200
SPARE_BYTES = 2**28
"""What is left free on the disk (ours)."""
KEPT = frozenset({FILE_NAME, META_NAME, NNUNET_FILE})
"""Files beside images that say how these are to be read."""
SEARCH_S = 10.0


def unpack_dataset(archive: Path, folder: Path, *, most_bytes: int) -> Path:
    """Write the dataset in a zip below ``folder``, which is new, and return where it lies there.

    Images and the files that describe them are written, readable by their owner alone; others, and what operating
    systems leave (``__MACOSX``, ``._a.png``), are not. Raises ``UserError`` ``archive.unsafe``, ``archive.too_large``,
    ``archive.encrypted``, ``archive.damaged``, ``archive.no_dataset`` or ``archive.disk_full``; then nothing stays.
    """
    if lists_more_than(2 * MAX_FILES, archive):  # twice: folders and litter are listed, too
        raise _too_many(archive)
    part = folder.with_name(f".{folder.name}.part")
    part.mkdir(mode=0o700)
    try:
        with reading(archive), zipfile.ZipFile(archive) as opened:
            wanted = _wanted(archive, opened)
            _refuse_size(archive, wanted, most_bytes=most_bytes, folder=part)
            for info, path in wanted:
                try:
                    _write(opened, info, part / path)
                except (FileExistsError, NotADirectoryError) as error:  # one member is the folder of another
                    raise _unsafe(archive, info.filename) from error
        inner = _dataset_in(part, archive).relative_to(part)
        part.rename(folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return folder / inner


def _dataset_in(folder: Path, archive: Path) -> Path:
    """Return the one dataset below ``folder``, or the folder of several in nnU-Net's layout: a site each."""
    found, _ = find_datasets([folder], most_s=SEARCH_S)
    beside = {one.path.parent for one in found}
    if len(found) > 1 and len(beside) == 1 and all(one.layout == "nnunet" for one in found):
        return beside.pop()
    if len(found) != 1:
        raise _no_dataset(archive, len(found))
    return found[0].path


def _wanted(archive: Path, opened: zipfile.ZipFile) -> list[tuple[zipfile.ZipInfo, PurePosixPath]]:
    """Return the members to write, each with its place; refuses the whole archive for one that is not plain."""
    wanted: dict[str, tuple[zipfile.ZipInfo, PurePosixPath]] = {}
    for info in opened.infolist():
        path = PurePosixPath(info.filename.replace("\\", "/"))
        if info.is_dir() or any(is_litter(Path(part)) for part in path.parts if part != ".."):
            continue
        if not _is_plain(path) or stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
            raise _unsafe(archive, info.filename)
        is_read = path.name.lower() in KEPT or is_supported(Path(path.name))
        if is_read and wanted.setdefault(folded(str(path)), (info, path))[0] is not info:
            raise _unsafe(archive, info.filename)
    if len(wanted) > MAX_FILES:
        raise _too_many(archive)
    refuse_kinds(archive, [info for info, _ in wanted.values()])
    return list(wanted.values())


def _is_plain(path: PurePosixPath) -> bool:
    parts = path.parts
    return 0 < len(parts) <= MAX_DEPTH and all(
        part not in ("/", "//", "..")
        and part.isprintable()
        and ":" not in part
        and len(part.encode()) <= MAX_NAME_BYTES
        for part in parts
    )


def _write(opened: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> None:
    for folder in reversed([path.parent, *path.parent.parents]):
        if not folder.exists():
            folder.mkdir(mode=0o700)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with opened.open(info) as stream, os.fdopen(handle, "wb") as file:
        shutil.copyfileobj(stream, file, CHUNK_BYTES)


def _refuse_size(
    archive: Path, wanted: list[tuple[zipfile.ZipInfo, PurePosixPath]], *, most_bytes: int, folder: Path
) -> None:
    needed = sum(info.file_size for info, _ in wanted)
    if needed > most_bytes:
        raise UserError(
            "archive.too_large",
            what=f"The archive {archive} holds {needed / 2**20:,.0f} MiB of images.",
            why=f"At most {most_bytes / 2**20:,.0f} MiB are unpacked here, however small the archive is.",
            fix="Have the folder copied to the server by its operator; if it should be small, it is damaged.",
        )
    free = shutil.disk_usage(folder).free
    if needed + SPARE_BYTES > free:
        raise UserError(
            "archive.disk_full",
            what=f"The archive {archive} needs {needed / 2**20:,.0f} MiB, and {free / 2**20:,.0f} MiB are free.",
            why="Runs write to that disk, too.",
            fix="Free some space on the server's disk.",
        )


def _unsafe(archive: Path, name: str) -> UserError:
    return UserError(
        "archive.unsafe",
        what=f"The archive {archive} holds {name[:80]!a}, which is no plain name of a file of its own.",
        why="Nothing is written outside of the new folder, over another file, or through a link.",
        fix="Make the zip again of the dataset's folder, with the zip program of your system.",
    )


def _too_many(archive: Path) -> UserError:
    return UserError(
        "archive.too_large",
        what=f"The archive {archive} holds more than {MAX_FILES:,} files.",
        why=f"At most {MAX_FILES:,} are unpacked here.",
        fix="Have the folder copied to the server by its operator.",
    )


def _no_dataset(archive: Path, count: int) -> UserError:
    several = f"{count} folders in the archive {archive} look like datasets."
    return UserError(
        "archive.no_dataset",
        what=several if count else f"No folder in the archive {archive} looks like a dataset.",
        why="A run reads one dataset: a folder with dataset.toml and, for each site, images and masks.",
        fix="Put one such folder into the zip; README says how it is laid out.",
    )
