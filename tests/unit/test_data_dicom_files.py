"""DICOM as files: how they are stored and compressed, where their frames lie, and what they may cost."""

from __future__ import annotations

import io
import time
import tracemalloc
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEG2000,
    MPEG4HP41,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    SegmentationStorage,
)

from engine.data.budget import at_most
from engine.data.readers import image_info, read_image, read_mask
from engine.errors import UserError
from tests.unit.data_medical_files import write_dicom, write_frames

SMOOTH = np.add.outer(np.arange(48, dtype=np.uint16) * 60, np.arange(40, dtype=np.uint16) * 20)


def stored_as(path: Path, syntax: str, frames: list[bytes] | None = None, **tags) -> Path:
    """Write the file again in another transfer syntax, with ``frames`` as its compressed pixels."""
    dataset = pydicom.dcmread(path)
    for tag, value in tags.items():
        setattr(dataset, tag, value)
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    if frames is not None:
        dataset.PixelData = encapsulate(frames)
        dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
    target = path.with_name(f"as_{path.name}")
    pydicom.dcmwrite(
        target,
        dataset,
        force_encoding=True,
        implicit_vr=syntax == ImplicitVRLittleEndian,
        little_endian=syntax != ExplicitVRBigEndian,
    )
    return target


def refused(path: Path, code: str, word: str = "") -> UserError:
    with pytest.raises(UserError) as caught:
        read_image(path)
    assert caught.value.code == code and word in caught.value.what, caught.value
    return caught.value


# ------------------------------------------------------------------------------------------- storing


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian])
def test_every_way_to_write_numbers(tmp_path: Path, syntax: str) -> None:
    path = write_dicom(tmp_path / "a.dcm", SMOOTH)
    if syntax == ExplicitVRBigEndian:
        other = stored_as(path, syntax, PixelData=SMOOTH.astype(">u2").tobytes())
    else:
        other = stored_as(path, syntax)
    np.testing.assert_array_equal(read_mask(other), SMOOTH)
    assert read_mask(other).dtype == np.uint16


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, "1.2.840.10008.1.2.1"])
@pytest.mark.parametrize("has_meta", [False, True])
def test_files_without_a_preamble(tmp_path: Path, syntax: str, has_meta: bool) -> None:
    path = stored_as(write_dicom(tmp_path / "a.dcm", SMOOTH), syntax)
    raw = path.read_bytes()
    dataset = pydicom.dcmread(path)
    start = 132 if has_meta else 132 + 12 + dataset.file_meta.FileMetaInformationGroupLength
    (tmp_path / "bare.dcm").write_bytes(raw[start:])
    np.testing.assert_array_equal(read_mask(tmp_path / "bare.dcm"), SMOOTH)


@pytest.mark.parametrize("index", [0, 1])
def test_compressed_frames_are_read_one_by_one(tmp_path: Path, index: int) -> None:
    frames = np.stack([SMOOTH, SMOOTH[::-1]])
    path = write_dicom(tmp_path / "a.dcm", SMOOTH, NumberOfFrames=2, PixelData=frames.tobytes())
    for syntax, encode in (
        (JPEG2000Lossless, lambda f: imagecodecs.jpeg2k_encode(f, codecformat="j2k", level=0)),
        (JPEGLSLossless, imagecodecs.jpegls_encode),
        (JPEGLosslessSV1, imagecodecs.ljpeg_encode),
    ):
        other = stored_as(path, syntax, [bytes(encode(np.ascontiguousarray(frame))) for frame in frames])
        np.testing.assert_array_equal(read_mask(other, slice_index=index), frames[index])
    dataset = pydicom.dcmread(path)
    dataset.compress(RLELossless)
    dataset.save_as(tmp_path / "rle.dcm")
    np.testing.assert_array_equal(read_mask(tmp_path / "rle.dcm", slice_index=index), frames[index])


