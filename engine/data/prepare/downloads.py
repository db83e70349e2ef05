"""A folder of downloads as one tree of files: plain ones, and those inside zip and tar archives, wherever they lie.

A member of an archive is called by the archive's path and its own (``CHAOS_Train_Sets.zip/Train_Sets/CT/1/…``), so that
one pattern finds a file in the archive as downloaded and in the folder that somebody has extracted. Nothing is ever
written under a member's own path but what ``unpacking`` has checked. No network is used.
"""

from __future__ import annotations

import gzip
import hashlib
import lzma
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO

from engine.data.budget import limit_bytes, over_budget
from engine.data.names import is_litter, visible_files
from engine.data.prepare.faults import damaged, disk_full, no_downloads, twice, unsafe

ZIP_SUFFIXES = (".zip",)
TAR_SUFFIXES = (".tar",)
PACKED_TAR_SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
UNREAD = {
    ".rar": "RAR archives are not read here: extract it into a folder beside it",
    ".7z": "7z archives are not read here: extract it into a folder beside it",
    ".crdownload": "its download has not ended",
    ".part": "its download has not ended",
    ".z01": "it is a piece of a zip archive in pieces: join and extract them first",
    ".001": "it is a piece of an archive in pieces: join and extract them first",
}
MAX_MEMBERS = 1_000_000
"""Files in one archive (ours): the largest of the known datasets has 30,000."""
MAX_MEMBER_BYTES = 64 * 2**30
"""One file in an archive (ours): the largest known, PanNuke's masks of a fold, takes 8 GB."""
SPARE_BYTES = 2**28
"""What is left free on the disk (ours)."""
CHUNK_BYTES = 2**20
BROKEN = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile)
"""What reading a damaged tar raises, whatever it is compressed with."""
Progress = Callable[[str, int, int], None]
"""Called with what is done, how much of it, and how much there is in all."""


@dataclass(frozen=True)
class Entry:
    """A file of the downloads: ``path`` in the tree, bytes, and a ``mark`` that changes when its content does."""

    path: str
    num_bytes: int
    mark: str
    source: Path = field(compare=False)
    """The file on the disk that it is, or that holds it."""
    member: str | None = field(default=None, compare=False)
    offset: int | None = field(default=None, compare=False)
    """Where its bytes begin in a tar that is not compressed."""

    @property
    def name(self) -> str:
        """Return the file's own name."""
        return self.path.rpartition("/")[2]


