"""DICOM numbers whose sign, unit or place only some of their tags tell: signed frames, doses, mosaics."""

from __future__ import annotations

from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from data_medical_files import write_dicom, write_frames
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import HTJ2KLossless, JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless

from engine.data.readers import image_info, read_image, read_mask
from engine.errors import UserError

SIGNED = (np.add.outer(np.arange(24) * 57, np.arange(32) * 83) % 4096 - 2048).astype(np.int16)
PLACE = {"PixelSpacing": [1, 1], "ImagePositionPatient": [0, 0, 0], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
ENCODE = {
    JPEGLSLossless: imagecodecs.jpegls_encode,
    JPEGLosslessSV1: lambda words: imagecodecs.jpeg8_encode(words, lossless=True, bitspersample=16),
    JPEG2000Lossless: lambda words: imagecodecs.jpeg2k_encode(words, level=0, codecformat="j2k"),
    HTJ2KLossless: imagecodecs.htj2k_encode,
}


@pytest.mark.parametrize("spare", ["zeros", "signs", "others"])
@pytest.mark.parametrize("syntax", ENCODE)
def test_signed_numbers_in_a_frame_of_more_bits_keep_their_sign(tmp_path: Path, syntax: str, spare: str) -> None:
    # 12 bits stored in words of 16, which the frame holds whole: what is in the upper four does not count (PS3.5 8.1.1)
    words = SIGNED.view(np.uint16)
    words = words & 0x0FFF if spare == "zeros" else words if spare == "signs" else words & 0x0FFF | 0xA000
    path = write_dicom(tmp_path / "a.dcm", SIGNED, BitsStored=12, HighBit=11)
    dataset = dcmread(path)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([ENCODE[syntax](words)])
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path, enforce_file_format=True)
    np.testing.assert_array_equal(read_mask(path), SIGNED)


@pytest.mark.parametrize("high", [0, 7, 10, 16, 31, 65535])
def test_a_highest_bit_that_cannot_be_is_not_gone_by(tmp_path: Path, high: int) -> None:
    # programs that make 16 bits of 8 keep HighBit 7: 12 bits end at bit 11 or above it, and a word at bit 15
    unsigned = (SIGNED + 2048).astype(np.uint16)
    path = write_dicom(tmp_path / "a.dcm", unsigned, BitsStored=12, HighBit=high)
    np.testing.assert_array_equal(read_mask(path), unsigned)
    path = write_dicom(tmp_path / "b.dcm", unsigned << 3, BitsStored=12, HighBit=14)
    np.testing.assert_array_equal(read_mask(path), unsigned)


def test_doses_have_the_unit_that_their_scale_gives(tmp_path: Path) -> None:
    stored = np.array([[[0, 1000], [2000, 4000]], [[3000, 500], [0, 0]]], np.uint16)
    tags = {"Modality": "RTDOSE", "DoseUnits": "GY", "GridFrameOffsetVector": [0, 3], **PLACE}
    path = write_frames(tmp_path / "a.dcm", stored, per_frame=[{}, {}], DoseGridScaling="0.01", **tags)
    shown, geometry = read_image(path, value_range=(0, 40))  # 4000 x 0.01 Gy is the highest
    np.testing.assert_allclose(shown[..., 0], [[0, 0.25], [0.5, 1]])
    assert geometry.unit == "GY"


def test_slices_side_by_side_in_one_picture_have_no_place(tmp_path: Path) -> None:
    kind = ["ORIGINAL", "PRIMARY", "M", "ND"]
    for modality, last, is_placed in (("MR", "MOSAIC", False), ("MR", "NORM", True), ("OP", "MOSAIC", True)):
        path = write_dicom(tmp_path / "a.dcm", SIGNED, Modality=modality, ImageType=[*kind, last], **PLACE)
        geometry = image_info(path)
        assert geometry.is_placed == is_placed and geometry.spacing_mm == (1, 1)
        assert read_image(path)[0].shape == (24, 32, 3)


def test_masks_whose_white_is_zero_are_told_where_nobody_can_tell_them(tmp_path: Path) -> None:
    drawn = np.zeros((4, 8), np.uint8)
    drawn[1:3, 2:5] = 1
    inverted = {"PhotometricInterpretation": "MONOCHROME1"}
    for top, tags in ((255, {}), (4095, {"BitsStored": 12, "HighBit": 11})):
        stored = drawn * np.array(top, np.uint8 if top == 255 else np.uint16)
        np.testing.assert_array_equal(read_mask(write_dicom(tmp_path / "a.dcm", stored, **tags)), stored)
        with pytest.raises(UserError, match="its white is zero") as caught:
            read_mask(write_dicom(tmp_path / "b.dcm", stored, **tags, **inverted))
        assert caught.value.code == "data.image_unsupported"
    for labels in (drawn, np.arange(32, dtype=np.uint8).reshape(4, 8) % 3):  # numbers, however they are shown
        np.testing.assert_array_equal(read_mask(write_dicom(tmp_path / "c.dcm", labels, **inverted)), labels)
    bits = np.packbits(1 - drawn, bitorder="little").tobytes()  # zero is white: what is drawn
    packed = {"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0, "PixelData": bits}
    np.testing.assert_array_equal(read_mask(write_dicom(tmp_path / "d.dcm", drawn, **packed, **inverted)), drawn)
