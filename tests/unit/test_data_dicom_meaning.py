"""DICOM numbers whose sign only some of their tags tell."""

from __future__ import annotations

from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from data_medical_files import write_dicom
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import HTJ2KLossless, JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless

from engine.data.readers import read_mask

SIGNED = (np.add.outer(np.arange(24) * 57, np.arange(32) * 83) % 4096 - 2048).astype(np.int16)
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