class Downloads:
    """The files below ``root`` (a folder or one archive); compressed tars are unpacked into ``scratch`` first.

    Raises ``UserError``: ``prepare.no_downloads``, ``prepare.archive_damaged``, ``prepare.archive_unsafe``,
    ``prepare.disk_full``.
    """

    def __init__(self, root: Path, *, scratch: Path, progress: Progress) -> None:
        if not root.exists():
            raise no_downloads(root)
        self.root = root
        self.archives: list[Path] = []
        self.unread: dict[str, str] = {}
        self._zips: dict[Path, zipfile.ZipFile] = {}
        self._scratch, self._progress = scratch, progress
        plain: list[Entry] = []
        packed: list[Entry] = []
        for path in [root] if root.is_file() else visible_files(root):
            name = path.name if root.is_file() else path.relative_to(root).as_posix()
            if (reason := UNREAD.get(path.suffix.lower())) is not None:
                self.unread[name] = reason
            elif (members := self._members(path, name)) is not None:
                self.archives.append(path)
                packed += members
            else:
                about = path.stat()
                plain.append(Entry(name, about.st_size, str(about.st_mtime_ns), path))
        self.entries = [*plain, *packed]

    def close(self) -> None:
        """Close the archives."""
        for archive in self._zips.values():
            archive.close()

    def find(self, pattern: str) -> list[tuple[re.Match[str], Entry]]:
        """Return the files whose path, begun by a slash, holds ``pattern`` (whatever the case), and the match."""
        compiled = re.compile(pattern, re.IGNORECASE)
        found = ((compiled.search("/" + entry.path), entry) for entry in self.entries)
        return [(match, entry) for match, entry in found if match is not None]

    def keyed(self, pattern: str, *, key: Callable[[re.Match[str]], str] | None = None) -> dict[str, Entry]:
        """Return the files by the first group of ``pattern``, or by ``key`` of the match.

        A file that is there twice (an archive beside the folder that it was extracted to) is taken from the folder;
        raises ``UserError`` ``prepare.twice`` where the two have different sizes.
        """
        found: dict[str, Entry] = {}
        for match, entry in self.find(pattern):
            name = match[1] if key is None else key(match)
            first = found.setdefault(name, entry)
            if first.num_bytes != entry.num_bytes:
                raise twice(first.path, entry.path)
        return found

    @contextmanager
    def open(self, entry: Entry) -> Iterator[BinaryIO]:
        """Open a file for reading from its begin; what is damaged in an archive is told by the archive's name."""
        if entry.member is not None:
            try:
                with self._zips[entry.source].open(entry.member) as stream:
                    yield stream  # type: ignore[misc]
            except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
                raise damaged(entry.source, f"{entry.member}: {error}") from error
            return
        with entry.source.open("rb") as stream:
            stream.seek(entry.offset or 0)
            yield stream

    def read(self, entry: Entry) -> bytes:
        """Return a file's bytes, within the budget of one file."""
        if entry.num_bytes > limit_bytes():
            raise over_budget(Path(entry.path), f"{entry.num_bytes / 2**20:,.0f} MiB")
        with self.open(entry) as stream:
            content = stream.read(entry.num_bytes)
        if len(content) != entry.num_bytes:
            raise damaged(entry.source, f"{entry.path} ends after {len(content):,} of {entry.num_bytes:,} bytes")
        return content

    def copy(self, entry: Entry, target: Path) -> None:
        """Write a file to ``target``, which must not be read before this returns."""
        require_space(target.parent, entry.num_bytes)
        with self.open(entry) as stream, target.open("wb") as out:
            written = _copy(stream, out, entry.num_bytes)
        if written != entry.num_bytes:
            raise damaged(entry.source, f"{entry.path} ends after {written:,} of {entry.num_bytes:,} bytes")

    def md5(self, path: Path) -> str:
        """Return the MD5 of a file on the disk; it is what archives are published with, and protects nothing."""
        digest, size, done = hashlib.md5(usedforsecurity=False), path.stat().st_size, 0
        with path.open("rb") as stream:
            while chunk := stream.read(16 * CHUNK_BYTES):
                digest.update(chunk)
                done += len(chunk)
                self._progress(f"Checking {path.name}", done, size)
        return digest.hexdigest()

    def _members(self, path: Path, name: str) -> list[Entry] | None:
        lower = path.name.lower()
        if lower.endswith(ZIP_SUFFIXES):
            return self._zip_members(path, name)
        if lower.endswith(TAR_SUFFIXES):
            return [
                Entry(f"{name}/{member}", info.size, str(info.mtime), path, offset=info.offset_data)
                for member, info, _ in _tar_members(path)
            ]
        return self._unpacked(path, name) if lower.endswith(PACKED_TAR_SUFFIXES) else None

    def _zip_members(self, path: Path, name: str) -> list[Entry]:
        try:
            archive = self._zips[path] = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError) as error:
            raise damaged(path, str(error)) from error
        infos = [info for info in archive.infolist() if not info.is_dir()]
        if len(infos) > MAX_MEMBERS:
            raise unsafe(path, f"{len(infos):,} files", "more than any known dataset has")
        found: dict[str, Entry] = {}
        for info in infos:
            inner = safe_name(path, info.filename)
            if stat.S_ISLNK(info.external_attr >> 16):
                raise unsafe(path, info.filename, "a link")
            if info.flag_bits & 1:
                raise damaged(path, f"{info.filename} is encrypted; extract the archive with its password")
            if info.file_size > MAX_MEMBER_BYTES:
                raise unsafe(path, info.filename, f"a file of {info.file_size / 2**30:,.0f} GiB")
            if inner in found:
                raise unsafe(path, info.filename, "a name that stands for two files")
            if not _is_litter(inner):
                mark = f"{info.CRC:08x}"
                found[inner] = Entry(f"{name}/{inner}", info.file_size, mark, path, member=info.filename)
        return list(found.values())

    def _unpacked(self, path: Path, name: str) -> list[Entry]:
        """Unpack a compressed tar, in which nothing can be found without reading all before it; goes on if killed."""
        about = path.stat()
        folder = self._scratch / f"{path.name}-{about.st_size}-{about.st_mtime_ns}"
        folder.mkdir(parents=True, exist_ok=True)
        found = []
        with path.open("rb") as raw:
            for member, info, stream in _tar_members(path, raw):
                target = folder.joinpath(*PurePosixPath(member).parts)
                if not (target.is_file() and target.stat().st_size == info.size):
                    assert stream is not None
                    _unpack(stream, target, num_bytes=info.size, archive=path)
                found.append(Entry(f"{name}/{member}", info.size, str(info.mtime), target))
                self._progress(f"Unpacking {path.name}", raw.tell(), about.st_size)
        return found


