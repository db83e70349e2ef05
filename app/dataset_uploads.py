"""Datasets that operators upload as a zip: unpacked below the home, bounded together, deleted when no run names them.

Torch-free. Their folders' names say nothing of what they hold; who may start a run on a folder may start one on these.
"""

from __future__ import annotations

import secrets
import shutil
import threading
import time
from pathlib import Path

from app import data_text, server_paths
from app.settings import Settings
from engine.data.dataset_archives import unpack_dataset
from engine.errors import UserError
from engine.runs.store import RunStore

MIB = 2**20
FOLDER = "datasets"
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
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            there = sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())
            room = self._settings.datasets_mb * MIB - there
            if room <= 0:
                what = data_text.FULL_WHAT.format(megabytes=self._settings.datasets_mb)
                why, fix = data_text.FULL_WHY.format(days=self._days), data_text.FULL_FIX
                raise UserError("app.datasets_full", what=what, why=why, fix=fix)
            day = time.strftime("%Y%m%d", time.localtime())
            folder = self.folder / f"uploaded_{day}_{secrets.token_hex(6)}"
            try:
                return unpack_dataset(archive, folder, most_bytes=min(room, self._settings.max_dataset_mb * MIB))
            except UserError as error:
                what = error.what.replace(str(archive), name)
                raise UserError(error.code, what=what, why=error.why, fix=error.fix) from error

    def sweep(self, *, now: float | None = None) -> None:
        """Delete what is older than its days and named by no run."""
        if not self.folder.is_dir():
            return
        oldest = (time.time() if now is None else now) - self._settings.dataset_days * DAY_S
        old = [folder.resolve() for folder in self.folder.iterdir() if folder.stat().st_mtime < oldest]
        if not old:
            return
        named = [place.resolve() for run in self._store.list() for place in server_paths.places(run.config)]
        for folder in old:
            if not any(place.is_relative_to(folder) for place in named):
                shutil.rmtree(folder, ignore_errors=True)

    @property
    def _days(self) -> str:
        return f"{self._settings.dataset_days:g}"


def folder_of(settings: Settings) -> Path:
    """Return where uploaded datasets lie."""
    return settings.home.expanduser().absolute() / FOLDER


def roots(settings: Settings) -> tuple[Path, ...]:
    """Return the folders below which a run may name its images on a page that others reach."""
    return (*settings.allowed_roots, folder_of(settings))
