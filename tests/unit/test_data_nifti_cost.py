"""NIfTI: what a file may cost, whatever its header says."""

from __future__ import annotations

import gzip
import struct
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

from engine.data import nifti
from engine.data.budget import at_most
from engine.data.file_faults import reading
from engine.data.readers import image_info, read_image, read_mask
from engine.data.volumes import SliceAt, SourceVolume
from engine.errors import UserError
from export.outputs.nifti import write_nifti
from tests.unit.test_data_nifti import AFFINE, PIXELS, SHAPE, VOXELS, save, scaled


def bomb(path: Path, shape: tuple[int, int, int], kind: str, *, voxel_bytes: int) -> Path:
    """Write a gzipped file whose header announces ``shape`` and whose voxels are ``voxel_bytes`` zeros."""
    header = nibabel.Nifti1Header()
    header.set_data_dtype(kind)
    header.set_data_shape(shape)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    with gzip.open(path, "wb", compresslevel=1) as stream:
        stream.write(header.binaryblock + bytes(4))
        for _ in range(voxel_bytes // 2**20):
            stream.write(bytes(2**20))
    return path


def test_a_volume_is_refused_from_its_header(tmp_path: Path) -> None:
    path = bomb(tmp_path / "b.nii.gz", (1024, 1024, 1000), "f8", voxel_bytes=2**22)  # would be 8.4 GB
    tracemalloc.start()
    started = time.monotonic()
    for read in (read_image, read_mask):
        with pytest.raises(UserError) as caught:
            read(path)
        assert caught.value.code == "data.image_too_large"
    assert time.monotonic() - started < 5
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()


EXTENSION_BYTES = 2**27


@pytest.mark.parametrize("kind", [nibabel.Nifti1Header, nibabel.Nifti2Header])
@pytest.mark.parametrize("is_before_voxels", [True, False])
def test_extensions_are_not_read(tmp_path: Path, kind: type[nibabel.Nifti1Header], is_before_voxels: bool) -> None:
    header = kind()
    header.set_data_dtype("u1")
    header.set_data_shape(SHAPE)
    header.set_sform(AFFINE, code=1)
    first = header.single_vox_offset
    # the extension says its own size, which need not be what lies between header and voxels
    header["vox_offset"] = first + (EXTENSION_BYTES if is_before_voxels else 16)
    between = bytes(EXTENSION_BYTES if is_before_voxels else 16)[8:]
    extension = b"\1\0\0\0" + struct.pack("<2i", EXTENSION_BYTES, 6) + between
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(header.binaryblock + extension + bytes(range(24)) + bytes(2**27), compresslevel=1))
    source = SourceVolume("nifti", (SliceAt(path, 0), SliceAt(path, 1)), image_info(path))
    tracemalloc.start()
    assert image_info(path).shape == SHAPE
    np.testing.assert_array_equal(read_mask(path), PIXELS)
    write_nifti(tmp_path / "out.nii", source, np.ones((2, 3, 4), np.uint8))
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()
    assert type(nibabel.load(tmp_path / "out.nii").header) is kind


@pytest.mark.parametrize("read", [read_image, read_mask])
def test_voxels_far_into_a_gzipped_file_are_refused(tmp_path: Path, read: Callable[[Path], object]) -> None:
    save(tmp_path / "a.nii")
    head, voxels = (tmp_path / "a.nii").read_bytes()[:352], VOXELS.tobytes(order="F")
    for name, offset in (("last", 2**22 - 48), ("far", 2**22 - 48 + 16), ("most", 2**27)):
        told = head[:108] + struct.pack("<f", offset) + head[112:]  # each is a float32 to the last byte
        content = told + bytes(offset - 352) + voxels
        (tmp_path / f"{name}.nii.gz").write_bytes(gzip.compress(content, compresslevel=1))
        (tmp_path / f"{name}.nii").write_bytes(content)
    with at_most(2**22):
        read(tmp_path / "last.nii.gz")  # its last voxel is byte 2^22
        np.testing.assert_array_equal(read_mask(tmp_path / "most.nii"), PIXELS)  # a plain file is not read on the way
        started = time.process_time()
        for name in ("far", "most"):
            with pytest.raises(UserError) as caught:
                read(tmp_path / f"{name}.nii.gz")
            assert caught.value.code == "data.image_too_large" and "begin at byte" in caught.value.what
        assert time.process_time() - started < 0.1
    np.testing.assert_array_equal(read_mask(tmp_path / "far.nii.gz"), PIXELS)