def safe_name(archive: Path, name: str) -> str:
    """Return a member's name with slashes; raises ``prepare.archive_unsafe`` where it leads out of the archive."""
    parts = name.replace("\\", "/").split("/")
    if parts[0] in ("", "~") or re.match(r"[A-Za-z]:", parts[0]) or ".." in parts or "\0" in name:
        raise unsafe(archive, name, "a path that leads out of the archive")
    return "/".join(part for part in parts if part not in ("", "."))


def require_space(folder: Path, num_bytes: int) -> None:
    """Raise ``UserError`` ``prepare.disk_full`` where ``num_bytes`` do not fit on the disk of ``folder``."""
    free = shutil.disk_usage(folder).free
    if num_bytes + SPARE_BYTES > free:
        raise disk_full(folder, needed=num_bytes, free=free)


def _tar_members(path: Path, raw: BinaryIO | None = None) -> Iterator[tuple[str, tarfile.TarInfo, IO[bytes] | None]]:
    """Yield the regular files of a tar in order; with ``raw``, a compressed one, each with its stream."""
    try:
        with tarfile.open(path, "r:") if raw is None else tarfile.open(fileobj=raw, mode="r|*") as archive:
            for count, info in enumerate(archive):
                member = safe_name(path, info.name.removeprefix("./") or ".")
                if info.isdir():
                    continue
                if not info.isreg() or info.issparse():
                    raise unsafe(path, info.name, "a link or device")
                if count > MAX_MEMBERS or info.size > MAX_MEMBER_BYTES:
                    raise unsafe(path, info.name, "more than any known dataset has")
                if not _is_litter(member):
                    yield member, info, None if raw is None else archive.extractfile(info)
    except BROKEN as error:
        raise damaged(path, str(error)) from error


def _unpack(stream: IO[bytes], target: Path, *, num_bytes: int, archive: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    require_space(target.parent, num_bytes)
    half = target.with_name(target.name + ".half")
    with half.open("wb") as out:
        try:
            is_whole = _copy(stream, out, num_bytes) == num_bytes
        except BROKEN:
            is_whole = False
        if not is_whole:
            raise damaged(archive, f"{target.name} is cut off or damaged")
    half.replace(target)


def _copy(stream: IO[bytes], out: IO[bytes], num_bytes: int) -> int:
    """Copy at most ``num_bytes``; return how many there were."""
    left = num_bytes
    while left and (chunk := stream.read(min(CHUNK_BYTES, left))):
        out.write(chunk)
        left -= len(chunk)
    return num_bytes - left


def _is_litter(member: str) -> bool:
    return any(is_litter(Path(part)) for part in member.split("/"))
