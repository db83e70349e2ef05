"""Headers of PNG, JPEG, JPEG-LS and JPEG 2000: size, depth and orientation, without decoding a pixel."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeVar

from engine.data.pixels import Unsupported

Kind = Literal["png", "jpeg", "jpegls", "jpeg2000"]
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
JPEG2000_BOX = b"\0\0\0\x0cjP  \r\n\x87\n"
JPEG2000_CODESTREAM = b"\xff\x4f\xff\x51"
JPEG_MARKER = re.compile(rb"\xff([\xc0-\xcf\xd8-\xfe])")
"""Any marker but the restarts; in coded data 0xFF is followed by less than 0x80, or by a restart."""
START_OF_IMAGE, END_OF_IMAGE, START_OF_SCAN = 0xD8, 0xD9, 0xDA
ALONE = (START_OF_IMAGE, END_OF_IMAGE)
"""Markers without a length and content."""
FRAMES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
HIERARCHICAL = {0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF}
EXIF_MARK = b"Exif\0\0"
APP0, JFIF_MARK = 0xE0, b"JFIF\0"
APP14, ADOBE_MARK, ADOBE_TRANSFORM_AT = 0xEE, b"Adobe", 11
EXIF_INTEGERS = {3: "H", 4: "I", 6: "b", 8: "h", 9: "i"}
"""Types of EXIF's whole numbers: shorts and longs, and numbers with a sign."""
JPEG2000_COLOURS = {0: "unspecified", 16: "sRGB", 17: "grey", 18: "sYCC"}


MAX_SEGMENTS = 4096
"""Segments of a JPEG, or boxes of a JPEG 2000 file (ours): 4,096 hold 268 MB of profiles and comments."""
MAX_SCANS = 64
"""Scans of a JPEG (ours): a progressive one has about ten, and decoders go over all pixels for each."""
MAX_CHUNKS = 1 << 17
"""Chunks of a PNG (ours): the largest picture of 16 bits has half as many where each holds the usual 8 KiB."""
T = TypeVar("T")


@dataclass(frozen=True)
class PictureHeader:
    """What a header says; height and width as stored, ``orientation`` 1 to 8 as in EXIF; ``unread`` names a fault."""

    kind: Kind
    height_px: int
    width_px: int
    channels: int
    bits: int
    orientation: int = 1
    is_palette: bool = False
    unread: str | None = None


def read_header(data: bytes) -> PictureHeader | None:
    """Return the header of ``data`` (bytes or a memory map), by its first bytes; None for another format."""
    if data[:8] == PNG_SIGNATURE:
        return _png(data)
    if data[:3] == b"\xff\xd8\xff":
        return _jpeg(data)
    if data[:4] == JPEG2000_CODESTREAM:
        return _codestream(data, 0)
    return _jpeg2000(data) if data[:12] == JPEG2000_BOX else None


def codestream_start(data: bytes) -> int:
    """Return where the codestream of a JPEG 2000 file begins, with its boxes or without."""
    if data[:4] == JPEG2000_CODESTREAM:
        return 0
    starts = (content for name, content in _counted(_boxes(data), "boxes", most=MAX_SEGMENTS) if name == b"jp2c")
    start = next(starts, None)
    if start is None:
        raise ValueError("it has no codestream")
    return start


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield (name, start, end) of each chunk's content, up to IEND or to where the file is cut off."""
    return _counted(_png_chunks(data), "chunks", most=MAX_CHUNKS)


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    name, end = b"", len(PNG_SIGNATURE) - 4
    while name != b"IEND" and end + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, end + 4)
        start, end = end + 12, end + 12 + length
        yield name, start, end


def ends_as_jpeg(data: bytes) -> bool:
    """Return whether the first picture of a JPEG file has its end; decoders fill what is missing with grey.

    Raises ``Unsupported`` where it has very many scans: each goes over all pixels, however few bytes it takes.
    """
    scans = 0
    for marker, _, _ in _jpeg_segments(data):
        scans += marker == START_OF_SCAN
        if scans > MAX_SCANS:
            raise Unsupported(f"it has more than {MAX_SCANS} scans")
        if marker == END_OF_IMAGE:
            return True
    return False


def jpeg_colours(data: bytes) -> str | None:
    """Return what a JPEG of three channels says itself that they are, "RGB" or "YCbCr"; None where it does not say.

    Adobe's marker names it. Without that and JFIF's, channels of less resolution than the first can only be chroma.
    """
    for marker, start, end in _jpeg_segments(data):
        if marker == APP0 and data[start : start + len(JFIF_MARK)] == JFIF_MARK:
            return "YCbCr"
        if marker == APP14 and data[start : start + len(ADOBE_MARK)] == ADOBE_MARK and end - start > ADOBE_TRANSFORM_AT:
            return {0: "RGB", 1: "YCbCr"}.get(data[start + ADOBE_TRANSFORM_AT])
        if marker in FRAMES:
            sampling = data[start + 7 : end : 3]  # of each channel (ISO 10918-1 B.2.2)
            return "YCbCr" if any(one != sampling[0] for one in sampling) else None
    return None


def _counted(parts: Iterable[T], name: str, *, most: int) -> Iterator[T]:
    for number, part in enumerate(parts):
        if number >= most:
            raise Unsupported(f"it has more than {most:,} {name}")
        yield part


