"""A file that cannot be read is told what is wrong with it."""

from __future__ import annotations

import os
import pickle
import struct
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from engine.data.layout import scan_dataset
from engine.data.prepare.metaimage import read_metaimage
from engine.data.prepare.nrrd import read_nrrd
from engine.data.readers import image_info, read_image, read_mask
from engine.errors import UserError
from tests.unit.data_medical_files import nifti_volume, save_nifti, write_dicom
from tests.unit.data_world import write_dataset

GREY = np.arange(60, dtype=np.uint8).reshape(6, 10)
NOISE = np.random.default_rng(4).integers(0, 256, (64, 96), np.uint8)
SOUND = {
    "a PNG": ("x.png", lambda p: Image.fromarray(GREY).save(p)),
    "a JPEG": ("x.jpg", lambda p: Image.fromarray(GREY).save(p)),
    "a TIFF": ("x.tif", lambda p: tifffile.imwrite(p, GREY)),
    "an npy": ("x.npy", lambda p: np.save(p, GREY)),
    "a gzipped": ("x.nii.gz", lambda p: save_nifti(p, nifti_volume())),
    "a NIfTI": ("x.nii", lambda p: save_nifti(p, nifti_volume())),
    "a DICOM": ("x.dcm", lambda p: write_dicom(p, GREY)),
}


def fault(path: Path, read=read_image) -> UserError:
    with pytest.raises(UserError) as caught:
        read(path)
    assert path.name in caught.value.what
    return caught.value


@pytest.mark.parametrize("kind", SOUND)
@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".dcm", ".npy"])
def test_a_file_of_another_format_is_told_which(tmp_path: Path, kind: str, ending: str) -> None:
    name, write = SOUND[kind]
    write(tmp_path / name)
    if name == f"x{ending}":
        read_image(tmp_path / name)
        return
    path = (tmp_path / name).rename(tmp_path / f"other{ending}")
    error = fault(path)
    assert error.code == "data.image_unreadable"
    assert f"is {kind} file, which its ending {ending} does not say" in error.what
    assert name[1:] in error.fix or kind in ("a JPEG", "a TIFF")


