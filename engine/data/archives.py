"""A person's zip of images, unpacked within a budget that is known before anything is inflated. Torch-free.

No member's name becomes a path: each is written under a number of its own, so none can lie outside the folder, replace
another, or be a link. What is declared is added up first; zipfile inflates no member beyond what it declares.
"""

from __future__ import annotations

import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from engine.data.names import is_litter
from engine.data.readers import DICOM_SUFFIXES, SUFFIXES, file_suffix
from engine.data.zip_lists import CHUNK_BYTES, lists_more_than
from engine.errors import UserError

MAX_FILES = 4000
"""Files in one archive (ours): the slices of a whole body take some 2,000."""
DICOM_MARK, DICOM_MARK_AT = b"DICM", 128


@dataclass(frozen=True)
class Member:
    """A file of an archive: where it was written, and the name that it has there, without its folders."""

    path: Path
    name: str


def is_archive(path: Path) -> bool:
    """Return whether the file is called a zip archive."""
    return path.suffix.lower() == ".zip"


def unpack(archive: Path, folder: Path, *, most_bytes: int) -> list[Member]:
    """Write the images of a zip into ``folder`` and return them in the order of their names in it.

    Images are files with an ending that a reader knows, and such without one that begin as DICOM; what operating
    systems leave (``__MACOSX``, ``.DS_Store``) and other files are left out. Raises ``UserError``
    ``archive.damaged``, ``archive.too_large``, ``archive.encrypted`` or ``archive.no_images``.
    """
    if lists_more_than(2 * MAX_FILES, archive):  # twice: folders and litter are listed, too
        raise _too_many(archive)
    with reading(archive), zipfile.ZipFile(archive) as opened:
        wanted = sorted((info for info in opened.infolist() if _is_wanted(info)), key=lambda info: info.filename)
        if len(wanted) > MAX_FILES:
            raise _too_many(archive)
        needed = sum(info.file_size for info in wanted)
        if needed > most_bytes:
            raise _too_large(archive, needed, most_bytes)
        refuse_kinds(archive, wanted)
        members = [_extract(opened, info, folder, number) for number, info in enumerate(wanted)]
    found = [member for member in members if member is not None]
    if not found:
        raise UserError(
            "archive.no_images",
            what=f"There is no image in the archive {archive}.",
            why=f"Images end in {', '.join(SUFFIXES)}, or begin as DICOM files do.",
            fix="Put the images themselves into the zip: no archives, and no folder of shortcuts.",
        )
    return found


@contextmanager
def reading(archive: Path) -> Iterator[None]:
    """Tell what reading a damaged zip raises as ``UserError`` ``archive.damaged``."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError, OverflowError) as error:
        raise UserError(
            "archive.damaged",
            what=f"The archive {archive} cannot be unpacked: {error}.",
            why="It is truncated or damaged, or no zip archive.",
            fix="Make it again, with the zip program of your system.",
        ) from error


def is_dicom(path: Path) -> bool:
    """Return whether a file is called DICOM, or has no known ending and begins as DICOM does (PS3.10 7.1)."""
    suffix = file_suffix(path)
    if suffix in SUFFIXES:
        return suffix in DICOM_SUFFIXES
    with path.open("rb") as stream:
        stream.seek(DICOM_MARK_AT)
        return stream.read(len(DICOM_MARK)) == DICOM_MARK


def _extract(opened: zipfile.ZipFile, info: zipfile.ZipInfo, folder: Path, number: int) -> Member | None:
    name = PurePosixPath(info.filename).name
    suffix = file_suffix(Path(name))
    with opened.open(info) as stream:
        head = stream.read(DICOM_MARK_AT + len(DICOM_MARK))
        if suffix not in SUFFIXES:
            if not head.endswith(DICOM_MARK) or len(head) <= DICOM_MARK_AT or name.upper() == "DICOMDIR":
                return None
            suffix = DICOM_SUFFIXES[0]
        path = folder / f"{number:05d}{suffix}"
        with path.open("wb") as file:
            file.write(head)
            shutil.copyfileobj(stream, file, CHUNK_BYTES)
    return Member(path, name)


def _is_wanted(info: zipfile.ZipInfo) -> bool:
    parts = PurePosixPath(info.filename.replace("\\", "/")).parts
    kind = stat.S_IFMT(info.external_attr >> 16)
    return not info.is_dir() and kind in (0, stat.S_IFREG) and not any(is_litter(Path(part)) for part in parts)


def refuse_kinds(archive: Path, wanted: list[zipfile.ZipInfo]) -> None:
    """Raise for members behind a password, or compressed as zip programs seldom do; call it inside :func:`reading`."""
    if any(info.flag_bits & 1 for info in wanted):
        raise UserError(
            "archive.encrypted",
            what=f"The archive {archive} is locked by a password.",
            why="Nobody is asked for passwords here.",
            fix="Make the zip again without one.",
        )
    if any(info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for info in wanted):
        raise NotImplementedError("it is compressed otherwise than zip programs usually do")


def _too_many(archive: Path) -> UserError:
    return UserError(
        "archive.too_large",
        what=f"The archive {archive} holds more than {MAX_FILES} files.",
        why=f"At most {MAX_FILES} images are taken at a time.",
        fix="Put one series, or fewer images, into the zip.",
    )


def _too_large(archive: Path, needed: int, most_bytes: int) -> UserError:
    return UserError(
        "archive.too_large",
        what=f"The archive {archive} holds {needed / 2**20:,.0f} MiB of images.",
        why=f"At most {most_bytes / 2**20:,.0f} MiB are unpacked here, however small the archive is.",
        fix="Put fewer images into the zip; if it should be small, it is damaged.",
    )
