"""Colours of JPEG frames in DICOM files whose tags are still those from before they were compressed."""

from __future__ import annotations

import struct
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from data_medical_files import write_dicom
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit

from engine.data.readers import read_image

ROWS, COLUMNS = np.mgrid[:48, :64]
COLOURS = np.stack([200 - 2 * COLUMNS, 40 + 3 * ROWS, ROWS + COLUMNS], axis=-1).astype(np.uint8)
APP0, APP14 = 0xE0, 0xEE


def jpeg(inside: str, *, subsampling: str = "444", marker: bytes = b"") -> bytes:
    """Return COLOURS with samples ``inside`` ("RGB" or "YCBCR"), channels 1 to 3, and no marker but ``marker``."""
    whole = imagecodecs.jpeg8_encode(COLOURS, level=98, colorspace="RGB", outcolorspace=inside, subsampling=subsampling)
    kept, at = bytearray(whole[:2]) + marker, 2
    while whole[at + 1] != 0xDA:
        end = at + 2 + struct.unpack_from(">H", whole, at + 2)[0]
        kept += whole[at:end] if whole[at + 1] not in (APP0, APP14) else b""
        at = end
    kept += whole[at:]
    for mark, first, step in ((b"\xff\xc0", 10, 3), (b"\xff\xda", 5, 2)):  # channels may be called R, G and B
        begin = kept.index(mark)
        for channel in range(3):
            kept[begin + first + step * channel] = channel + 1
    return bytes(kept)


def adobe(transform: int) -> bytes:
    return b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0" + bytes([transform])


JFIF = b"\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0"
SAID = {  # what the frame holds and says of itself
    "Adobe says YCbCr": jpeg("YCBCR", marker=adobe(1)),
    "Adobe says RGB": jpeg("RGB", marker=adobe(0)),
    "JFIF is YCbCr": jpeg("YCBCR", marker=JFIF),
    "half the resolution is chroma": jpeg("YCBCR", subsampling="422"),
    "a quarter of the resolution is chroma": jpeg("YCBCR", subsampling="420"),
}


def written(path: Path, frame: bytes, tag: str) -> Path:
    write_dicom(path, COLOURS, PhotometricInterpretation=tag)
    dataset = dcmread(path)
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    dataset.PixelData = encapsulate([frame])
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize("tag", ["RGB", "YBR_FULL", "YBR_FULL_422"])
@pytest.mark.parametrize("said", SAID)
def test_what_a_frame_says_of_its_own_colours_counts_before_the_tags(tmp_path: Path, said: str, tag: str) -> None:
    found = read_image(written(tmp_path / "a.dcm", SAID[said], tag))[0]
    assert np.abs(found.astype(int) - COLOURS).max() <= 12  # lossy, and chroma between its samples


def test_of_a_frame_that_says_nothing_the_tags_count(tmp_path: Path) -> None:
    for inside, tag in (("RGB", "RGB"), ("YCBCR", "YBR_FULL_422")):
        found = read_image(written(tmp_path / "a.dcm", jpeg(inside), tag))[0]
        assert np.abs(found.astype(int) - COLOURS).max() <= 12