OTHERS = {
    "a WebP": b"RIFF\x24\0\0\0WEBPVP8 ",
    "a HEIC, AVIF or MP4": b"\0\0\0\x18ftypheic\0\0\0\0",
    "a JPEG XL": b"\0\0\0\x0cJXL \r\n\x87\n",
    "an HTML": b"\n  <!doctype html><title>Sign in</title>",
    "an XML": b'\xef\xbb\xbf<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7\n",
    "a MetaImage": b"ObjectType = Image\nNDims = 3\n",
    "an NRRD": b"NRRD0004\ntype: uchar\n",
    "an HDF5": b"\x89HDF\r\n\x1a\n",
    "a MATLAB": b"MATLAB 5.0 MAT-file, Platform: GLNXA64",
}


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("ending", [".png", ".jpg", ".tif", ".nii.gz", ".dcm", ".npy"])
def test_formats_that_no_reader_knows_are_told_by_name(tmp_path: Path, kind: str, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    path.write_bytes(OTHERS[kind] + bytes(600))
    error = fault(path)
    assert error.code == "data.image_unreadable"
    assert f"is {kind} file, which its ending {ending} does not say" in error.what
    assert ("git lfs pull" in error.fix) == (kind == "a Git LFS pointer") and "Rename" not in error.fix


@pytest.mark.parametrize(("ending", "read"), [(".nrrd", read_nrrd), (".mhd", read_metaimage), (".mha", read_metaimage)])
def test_a_damaged_volume_of_a_public_dataset_is_never_misnamed(tmp_path: Path, ending: str, read) -> None:
    path = tmp_path / f"a{ending}"
    path.write_bytes(OTHERS["an NRRD" if ending == ".nrrd" else "a MetaImage"] + b"\n\n")
    assert "its ending" not in fault(path, read).what


ENCODED = {
    ".png": imagecodecs.png_encode(NOISE),
    ".jpg": imagecodecs.jpeg8_encode(NOISE),
    ".jls": imagecodecs.jpegls_encode(NOISE),
    ".jp2": imagecodecs.jpeg2k_encode(NOISE, level=0, codecformat="jp2"),
    ".j2k": imagecodecs.jpeg2k_encode(NOISE, level=0, codecformat="j2k"),
}


@pytest.mark.parametrize("ending", [".png", ".jpg", ".jpeg", ".jls", ".jp2", ".j2k", ".bmp"])
@pytest.mark.parametrize("kind", ENCODED)
def test_a_damaged_picture_is_told_to_be_so_and_never_to_be_misnamed(tmp_path: Path, kind: str, ending: str) -> None:
    path, whole = tmp_path / f"a{ending}", ENCODED[kind]
    path.write_bytes(whole)  # its first bytes decide, not its ending
    assert read_image(path)[0].shape == (64, 96, 3)
    path.write_bytes(whole[: len(whole) // 2])
    error = fault(path)
    assert error.code == "data.image_unreadable" and "truncated or damaged" in error.why
    path = path.rename(tmp_path / "a.dcm")
    own = ".jpg" if kind == ".jls" else kind  # both begin alike
    assert fault(path).fix == f"Rename it to {own}."


def test_bytes_that_are_no_npy_are_never_called_a_pickle(tmp_path: Path) -> None:
    for content in (b"1 2 3\n4 5 6\n", bytes(400), b"\x93NUM", pickle.dumps({"a": 1})):
        (tmp_path / "a.npy").write_bytes(content)
        error = fault(tmp_path / "a.npy", read_mask)
        assert "it does not begin as an npy file" in error.what and "pickle" not in error.what


def test_a_png_whose_header_does_not_come_first_announces_nothing(tmp_path: Path) -> None:
    path, whole = tmp_path / "a.png", ENCODED[".png"]
    path.write_bytes(whole[:8] + struct.pack(">I", 4) + b"CgBI" + b"P\0 \2" + bytes(4) + whole[8:])  # Xcode's
    error = fault(path, image_info)
    assert error.code == "data.image_unsupported" and "Apple" in error.what
    path.write_bytes(whole[:12] + b"tEXt" + whole[16:])
    error = fault(path, image_info)
    assert error.code == "data.image_unreadable" and "header of a PNG" in error.what


@pytest.mark.parametrize("kind", SOUND)
def test_empty_and_truncated_files_are_told_apart(tmp_path: Path, kind: str) -> None:
    name, write = SOUND[kind]
    write(tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[:-40])
    error = fault(tmp_path / name)
    assert error.code == "data.image_unreadable" and "truncated or damaged" in error.why
    (tmp_path / name).write_bytes(b"")
    error = fault(tmp_path / name)
    assert error.code == "data.image_unreadable" and "is empty" in error.what and "damaged" not in error.why


@pytest.mark.parametrize("ending", [".png", ".nii", ".nii.gz", ".dcm", ".npy", ".tif"])
def test_bytes_that_no_format_begins_with_are_told_so(tmp_path: Path, ending: str) -> None:
    (tmp_path / f"x{ending}").write_bytes(b"not an image" * 90)
    assert f"does not begin as a {ending} file" in fault(tmp_path / f"x{ending}").why


@pytest.mark.parametrize("read", [image_info, read_image, read_mask])
def test_what_is_no_file_is_told_so(tmp_path: Path, read) -> None:
    assert fault(tmp_path / "no.png", read).code == "data.file_missing"
    (tmp_path / "folder.nii").mkdir()
    assert fault(tmp_path / "folder.nii", read).code == "data.file_not_regular"
    os.mkfifo(tmp_path / "pipe.dcm")  # opening it would wait for a writer
    assert fault(tmp_path / "pipe.dcm", read).code == "data.file_not_regular"
    (tmp_path / "link.npy").symlink_to(tmp_path / "gone.npy")
    error = fault(tmp_path / "link.npy", read)
    assert error.code == "data.file_missing" and "leads to no file" in error.what
    (tmp_path / "plain").write_bytes(b"")
    assert fault(tmp_path / "plain" / "a.png", read).code == "data.file_missing"


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_forbidden_file_is_told_so(tmp_path: Path) -> None:
    SOUND["a DICOM"][1](tmp_path / "x.dcm")
    (tmp_path / "x.dcm").chmod(0)
    assert fault(tmp_path / "x.dcm").code == "data.file_forbidden"


def test_permission_errors_of_a_decoder_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    SOUND["a NIfTI"][1](tmp_path / "x.nii")

    def refuse(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # root may open everything
    assert fault(tmp_path / "x.nii").code == "data.file_forbidden"


@pytest.mark.parametrize("index", [-1, 3])
def test_a_slice_that_is_not_there_is_told(tmp_path: Path, index: int) -> None:
    path = save_nifti(tmp_path / "x.nii", nifti_volume())
    for read in (read_image, read_mask):
        with pytest.raises(UserError) as caught:
            read(path, slice_index=index)
        assert caught.value.code == "data.slice_missing"


@pytest.mark.parametrize("ending", ["", " ", ".IMA", ".1", ".tif.part", ".img"])
@pytest.mark.parametrize("kind", SOUND)
def test_a_file_under_an_ending_that_nobody_knows_is_told_its_own(tmp_path: Path, kind: str, ending: str) -> None:
    name, write = SOUND[kind]
    write(tmp_path / name)
    root = write_dataset(tmp_path / "set")
    path = root / "beta" / "images" / f"{name if ending == ' ' else 'IM0001'}{ending}"
    (tmp_path / name).rename(path)
    found = [fault(path), fault(path, read_mask), fault(path, image_info)]
    (listed,) = (problem for problem in scan_dataset(root).problems if problem.code == "data.format_unknown")
    if kind == "a gzipped":  # of what, its first bytes do not say
        assert "begins as" not in found[0].what + listed.what and "Rename" not in found[0].fix + listed.fix
        return
    for one in (*found, listed):
        assert one.code == "data.format_unknown" and f"begins as {kind} file" in one.what
        assert one.fix.endswith(f"ends in {Path(name).suffix}.")
