"""What a compressed DICOM frame is going to give, read from its own first bytes before it is decoded. Torch-free.

The tags announce one size, the frame's own header may announce another: three kilobytes of JPEG-LS hold 400 million
pixels.
"""

from __future__ import annotations

import io
import struct
from array import array
from typing import Any, BinaryIO

from pydicom.encaps import get_frame
from pydicom.uid import UID, JPEGLSTransferSyntaxes, RLELossless

from engine.data.budget import limit_bytes
from engine.data.jpeg2000 import SIZ_BYTES, require_whole
from engine.data.picture_headers import ends_as_jpeg

SOI, SOS = 0xD8, 0xDA
FRAME_HEADERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
"""JPEG markers that begin a frame header (ISO 10918-1 table B.1), and JPEG-LS's (ISO 14495-1)."""
START_OF_SCAN, END_OF_IMAGE = b"\xff\xda", b"\xff\xd9"
"""Neither pair of bytes occurs within a scan. Decoders fill what is missing with grey, and CharLS never ends."""
J2K_START = b"\xff\x4f\xff\x51"
"""Start of a JPEG 2000 codestream and its size marker (ISO 15444-1 A.5.1)."""
ITEM, ITEM_BYTES = b"\xfe\xff\x00\xe0", 8
"""Tag of a piece of compressed pixels, always little-endian (PS3.5 A.4), and what it takes with its length."""
JP2_START = b"\x00\x00\x00\x0cjP  "
RLE_HEADER_BYTES = 64
RLE_SLACK_BYTES = 1024
RLE_GROWTH = 64
"""At most 128 bytes from two (PS3.5 annex G)."""


def bare_codestream(frame: bytes, syntax: UID, *, rows: int, columns: int, samples: int, frame_bytes: int) -> bytes:
    """Return ``frame`` without the boxes of a JP2 file, which DICOM does not allow and pydicom may turn in for ever.

    Raises ``ValueError`` where it holds another picture than ``rows`` x ``columns`` of ``samples``, far more than
    ``frame_bytes``, or ends early.
    """
    if syntax == RLELossless:
        # runs never take twice what they stand for; adding them up takes as long as decoding
        is_long = len(frame) > 2 * frame_bytes + RLE_SLACK_BYTES
        if is_long or (len(frame) * RLE_GROWTH > limit_bytes() and _rle_bytes(frame) > 2 * frame_bytes):
            raise ValueError(f"its compressed pixels hold more than the {frame_bytes} bytes that its tags announce")
        return frame
    if frame.startswith(JP2_START):
        frame = frame[max(frame.find(J2K_START), 0) :]
    is_j2k = frame.startswith(J2K_START)
    found = _j2k_size(frame) if is_j2k else _jpeg_size(frame)
    if found is None:
        raise ValueError("its compressed pixels have no header")
    *size, channels = found
    if size != [rows, columns]:
        raise ValueError(f"its compressed pixels are {size[1]} x {size[0]}, where its tags announce {columns} x {rows}")
    if channels != samples:
        raise ValueError(f"its compressed pixels have {channels} channels, where its tags announce {samples}")
    if is_j2k:
        require_whole(frame)
    if not is_j2k and syntax not in JPEGLSTransferSyntaxes:
        ends_as_jpeg(frame)  # it refuses very many scans
    if not is_j2k and frame.rfind(END_OF_IMAGE) < frame.rfind(START_OF_SCAN):
        raise ValueError("its compressed pixels end before their picture does")
    return frame


def list_pieces(stream: BinaryIO, *, most: int) -> array[int]:
    """Return where each piece of compressed pixels begins, bytes from where ``stream`` stands: before the first.

    The first is the table of offsets. Raises ``ValueError`` where they are more than ``most``: pydicom looks at all of
    them for each frame, and a million empty ones take it two minutes.
    """
    starts = array("Q", [0])
    for _ in range(most + 1):
        head = stream.read(ITEM_BYTES)
        if len(head) < ITEM_BYTES or head[:4] != ITEM:
            return starts[:-1]
        length = struct.unpack("<L", head[4:])[0]
        stream.seek(length, io.SEEK_CUR)
        starts.append(starts[-1] + ITEM_BYTES + length)
    raise ValueError(f"its compressed pixels are in more than {most} pieces")


def frame_in_pieces(
    stream: BinaryIO, index: int, *, begin: int, pieces: array[int], num_frames: int, extended_offsets: Any
) -> bytes:
    """Return compressed frame ``index`` of ``num_frames`` whose pieces (:func:`list_pieces`) begin at byte ``begin``.

    Where each frame is one piece, they are the frames in their order: programs write tables of offsets that are wrong
    (all zeros, or counted from elsewhere), and by such a table a frame may be another one.
    """
    if len(pieces) != num_frames + 1:
        stream.seek(begin)
        return get_frame(stream, index, number_of_frames=num_frames, extended_offsets=extended_offsets)
    stream.seek(begin + pieces[index + 1])
    return stream.read(struct.unpack("<4xL", stream.read(ITEM_BYTES))[0])


def _j2k_size(frame: bytes) -> tuple[int, int, int] | None:
    """Return rows, columns and channels, None where there is no header."""
    if len(frame) < SIZ_BYTES:
        return None
    right, bottom, left, top = struct.unpack(">4I", frame[8:24])
    return bottom - top, right - left, struct.unpack(">H", frame[40:42])[0]


def _jpeg_size(frame: bytes) -> tuple[int, int, int] | None:
    at = 0
    while at + 10 <= len(frame):
        if frame[at] != 0xFF:
            return None
        marker = frame[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
        elif marker == SOI:
            at += 2
        elif marker in FRAME_HEADERS:
            rows, columns, channels = struct.unpack(">HHB", frame[at + 5 : at + 10])
            return rows, columns, channels
        elif marker == SOS:
            return None
        else:
            at += 2 + struct.unpack(">H", frame[at + 2 : at + 4])[0]
    return None


def _rle_bytes(frame: bytes) -> int:
    """Return how many bytes the segments of an RLE frame give, by adding up their runs."""
    count = struct.unpack("<L", frame[:4])[0] if len(frame) >= RLE_HEADER_BYTES else 0
    starts = struct.unpack(f"<{min(count, 15)}L", frame[4 : 4 + 4 * min(count, 15)])
    total = 0
    for start, end in zip(starts, (*starts[1:], len(frame)), strict=True):
        at = start
        while at < end:
            head = frame[at]
            total += head + 1 if head < 128 else 257 - head if head > 128 else 0
            at += head + 2 if head < 128 else 2 if head > 128 else 1
    return total
