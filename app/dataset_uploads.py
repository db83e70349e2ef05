"""Datasets that operators upload, or have made: below the home, bounded together, deleted when no run names them.

Torch-free. Their folders' names say nothing of what they hold; who may start a run on a folder may start one on these.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from app import data_text, server_paths
from app.settings import Settings
from engine.data.dataset_archives import unpack_dataset
from engine.errors import UserError
from engine.runs.store import RunStore

if TYPE_CHECKING:
    from engine.data.prepare.preparation import Report

MIB = 2**20
FOLDER = "datasets"
TAUGHT = "taught_"
"""How the names of datasets begin that people have made of masks which they have corrected."""
COUNT_EVERY_S = 2.0
"""Between two counts of what a conversion has written (ours)."""
DAY_S = 86400.0


class DatasetUploads:
    """The uploaded datasets below the home of ``settings``; runs are those of ``store``. Safe from several threads."""

    def __init__(self, store: RunStore, settings: Settings) -> None:
        self._store, self._settings = store, settings
        self.folder = folder_of(settings)
        self._lock = threading.Lock()

    def take(self, archive: Path, *, name: str) -> Path:
        """Unpack an uploaded zip, which its owner knows as ``name``, and return where the dataset lies.

        Raises ``UserError``: those of ``unpack_dataset``, or ``app.datasets_full``. Nothing of a refused one stays.
        """
        with self._lock:  # one at a time: what is there is counted first
            room = self._room()
            day = time.strftime("%Y%m%d", time.localtime())
            folder = self.folder / f"uploaded_{day}_{secrets.token_hex(6)}"
            try:
                return unpack_dataset(archive, folder, most_bytes=min(room, self._settings.max_dataset_mb * MIB))
            except UserError as error:
                what = error.what.replace(str(archive), name)
                raise UserError(error.code, what=what, why=error.why, fix=error.fix) from error

    def convert(self, source: Path, *, on_step: Callable[[int, int], None]) -> Report:
        """Make a dataset of a folder in the layout of nnU-Net, a site for each ``dataset.json``.

        ``on_step`` is called with the cases that are written and all; what it raises ends the conversion, and a later
        call for the same files goes on there. Raises ``UserError``: those of ``prepare``, or ``app.datasets_full``.
        """
        from engine.data.prepare.preparation import prepare
        from engine.data.prepare.registry import find_dataset

        with self._lock:
            self._room()
        counted_at = 0.0

        def progress(_step: str, done: int, total: int) -> None:
            nonlocal counted_at
            now = time.monotonic()
            if now - counted_at > COUNT_EVERY_S:
                self._room()
                counted_at = now
            on_step(done, total)

        target = self.folder / f"prepared_{_digest(source)}"
        report = prepare(find_dataset("nnunet"), downloads=source, folder=target, progress=progress)
        target.chmod(0o700)
        return report

    def _room(self) -> int:
        """Return how many bytes may be added; raises ``app.datasets_full``."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        room = self._settings.datasets_mb * MIB - sum(size for _, size, _ in _files(self.folder))
        if room <= 0:
            raise self._full()
        return room

    def _full(self) -> UserError:
        what = data_text.FULL_WHAT.format(megabytes=self._settings.datasets_mb)
        why, fix = data_text.FULL_WHY.format(days=self._days), data_text.FULL_FIX
        return UserError("app.datasets_full", what=what, why=why, fix=fix)

    @contextmanager
    def adding(self, num_bytes: int, *, root: Path | None) -> Iterator[None]:
        """Hold all others off while files of so many bytes are written below ``root``, or in a new dataset here (None).

        Raises ``UserError`` ``app.datasets_full`` where they are more than may be added here.
        """
        with self._lock:
            inside = root is None or root.resolve().is_relative_to(self.folder.resolve())
            if inside and num_bytes > self._room():
                raise self._full()
            yield

    def sweep(self, *, now: float | None = None) -> None:
        """Delete what is older than its days and named by no run, but nothing that people have taught here."""
        if not self.folder.is_dir():
            return
        oldest = (time.time() if now is None else now) - self._settings.dataset_days * DAY_S
        old = [folder.resolve() for folder in self.folder.iterdir() if folder.stat().st_mtime < oldest]
        old = [folder for folder in old if not folder.name.startswith(TAUGHT)]
        if not old:
            return
        named = [place.resolve() for run in self._store.list() for place in server_paths.places(run.config)]
        for folder in old:
            if not any(place.is_relative_to(folder) for place in named):
                shutil.rmtree(folder, ignore_errors=True)

    @property
    def _days(self) -> str:
        return f"{self._settings.dataset_days:g}"


def _files(folder: Path) -> list[tuple[str, int, int]]:
    """Return name, bytes and time of change of every file below ``folder``; one that goes meanwhile is left out."""
    found = []
    for path in sorted(folder.rglob("*")):
        try:
            about = path.stat()
        except FileNotFoundError:
            continue
        if path.is_file():
            found.append((path.relative_to(folder).as_posix(), about.st_size, about.st_mtime_ns))
    return found


def _digest(source: Path) -> str:
    """Return what tells a folder, with what is in it, from others: its dataset's name says nothing of it."""
    told = repr((os.fspath(source.resolve()), _files(source)))
    return hashlib.sha256(told.encode(errors="surrogateescape")).hexdigest()[:12]


def folder_of(settings: Settings) -> Path:
    """Return where uploaded datasets lie."""
    return settings.home.expanduser().absolute() / FOLDER


def roots(settings: Settings) -> tuple[Path, ...]:
    """Return the folders below which a run may name its images on a page that others reach."""
    return (*settings.allowed_roots, folder_of(settings))
