"""Volumes that stay open between their slices, bounded by bytes and never for a visitor. Torch-free."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from engine.data.budget import DEFAULT_LIMIT_BYTES, limit_bytes

MAX_VOLUMES = 4
"""Open at once (ours): an image and its mask, in two threads."""

MAX_HELD = 2
"""Held open at once (:func:`held_open`): an image and its mask."""


class Sized(Protocol):
    """What a cache must know of a volume."""

    @property
    def num_bytes(self) -> int:
        """Return the memory that it holds; a map of a file holds none."""


V = TypeVar("V", bound=Sized)
_HELD: ContextVar[OrderedDict[tuple[int, Path, int, int], Sized] | None] = ContextVar("held", default=None)


Held = OrderedDict[tuple[int, Path, int, int], Sized]
"""What is held open, for whoever does so more than once."""


@contextmanager
def held_open(held: Held | None = None) -> Iterator[None]:
    """Keep the files that are read inside open, in this thread or task, until the end: also under a limit.

    For whoever reads a volume slice by slice: a gzipped one would be inflated anew for each. Each file is held to the
    limit by itself, so only one at a time should be read: the last two stay. With ``held`` they stay there for the next
    time: of a generator that is left between two slices.
    """
    token = _HELD.set(OrderedDict() if held is None else held)
    try:
        yield
    finally:
        _HELD.reset(token)


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
        held = _HELD.get()
        if held is None and limit_bytes() < DEFAULT_LIMIT_BYTES:
            return read(path)
        about = path.stat()
        key = (path.absolute(), about.st_mtime_ns, about.st_size)
        if held is not None:
            return self._held(held, key, read)
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

    def _held(self, held: OrderedDict, key: tuple[Path, int, int], read: Callable[[Path], V]) -> V:
        own = (id(self), *key)
        if own not in held:
            while len(held) >= MAX_HELD:
                held.popitem(last=False)
            held[own] = read(key[0])
        return held[own]

    @property
    def num_bytes(self) -> int:
        """Return the memory of what is kept."""
        return sum(volume.num_bytes for volume in self._kept.values())
