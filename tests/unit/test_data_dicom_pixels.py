"""Tags of DICOM that announce fewer, smaller or shallower frames than the pixels are."""

from __future__ import annotations

from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
from data_medical_files import write_dicom
from pydicom.encaps import encapsulate
from pydicom.uid import UID, JPEG2000Lossless, JPEGBaseline8Bit, JPEGLSLossless, RLELossless

from engine.data.readers import read_image, read_mask
from engine.data.volumes import open_volume
from engine.errors import UserError

FRAMES = np.random.default_rng(4).integers(0, 256, (5, 6, 10), np.uint8)
COLOURS = np.random.default_rng(5).integers(0, 256, (6, 10, 3), np.uint8)


def refused(path: Path, words: str) -> None:
    for read in (read_image, read_mask, lambda path: open_volume(path).values(0)):
        with pytest.raises(UserError) as caught:
            read(path)
        assert caught.value.code == "data.image_unreadable" and words in caught.value.what, caught.value.what


@pytest.mark.parametrize(
    ("pixels", "tags"),
    [
        (FRAMES[0], {"PixelData": FRAMES.tobytes()}),  # 5 frames without NumberOfFrames
        (FRAMES[0], {"PixelData": FRAMES.tobytes(), "NumberOfFrames": 4}),
        (FRAMES[0], {"Rows": 3}),
        (FRAMES[0], {"PixelData": FRAMES[0].astype(np.uint16).tobytes()}),
        (COLOURS, {"SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2"}),
    ],
    ids=["none", "fewer", "rows", "depth", "samples"],
)
def test_pixels_for_more_than_the_tags_announce_are_never_cut(tmp_path: Path, pixels: np.ndarray, tags: dict) -> None:
    refused(write_dicom(tmp_path / "a.dcm", pixels, **tags), "its tags announce")


def test_colours_of_every_pixel_are_never_shared_out(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", COLOURS, PhotometricInterpretation="YBR_FULL_422")
    refused(path, "its pixels have a colour each")
    luma = np.arange(60, dtype=np.uint8).reshape(6, 5, 2) + 100
    grey = np.concatenate([luma, np.full((6, 5, 2), 128, np.uint8)], axis=2)  # Y Y Cb Cr (PS3.3 C.7.6.3.1.2)
    shared = {"PhotometricInterpretation": "YBR_FULL_422", "PixelData": grey.tobytes()}
    shown = read_image(write_dicom(tmp_path / "b.dcm", COLOURS, **shared))[0]
    np.testing.assert_array_equal(shown, np.repeat(luma.reshape(6, 10, 1), 3, axis=2))


def test_what_makes_the_length_even_is_no_frame(tmp_path: Path) -> None:
    for rows, columns in ((1, 1), (3, 5)):
        pixels = FRAMES[0, :rows, :columns]
        path = write_dicom(tmp_path / "a.dcm", pixels, PixelData=pixels.tobytes() + b"\0")
        np.testing.assert_array_equal(read_mask(path), pixels)
    path = write_dicom(tmp_path / "b.dcm", FRAMES[0], DataSetTrailingPadding=bytes(600))
    np.testing.assert_array_equal(read_mask(path), FRAMES[0])


def _run_lengths(frame: np.ndarray) -> bytes:
    """Return a frame of bytes as literal runs, one segment (PS3.5 G.3 to G.5)."""
    rows = b"".join(bytes([len(row) - 1]) + row.tobytes() for row in frame)
    return b"".join(number.to_bytes(4, "little") for number in (1, 64, *[0] * 14)) + rows


def _jpeg2000(frame: np.ndarray) -> bytes:
    return imagecodecs.jpeg2k_encode(frame, level=0, reversible=True, codecformat="j2k")


ENCODERS = {
    JPEGBaseline8Bit: lambda frame: imagecodecs.jpeg8_encode(frame, level=95),
    JPEGLSLossless: imagecodecs.jpegls_encode,
    JPEG2000Lossless: _jpeg2000,
    RLELossless: _run_lengths,
}


def _compressed(path: Path, syntax: UID, *, told: int | None, pieces: int = 1, has_offsets: bool = False) -> Path:
    file = pydicom.dcmread(write_dicom(path, FRAMES[0]))
    encoded = [ENCODERS[syntax](frame) for frame in FRAMES]
    file.PixelData = encapsulate(encoded, fragments_per_frame=pieces, has_bot=has_offsets)
    file["PixelData"].VR, file["PixelData"].is_undefined_length = "OB", True
    file.file_meta.TransferSyntaxUID = syntax
    if told is not None:
        file.NumberOfFrames = told
    file.save_as(path)
    return path


@pytest.mark.parametrize("has_offsets", [False, True], ids=["no_table", "table"])
@pytest.mark.parametrize("syntax", ENCODERS, ids=lambda syntax: syntax.name)
def test_compressed_frames_that_no_tag_counts_are_not_left_out(tmp_path: Path, syntax: UID, has_offsets: bool) -> None:
    for told in (None, 1, 4):
        path = _compressed(tmp_path / "a.dcm", syntax, told=told, has_offsets=has_offsets)
        refused(path, f"hold 5 frames, where its tags announce {told or 1}")
    path = _compressed(tmp_path / "b.dcm", syntax, told=5, has_offsets=has_offsets)
    near = 12 if syntax == JPEGBaseline8Bit else 0
    for index, frame in enumerate(FRAMES):
        np.testing.assert_allclose(read_mask(path, slice_index=index).astype(int), frame, atol=near)


def test_a_frame_in_several_pieces_is_one(tmp_path: Path) -> None:
    path = _compressed(tmp_path / "a.dcm", JPEGLSLossless, told=5, pieces=3)
    for index, frame in enumerate(FRAMES):
        np.testing.assert_array_equal(read_mask(path, slice_index=index), frame)
