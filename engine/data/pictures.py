"""Decoder of PNG, JPEG, JPEG-LS and JPEG 2000 (imagecodecs) and of BMP (Pillow), each at its full depth.

The first bytes decide the format, not the ending. A picture is turned as its EXIF orientation says.
"""

from __future__ import annotations

import mmap
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import imagecodecs
import numpy as np
from PIL import Image

from engine.data.budget import require_bytes
from engine.data.jpeg2000 import require_whole
from engine.data.picture_headers import (
    PNG_SIGNATURE,
    PictureHeader,
    codestream_start,
    ends_as_jpeg,
    png_chunks,
    read_header,
)
from engine.data.pixels import Geometry
from engine.data.samples import (
    White,
    cmyk_to_rgb,
    is_turned,
    label_plane,
    palette_plane,
    picture,
    unsupported,
    upright,
    upright_size,
)

CONVERT = "Convert it to an 8 or 16 bit PNG, in grey or RGB."
PNG_PICTURE = (b"PLTE", b"IDAT", b"IEND")
"""Chunks that a picture needs: profiles, texts and transparency are not inflated."""
UNNAMED_ALPHA = {"BGRX": (4, 3, 0), "XBGR": (4, 0, 0), "BGXR": (4, 2, 0), "BGR;15": (2, 1, 7)}
"""Pillow's BMP layouts with spare bits: bytes of a pixel, which of them holds these bits, and how many lie below."""
BITMAP_DEPTHS = (("1", 1), ("L", 8))
"""Pillow's modes of BMP files with a grey palette, and the bits of a pixel that it reads in each."""
_Decoded = tuple[np.ndarray, int, np.ndarray | None]
"""Numbers, their depth in bits, and the palette (N, 3) uint8 of those that are kept as its indices."""


class PictureFormat:
    """PNG, JPEG, JPEG-LS, JPEG 2000, BMP: one picture a file."""

    @staticmethod
    def header(path: Path, *, slice_axis: int) -> Geometry:
        """Return the size from the header; no pixel is decoded."""
        with _mapped(path) as data:
            header = read_header(data)
        if header is None:
            with _bitmap(path) as bitmap:
                return Geometry(bitmap.height, bitmap.width, channels=len(bitmap.getbands()))
        height, width = upright_size(header.height_px, header.width_px, header.orientation)
        return Geometry(height, width, channels=header.channels, is_turned=is_turned(header.orientation))

    @staticmethod
    def image(path: Path, *, slice_index: int, slice_axis: int, value_range: tuple[float, float] | None) -> np.ndarray:
        """Return (H, W) or (H, W, 3); palettes and inks become RGB, alpha is dropped."""
        values, bits, _ = _decoded(path, as_labels=False)
        return picture(path, values, bits=bits, value_range=value_range)

    @staticmethod
    def labels(path: Path, *, slice_index: int, slice_axis: int, white: White = 255) -> np.ndarray:
        """Return the stored numbers; of a palette its indices, or 0 and ``white`` (:func:`palette_plane`)."""
        labels, _, palette = _decoded(path, as_labels=True)
        return label_plane(path, labels) if palette is None else palette_plane(labels, palette, white=white)


@contextmanager
def _mapped(path: Path) -> Iterator[mmap.mmap]:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        yield data


def _decoded(path: Path, *, as_labels: bool) -> _Decoded:
    """Return the stored numbers (H, W) or (H, W, C), upright, without alpha for a picture."""
    with _mapped(path) as data:
        header = read_header(data)
        if header is None:
            return _decoded_bitmap(path, as_labels=as_labels)
        unread = f"it has {header.channels} channels" if header.channels > 4 else header.unread
        if unread:
            raise unsupported(path, unread, fix=CONVERT)
        require_bytes(path, num_values=len(data), dtype=np.uint8)
        # OpenJPEG works in 32 bits; a progressive JPEG holds all its coefficients beside the pixels
        working = np.int32 if header.kind == "jpeg2000" else np.uint8 if header.bits <= 8 else np.uint16
        size = header.height_px * header.width_px * (3 if header.is_palette else header.channels)
        require_bytes(path, num_values=size, dtype=working, copies=4)
        values, bits, palette = _DECODERS[header.kind](data, header, as_labels)
    if values.shape[:2] != (header.height_px, header.width_px):
        raise ValueError(f"it decodes to {values.shape}, its header says {header.height_px} x {header.width_px}")
    if header.kind == "jpeg" and header.channels == 4:
        values = cmyk_to_rgb(values, 2**bits - 1, is_inverted=True)  # as Adobe does and viewers expect
    elif values.ndim == 3 and values.shape[2] in (2, 4) and not as_labels:
        values = values[..., :-1]
    return upright(values, header.orientation), bits, palette


