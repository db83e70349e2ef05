"""JPEG 2000 that breaks off, lacks tiles, or holds more than is announced: refused before a decoder fills it in."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from data_medical_files import write_dicom
from PIL import Image
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import HTJ2KLossless, JPEG2000Lossless, JPEGLSLossless

from engine.data.budget import at_most
from engine.data.jpeg2000 import TILE_BYTES
from engine.data.readers import read_image, read_mask
from engine.errors import UserError

NOISE = np.random.default_rng(5).integers(1, 256, (64, 96), np.uint8)
RAMP = np.add.outer(np.arange(64), np.arange(96)).astype(np.uint8)
SOT = b"\xff\x90\x00\x0a"
END = b"\xff\xd9"


def tiled(pixels: np.ndarray = NOISE, *, side: int = 32) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG2000", no_jp2=True, tile_size=(side, side))
    return stream.getvalue()


def boxed(codestream: bytes) -> bytes:
    """Return a JP2 file of 64 rows and 96 columns of grey (ISO 15444-1 annex I)."""

    def box(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I4s", 8 + len(content), name) + content

    header = box(b"ihdr", struct.pack(">IIHBBBB", 64, 96, 1, 7, 7, 0, 0)) + box(b"colr", b"\1\0\0\0\0\0\x11")
    signature = box(b"jP  ", b"\r\n\x87\n") + box(b"ftyp", b"jp2 \0\0\0\0jp2 ")
    return signature + box(b"jp2h", header) + box(b"jp2c", codestream)


def in_dicom(path: Path, frame: bytes, *, syntax: str = JPEG2000Lossless, pixels: np.ndarray = NOISE) -> Path:
    write_dicom(path, pixels)
    dataset = dcmread(path)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([frame], has_bot=False)
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path, enforce_file_format=True)
    return path


def in_tiff(path: Path, stream: bytes) -> Path:
    tifffile.imwrite(path, NOISE, metadata=None)
    offset = path.stat().st_size
    path.write_bytes(path.read_bytes() + stream)
    with tifffile.TiffFile(path, mode="r+") as file:
        for name, value in (("StripOffsets", offset), ("StripByteCounts", len(stream)), ("Compression", 34712)):
            file.pages.first.tags[name].overwrite(value)
    return path


def refused(path: Path, *words: str, code: str = "data.image_unreadable") -> None:
    for read in (read_image, read_mask):
        with pytest.raises(UserError) as caught:
            read(path)
        assert caught.value.code == code
        assert any(word in caught.value.what for word in words), caught.value.what


@pytest.mark.parametrize("behind", [1, 2, 3, 40, 1000])
def test_a_frame_of_htj2k_that_breaks_off_is_never_made_up(tmp_path: Path, behind: int) -> None:
    whole = imagecodecs.htj2k_encode(NOISE)
    np.testing.assert_array_equal(read_mask(in_dicom(tmp_path / "a.dcm", whole, syntax=HTJ2KLossless)), NOISE)
    refused(in_dicom(tmp_path / "b.dcm", whole[:-behind], syntax=HTJ2KLossless), "ends before its picture does")


@pytest.mark.parametrize("wrap", ["j2k", "jp2", "dcm", "tif"])
def test_tiles_that_are_missing_are_told(tmp_path: Path, wrap: str) -> None:
    def write(stream: bytes) -> Path:
        path = tmp_path / f"a.{wrap}"
        if wrap in ("j2k", "jp2"):
            path.write_bytes(stream if wrap == "j2k" else boxed(stream))
            return path
        return in_dicom(path, stream) if wrap == "dcm" else in_tiff(path, stream)

    whole = tiled()  # 2 rows of 3 tiles, a part each
    np.testing.assert_array_equal(read_mask(write(whole)), NOISE)
    starts = [at for at in range(len(whole)) if whole.startswith(SOT, at)]
    assert len(starts) == 6
    refused(write(whole[: starts[4]] + END), "2 of its 6 tiles are missing")
    refused(write(whole[: starts[1]] + whole[starts[2] :]), "1 of its 6 tiles are missing")
    refused(write(whole[: starts[4]]), "ends before its picture does")
    twice = whole[: starts[1]] + whole[starts[0] : starts[1]] + whole[starts[2] :]  # one in another's place
    refused(write(twice), "1 of its 6 tiles are missing")


def test_a_part_of_a_tile_that_is_missing_is_told(tmp_path: Path) -> None:
    path, whole = tmp_path / "a.j2k", bytearray(tiled())
    starts = [at for at in range(len(whole)) if whole.startswith(SOT, at)]
    whole[starts[3] + 11] = 2  # TNsot: this tile comes in two parts
    path.write_bytes(whole)
    refused(path, "1 of its 6 tiles are missing")


def test_the_last_part_may_leave_its_length_open(tmp_path: Path) -> None:
    whole = bytearray(imagecodecs.jpeg2k_encode(NOISE, level=0, codecformat="j2k"))
    at = whole.index(SOT)
    whole[at + 6 : at + 10] = bytes(4)  # Psot 0: as far as the end of the codestream (ISO 15444-1 A.4.2)
    np.testing.assert_array_equal(read_mask(in_dicom(tmp_path / "a.dcm", bytes(whole))), NOISE)
    refused(in_dicom(tmp_path / "b.dcm", bytes(whole[:-2])), "ends before its picture does")


def test_tiles_are_counted_before_they_take_memory(tmp_path: Path) -> None:
    (tmp_path / "a.j2k").write_bytes(tiled(side=4))  # 16 rows of 24 tiles
    in_dicom(tmp_path / "a.dcm", tiled(side=4))
    for path in (tmp_path / "a.j2k", tmp_path / "a.dcm"):
        np.testing.assert_array_equal(read_mask(path), NOISE)
        with at_most(383 * TILE_BYTES):
            refused(path, "384 tiles", code="data.image_unsupported")


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless])
def test_channels_that_the_tags_do_not_announce_are_not_decoded(tmp_path: Path, syntax: str) -> None:
    colours = np.dstack([RAMP, RAMP[::-1], RAMP[:, ::-1]])
    if syntax == JPEG2000Lossless:
        stream = imagecodecs.jpeg2k_encode(np.zeros((300, 64, 96), np.uint8), level=0, planar=True, mct=False)
        refused(in_dicom(tmp_path / "a.dcm", stream), "300 channels, where its tags announce 1")
        stream = imagecodecs.jpeg2k_encode(colours, level=0, codecformat="j2k")
    else:
        stream = imagecodecs.jpegls_encode(colours)
    refused(in_dicom(tmp_path / "b.dcm", stream, syntax=syntax), "3 channels, where its tags announce 1")
    right = in_dicom(tmp_path / "c.dcm", stream, syntax=syntax, pixels=colours)
    np.testing.assert_array_equal(read_image(right)[0], colours)
