"""Small pictures that would keep a decoder busy for many seconds: refused by name, and soon."""

from __future__ import annotations

import io
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from engine.data.dicom_codestreams import bare_codestream
from engine.data.picture_headers import MAX_CHUNKS, MAX_SCANS, MAX_SEGMENTS
from engine.data.pixels import Unsupported
from engine.data.readers import image_info, read_image, read_mask
from tests.unit.data_raster_files import grey3, refused, retag, tiff

GREY = np.add.outer(np.arange(32), np.arange(40)).astype(np.uint8)
SOON_S = 3
"""Of the processor's time: far more than counting takes, far less than what these files took."""
PNG, HEADER = b"\x89PNG\r\n\x1a\n", struct.pack(">IIBBBBB", 40, 32, 8, 0, 0, 0, 0)
ROWS = zlib.compress(b"".join(b"\0" + row.tobytes() for row in GREY))


def soon(path: Path, data: bytes, word: str, *, read: tuple[Callable, ...] = (read_image, read_mask)) -> None:
    path.write_bytes(data)
    for each in read:
        begun = time.process_time()
        refused(path, word, each)
        assert time.process_time() - begun < SOON_S


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def jpeg(**options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(GREY).save(stream, "jpeg", quality=95, **options)
    return stream.getvalue()


def repeated(data: bytes, scans: int) -> bytes:
    """Return a progressive JPEG with its last scan ``scans`` times more."""
    return data[:-2] + data[data.rindex(b"\xff\xda") : -2] * scans + b"\xff\xd9"


@pytest.mark.parametrize("empty", [b"\xff\xe1\0\2", b"\xff\xfe\0\2", b"\xff\xec\0\2"])
def test_segments_of_a_jpeg_are_counted_before_and_behind_its_scans(tmp_path: Path, empty: bytes) -> None:
    data, path = jpeg(), tmp_path / "a.jpg"
    soon(path, data[:2] + empty * 1_000_000 + data[2:], "segments", read=(image_info, read_image, read_mask))
    soon(path, data[:-2] + empty * 1_000_000 + data[-2:], "segments")
    path.write_bytes(data[:2] + empty * (MAX_SEGMENTS - 100) + data[2:])
    assert np.abs(read_image(path)[0].astype(int) - grey3(GREY)).max() < 6


def test_boxes_of_a_jpeg_2000_are_counted(tmp_path: Path) -> None:
    data, path = imagecodecs.jpeg2k_encode(GREY, level=0), tmp_path / "a.jp2"
    place = data.index(b"jp2h") - 4
    boxes = struct.pack(">I4s", 8, b"uuid")
    every = (image_info, read_image, read_mask)
    soon(path, data[:place] + boxes * 1_000_000 + data[place:], "boxes", read=every)
    path.write_bytes(data[:place] + boxes * (MAX_SEGMENTS - 100) + data[place:])
    np.testing.assert_array_equal(read_mask(path), GREY)


@pytest.mark.parametrize("name", [b"tEXt", b"IDAT", b"eXIf"])
def test_chunks_of_a_png_are_counted(tmp_path: Path, name: bytes) -> None:
    path, rest = tmp_path / "a.png", chunk(b"IDAT", ROWS) + chunk(b"IEND", b"")
    begin = PNG + chunk(b"IHDR", HEADER)
    soon(path, begin + chunk(name, b"") * 700_000 + rest, "chunks", read=(image_info, read_image, read_mask))
    path.write_bytes(begin + chunk(name, b"") * (MAX_CHUNKS - 100) + rest)
    begun = time.process_time()
    np.testing.assert_array_equal(read_mask(path), GREY)
    assert time.process_time() - begun < SOON_S


def test_palettes_that_a_png_does_not_need_are_left_out(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path, rest = tmp_path / "a.png", chunk(b"IDAT", ROWS) + chunk(b"IEND", b"")
    table = chunk(b"PLTE", bytes(range(72)) * 3)
    for colours in (0, 3):
        header = HEADER[:9] + bytes([colours]) + HEADER[10:]
        path.write_bytes(PNG + chunk(b"IHDR", header) + table * 10_000 + rest)
        np.testing.assert_array_equal(read_mask(path), GREY)
        shown = np.frombuffer(bytes(range(72)) * 3, np.uint8).reshape(-1, 3)
        np.testing.assert_array_equal(read_image(path)[0], shown[GREY] if colours else grey3(GREY))
    assert capfd.readouterr().err == ""  # libpng wrote a line for each


def test_scans_of_a_jpeg_are_counted(tmp_path: Path) -> None:
    data, path = jpeg(progressive=True), tmp_path / "a.jpg"
    own = data.count(b"\xff\xda")
    soon(path, repeated(data, 400), f"more than {MAX_SCANS} scans")
    hidden = data[:-2] + b"\xff\xfe\0\4\xff\xd9" + repeated(data, 400)[len(data) - 2 :]
    soon(path, hidden, "scans")  # an end of picture within a comment is none
    path.write_bytes(repeated(data, MAX_SCANS - own))
    assert read_image(path)[0].shape == (32, 40, 3)


def test_scans_are_counted_within_tiff_and_dicom(tmp_path: Path) -> None:
    data = jpeg(progressive=True)
    for scans in (0, 400):
        stream = repeated(data, scans)
        path = tiff(tmp_path / "a.tif", GREY)
        offset = path.stat().st_size
        path.write_bytes(path.read_bytes() + stream)
        for name, value in (("StripOffsets", offset), ("StripByteCounts", len(stream)), ("Compression", 7)):
            retag(path, name, value)
        with tifffile.TiffFile(path) as file:
            assert file.pages[0].compression == 7
        syntax = {"rows": 32, "columns": 40, "samples": 1, "frame_bytes": GREY.size}
        if scans:
            refused(path, "scans")
            with pytest.raises(Unsupported, match="scans"):
                bare_codestream(stream, None, **syntax)  # type: ignore[arg-type]
        else:
            assert np.abs(read_image(path)[0].astype(int) - grey3(GREY)).max() < 6
            assert bare_codestream(stream, None, **syntax) == stream  # type: ignore[arg-type]
