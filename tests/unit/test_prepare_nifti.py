"""Volumes of public datasets: what their numbers mean, where they lie, one of several, and what a file may cost."""

from __future__ import annotations

import gzip
import struct
import tracemalloc
from pathlib import Path

import nibabel
import numpy as np
import pytest

from engine.data.budget import at_most
from engine.data.prepare.metaimage import read_metaimage
from engine.data.prepare.nrrd import read_nrrd
from engine.data.prepare.volumes import read_nifti
from engine.errors import UserError

SHAPE = (4, 3, 2)
VOXELS = np.arange(24, dtype=np.int16).reshape(SHAPE, order="F")
AFFINE = np.array([[-1, 0, 0, 10], [0, -2, 0, 20], [0, 0, 3, 30], [0, 0, 0, 1.0]])
IN_LPS = np.array([[1, 0, 0, -10], [0, 2, 0, -20], [0, 0, 3, 30], [0, 0, 0, 1.0]])


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_both_versions_and_byte_orders(tmp_path: Path, order: str, kind: type[nibabel.Nifti1Image]) -> None:
    content = kind(VOXELS, AFFINE, kind.header_class(endianness=order), dtype=np.int16).to_bytes()
    (tmp_path / "a.nii").write_bytes(content)
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(content))
    for name in ("a.nii", "a.nii.gz"):
        volume = read_nifti(tmp_path / name)
        np.testing.assert_array_equal(volume.voxels, VOXELS)
        np.testing.assert_array_equal(volume.affine_lps, IN_LPS)


def test_scaled_numbers_and_one_of_several_volumes(tmp_path: Path) -> None:
    both = np.stack([VOXELS, VOXELS + 100], axis=3)
    raw = bytearray(nibabel.Nifti1Image(both, AFFINE).to_bytes())
    raw[112:120] = struct.pack("<2f", 0.5, -3)  # scl_slope, scl_inter
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(bytes(raw)))
    np.testing.assert_array_equal(read_nifti(tmp_path / "a.nii.gz").voxels, VOXELS * 0.5 - 3)
    np.testing.assert_array_equal(read_nifti(tmp_path / "a.nii.gz", channel=1).voxels, VOXELS * 0.5 + 47)


def test_extensions_are_not_read_and_far_voxels_refused(tmp_path: Path) -> None:
    raw = nibabel.Nifti1Image(VOXELS, AFFINE).to_bytes()
    far, num_zeros = tmp_path / "far.nii.gz", 2**26
    extension = b"\1\0\0\0" + struct.pack("<2i", num_zeros, 6) + bytes(num_zeros - 8)
    told = raw[:108] + struct.pack("<f", 352 + num_zeros) + raw[112:348]
    far.write_bytes(gzip.compress(told + extension + raw[352:], compresslevel=1))
    tracemalloc.start()
    try:
        np.testing.assert_array_equal(read_nifti(far).voxels, VOXELS)
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()
    with at_most(num_zeros), pytest.raises(UserError) as caught:
        read_nifti(far)
    assert caught.value.code == "data.image_too_large" and "begin at byte 67,109,216" in caught.value.what


@pytest.mark.parametrize(("unit", "size_mm"), [(1, 1000.0), (2, 1.0), (3, 0.001)])  # metres, mm, micrometres
def test_a_place_is_in_mm_whatever_the_file_counts_in(tmp_path: Path, unit: int, size_mm: float) -> None:
    raw = bytearray(nibabel.Nifti1Image(VOXELS, AFFINE).to_bytes())
    raw[123] = unit  # xyzt_units
    (tmp_path / "a.nii").write_bytes(raw)
    expected = np.diag([size_mm, size_mm, size_mm, 1]) @ IN_LPS
    np.testing.assert_allclose(read_nifti(tmp_path / "a.nii").affine_lps, expected)


def test_an_unusable_sform_gives_way_to_the_qform(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(VOXELS, None)
    image.header.set_qform(AFFINE, 1)
    image.header.set_sform(np.zeros((4, 4)), 1)
    nibabel.save(image, tmp_path / "a.nii")
    np.testing.assert_allclose(read_nifti(tmp_path / "a.nii").affine_lps, IN_LPS, atol=1e-6)


def test_voxels_that_lie_elsewhere_are_not_read_from_the_wrong_place(tmp_path: Path) -> None:
    header = b"NRRD0004\ntype: uchar\ndimension: 3\nsizes: 4 3 2\nencoding: raw\n"
    voxels = np.arange(24, dtype=np.uint8)
    for skip, code in ((b"", None), (b"byte skip: 0\n", None), (b"byte skip: 5\n", "a"), (b"line skip: 1\n", "b")):
        (tmp_path / "a.nrrd").write_bytes(header + skip + b"\n" + voxels.tobytes() + b"12345\n")
        if code is None:
            np.testing.assert_array_equal(read_nrrd(tmp_path / "a.nrrd").voxels.reshape(-1, order="F"), voxels)
        else:
            with pytest.raises(UserError, match="skip"):
                read_nrrd(tmp_path / "a.nrrd")
    told = "NDims = 3\nDimSize = 4 3 2\nElementType = MET_UCHAR\nElementDataFile = gone.raw\n"
    (tmp_path / "a.mhd").write_text(told)
    with pytest.raises(UserError, match=r"'gone\.raw', which is not beside it"):
        read_metaimage(tmp_path / "a.mhd")
