"""How many entries a zip lists, told before its list is read. Nothing but the standard library."""

from __future__ import annotations

from pathlib import Path

CHUNK_BYTES = 2**20
ENTRY_MARK = b"PK\x01\x02"
"""What each entry of a zip's list of contents begins with (APPNOTE.TXT 4.3.12)."""


def lists_more_than(most: int, archive: Path) -> bool:
    """Return whether the bytes of the file hold more than ``most`` marks of an entry.

    ``zipfile`` reads the whole list when it opens an archive, and a list of a million entries takes half a gigabyte.
    Files inside may hold marks too, if they are zips themselves: ``most`` has to leave room for these.
    """
    count, rest = 0, b""
    with archive.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            piece = rest + chunk
            count += piece.count(ENTRY_MARK)
            rest = piece[-(len(ENTRY_MARK) - 1) :]
            if count > most:
                return True
    return False
