"""Gzipped NIfTI: damage shows at its checksum, and no file keeps its reader busy."""

from __future__ import annotations

import gzip
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from engine.data.gzipped import BEHIND_BYTES, MAX_SMALL_MEMBERS, SMALL_BYTES, GzipReader
from engine.data.prepare.volumes import read_nifti
from engine.data.readers import image_info, read_image, read_mask
from engine.errors import UserError
from tests.patience import slowness
from tests.unit.test_data_nifti import AFFINE, PIXELS, VOXELS, save

NOISE = np.random.default_rng(5).normal(0, 300, (32, 32, 12)).astype(np.int16)
READERS = (read_image, read_mask, read_nifti)
TRAILER_BYTES = 8
"""Of a member: four of its checksum, four of its length."""


def content(folder: Path, voxels: np.ndarray = VOXELS) -> bytes:
    """Return the bytes of a plain file."""
    return save(folder / "plain.nii", voxels).read_bytes()


def refused(read: Callable[[Path], object], path: Path) -> UserError:
    with pytest.raises(UserError) as caught:
        read(path)
    return caught.value


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("behind", [0, 1, BEHIND_BYTES // 2])
def test_a_flipped_bit_of_checksum_length_or_voxels_is_refused(
    tmp_path: Path, read: Callable[[Path], object], behind: int
) -> None:
    packed = gzip.compress(content(tmp_path, NOISE) + bytes(behind))
    path = tmp_path / "a.nii.gz"
    path.write_bytes(packed)
    read(path)
    rng = np.random.default_rng(6)
    within = rng.integers(len(packed) // 10, len(packed) // 10 * 9, 20)
    for at in (*range(len(packed) - TRAILER_BYTES, len(packed)), *within):
        damaged = bytearray(packed)
        damaged[at] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        error = refused(read, path)
        assert error.code == "data.image_unreadable" and "what is compressed in it" in error.what, (at, error)
        assert error.why == "It is truncated or damaged."
    image_info(path)  # its header is sound, and nothing else is inflated for it


@pytest.mark.parametrize("read", READERS)
def test_a_file_without_its_last_bytes_is_refused(tmp_path: Path, read: Callable[[Path], object]) -> None:
    packed = gzip.compress(content(tmp_path, NOISE))
    path = tmp_path / "a.nii.gz"
    for cut in (1, TRAILER_BYTES - 1, TRAILER_BYTES, TRAILER_BYTES + 1, len(packed) // 2):
        path.write_bytes(packed[:-cut])
        assert "breaks off before its end" in refused(read, path).what


@pytest.mark.parametrize("read", READERS)
def test_the_checksum_of_each_member_counts(tmp_path: Path, read: Callable[[Path], object]) -> None:
    plain = content(tmp_path, NOISE)
    parts = [gzip.compress(plain[at : at + 7000]) for at in range(0, len(plain), 7000)]
    assert len(parts) == 4
    for number in range(len(parts)):
        damaged = bytearray(parts[number])
        damaged[-TRAILER_BYTES] ^= 1
        path = tmp_path / f"{number}.nii.gz"
        path.write_bytes(b"".join([*parts[:number], bytes(damaged), *parts[number + 1 :]]))
        assert "checksum" in refused(read, path).what


@pytest.mark.parametrize("shape", ["bgzip", "padded", "zeros between", "named", "appended"])
def test_whatever_gzip_reads_is_read(tmp_path: Path, shape: str) -> None:
    plain = content(tmp_path)
    first, second = gzip.compress(plain[:370]), gzip.compress(plain[370:])
    named = bytearray(gzip.compress(plain))
    named[3] |= 8  # its flag of a name, which ends with a zero
    (tmp_path / "a.nii.gz").write_bytes(
        {
            "bgzip": first + second + gzip.compress(b""),
            "padded": gzip.compress(plain) + bytes(5000),
            "zeros between": first + bytes(100_000) + second,
            "named": bytes(named[:10]) + b"a.nii\0" + bytes(named[10:]),
            "appended": gzip.compress(plain) + b"what gzip warns of",
        }[shape]
    )
    np.testing.assert_array_equal(read_mask(tmp_path / "a.nii.gz"), PIXELS)
    np.testing.assert_array_equal(read_nifti(tmp_path / "a.nii.gz").voxels, VOXELS)


def test_a_scale_and_one_of_several_volumes_are_read_as_from_a_plain_file(tmp_path: Path) -> None:
    stored = np.arange(96, dtype=np.int16).reshape(4, 3, 2, 4)
    plain = bytearray(save(tmp_path / "a.nii", stored, AFFINE).read_bytes())
    plain[112:120] = np.array([0.25, -3], "<f4").tobytes()
    (tmp_path / "a.nii").write_bytes(plain)
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(plain))
    one, other = (read_nifti(tmp_path / name, channel=2) for name in ("a.nii", "a.nii.gz"))
    np.testing.assert_array_equal(other.voxels, stored[..., 2] * 0.25 - 3)
    assert one.voxels.dtype == other.voxels.dtype and np.array_equal(one.voxels, other.voxels)


def test_a_reader_gives_pieces_of_any_size(tmp_path: Path) -> None:
    plain = np.random.default_rng(1).bytes(700_000)
    (tmp_path / "a.gz").write_bytes(gzip.compress(plain[:300_000]) + gzip.compress(plain[300_000:]))
    with GzipReader((tmp_path / "a.gz").open("rb")) as stream:
        assert stream.read(10) == plain[:10]
        stream.skip(299_995)
        assert stream.read(100) == plain[300_005:300_105]
        assert stream.read(10**6) == plain[300_105:]
        assert stream.read(1) == b""


@pytest.mark.parametrize("place", ["in front", "between", "between short ones"])
def test_a_file_of_empty_members_is_refused_at_once(tmp_path: Path, place: str) -> None:
    plain = content(tmp_path, NOISE)
    many = gzip.compress(b"") * 400_000
    (tmp_path / "a.nii.gz").write_bytes(
        {
            "in front": many + gzip.compress(plain),
            "between": gzip.compress(plain[:1000]) + many + gzip.compress(plain[1000:]),
            "between short ones": b"".join(gzip.compress(plain[at : at + 2]) for at in range(0, len(plain), 2)),
        }[place]
    )
    started = time.process_time()
    for read in (*READERS, *((image_info,) if place == "in front" else ())):
        error = refused(read, tmp_path / "a.nii.gz")
        assert error.code == "data.image_unsupported" and "more than 1,000 pieces" in error.what
    assert time.process_time() - started < 1 * slowness()


def test_members_are_counted_only_where_they_are_small(tmp_path: Path) -> None:
    plain = content(tmp_path, np.zeros((256, 256, 20), np.int16))
    ends = range(0, len(plain), SMALL_BYTES)
    assert len(ends) > 2 * MAX_SMALL_MEMBERS
    path = tmp_path / "a.nii.gz"
    path.write_bytes(b"".join(gzip.compress(plain[at : at + SMALL_BYTES]) for at in ends))
    read_image(path)
    for count in (MAX_SMALL_MEMBERS, MAX_SMALL_MEMBERS + 1):
        small = gzip.compress(bytes(SMALL_BYTES - 1)) * (count - 1)
        rest = plain[1 + (SMALL_BYTES - 1) * (count - 1) :]
        # voxels of zero, so the header and what is cut from them stand in front
        head = gzip.compress(plain[: SMALL_BYTES - 1])
        path.write_bytes(head + small + gzip.compress(rest))
        if count <= MAX_SMALL_MEMBERS:
            read_image(path)
        else:
            assert refused(read_image, path).code == "data.image_unsupported"


def test_a_long_name_or_padding_is_passed_at_once(tmp_path: Path) -> None:
    plain = content(tmp_path)
    packed = gzip.compress(plain)
    (tmp_path / "name.nii.gz").write_bytes(
        packed[:3] + bytes([packed[3] | 8]) + packed[4:10] + b"a" * 10**7 + b"\0" + packed[10:]
    )
    (tmp_path / "zeros.nii.gz").write_bytes(gzip.compress(plain[:370]) + bytes(10**7) + gzip.compress(plain[370:]))
    started = time.process_time()
    for name in ("name", "zeros"):
        np.testing.assert_array_equal(read_mask(tmp_path / f"{name}.nii.gz"), PIXELS)
    assert time.process_time() - started < 1 * slowness()
