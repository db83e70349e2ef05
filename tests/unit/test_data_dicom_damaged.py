"""DICOM files whose pixels end early or come in very many pieces, and tags that say no number."""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
from data_medical_files import write_dicom, write_frames
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLosslessSV1, JPEGLSLossless, RLELossless

from engine.data.dicom import RANGE_COPIES
from engine.data.dicom_codestreams import list_pieces
from engine.data.readers import image_info, read_image, read_mask
from engine.errors import UserError

ROUGH = np.kron(np.random.default_rng(3).integers(0, 255, (50, 50)), np.ones((4, 4))).astype(np.uint8)


def coded(path: Path, frame: bytes, syntax: str, *, pixels: np.ndarray = ROUGH, **tags: object) -> Path:
    """Write one compressed frame as the file's pixels."""
    write_dicom(path, pixels, **tags)
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([frame], has_bot=False)
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path, enforce_file_format=True)
    return path


CODED = {
    JPEGBaseline8Bit: imagecodecs.jpeg8_encode(ROUGH),
    JPEGLosslessSV1: imagecodecs.jpeg8_encode(ROUGH, lossless=True),
    JPEGLSLossless: imagecodecs.jpegls_encode(ROUGH),
}


@pytest.mark.parametrize("syntax", CODED)
def test_a_frame_without_its_end_is_not_filled_with_grey(tmp_path: Path, syntax: str) -> None:
    whole = CODED[syntax]
    np.testing.assert_allclose(read_mask(coded(tmp_path / "whole.dcm", whole, syntax)).astype(int), ROUGH, atol=90)
    half = coded(tmp_path / "half.dcm", whole[: len(whole) // 2 // 2 * 2], syntax)
    cut = tmp_path / "cut.dcm"
    cut.write_bytes((tmp_path / "whole.dcm").read_bytes()[: -len(whole) // 2])
    for path in (half, cut):
        with pytest.raises(UserError) as caught:
            read_mask(path)
        assert caught.value.code == "data.image_unreadable" and "end before their picture does" in caught.value.what


def test_twelve_bits_that_end_early_are_told_too(tmp_path: Path) -> None:
    pixels = ROUGH.astype(np.uint16) * 16
    whole = imagecodecs.jpeg8_encode(pixels, bitspersample=12)
    tags = {"BitsStored": 12, "HighBit": 11}
    assert read_mask(coded(tmp_path / "a.dcm", whole, JPEGExtended12Bit, pixels=pixels, **tags)).max() > 255
    with pytest.raises(UserError, match="end before"):
        read_mask(coded(tmp_path / "b.dcm", whole[: len(whole) // 4 * 2], JPEGExtended12Bit, pixels=pixels, **tags))


def test_what_is_padded_behind_its_end_is_whole(tmp_path: Path) -> None:
    padded = CODED[JPEGBaseline8Bit] + b"\0" * 65
    read_mask(coded(tmp_path / "a.dcm", padded[: len(padded) // 2 * 2], JPEGBaseline8Bit))


class Counting:
    """A stream of ``count`` empty pieces, and how many of them were looked at."""

    def __init__(self, count: int) -> None:
        self.left, self.seen = count, 0

    def read(self, _: int) -> bytes:
        self.left, self.seen = self.left - 1, self.seen + 1
        return struct.pack("<HHL", 0xFFFE, 0xE000, 0) if self.left >= 0 else b""

    def seek(self, *_: int) -> None:
        return None


def test_pixels_in_a_million_pieces_are_refused_before_a_frame_is_looked_for(tmp_path: Path) -> None:
    stream = Counting(1_000_000)
    with pytest.raises(ValueError, match="more than 1088 pieces"):
        list_pieces(stream, most=1088)  # type: ignore[arg-type]
    assert stream.seen == 1089
    assert len(list_pieces(Counting(1088), most=1088)) == 1088  # type: ignore[arg-type]
    path = coded(tmp_path / "a.dcm", CODED[JPEGLSLossless], JPEGLSLossless)
    content = path.read_bytes()
    at = content.index(struct.pack("<HHL", 0xFFFE, 0xE000, 0)) + 8
    path.write_bytes(content[:at] + struct.pack("<HHL", 0xFFFE, 0xE000, 0) * 20_000 + content[at:])
    with pytest.raises(UserError, match="more than 1088 pieces"):
        read_image(path)


ITEM, SEQUENCE_END = struct.pack("<HH", 0xFFFE, 0xE000), struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
FRAMES = [np.ascontiguousarray(np.rot90(ROUGH, turns)) for turns in range(4)]
TABLES = {  # of four frames, a piece each: what stands where their offsets should
    "none": lambda offsets: [],
    "right": lambda offsets: offsets,
    "zeros": lambda offsets: [0] * 4,
    "counted from the table": lambda offsets: [offset + 24 for offset in offsets],
    "counted without their heads": lambda offsets: [offset - 8 * number for number, offset in enumerate(offsets)],
    "one too few": lambda offsets: offsets[:-1],
    "one too many": lambda offsets: [*offsets, offsets[-1] + 100],
    "backwards": lambda offsets: offsets[::-1],
}


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("syntax", [JPEGLSLossless, RLELossless])
def test_a_wrong_table_of_offsets_never_gives_another_frame(tmp_path: Path, syntax: str, table: str) -> None:
    path = write_dicom(tmp_path / "a.dcm", ROUGH)
    dataset = pydicom.dcmread(path)
    if syntax == RLELossless:
        dataset.NumberOfFrames, dataset.PixelData = 4, np.stack(FRAMES).tobytes()
        dataset.compress(RLELossless)
        pieces = list(generate_frames(dataset.PixelData, number_of_frames=4))
    else:
        pieces = [imagecodecs.jpegls_encode(frame) for frame in FRAMES]
    pieces = [piece + b"\0" * (len(piece) % 2) for piece in pieces]
    offsets = [sum(8 + len(before) for before in pieces[:number]) for number in range(4)]
    told = b"".join(struct.pack("<L", offset) for offset in TABLES[table](offsets))
    content = b"".join(ITEM + struct.pack("<L", len(piece)) + piece for piece in (told, *pieces)) + SEQUENCE_END
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.NumberOfFrames, dataset.PixelData = 4, content
    dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
    dataset.save_as(path, enforce_file_format=True)
    for index, frame in enumerate(FRAMES):
        np.testing.assert_array_equal(read_mask(path, slice_index=index), frame)


def test_bits_that_are_stored_at_the_top_are_moved_down_in_run_lengths_too(tmp_path: Path) -> None:
    # 12 bits in the upper ones of 16: -900 is 0xC7C, stored as 0xC7C0
    pixels = np.full((4, 6), np.int16(-900 * 16))
    pixels[0] = 1984 * 16 // 16
    tags = {"BitsStored": 12, "HighBit": 15}
    plain = write_dicom(tmp_path / "plain.dcm", pixels, **tags)
    dataset = pydicom.dcmread(plain)
    dataset.BitsStored, dataset.HighBit = 16, 15  # so that pydicom packs the words as they are
    dataset.compress(RLELossless)
    dataset.BitsStored = 12
    dataset.save_as(tmp_path / "rle.dcm", enforce_file_format=True)
    expected = pixels >> 4
    for path in (plain, tmp_path / "rle.dcm"):
        np.testing.assert_array_equal(read_mask(path), expected)


def replaced(path: Path, old: bytes, new: bytes) -> Path:
    """Put ``new`` in the place of ``old``, of the same length: what no library would write."""
    content = path.read_bytes()
    assert content.count(old) == 1 and len(old) == len(new)
    path.write_bytes(content.replace(old, new))
    return path


def test_an_optional_tag_that_says_no_number_counts_as_absent(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", ROUGH, PixelSpacing=[1.25, 1.25], WindowCenter=40.5, WindowWidth=80.5)
    replaced(path, b"1.25\\1.25", b"1,25\\1,25")
    shown, about = read_image(replaced(path, b"40.5", b"40,5"))
    assert about.spacing_mm is None
    plain, _ = read_image(write_dicom(tmp_path / "b.dcm", ROUGH))
    np.testing.assert_array_equal(shown, plain)


def test_a_slope_that_says_no_number_is_named(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", ROUGH, RescaleSlope=1.5, RescaleIntercept=-1000)
    with pytest.raises(UserError, match="its RescaleSlope is no number: '1,5") as caught:
        read_image(replaced(path, b"1.5 ", b"1,5 "))
    assert "truncated" not in caught.value.what


def test_the_kind_of_grey_may_be_written_small(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", ROUGH)
    assert image_info(replaced(path, b"MONOCHROME2 ", b"monochrome2 ")).channels == 1


def test_the_range_of_frames_without_a_window_is_budgeted_as_it_takes(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 4000, (3, 600, 600)).astype(np.uint16)
    path = write_frames(tmp_path / "a.dcm", frames, per_frame=[{}, {}, {}])
    tracemalloc.start()
    read_image(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < RANGE_COPIES * 600 * 600 * 4 + 2**20


def test_compressed_pixels_that_do_not_say_how_are_never_taken_for_pixels(tmp_path: Path) -> None:
    path = coded(tmp_path / "a.dcm", CODED[JPEGLSLossless], JPEGLSLossless)
    content, told = path.read_bytes(), str(JPEGLSLossless).encode()
    for other in (b"1.2.840.10008.1.2.1", b"1.2.840.10008.1.2"):  # explicit and implicit, without compression
        path.write_bytes(content.replace(told, other.ljust(len(told), b"\0")) + bytes(2 * ROUGH.size))
        with pytest.raises(UserError) as caught:
            read_mask(path)
        assert caught.value.code == "data.image_unsupported" and "does not say how" in caught.value.what
    path.write_bytes(content.replace(told, b"1.2.840.10008.1.2.4.11".ljust(len(told), b"\0")))  # that nobody knows
    with pytest.raises(UserError, match=r"stored as 1\.2\.840\.10008\.1\.2\.4\.11\."):
        read_mask(path)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16])
def test_an_explicit_file_that_calls_itself_implicit_is_read_from_its_first_pixel(tmp_path: Path, dtype: type) -> None:
    pixels = (np.arange(48).reshape(6, 8) - (dtype == np.int16) * 20).astype(dtype)
    path = write_dicom(tmp_path / "a.dcm", pixels)
    content, told = path.read_bytes(), b"UI\x14\x001.2.840.10008.1.2.1\0"
    assert told in content
    path.write_bytes(content.replace(told, b"UI\x12\x001.2.840.10008.1.2\0"))
    np.testing.assert_array_equal(read_mask(path), pixels)
