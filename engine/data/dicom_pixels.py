"""Where a DICOM file's pixels begin, and whether they are as many as its tags announce. Torch-free.

Tags and pixels part company: programs that remove names remove NumberOfFrames as well, others decompress pixels and
leave the tags of before. Whatever is read by such tags is the first frame of ten, or another picture.
"""

from __future__ import annotations

import io
import struct
from array import array
from dataclasses import dataclass
from typing import BinaryIO

from pydicom.uid import UID, RLELossless

PIXEL_ELEMENTS = {
    (0x7FE0, 0x0008): "FloatPixelData",
    (0x7FE0, 0x0009): "DoubleFloatPixelData",
    (0x7FE0, 0x0010): "PixelData",
}
PIXEL_VRS, OPEN_LENGTH = ("OB", "OW", "OF", "OD", "UN"), b"\xff" * 4  # no even length begins as one of these does
PADDING_BYTES = 1
"""What makes the length of pixels even."""
CODESTREAMS = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP  ")
"""How compressed frames begin: JPEG and JPEG-LS, JPEG 2000, and the latter in a file of its own."""
ITEM_BYTES, RLE_HEADER_BYTES, MOST_RLE_SEGMENTS = 8, 64, 15


@dataclass(frozen=True)
class PixelElement:
    """Which element holds the pixels, of what kind, where they begin in the stream, and how long it says to be.

    ``num_bytes`` is None where the pixels are in pieces.
    """

    keyword: str
    vr: str
    offset: int
    num_bytes: int | None

    @property
    def is_in_pieces(self) -> bool:
        """Return whether each piece has a length of its own."""
        return self.num_bytes is None


def pixel_element(stream: BinaryIO, *, is_little_endian: bool) -> PixelElement | None:
    """Return the element that the stream stands before, None where the file ends without pixels (PS3.5 7.1)."""
    head = stream.read(8)
    if len(head) < 8:
        return None
    order = "<" if is_little_endian else ">"
    group, element = struct.unpack(f"{order}HH", head[:4])
    vr, keyword = head[4:6].decode("latin-1"), PIXEL_ELEMENTS.get((group, element))
    is_explicit = vr in PIXEL_VRS  # whatever the file says to be: some change their mind before the pixels
    length = stream.read(4) if is_explicit else head[4:]
    if keyword is None or len(length) < 4:
        return None
    num_bytes = None if length == OPEN_LENGTH else struct.unpack(f"{order}I", length)[0]
    return PixelElement(keyword, vr if is_explicit else "OW", stream.tell(), num_bytes)


def require_length(stream: BinaryIO, pixels: PixelElement, *, frame_bits: int, num_frames: int) -> None:
    """Raise ``ValueError`` where pixels that are not compressed end early, or are enough for another frame."""
    needed = _whole_bytes(frame_bits * num_frames)
    found = stream.seek(0, io.SEEK_END) - pixels.offset
    if found < needed:
        raise ValueError(f"it is truncated: {found} of {needed} bytes of pixels are there")
    spare = (pixels.num_bytes or 0) - needed
    if spare >= _whole_bytes(frame_bits) and spare > PADDING_BYTES:
        raise ValueError(
            f"its pixels take {pixels.num_bytes} bytes, where its tags announce {needed}: its number of frames, their "
            "size or their depth is not that of its pixels"
        )


def is_as_long(pixels: PixelElement, *, num_bits: int) -> bool:
    """Return whether the pixels take just so much, and what makes their length even."""
    return pixels.num_bytes is not None and 0 <= pixels.num_bytes - _whole_bytes(num_bits) <= PADDING_BYTES


def require_frames(stream: BinaryIO, pixels: PixelElement, *, pieces: array[int], num_frames: int, syntax: UID) -> None:
    """Raise ``ValueError`` where more pieces of compressed pixels begin as frames do than there are to be frames.

    ``pieces`` is where they begin, bytes from the beginning of all, the table of offsets first.
    """
    if len(pieces) <= num_frames + 1:
        return
    begun = 0
    for start in pieces[1:]:
        stream.seek(pixels.offset + start + ITEM_BYTES)
        begun += _begins_frame(stream.read(ITEM_BYTES), syntax)
    if begun > num_frames:
        raise ValueError(f"its compressed pixels hold {begun} frames, where its tags announce {num_frames}")


def _begins_frame(head: bytes, syntax: UID) -> bool:
    if syntax != RLELossless:
        return head.startswith(CODESTREAMS)
    segments, first = struct.unpack("<II", head) if len(head) == ITEM_BYTES else (0, 0)  # PS3.5 G.5
    return 1 <= segments <= MOST_RLE_SEGMENTS and first == RLE_HEADER_BYTES


def _whole_bytes(bits: int) -> int:
    return -(-bits // 8)