def _png(data: mmap.mmap, header: PictureHeader, as_labels: bool) -> _Decoded:
    """libpng widens palettes to colours; labels need the indices, which are what the same rows say as grey."""
    ihdr = bytearray(data[16:29])
    is_indexed = header.is_palette and as_labels
    if is_indexed:
        ihdr[9] = 0
    stream, colours = [PNG_SIGNATURE, _chunk(b"IHDR", bytes(ihdr))], b""
    for name, start, end in png_chunks(data):
        if name == b"PLTE":  # a hint, where the pixels are colours; libpng warns of each that is one too many
            is_first, colours = not colours, colours or data[start:end]
            if is_indexed or not header.is_palette or not is_first:
                continue
        if name in PNG_PICTURE:
            stream.append(data[start - 8 : end + 4])
    values = imagecodecs.png_decode(b"".join(stream))
    if header.is_palette and not is_indexed:
        return values, 8, None
    if header.bits < 8:  # libpng widens these to 8 bits
        values = values // np.uint8(255 // (2**header.bits - 1))
    return values, header.bits, _table(colours) if is_indexed else None


def _table(colours: bytes) -> np.ndarray:
    """Return (N, 3) of a palette's bytes, red, green, blue."""
    return np.frombuffer(colours[: len(colours) // 3 * 3], np.uint8).reshape(-1, 3)


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def _jpeg(data: mmap.mmap, header: PictureHeader, as_labels: bool) -> _Decoded:
    if not ends_as_jpeg(data):
        raise ValueError("its end is missing")
    decode = imagecodecs.jpegls_decode if header.kind == "jpegls" else imagecodecs.jpeg_decode
    return decode(data[:]), header.bits, None


def _jpeg2000(data: mmap.mmap, header: PictureHeader, as_labels: bool) -> _Decoded:
    require_whole(data, codestream_start(data))
    return imagecodecs.jpeg2k_decode(data[:]), header.bits, None


_DECODERS = {"png": _png, "jpeg": _jpeg, "jpegls": _jpeg, "jpeg2000": _jpeg2000}


def _bitmap(path: Path) -> Image.Image:
    try:
        return Image.open(path, formats=["BMP"])
    except OSError as error:
        if "Unsupported BMP" in str(error):
            raise unsupported(path, f"it is of a rare kind ({error})", fix=CONVERT) from error
        raise


def _decoded_bitmap(path: Path, *, as_labels: bool) -> _Decoded:
    with _bitmap(path) as bitmap:
        require_bytes(path, num_values=bitmap.height * bitmap.width * 4, dtype=np.uint8, copies=3)
        bits = _bits_of_bitmap(path)
        if (bitmap.mode, bits) not in BITMAP_DEPTHS and bitmap.mode in ("1", "L"):
            indices = _misread_indices(path, bitmap, bits)
            return (indices, 8, None) if bitmap.mode == "L" else (indices == 1, 1, None)
        if bitmap.mode == "1":
            return np.array(bitmap.convert("L")) != 0, 1, None
        if bitmap.mode == "P":
            if as_labels:
                return np.array(bitmap), 8, _table(bytes(bitmap.getpalette() or ()))
            return np.array(bitmap.convert("RGB")), 8, None
        layout = bitmap.tile[0]
        values = np.array(bitmap)
    if not as_labels or values.ndim == 2:
        return (values if values.ndim == 2 else values[..., :3]), 8, None
    alpha = _unnamed_alpha(path, values.shape[:2], offset=layout[2], layout=layout[3])
    return (values if alpha is None else np.dstack([values, alpha])), 8, None


def _bits_of_bitmap(path: Path) -> int:
    with path.open("rb") as file:
        head = file.read(30)
    return int(struct.unpack_from("<H", head, 24 if head[14] == 12 else 28)[0])


def _misread_indices(path: Path, bitmap: Image.Image, bits: int) -> np.ndarray:
    """Return (H, W) uint8 of a file whose grey palette Pillow takes for the depth: a black and white one for 1 bit."""
    decoder, _, offset, layout = bitmap.tile[0]
    if decoder != "raw" or bits not in (4, 8):
        raise unsupported(path, "it is of a rare kind (a short grey palette, compressed)", fix=CONVERT)
    with _mapped(path) as data:
        stored = data[offset : offset + layout[1] * bitmap.height]
    raw_mode = "P" if bits == 8 else "P;4"
    return np.array(Image.frombytes("P", bitmap.size, stored, "raw", raw_mode, *layout[1:]))


def _unnamed_alpha(path: Path, shape: tuple[int, int], *, offset: int, layout: tuple) -> np.ndarray | None:
    """Return (H, W) of the bits of each pixel that the header gives no colour, None where they are one number.

    They are to be zero, and many programs keep alpha there all the same.
    """
    raw_mode, row_bytes, direction = layout
    if raw_mode not in UNNAMED_ALPHA:
        return None
    step, first, shift = UNNAMED_ALPHA[raw_mode]
    rows = np.memmap(path, np.uint8, mode="r", offset=offset, shape=(shape[0], row_bytes))[::direction]
    alpha = rows[:, first : step * shape[1] : step] >> np.uint8(shift)
    return alpha if alpha.min() != alpha.max() else None
