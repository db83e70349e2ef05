"""A file that cannot be read is told what is wrong with it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from engine.data.readers import image_info, read_image, read_mask
from engine.errors import UserError
from tests.unit.data_medical_files import nifti_volume, save_nifti, write_dicom

GREY = np.arange(60, dtype=np.uint8).reshape(6, 10)
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