def _png(data: bytes) -> PictureHeader:
    if data[12:16] != b"IHDR":
        if data[12:16] == b"CgBI":
            raise Unsupported("it is a PNG of Apple's own kind, as it lies in apps (CgBI)")
        raise ValueError("it does not begin with the header of a PNG")
    width, height, bits, colours = struct.unpack_from(">IIBB", data, 16)
    orientation = 1
    for name, start, end in png_chunks(data):
        if name in (b"IHDR", b"eXIf"):
            _require_checksum(data, start, end)
        if name == b"eXIf":
            orientation = _exif_orientation(data[start:end])
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(colours)
    if channels is None:
        raise ValueError(f"its colour type {colours} does not exist")
    return PictureHeader("png", height, width, channels, bits, orientation, is_palette=colours == 3)


def _require_checksum(data: bytes, start: int, end: int) -> None:
    """Raise ``ValueError`` where a PNG's chunk is not what was written (ISO 15948 5.3); libpng is given another one."""
    if struct.pack(">I", zlib.crc32(data[start - 4 : end])) != data[end : end + 4]:
        raise ValueError(f"the checksum of its {data[start - 4 : start].decode('ascii')} chunk is wrong")


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (marker, start, end) of each segment's content up to the first end of a picture, or of the file."""
    return _counted(_all_jpeg_segments(data), "segments", most=MAX_SEGMENTS)


def _all_jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    marker, position, has_scan = 0, 2, False
    while marker != END_OF_IMAGE:
        found = JPEG_MARKER.search(data, position)
        if found is None or (found.end() + 2 > len(data) and found[1][0] not in ALONE):
            if has_scan:
                return
            raise ValueError("it ends before its first scan")
        marker, start = found[1][0], found.end()
        position = start
        if marker not in ALONE:
            position += struct.unpack_from(">H", data, start)[0]
            start += 2
        has_scan = has_scan or marker == START_OF_SCAN
        yield marker, start, position


def _jpeg(data: bytes) -> PictureHeader:
    orientation = 1
    for marker, start, end in _jpeg_segments(data):
        if marker == 0xE1 and data[start : start + 6] == EXIF_MARK:
            orientation = _exif_orientation(data[start:end])
        if marker in FRAMES:
            bits, height, width, channels = struct.unpack_from(">BHHB", data, start)
            kind: Kind = "jpegls" if marker == 0xF7 else "jpeg"
            unread = "it is a hierarchical JPEG" if marker in HIERARCHICAL else None
            return PictureHeader(kind, height, width, channels, bits, orientation, unread=unread)
        if marker == START_OF_SCAN:
            break
    raise ValueError("it has no frame header")


def _jpeg2000(data: bytes) -> PictureHeader:
    unread = None
    for name, content in _counted(_boxes(data), "boxes", most=MAX_SEGMENTS):
        if name == b"jp2c":
            return _codestream(data, content, unread)
        if name == b"colr" and data[content] == 1:
            (space,) = struct.unpack_from(">I", data, content + 3)
            unread = unread if space in JPEG2000_COLOURS else f"it has JPEG 2000 colour space {space}"
        if name == b"pclr":
            unread = "it has a palette inside JPEG 2000"
    raise ValueError("it has no codestream")


def _boxes(data: bytes) -> Iterator[tuple[bytes, int]]:
    """Yield (name, start of its content) of each box."""
    position, end = 0, len(data)
    while position + 8 <= end:
        length, name = struct.unpack_from(">I4s", data, position)
        content = position + 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", data, content)
            content += 8
        yield name, content
        position = content if name == b"jp2h" else position + max(length, 8)  # jp2h holds boxes


def _codestream(data: bytes, start: int, unread: str | None = None) -> PictureHeader:
    right, bottom, left, top = struct.unpack_from(">4I", data, start + 8)
    (channels,) = struct.unpack_from(">H", data, start + 40)
    components = [struct.unpack_from("3B", data, start + 42 + 3 * index) for index in range(channels)]
    if len(set(components)) > 1:
        unread = "its channels differ in depth or size"
    return PictureHeader("jpeg2000", bottom - top, right - left, channels, (components[0][0] & 0x7F) + 1, unread=unread)


def _exif_orientation(tiff: bytes) -> int:
    """Return tag 274 of an EXIF block, of whatever type a whole number has there; 1 where it says nothing."""
    while tiff.startswith(EXIF_MARK):  # some programs write it into PNG, too
        tiff = tiff[len(EXIF_MARK) :]
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None or len(tiff) < 8:
        return 1
    (directory,) = struct.unpack_from(f"{order}I", tiff, 4)
    count = struct.unpack_from(f"{order}H", tiff, directory)[0] if directory + 2 <= len(tiff) else 0
    for entry in range(directory + 2, min(len(tiff) - 11, directory + 2 + 12 * count), 12):
        tag, kind, num_values = struct.unpack_from(f"{order}HHI", tiff, entry)
        if tag == 274:
            letter, place = EXIF_INTEGERS.get(kind), entry + 8
            if letter is None or not num_values:
                return 1
            width = struct.calcsize(letter)
            if width * num_values > 4:  # the first of too many, which lie elsewhere
                (place,) = struct.unpack_from(f"{order}I", tiff, place)
            return int(struct.unpack_from(f"{order}{letter}", tiff, place)[0]) if place + width <= len(tiff) else 1
    return 1