def test_jpeg_of_twelve_bits(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", SMOOTH, BitsStored=12, HighBit=11)
    frame = imagecodecs.jpeg8_encode(SMOOTH, level=98, bitspersample=12)
    found = read_mask(stored_as(path, JPEGExtended12Bit, [bytes(frame)]))
    assert np.abs(found.astype(int) - SMOOTH).max() <= 16  # of 4096: lossy


def test_colours_of_compressed_frames(tmp_path: Path) -> None:
    colours = np.zeros((16, 16, 3), np.uint8)
    colours[:8] = (200, 30, 60)
    path = write_dicom(tmp_path / "a.dcm", colours)
    lossless = bytes(imagecodecs.jpeg2k_encode(colours, codecformat="j2k", level=0))
    np.testing.assert_array_equal(
        read_image(stored_as(path, JPEG2000, [lossless], PhotometricInterpretation="YBR_RCT"))[0], colours
    )
    jpeg = bytes(imagecodecs.jpeg8_encode(colours, level=100, subsampling="444"))  # YCbCr inside
    image = read_image(stored_as(path, JPEGBaseline8Bit, [jpeg], PhotometricInterpretation="YBR_FULL"))[0]
    assert np.abs(image.astype(int) - colours).max() <= 3


def test_segmentation_objects_are_masks(tmp_path: Path) -> None:
    frames = np.zeros((3, 8, 8), np.uint8)
    frames[1, 2:4, 3] = 1
    packed = np.packbits(frames.reshape(-1), bitorder="little").tobytes()
    path = write_dicom(
        tmp_path / "seg.dcm", frames[0], NumberOfFrames=3, PixelData=packed, BitsAllocated=1, BitsStored=1, HighBit=0,
        SOPClassUID=SegmentationStorage, SegmentationType="BINARY",
    )  # fmt: skip
    assert image_info(path).num_slices == 3
    for index in range(3):
        np.testing.assert_array_equal(read_mask(path, slice_index=index), frames[index])


# ------------------------------------------------------------------------------------------- placing


def test_a_picture_lies_where_its_tags_say(tmp_path: Path) -> None:
    # columns run to the back, rows to the feet: a sagittal slice
    place = {"ImagePositionPatient": [10, -20, 30], "ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}
    path = write_dicom(tmp_path / "a.dcm", SMOOTH, PixelSpacing=[0.7, 0.6], SliceThickness=2, **place)
    geometry = image_info(path)
    # columns by the second spacing along y, rows by the first along -z, slices (0, 1, 0) x (0, 0, -1) = (-1, 0, 0)
    expected = [[0, 0, -2, 10], [0.6, 0, 0, -20], [0, -0.7, 0, 30], [0, 0, 0, 1]]
    np.testing.assert_allclose(geometry.matrix, expected)
    assert geometry.orientation == "PIR" and geometry.spacing_mm == (0.7, 0.6)


@pytest.mark.parametrize("missing", ["PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient"])
def test_a_picture_without_all_of_them_has_no_place(tmp_path: Path, missing: str) -> None:
    tags = {
        "PixelSpacing": [1, 1], "ImagePositionPatient": [0, 0, 0], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
    }  # fmt: skip
    del tags[missing]
    assert image_info(write_dicom(tmp_path / "a.dcm", SMOOTH, **tags)).affine_lps is None


def frames_at(path: Path, places: list[float]) -> Path:
    """Write axial frames at these heights."""
    shared = {
        "PixelMeasuresSequence": {"PixelSpacing": [0.5, 0.5], "SliceThickness": 9},
        "PlaneOrientationSequence": {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]},
    }
    per_frame = [{"PlanePositionSequence": {"ImagePositionPatient": [1, 2, z]}} for z in places]
    return write_frames(path, np.stack([SMOOTH] * len(places)), per_frame=per_frame, shared=shared)


@pytest.mark.parametrize(("places", "step"), [([5, 7.5, 10], 2.5), ([10, 7.5, 5], -2.5), ([5, 7.54, 10], 2.5)])
def test_frames_at_equal_steps_are_a_volume(tmp_path: Path, places: list[float], step: float) -> None:
    geometry = image_info(frames_at(tmp_path / "v.dcm", places))
    expected = [[0.5, 0, 0, 1], [0, 0.5, 0, 2], [0, 0, step, places[0]], [0, 0, 0, 1]]
    assert geometry.num_slices == 3
    np.testing.assert_allclose(geometry.matrix, expected)


@pytest.mark.parametrize("places", [[5, 7, 10], [5, 5, 5], [5, 10, 7.5]])
def test_frames_in_no_even_order_have_no_common_place(tmp_path: Path, places: list[float]) -> None:
    assert image_info(frames_at(tmp_path / "v.dcm", places)).affine_lps is None


def test_a_dose_grid_is_placed_by_its_offsets(tmp_path: Path) -> None:
    path = write_dicom(
        tmp_path / "d.dcm", SMOOTH, NumberOfFrames=2, PixelData=SMOOTH.tobytes() * 2, PixelSpacing=[1, 1],
        ImagePositionPatient=[0, 0, 40], ImageOrientationPatient=[1, 0, 0, 0, 1, 0], GridFrameOffsetVector=[0, 3],
    )  # fmt: skip
    np.testing.assert_allclose(image_info(path).matrix[:, 2:], [[0, 0], [0, 0], [3, 40], [0, 1]])


# ------------------------------------------------------------------------------------------- refusing


def test_kinds_that_are_not_read_are_named(tmp_path: Path) -> None:
    plain = write_dicom(tmp_path / "a.dcm", SMOOTH)
    refused(stored_as(plain, MPEG4HP41, [b"\x00\x00"]), "data.image_unsupported", "MPEG-4")
    tiles = write_dicom(tmp_path / "t.dcm", SMOOTH, TotalPixelMatrixColumns=4000, TotalPixelMatrixRows=4000)
    refused(tiles, "data.image_unsupported", "whole-slide")
    mixed = write_dicom(tmp_path / "m.dcm", SMOOTH, PixelPresentation="COLOR")
    refused(mixed, "data.image_unsupported", "supplemental palette")
    odd = write_dicom(tmp_path / "o.dcm", SMOOTH, BitsAllocated=12, BitsStored=12)
    refused(odd, "data.image_unsupported", "12 bits")
    for name, code, word in (
        ("1.2.840.10008.5.1.4.1.1.88.11", "data.image_unsupported", "Basic Text SR Storage, which is no image"),
        ("1.2.840.10008.5.1.4.1.1.2", "data.image_unreadable", "CT Image Storage without pixels"),
    ):
        no_image = pydicom.dcmread(plain)
        for absent in ("PixelData", "Rows", "Columns"):
            delattr(no_image, absent)
        no_image.SOPClassUID = UID(name)
        no_image.save_as(tmp_path / "n.dcm")
        refused(tmp_path / "n.dcm", code, word)


def test_truncated_pixels_are_counted(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", SMOOTH)
    path.write_bytes(path.read_bytes()[:-100])
    refused(path, "data.image_unreadable", f"{SMOOTH.nbytes - 100} of {SMOOTH.nbytes} bytes")


def deflated(path: Path, tail: bytes, **tags) -> Path:
    """Write a deflated file whose data set goes on with ``tail``, deflated, after its pixels."""
    stored_as(write_dicom(path, SMOOTH, **tags), DeflatedExplicitVRLittleEndian).rename(path)
    raw = path.read_bytes()
    start = 132 + 12 + pydicom.dcmread(path).file_meta.FileMetaInformationGroupLength
    stream = zlib.compressobj(1, wbits=-zlib.MAX_WBITS)
    body = zlib.decompress(raw[start:], wbits=-zlib.MAX_WBITS)
    pieces = [raw[:start], stream.compress(body)]
    pieces += [stream.compress(tail) for _ in range(16)]
    path.write_bytes(b"".join([*pieces, stream.flush()]))
    return path


def test_a_deflated_file_is_inflated_as_far_as_it_announces(tmp_path: Path) -> None:
    path = deflated(tmp_path / "bomb.dcm", bytes(16 * 2**20))  # 256 MiB after the pixels
    assert path.stat().st_size < 2 * 2**20
    tracemalloc.start()
    started = time.monotonic()
    np.testing.assert_array_equal(read_mask(path), SMOOTH)
    assert tracemalloc.get_traced_memory()[1] < 100 * 2**20
    tracemalloc.stop()
    assert time.monotonic() - started < 10  # seconds on a busy machine; inflating all of it takes as many


def test_a_deflated_file_that_announces_too_much_is_refused_unread(tmp_path: Path) -> None:
    path = deflated(tmp_path / "bomb.dcm", bytes(16 * 2**20), Rows=30_000, Columns=2_900, NumberOfFrames=20)
    tracemalloc.start()
    with at_most(2**28), pytest.raises(UserError) as caught:
        read_image(path)
    assert caught.value.code == "data.image_too_large"
    assert tracemalloc.get_traced_memory()[1] < 100 * 2**20
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("syntax", "encode"),
    [
        (JPEGBaseline8Bit, imagecodecs.jpeg8_encode),
        (JPEG2000Lossless, lambda f: imagecodecs.jpeg2k_encode(f, codecformat="j2k", level=0)),
        (JPEG2000Lossless, lambda f: imagecodecs.jpeg2k_encode(f, codecformat="jp2", level=0)),
        (JPEGLSLossless, imagecodecs.jpegls_encode),
        (RLELossless, lambda f: np.array([1, 64] + [0] * 14, "<u4").tobytes() + bytes([129, 0]) * 100_000),
    ],
    ids=["jpeg", "j2k", "jp2", "jpeg-ls", "rle"],
)
def test_a_frame_of_another_size_than_its_tags_say_is_not_decoded(tmp_path: Path, syntax: str, encode) -> None:
    path = write_dicom(tmp_path / "a.dcm", np.zeros((10, 10), np.uint8))
    other = stored_as(path, syntax, [bytes(encode(np.zeros((600, 800), np.uint8)))])
    refused(other, "data.image_unreadable", "announce")


def test_frames_are_budgeted(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", np.zeros((1000, 1000), np.uint16))
    with at_most(21 * 10**6):  # five arrays of 4 bytes a pixel
        read_image(path, value_range=(0, 1))
    with at_most(19 * 10**6), pytest.raises(UserError) as caught:
        read_image(path, value_range=(0, 1))
    assert caught.value.code == "data.image_too_large"


@pytest.mark.parametrize("seed", range(40))
def test_damaged_frames_never_end_the_process(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    path = write_dicom(tmp_path / "a.dcm", SMOOTH)
    encode = [imagecodecs.jpegls_encode, imagecodecs.ljpeg_encode, imagecodecs.jpeg2k_encode][seed % 3]
    frame = bytearray(encode(SMOOTH))
    for at in rng.integers(20, len(frame), 5):
        frame[at] = rng.integers(256)
    syntax = [JPEGLSLossless, JPEGLosslessSV1, JPEG2000Lossless][seed % 3]
    try:
        assert read_mask(stored_as(path, syntax, [bytes(frame)])).shape == SMOOTH.shape
    except UserError as error:
        assert error.code in ("data.image_unreadable", "data.image_unsupported")


def test_a_stream_that_is_not_dicom_is_told_so(tmp_path: Path) -> None:
    text = io.BytesIO(b"patient,site\n" * 99).getvalue()
    (tmp_path / "a.dcm").write_bytes(text)
    assert "does not begin as" in refused(tmp_path / "a.dcm", "data.image_unreadable").why


def test_frames_that_are_only_announced_cost_nothing(tmp_path: Path) -> None:
    place = {"PixelSpacing": [1, 1], "ImagePositionPatient": [0, 0, 0], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
    path = write_dicom(tmp_path / "a.dcm", np.zeros((1, 1), np.uint8), NumberOfFrames=2**29, **place)
    started = time.monotonic()
    refused(path, "data.image_unreadable", "truncated")
    assert time.monotonic() - started < 5
