"""How many bytes reading a file may take, decided before anything of it is inflated. Torch-free.

A compressed file of some kilobytes can hold gigabytes. Every decoder therefore says from the header alone what it is
going to need (:func:`require_bytes`), inflates compressed streams through :func:`inflate`, and is held to the limit
of whoever asked: a hospital's own run may read large volumes, a visitor of the page may not (:func:`at_most`).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import numpy as np

from engine.errors import UserError

DEFAULT_LIMIT_BYTES = 4 * 2**30
"""What one file may take in memory where nobody set another limit (ours)."""
_LIMIT_BYTES: ContextVar[int] = ContextVar("limit_bytes", default=DEFAULT_LIMIT_BYTES)


@contextmanager
def at_most(limit_bytes: int) -> Iterator[None]:
    """Let every file that is read inside, in this thread or task, take at most ``limit_bytes`` of memory."""
    token = _LIMIT_BYTES.set(limit_bytes)
    try:
        yield
    finally:
        _LIMIT_BYTES.reset(token)


def limit_bytes() -> int:
    """Return the limit that holds here, in bytes."""
    return _LIMIT_BYTES.get()


def require_bytes(path: Path, *, num_values: int, dtype: np.dtype | type | str, copies: int = 1) -> None:
    """Raise ``UserError`` ``data.image_too_large`` where ``copies`` arrays of ``num_values`` exceed the limit.

    ``copies`` counts the arrays of the stored size that live at once while decoding, in units of ``dtype``.
    """
    needed = int(num_values) * np.dtype(dtype).itemsize * copies
    if needed > limit_bytes():
        raise over_budget(path, f"{needed / 2**20:,.0f} MiB")


def inflate(path: Path, compressed: bytes, *, wbits: int = zlib.MAX_WBITS) -> bytes:
    """Return a zlib stream inflated, or raise ``data.image_too_large`` as soon as it passes the limit."""
    limit = limit_bytes()
    stream = zlib.decompressobj(wbits)
    inflated = stream.decompress(compressed, limit)
    if stream.unconsumed_tail:
        raise over_budget(path, f"more than {limit / 2**20:,.0f} MiB")
    return inflated + stream.flush()


def over_budget(path: Path, size: str) -> UserError:
    """Return the error of a file that would take ``size`` of memory."""
    return UserError(
        "data.image_too_large",
        what=f"The file {path} would take {size} of memory.",
        why=f"At most {limit_bytes() / 2**20:,.0f} MiB are given to one file here, however small it is on the disk.",
        fix="Cut, tile or reduce the image first; if it should be small, the file is damaged.",
    )
