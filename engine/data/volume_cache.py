"""Volumes that stay open between their slices, bounded by bytes and never for a visitor. Torch-free."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from engine.data.budget import DEFAULT_LIMIT_BYTES, limit_bytes

MAX_VOLUMES = 4
"""Open at once (ours): an image and its mask, in two threads."""


class Sized(Protocol):
    """What a cache must know of a volume."""

    @property
    def num_bytes(self) -> int:
        """Return the memory that it holds; a map of a file holds none."""


V = TypeVar("V", bound=Sized)


class VolumeCache(Generic[V]):
    """The volumes that were last asked for, as long as they take at most ``budget_bytes`` together.

    Slices of one volume are asked for one after the other, so an image and its mask stay open. A file that was written
    again (other time or size) is another volume. Under a limit (``budget.at_most``: the page, whose uploads are
    deleted) nothing is kept.
    """

    def __init__(self, *, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self._kept: OrderedDict[tuple[Path, int, int], V] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, path: Path, read: Callable[[Path], V]) -> V:
        """Return the volume of ``path``, read where it is not here."""
        if limit_bytes() < DEFAULT_LIMIT_BYTES:
            return read(path)
        about = path.stat()
        key = (path.absolute(), about.st_mtime_ns, about.st_size)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        volume = read(path)
        with self._lock:
            self._kept[key] = volume
            while self._kept and (len(self._kept) > MAX_VOLUMES or self.num_bytes > self.budget_bytes):
                self._kept.popitem(last=False)
        return volume

    @property
    def num_bytes(self) -> int:
        """Return the memory of what is kept."""
        return sum(volume.num_bytes for volume in self._kept.values())
