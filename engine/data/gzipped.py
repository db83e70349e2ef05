"""Gzipped files read forwards: every checksum on the way is compared, and no file keeps its reader busy. Torch-free.

Python's own ``gzip`` compares a checksum only where somebody reads past the data that it belongs to, works through the
members of a file one header byte after another, and has no limit for how many of them hold nothing.
"""

from __future__ import annotations

import zlib
from types import TracebackType
from typing import BinaryIO

from engine.data.pixels import Unsupported

MAGIC = b"\x1f\x8b"
"""What each member begins with."""
READ_BYTES = 1 << 15
"""Compressed bytes at a time (ours): what is left of them is copied at the end of each member."""
PIECE_BYTES = 1 << 18
"""Inflated bytes at a time (ours), beside the array that they go to."""
SMALL_BYTES = 1 << 10
"""A member of less than this (ours) is counted: bgzip writes 64 KiB into each, pigz and gzip everything into one."""
MAX_SMALL_MEMBERS = 1000
"""Small members that one file may have (ours); each costs as much as a large one, and can be 20 bytes on the disk."""
BEHIND_BYTES = 1 << 20
"""Inflated at most behind what is wanted, on the way to its checksum, or as much as before it if more (ours)."""


class GzipReader:
    """The inflated bytes of ``stream`` from its beginning, all members one after the other.

    Raises ``ValueError`` where it is damaged or truncated, ``Unsupported`` where it has too many small members.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._waiting = b""
        self._member = zlib.decompressobj(zlib.MAX_WBITS | 16)
        self._member_bytes = 0
        self._small_members = 0
        self._num_bytes = 0

    def __enter__(self) -> GzipReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()

    def read(self, count: int) -> bytes:
        """Return the next ``count`` bytes, fewer where the last member ends before."""
        target = bytearray(count)
        return bytes(target[: self.fill(memoryview(target))])

    def skip(self, count: int) -> None:
        """Go on by ``count`` bytes."""
        while count > 0 and (piece := self._piece(count)):
            count -= len(piece)

    def fill(self, target: memoryview) -> int:
        """Write the next bytes into ``target``; return how many there were."""
        found = 0
        while found < len(target) and (piece := self._piece(len(target) - found)):
            target[found : found + len(piece)] = piece
            found += len(piece)
        return found

    def finish_member(self) -> None:
        """Read on to the end of the member that gave the last byte, where its checksum stands, and compare that.

        What lies behind the bytes that were wanted is inflated only as far as they themselves were: a member that goes
        on and on stays without its comparison, for it can be a million times as long.
        """
        left = max(self._num_bytes, BEHIND_BYTES)
        while left > 0 and not self._member.eof:
            left -= len(self._inflated(min(left, PIECE_BYTES)))

    def _piece(self, count: int) -> bytes:
        """Return at least one of the next ``count`` bytes, none at the end of the last member."""
        while True:
            if self._member.eof and not self._begin_member():
                return b""
            piece = self._inflated(min(count, PIECE_BYTES))
            if piece:
                return piece

    def _begin_member(self) -> bool:
        self._small_members += self._member_bytes < SMALL_BYTES
        if self._small_members > MAX_SMALL_MEMBERS:
            raise Unsupported(
                f"what is compressed in it is cut into more than {MAX_SMALL_MEMBERS:,} pieces of less than "
                f"{SMALL_BYTES:,} bytes"
            )
        left = self._member.unused_data.lstrip(b"\0")  # tapes and disks pad with zeros
        while len(left) < len(MAGIC):
            more = self._stream.read(READ_BYTES)
            if not more:
                break
            left = (left + more).lstrip(b"\0")
        if not left.startswith(MAGIC):  # what was appended to the file: gzip warns of it and goes by the members
            return False
        self._waiting = left
        self._member = zlib.decompressobj(zlib.MAX_WBITS | 16)
        self._member_bytes = 0
        return True

    def _inflated(self, count: int) -> bytes:
        """Return at most ``count`` bytes of this member: none at its end, or where more has to be read first."""
        data = self._waiting or self._stream.read(READ_BYTES)
        try:
            piece = self._member.decompress(data, count)
        except zlib.error as error:
            raise ValueError(_told(str(error))) from error
        self._waiting = self._member.unconsumed_tail
        if not piece and not data and not self._member.eof:
            raise ValueError("what is compressed in it breaks off before its end")
        self._member_bytes += len(piece)
        self._num_bytes += len(piece)
        return piece


def _told(error: str) -> str:
    if error.endswith(("incorrect data check", "incorrect length check")):
        return "what is compressed in it does not give the checksum that was stored with it"
    return f"what is compressed in it cannot be inflated ({error.rpartition(': ')[2]})"
