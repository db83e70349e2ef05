"""Whether a JPEG 2000 codestream holds all that it announces, by its markers, before a sample is decoded. Torch-free.

Decoders take what is not there for black: OpenJPH wherever a frame breaks off, OpenJPEG where whole tiles are missing.
"""

from __future__ import annotations

import struct
from collections import Counter

from engine.data.budget import limit_bytes
from engine.data.pixels import Unsupported

SIZ_BYTES = 42
"""From the start of a codestream to its components (ISO 15444-1 A.5.1)."""
SIZE_MARKER_AT = 2
TILE_PART, TILE_PART_BYTES = b"\xff\x90", 12
END_OF_CODESTREAM = b"\xff\xd9"
CUT_OFF = "it ends before its picture does"
TILE_BYTES = 1 << 14
"""Of the memory that a file may take, what is set aside for a tile (ours): OpenJPEG takes 10 KB, whatever its size."""
MAX_PARTS = 1 << 18
"""Parts of tiles that are looked at (ours): each of at most 65,535 tiles may have several."""
MAX_SEGMENTS = 1 << 12
"""Segments before the first tile (ours): a header has about ten."""


def require_whole(data: bytes, start: int = 0) -> None:
    """Check the codestream that begins at byte ``start`` of ``data`` (bytes or a memory map).

    Raises ``ValueError`` where it ends before its picture does or lacks a tile, :class:`Unsupported` where it has more
    tiles than fit the limit. What lies behind its end is no part of it.
    """
    tiles = _num_tiles(data, start)
    most = max(1, limit_bytes() // TILE_BYTES)
    if tiles > most:
        raise Unsupported(f"it is cut into {tiles:,} tiles, and at most {most:,} are read here")
    found: Counter[int] = Counter()
    announced: dict[int, int] = {}
    position = _first_part(data, start)
    for _ in range(MAX_PARTS):
        if data[position : position + 2] != TILE_PART or position + TILE_PART_BYTES > len(data):
            break
        tile, length, _, parts = struct.unpack_from(">HIBB", data, position + 4)
        end = position + length if length else data.rfind(END_OF_CODESTREAM, position)  # 0: up to there
        if end > len(data) or end < position + TILE_PART_BYTES:
            raise ValueError(CUT_OFF)
        found[tile] += 1
        announced[tile] = max(parts, announced.get(tile, 1))  # 0: another part says how many there are
        position = end
    else:
        raise Unsupported(f"its tiles are in more than {MAX_PARTS:,} parts")
    if data[position : position + 2] != END_OF_CODESTREAM:  # OpenJPEG wants it as well
        raise ValueError(CUT_OFF)
    missing = tiles - sum(tile < tiles and count >= announced[tile] for tile, count in found.items())
    if missing:
        raise ValueError(f"{missing:,} of its {tiles:,} tiles are missing")


def _num_tiles(data: bytes, start: int) -> int:
    if len(data) < start + SIZ_BYTES:
        raise ValueError(CUT_OFF)
    right, bottom, _, _, width, height, left, top = struct.unpack_from(">8I", data, start + 8)
    if not width or not height:
        raise ValueError("its tiles have no size")
    return max(0, -(-(right - left) // width)) * max(0, -(-(bottom - top) // height))


def _first_part(data: bytes, start: int) -> int:
    """Return where the main header's segments end."""
    position = start + SIZE_MARKER_AT
    for _ in range(MAX_SEGMENTS):
        if data[position : position + 2] in (TILE_PART, END_OF_CODESTREAM):
            return position
        if position + 4 > len(data):
            raise ValueError(CUT_OFF)
        if data[position] != 0xFF:
            raise ValueError("its header is damaged")
        position += 2 + max(2, struct.unpack_from(">H", data, position + 2)[0])
    raise Unsupported(f"its header has more than {MAX_SEGMENTS:,} segments")