def test_sizes_that_pass_64_bits_are_refused(tmp_path: Path) -> None:
    header = nibabel.Nifti2Header()
    header.set_data_dtype("u1")
    header["dim"][:4] = 3, 2**31, 2**31, 4  # 2^64 voxels, which are none when they are counted in 64 bits
    header["vox_offset"] = 544
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(header.binaryblock + bytes(4)))
    with reading(path, suffix=".nii.gz"), pytest.raises(UserError) as caught:
        nifti.read_volume(path)
    assert caught.value.code == "data.image_too_large"


def test_what_lies_behind_the_voxels_is_not_inflated(tmp_path: Path) -> None:
    path = bomb(tmp_path / "b.nii.gz", (64, 64, 16), "u1", voxel_bytes=2**28)
    tracemalloc.start()
    assert read_image(path)[0].shape == (64, 64, 3)
    assert tracemalloc.get_traced_memory()[1] < 2**23
    tracemalloc.stop()


def test_the_limit_counts_the_voxels_and_their_copy(tmp_path: Path) -> None:
    path = bomb(tmp_path / "b.nii.gz", (128, 128, 64), "f4", voxel_bytes=2**22)  # 4 MiB
    with at_most(2**23):
        read_image(path)
    with at_most(2**23 - 1), pytest.raises(UserError) as caught:
        read_image(path)
    assert caught.value.code == "data.image_too_large"


@pytest.mark.parametrize("read", [read_image, read_mask])
@pytest.mark.parametrize(
    ("kind", "slope", "num_bytes"),  # of 2^16 pixels: the stored ones and four arrays of what they are worked on in
    [("u1", 0.5, 1 + 4 * 8), ("i2", 2, 2 + 4 * 8), ("f4", 1, 4 + 4 * 4), ("f8", 1, 8 + 4 * 8)],
)
def test_the_limit_counts_what_a_slice_takes(
    tmp_path: Path, kind: str, slope: float, num_bytes: int, read: Callable[[Path], object]
) -> None:
    bomb(tmp_path / "b.nii.gz", (256, 256, 1), kind, voxel_bytes=2**20)
    raw = bytearray(gzip.decompress((tmp_path / "b.nii.gz").read_bytes()))
    raw[112:120] = struct.pack("<2f", slope, 0)
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(raw, compresslevel=1))
    with at_most(num_bytes * 2**16):
        tracemalloc.start()
        try:
            read(tmp_path / "b.nii.gz")
            assert tracemalloc.get_traced_memory()[1] < num_bytes * 2**16 + 2**20
        finally:
            tracemalloc.stop()
    with at_most(num_bytes * 2**16 - 1), pytest.raises(UserError) as caught:
        read(tmp_path / "b.nii.gz")
    assert caught.value.code == "data.image_too_large"


@pytest.mark.parametrize("kind", ["i4", "f4"])
def test_a_volume_turned_over_takes_one_copy(tmp_path: Path, kind: str) -> None:
    stored = np.zeros((128, 128, 64), kind)  # 4 MiB
    plain, path = scaled(tmp_path / "v.nii", stored, slope=-0.5, intercept=0), tmp_path / "v.nii.gz"
    path.write_bytes(gzip.compress(plain.read_bytes(), compresslevel=1))
    tracemalloc.start()
    try:
        assert read_image(path)[0].max() == 0
        assert tracemalloc.get_traced_memory()[1] < 2 * 2**22 + 2**20
    finally:
        tracemalloc.stop()


def test_volumes_stay_open_by_bytes_and_never_under_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = nifti.VolumeCache(budget_bytes=2**21)
    monkeypatch.setattr(nifti, "_OPEN", cache)
    paths = [bomb(tmp_path / f"{k}.nii.gz", (64, 128, 128), "u1", voxel_bytes=2**20) for k in range(3)]
    for path in paths:
        read_image(path)
    assert cache.num_bytes == 2**21  # the two last ones, of 1 MiB each
    save(paths[2], VOXELS)  # written again: another volume
    np.testing.assert_array_equal(read_mask(paths[2]), PIXELS)
    monkeypatch.setattr(nifti, "_OPEN", nifti.VolumeCache(budget_bytes=2**21))
    with at_most(2**28):
        read_image(paths[0])
    assert nifti._OPEN.num_bytes == 0
