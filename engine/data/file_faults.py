"""What is wrong with a file that cannot be read, named: missing, empty, another format, a kind not read, or damaged."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.data.budget import limit_bytes
from engine.data.pixels import Unsupported
from engine.errors import UserError

AGAIN = "Export or copy it again, or take it (and its mask) out of the dataset."
LFS_POINTER = "a Git LFS pointer"
"""What git leaves in the place of a large file that it has not fetched."""
PICTURES = (".png", ".jpg", ".jpeg", ".jls", ".jp2", ".j2k", ".bmp")
"""Endings of everyday pictures: whichever of them a file has, its first bytes decide how it is read."""
GZIPPED = ".nii.gz"
KINDS: tuple[tuple[str, int, bytes, tuple[str, ...]], ...] = (
    # what it is, where its mark stands, the mark, the endings it may have: first its own
    ("a PNG", 0, b"\x89PNG\r\n\x1a\n", (".png", *PICTURES)),
    ("a JPEG", 0, b"\xff\xd8\xff", (".jpg", *PICTURES)),
    ("a JPEG 2000", 0, b"\x00\x00\x00\x0cjP  \r\n", (".jp2", *PICTURES)),
    ("a JPEG 2000", 0, b"\xff\x4f\xff\x51", (".j2k", *PICTURES)),
    ("a BMP", 0, b"BM", (".bmp", *PICTURES)),
    ("a GIF", 0, b"GIF8", ()),
    ("a WebP", 8, b"WEBPVP8", ()),
    ("a HEIC, AVIF or MP4", 4, b"ftyp", ()),
    ("a JPEG XL", 0, b"\x00\x00\x00\x0cJXL \r\n", ()),
    ("a TIFF", 0, b"II*\x00", (".tif", ".tiff")),
    ("a TIFF", 0, b"MM\x00*", (".tif", ".tiff")),
    ("a BigTIFF", 0, b"II+\x00", (".tif", ".tiff")),
    ("a BigTIFF", 0, b"MM\x00+", (".tif", ".tiff")),
    ("an npy", 0, b"\x93NUMPY", (".npy",)),
    ("a gzipped", 0, b"\x1f\x8b", (GZIPPED,)),
    ("a zip or npz", 0, b"PK\x03\x04", ()),
    ("a PDF", 0, b"%PDF", ()),
    ("an HTML", 0, b"<!DOCTYPE html", ()),
    ("an HTML", 0, b"<html", ()),
    ("an XML", 0, b"<?xml", ()),
    (LFS_POINTER, 0, b"version https://git-lfs", ()),
    ("an NRRD", 0, b"NRRD", (".nrrd",)),
    ("a MetaImage", 0, b"ObjectType = Image", (".mha", ".mhd")),
    ("an HDF5", 0, b"\x89HDF\r\n\x1a\n", ()),
    ("a MATLAB", 0, b"MATLAB 5.0 MAT-file", ()),
    ("a DICOM", 128, b"DICM", (".dcm", ".dicom")),
    ("a NIfTI", 344, b"n+1\x00", (".nii",)),
    ("a NIfTI", 4, b"n+2\x00", (".nii",)),
)
"""Formats by the bytes that they begin with."""
PREPARED = (".nrrd", ".mha")
"""Endings of formats that are read of public datasets alone."""


@contextmanager
def reading(path: Path, *, suffix: str) -> Iterator[None]:
    """Turn whatever a decoder raises into one ``UserError`` that names the file and its fault.

    Codes: ``data.file_missing``, ``data.file_forbidden``, ``data.file_not_regular``, ``data.image_too_large``,
    ``data.image_unsupported`` (valid, of a kind that is not read), ``data.image_unreadable`` (another format than its
    ending says, empty, truncated or damaged: the text tells which).
    """
    _refuse_what_is_no_file(path)
    try:
        yield
    except UserError:
        raise
    except PermissionError as error:
        raise _forbidden(path) from error
    except MemoryError as error:
        raise UserError(
            "data.image_too_large",
            what=f"The file {path} takes more memory than this machine has left.",
            why=f"At most {limit_bytes() / 2**20:,.0f} MiB are given to one file, and they were not there.",
            fix="Close other programs, or cut, tile or reduce the image first.",
        ) from error
    except Exception as error:  # a decoder of foreign files raises anything at all
        raise _fault(path, suffix=suffix, error=error) from error


def unsupported(path: Path, text: str) -> UserError:
    """Return the error of a valid file of a kind that is not read; ``text`` names it: "its voxels are complex"."""
    return UserError(
        "data.image_unsupported",
        what=f"The file {path} cannot be used: {text}.",
        why="The file may be sound; this kind of it is not read here.",
        fix="Convert it to a plain image or volume, or take it (and its mask) out of the dataset.",
    )


def _refuse_what_is_no_file(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(
            "data.file_missing",
            what=f"The file {path} does not exist." if not path.is_symlink() else f"The link {path} leads to no file.",
            why="It was asked for by name.",
            fix="Correct the path, or put the file back.",
        ) from error
    except PermissionError as error:
        raise _forbidden(path) from error
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a device, pipe or socket"
        raise UserError(
            "data.file_not_regular",
            what=f"{path} is not a file but {kind}.",
            why="An image is read from a regular file.",
            fix="Name a file, or take it out of the dataset.",
        )


def _forbidden(path: Path) -> UserError:
    return UserError(
        "data.file_forbidden",
        what=f"The file {path} may not be read by this user.",
        why="The operating system refused to open it.",
        fix="Give the user that runs this program the right to read it.",
    )


def _fault(path: Path, *, suffix: str, error: Exception) -> UserError:
    if isinstance(error, Unsupported):
        return unsupported(path, str(error))
    if type(error).__name__ == "DecompressionBombError":
        return UserError(
            "data.image_too_large",
            what=f"The file {path} announces more pixels than are read: {error}.",
            why="Such files are refused before they fill the memory.",
            fix="Reduce or tile the image first; if it should be small, the file is damaged.",
        )
    if path.stat().st_size == 0:
        return UserError(
            "data.image_unreadable",
            what=f"The file {path} cannot be read: it is empty.",
            why="It has 0 bytes.",
            fix=AGAIN,
        )
    kinds = content_kinds(path)
    found = next((kind for kind in kinds if suffix in kind[1]), kinds[0] if kinds else None)
    if found is not None and suffix not in found[1]:
        mend = "Fetch what it stands for (git lfs pull)." if found[0] == LFS_POINTER else "Convert it, or take it out."
        return UserError(
            "data.image_unreadable",
            what=f"The file {path} is {found[0]} file, which its ending {suffix} does not say.",
            why="The ending decides how a file is read.",
            fix=f"Rename it to {found[1][0]}." if found[1] and found[1][0] not in PREPARED else mend,
        )
    reason = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
    return UserError(
        "data.image_unreadable",
        what=f"The file {path} cannot be read: {reason}.",
        why="It is truncated or damaged." if found else f"It does not begin as a {suffix} file does, or is damaged.",
        fix=AGAIN,
    )


def own_ending(path: Path) -> tuple[str, str] | None:
    """Return what a file of another ending is by its first bytes and the ending of such that is read, or None.

    What is gzipped may be anything.
    """
    try:
        kinds = content_kinds(path) if path.is_file() else []
    except OSError:  # told where it is opened
        return None
    return next(
        ((kind, endings[0]) for kind, endings in kinds if endings and endings[0] not in (*PREPARED, GZIPPED)), None
    )


def content_kinds(path: Path) -> list[tuple[str, tuple[str, ...]]]:
    """Return what the first bytes say that a file is, with the endings for it; a DICOM file may be a TIFF as well."""
    with path.open("rb") as stream:
        head = stream.read(512)
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()  # pages may begin with an empty line
    return [
        (kind, suffixes)
        for kind, offset, mark, suffixes in KINDS
        if (text if mark.startswith(b"<") else head)[offset : offset + len(mark)].lower() == mark.lower()
    ]
