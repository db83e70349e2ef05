"""DICOM files whose elements cost far more than their bytes: refused by name, in sequences as well."""

from __future__ import annotations

import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileMetaDataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian

from bench.bombs import dicom_elements
from engine.data.budget import at_most
from engine.data.dicom_elements import ELEMENT_BYTES
from engine.data.modalities import origin_of
from engine.data.readers import image_info, read_image
from engine.errors import UserError
from tests.unit.data_medical_files import group, write_dicom

FRAME = np.arange(12, dtype=np.uint16).reshape(3, 4)
THOUSAND = 1000 * ELEMENT_BYTES
"""A limit under which 1,000 elements are read."""
MANY = [group(PatientComments="") for _ in range(2000)]
"""2,000 items of one element: 4,000 headers."""


def refused(path: Path, limit_bytes: int) -> UserError:
    with at_most(limit_bytes), pytest.raises(UserError) as caught:
        image_info(path)
    return caught.value


def deflated(path: Path, content: bytes) -> Path:
    """Write ``content`` as what is deflated of a file."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", "1.2.3"
    pydicom.dcmwrite(path, pydicom.FileDataset(path, {}, file_meta=meta, preamble=bytes(128)), enforce_file_format=True)
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    kept = path.read_bytes()
    head = kept[: 144 + int.from_bytes(kept[140:144], "little")]
    path.write_bytes(head + packer.compress(content) + packer.flush())
    return path


def elements_of(path: Path) -> bytes:
    """Return the bytes behind a file's meta information."""
    kept = path.read_bytes()
    return kept[144 + int.from_bytes(kept[140:144], "little") :]


def test_very_many_empty_elements_are_refused(tmp_path: Path) -> None:
    path = dicom_elements(tmp_path)
    assert path.stat().st_size < 2**19
    tracemalloc.start()
    error = refused(path, 64 * 2**20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert error.code == "data.image_too_large"
    assert error.what == f"The file {path} has too many elements beside its pixels: at most 16,384 are read."
    assert peak < 10 * 2**20  # all of them would take more than 100 MiB


@pytest.mark.parametrize("undefined", [False, True])
def test_elements_in_sequences_count(tmp_path: Path, undefined: bool) -> None:
    path = write_dicom(tmp_path / "a.dcm", FRAME, PerFrameFunctionalGroupsSequence=MANY)
    if undefined:
        dataset = pydicom.dcmread(path)
        dataset["PerFrameFunctionalGroupsSequence"].is_undefined_length = True
        dataset.save_as(path)
    assert "at most 1,000 are read" in refused(path, THOUSAND).what
    with at_most(5 * THOUSAND):
        assert image_info(path).shape == (4, 3, 1)


def test_elements_in_sequences_within_a_sequence_count(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", FRAME, SourceImageSequence=[group(PurposeOfReferenceCodeSequence=MANY)])
    assert "at most 1,000 are read" in refused(path, THOUSAND).what
    with at_most(5 * THOUSAND):
        image_info(path)


def test_long_values_do_not_count_as_elements(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", FRAME, ICCProfile=bytes(2**20))
    with at_most(THOUSAND):
        image_info(path)


def test_sequences_without_end_in_each_other_are_refused(tmp_path: Path) -> None:
    item = group(PatientComments="x" * 9000)
    for _ in range(40):
        item = group(SourceImageSequence=[item])
    path = write_dicom(tmp_path / "a.dcm", FRAME, SourceImageSequence=[item])
    assert "too many elements" in refused(path, THOUSAND).what


def test_a_value_of_very_many_numbers_is_refused(tmp_path: Path) -> None:
    # without stated kinds a value may be of any length: 1\1\1... would become a million numbers
    path = write_dicom(tmp_path / "a.dcm", FRAME)
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    dataset.WindowCenter, dataset.WindowWidth = "1", "1"
    dataset.save_as(path, implicit_vr=True, little_endian=True)
    one = b"\x28\0\x50\x10\2\0\0\0" + b"1 "
    assert path.read_bytes().count(one) == 1
    many = b"1\\" * 2**20
    path.write_bytes(path.read_bytes().replace(one, one[:4] + len(many).to_bytes(4, "little") + many))
    assert "too many elements" in refused(path, 384 * 2**20).what


def test_a_deflated_file_within_a_deflated_file_is_not_inflated(tmp_path: Path) -> None:
    inner = deflated(tmp_path / "inner.dcm", elements_of(write_dicom(tmp_path / "a.dcm", FRAME)) + bytes(2**27))
    for content in (inner.read_bytes(), inner.read_bytes()[132:]):
        path = deflated(tmp_path / "outer.dcm", content)
        tracemalloc.start()
        with pytest.raises(UserError, match="whole file again"):
            image_info(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2**26


def test_what_follows_the_pixels_of_a_deflated_file_is_never_inflated(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", FRAME, Modality="CT", WindowCenter=5, WindowWidth=10)
    deflated(path, elements_of(path) + bytes(2**27))
    tracemalloc.start()
    assert origin_of(path).modality == "ct"
    assert read_image(path)[0].shape == (3, 4, 3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**26
