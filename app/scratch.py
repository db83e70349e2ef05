"""The page's passing files: what people upload, the pictures shown to them, the masks they may download."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from filelock import FileLock, Timeout

from engine.errors import UserError

LOCK_FILE = "in_use.lock"


class Scratch:
    """A private folder below ``home`` that goes with its process, or, where that was killed, at the next start.

    An uploaded image may be a patient's: it belongs neither in a folder that everybody on the machine can list nor
    on the disk for longer than the page is served.
    """

    def __init__(self, home: Path) -> None:
        parent = home / "page"
        try:
            parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with FileLock(parent / LOCK_FILE):  # so that nobody takes the new folder for a left one before its lock
                for folder in parent.glob("served-*"):
                    _remove_unless_in_use(folder)
                self._folder = TemporaryDirectory(dir=parent, prefix="served-", ignore_cleanup_errors=True)
                self._lock = FileLock(self.path / LOCK_FILE)
                self._lock.acquire()
        except OSError as error:
            raise UserError(
                "app.home_not_writable",
                what=f"The folder {parent} cannot be written: {error.strerror or error}.",
                why="The page keeps uploaded images and offered masks there while it is served.",
                fix="Free space on its disk or choose another folder with --home.",
            ) from error

    @property
    def path(self) -> Path:
        """The folder, readable by its owner alone."""
        return Path(self._folder.name)


def _remove_unless_in_use(folder: Path) -> None:
    """Remove what a killed page has left; another page on the same home keeps its own."""
    try:
        with FileLock(folder / LOCK_FILE, blocking=False):
            shutil.rmtree(folder, ignore_errors=True)
    except Timeout:
        return
