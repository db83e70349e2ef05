"""What visitors upload: streamed to the page's own folder, under a name that says nothing, counted, and soon deleted.

The original name is kept in memory for the one who uploaded: it may be a patient's and belongs into no log.
"""

from __future__ import annotations

import re
import secrets
import shutil
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import FormParser, parse_options_header

from app import text
from app.settings import Settings
from engine.data.readers import file_suffix
from engine.errors import UserError

MIB = 2**20
FRAME_BYTES = 64 * 1024
"""What the parts of a form may take around the file itself."""
PEACE_S = 60.0
"""An upload stays so long whoever else comes (ours)."""
FOLDER = "uploads"
SUFFIX = re.compile(r"(\.[a-z0-9]{1,8}){0,2}")


@dataclass(frozen=True)
class Upload:
    """One file that a visitor has uploaded."""

    path: Path
    owner: str
    name: str
    num_bytes: int
    at: float


@dataclass(frozen=True)
class Arriving:
    """One file that is on its way."""

    owner: str
    num_bytes: int


class Uploads:
    """The uploads in ``folder``, by path. Safe from several threads."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.folder = folder / FOLDER
        self.folder.mkdir(mode=0o700, exist_ok=True)
        self._scratch, self._settings = folder, settings
        self._files: dict[str, Upload] = {}
        self._arriving: dict[str, Arriving] = {}
        self._lock = threading.Lock()

    def name_of(self, path: Path) -> str:
        """Return the name that a file had where it came from."""
        with self._lock:
            found = self._files.get(str(path))
        return found.name if found else path.name

    def owned(self, path: str, owner: str) -> bool:
        """Return whether ``path`` is a file that ``owner`` has uploaded."""
        with self._lock:
            found = self._files.get(path)
        return found is not None and found.owner == owner

    def foreign(self, path: Path, owner: str) -> bool:
        """Return whether ``path`` lies among the uploads and is not this visitor's."""
        return path.is_relative_to(self.folder) and not self.owned(str(path), owner)

    async def receive(self, stream: AsyncIterator[bytes], *, content_type: str, owner: str) -> Path:
        """Write the one file of a form to the disk as it arrives and return where it lies.

        Raises ``UserError`` ``app.upload_too_large``, ``app.upload_quota`` or ``app.upload_form``, as soon as it is
        known; nothing of a refused or broken-off upload stays.
        """
        largest = self._settings.max_upload_mb * MIB + FRAME_BYTES
        folder = self.folder / secrets.token_urlsafe(16)
        self._begin(folder.name, owner)
        try:
            folder.mkdir(mode=0o700)
            form = _Form(folder, content_type)
            received = 0
            async for chunk in stream:
                received += len(chunk)
                if received > largest:
                    raise _too_large(self._settings.max_upload_mb)
                self._count(folder.name, received, owner)
                form.write(chunk)
            upload = form.finish(owner)
            with self._lock:
                self._files[str(upload.path)] = upload
            return upload.path
        except BaseException:  # also a browser that has gone, which cancels this
            shutil.rmtree(folder, ignore_errors=True)
            raise
        finally:
            with self._lock:
                self._arriving.pop(folder.name, None)

    def sweep(self, *, now: float | None = None) -> None:
        """Delete files, and pictures made of them, that are too old, then the oldest until the rest is small enough."""
        oldest = (time.time() if now is None else now) - 60 * self._settings.keep_minutes
        with _removed() as gone, self._lock:
            gone += [upload for upload in self._files.values() if upload.at < oldest]
            for upload in gone:
                del self._files[str(upload.path)]
            held = self._held()
        most = self._settings.all_mb * MIB  # half of it in any case, or full uploads would take all pictures away
        _sweep_made(self._scratch, keep=self.folder, oldest=oldest, most_bytes=max(most - held, most // 2))

    def _begin(self, arriving: str, owner: str) -> None:
        with _removed() as gone, self._lock:
            self._make_room(owner, gone, files=1)
            while len(self._files) + len(self._arriving) >= self._settings.all_files:
                gone.append(self._giving_way(owner, lambda _: 1))
            self._arriving[arriving] = Arriving(owner, 0)

    def _count(self, arriving: str, num_bytes: int, owner: str) -> None:
        if num_bytes > self._settings.visitor_mb * MIB:
            raise _too_large(self._settings.visitor_mb)
        with _removed() as gone, self._lock:
            self._arriving[arriving] = Arriving(owner, num_bytes)
            self._make_room(owner, gone)
            while self._held() > self._settings.all_mb * MIB:
                gone.append(self._giving_way(owner, lambda upload: upload.num_bytes))

    def _held(self) -> int:
        """Return the bytes that all uploads take, also those on their way."""
        return sum(one.num_bytes for one in (*self._files.values(), *self._arriving.values()))

    def _make_room(self, owner: str, gone: list[Upload], *, files: int = 0) -> None:
        """Move a visitor's own oldest uploads to ``gone`` until the rest, so many more and what is on its way are
        within what one visitor may have."""
        own = [upload for upload in self._files.values() if upload.owner == owner]  # oldest first
        coming = [one for one in self._arriving.values() if one.owner == owner]
        most_files, most_bytes = self._settings.visitor_files - files, self._settings.visitor_mb * MIB
        if len(coming) > most_files or sum(one.num_bytes for one in coming) > most_bytes:
            raise _quota(text.QUOTA_EACH, self._settings)
        while len(own) + len(coming) > most_files or sum(one.num_bytes for one in (*own, *coming)) > most_bytes:
            gone.append(own.pop(0))
            del self._files[str(gone[-1].path)]

    def _giving_way(self, owner: str, size: Callable[[Arriving | Upload], int]) -> Upload:
        """Take away the oldest upload of whoever has most, where that is more than ``owner`` has, and return it.

        Whoever fills the page under many names would keep all others out for as long as uploads are kept. What has just
        come is left in peace: it is being looked at.
        """
        shares: Counter[str] = Counter()
        for one in (*self._files.values(), *self._arriving.values()):
            shares[one.owner] += size(one)
        settled = [upload for upload in self._files.values() if upload.at < time.time() - PEACE_S]
        most = max((shares[upload.owner] for upload in settled), default=0)
        if most <= shares[owner]:
            raise _quota(text.QUOTA_ALL, self._settings)
        found = next(upload for upload in settled if shares[upload.owner] == most)
        del self._files[str(found.path)]
        return found


@contextmanager
def _removed() -> Iterator[list[Upload]]:
    """Delete the uploads that are in the list in the end, whatever happens."""
    gone: list[Upload] = []
    try:
        yield gone
    finally:
        for upload in gone:
            shutil.rmtree(upload.path.parent, ignore_errors=True)


class _Form:
    """The one file of a multipart form, written to ``folder`` while it arrives."""

    def __init__(self, folder: Path, content_type: str) -> None:
        kind, options = parse_options_header(content_type)
        if kind != b"multipart/form-data" or not options.get(b"boundary"):
            raise _no_form()
        self._folder = folder
        self._files: list = []
        self._parser = FormParser(
            "multipart/form-data",
            lambda _field: None,
            self._files.append,
            boundary=options[b"boundary"],
            config={
                "UPLOAD_DIR": str(folder),
                "UPLOAD_DELETE_TMP": False,
                "MAX_MEMORY_FILE_SIZE": 0,
                "MAX_FIELDS": 4,
                "MAX_FIELD_SIZE": 4096,
            },
        )

    def write(self, chunk: bytes) -> None:
        """Take the next bytes of the form."""
        try:
            self._parser.write(chunk)
            if len(self._files) > 1:
                raise _no_form()
        except FormParserError as error:
            raise _no_form() from error

    def finish(self, owner: str) -> Upload:
        """Return the file under its lasting name."""
        try:
            self._parser.finalize()
        except FormParserError as error:
            raise _no_form() from error
        if len(self._files) != 1 or self._files[0].file_name is None:
            raise _no_form()
        file = self._files[0]
        if file.in_memory:  # nothing but an empty file
            file.flush_to_disk()
        written, num_bytes = Path(file.actual_file_name.decode()), file.size
        file.close()
        name = _shown_name(file.file_name.decode("utf-8", "replace"))
        suffix = file_suffix(Path(name))
        path = self._folder / f"image{suffix if SUFFIX.fullmatch(suffix) else ''}"
        written.rename(path)
        return Upload(path, owner, name, num_bytes, time.time())


def _shown_name(name: str) -> str:
    """Return the last part of a file's name as it can be shown and be part of another file's, ending kept."""
    bare = "".join(letter for letter in Path(name.replace("\\", "/")).name if letter.isprintable())
    suffix = file_suffix(Path(bare))
    stem = bare[: len(bare) - len(suffix)].encode()[:120].decode("utf-8", "ignore")
    return f"{stem or 'image'}{suffix[:20]}"


def _sweep_made(scratch: Path, *, keep: Path, oldest: float, most_bytes: int) -> None:
    """Delete pictures and masks below ``scratch`` that are too old or, oldest first, too many."""
    found = []
    for path in scratch.rglob("*"):
        try:
            if path.is_file() and path.parent != scratch:  # the lock of the folder lies in it
                status = path.stat()
                if not path.is_relative_to(keep):
                    found.append((status.st_mtime, status.st_size, path))
        except OSError:  # somebody else has deleted it
            continue
    left = sum(size for _, size, _ in found)
    for at, size, path in sorted(found, key=lambda row: row[0]):
        if at >= oldest and left <= most_bytes:
            continue
        path.unlink(missing_ok=True)
        left -= size
        if path.parent != scratch and not any(path.parent.iterdir()):
            shutil.rmtree(path.parent, ignore_errors=True)


def _too_large(megabytes: int) -> UserError:
    what = text.UPLOAD_LARGE_WHAT.format(megabytes=megabytes)
    return UserError("app.upload_too_large", what=what, why=text.UPLOAD_LARGE_WHY, fix=text.TOO_LARGE_FIX)


def _quota(what: str, settings: Settings) -> UserError:
    fix = text.QUOTA_FIX.format(minutes=f"{settings.keep_minutes:g}")
    return UserError("app.upload_quota", what=what, why=text.QUOTA_WHY, fix=fix)


def _no_form() -> UserError:
    return UserError("app.upload_form", what=text.FORM_WHAT, why=text.FORM_WHY, fix=text.FORM_FIX)
