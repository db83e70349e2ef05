"""NIfTI and DICOM: orientation, spacing, slices, windows and colour."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.uid import RLELossless

from engine.data.readers import image_info, read_image, read_mask
from engine.errors import UserError
from tests.unit.data_medical_files import nifti_volume, save_nifti, write_dicom

H, W = 6, 10
GREY = (np.arange(H * W, dtype=np.uint8) * 4).reshape(H, W)
RGB = np.stack([GREY, GREY[::-1], 255 - GREY], axis=-1)
DEEP = GREY.astype(np.uint16) * 257 + 3


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_nifti_slices_show_what_a_dicom_viewer_shows(tmp_path: Path, ending: str) -> None:
    path = save_nifti(tmp_path / f"v{ending}", nifti_volume())
    geometry = image_info(path)
    assert (geometry.height_px, geometry.width_px, geometry.num_slices) == (7, 5, 3)
    assert geometry.spacing_mm == pytest.approx((0.8, 0.5))
    top, _ = read_image(path, slice_index=2, value_range=(0, 100))
    assert top.shape == (7, 5, 3) and top.dtype == np.float32
    assert top[0, 0, 0] == 1 and top.sum() == 3  # the mark at the patient's right and front: top left
    bottom = read_mask(path, slice_index=0)
    assert bottom[6, 4] == 50 and bottom.sum() == 50


@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, 1), (-1, -1, 1), (1, 1, -1)])
def test_nifti_shows_the_same_whatever_way_it_is_stored(tmp_path: Path, flips: tuple[int, ...]) -> None:
    stored = nifti_volume()[:: flips[0], :: flips[1], :: flips[2]]
    path = save_nifti(tmp_path / "v.nii", stored, flips=flips)
    np.testing.assert_array_equal(read_mask(path, slice_index=2)[0, 0], 100)


def test_nifti_with_permuted_axes_reports_the_size_that_it_gives(tmp_path: Path) -> None:
    affine = np.zeros((4, 4))
    affine[0, 1], affine[1, 2], affine[2, 0], affine[3, 3] = 1, 2, 3, 1  # stored axes: superior, right, anterior
    nibabel.save(nibabel.Nifti1Image(np.moveaxis(nifti_volume(), (0, 1, 2), (1, 2, 0)), affine), tmp_path / "v.nii")
    geometry = image_info(tmp_path / "v.nii")
    assert (geometry.height_px, geometry.width_px, geometry.num_slices) == (7, 5, 3)
    assert geometry.spacing_mm == (2.0, 1.0)
    assert read_mask(tmp_path / "v.nii", slice_index=2)[0, 0] == 100


@pytest.mark.parametrize("stored", ["int64", "uint64", "float64"])
def test_masks_of_wide_numbers_are_read(tmp_path: Path, stored: str) -> None:
    voxels = nifti_volume().astype(stored)
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4), dtype=stored), tmp_path / "v.nii")
    assert set(np.unique(read_mask(tmp_path / "v.nii", slice_index=2))) == {0, 100}


@pytest.mark.parametrize(("axis", "shape", "slices"), [(0, (3, 7), 5), (1, (3, 5), 7), (2, (7, 5), 3)])
def test_nifti_can_be_cut_across_any_axis(tmp_path: Path, axis: int, shape: tuple, slices: int) -> None:
    path = save_nifti(tmp_path / "v.nii", nifti_volume())
    geometry = image_info(path, slice_axis=axis)
    assert (geometry.height_px, geometry.width_px, geometry.num_slices) == (*shape, slices)
    assert read_mask(path, slice_axis=axis).shape == shape


def test_flat_nifti_is_one_picture_and_a_volume_shares_one_window(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.eye(4, 6, dtype=np.float32), np.eye(4)), tmp_path / "flat.nii")
    image, geometry = read_image(tmp_path / "flat.nii")
    assert image.shape == (6, 4, 3) and geometry.num_slices == 1
    ramp = np.repeat(np.arange(10, dtype=np.float32), 100).reshape(10, 10, 10).transpose(1, 2, 0)  # slice k holds k
    path = save_nifti(tmp_path / "ramp.nii", np.ascontiguousarray(ramp))
    levels = [float(read_image(path, slice_index=k)[0].mean()) for k in range(10)]
    np.testing.assert_allclose(levels, np.arange(10) / 9, atol=1e-6)


# ----------------------------------------------------------------------------------------------- DICOM


def test_dicom_applies_rescale_and_window(tmp_path: Path) -> None:
    stored = np.array([[0, 1024], [1024 + 40, 4000]], np.uint16)
    path = write_dicom(
        tmp_path / "ct.dcm",
        stored,
        RescaleSlope=1,
        RescaleIntercept=-1024,
        WindowCenter=40,
        WindowWidth=400,
        PixelSpacing=[0.7, 0.6],
    )
    image, geometry = read_image(path)
    assert geometry.spacing_mm == (0.7, 0.6)
    # DICOM PS3.3 C.11.2.1.2.1: y = (x - (c - .5)) / (w - 1) + .5
    np.testing.assert_allclose(image[..., 0], [[0, (0 - 39.5) / 399 + 0.5], [(40 - 39.5) / 399 + 0.5, 1]], atol=1e-6)
    declared, _ = read_image(path, value_range=(-1024, 1024))
    np.testing.assert_allclose(declared[..., 0], [[0, 0.5], [1064 / 2048, 1]], atol=1e-6)
    np.testing.assert_array_equal(read_mask(path), stored)


def test_dicom_monochrome1_is_turned_so_that_dark_is_zero(tmp_path: Path) -> None:
    two, one = (
        read_image(write_dicom(tmp_path / f"{kind}.dcm", DEEP, PhotometricInterpretation=kind))[0]
        for kind in ("MONOCHROME2", "MONOCHROME1")
    )
    np.testing.assert_allclose(one, 1 - two, atol=1e-6)
    assert two[0, 0, 0] == 0


def test_dicom_takes_the_first_of_several_windows_and_signed_values(tmp_path: Path) -> None:
    values = np.array([[-100, 0, 100]], np.int16)
    tags = {"WindowCenter": [0, 50], "WindowWidth": [201, 10]}
    image, _ = read_image(write_dicom(tmp_path / "s.dcm", values, **tags))
    np.testing.assert_allclose(image[0, :, 0], [0.0025, 0.5025, 1], atol=1e-6)


def test_dicom_colour(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read_image(write_dicom(tmp_path / "rgb.dcm", RGB))[0], RGB)
    ybr = np.asarray(Image.fromarray(RGB).convert("YCbCr"))
    image, _ = read_image(write_dicom(tmp_path / "ybr.dcm", ybr, PhotometricInterpretation="YBR_FULL"))
    assert np.abs(image.astype(int) - RGB).max() <= 2


def test_frames_of_a_dicom_are_slices(tmp_path: Path) -> None:
    frames = np.stack([GREY, 255 - GREY])
    path = write_dicom(tmp_path / "m.dcm", GREY, NumberOfFrames=2, PixelData=frames.tobytes())
    assert image_info(path).num_slices == 2
    for index in range(2):
        np.testing.assert_array_equal(read_mask(path, slice_index=index), frames[index])
        image, _ = read_image(path, slice_index=index, window="stored")
        np.testing.assert_allclose(image[..., 0], frames[index] / 255, atol=1e-6)
    with pytest.raises(UserError) as caught:
        read_image(path, slice_index=2)
    assert caught.value.code == "data.slice_missing"


def test_dicom_palette_and_compressed_pixels(tmp_path: Path) -> None:
    ramp = np.arange(256, dtype=np.uint16)
    tables = {}
    for colour, table in (("Red", ramp), ("Green", 255 - ramp), ("Blue", ramp // 2)):
        tables[f"{colour}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        tables[f"{colour}PaletteColorLookupTableData"] = (table * 256).astype("<u2").tobytes()
    path = write_dicom(tmp_path / "p.dcm", GREY, PhotometricInterpretation="PALETTE COLOR", **tables)
    deep = np.stack([GREY, 255 - GREY, GREY // 2], axis=-1) * np.uint16(256)  # as deep as the palette's entries
    np.testing.assert_array_equal(read_image(path)[0], deep)
    dataset = pydicom.dcmread(write_dicom(tmp_path / "plain.dcm", DEEP))
    dataset.compress(RLELossless)
    dataset.save_as(tmp_path / "rle.dcm")
    np.testing.assert_array_equal(read_image(tmp_path / "rle.dcm")[0], read_image(tmp_path / "plain.dcm")[0])


def test_a_dicom_lookup_table_counts_as_its_window(tmp_path: Path) -> None:
    table = pydicom.Dataset()
    table.LUTDescriptor, table.LUTData = [4, 0, 16], [0, 1000, 3000, 4000]
    table["LUTDescriptor"].VR = "US"
    table["LUTData"].VR = "US"
    path = write_dicom(tmp_path / "v.dcm", np.array([[0, 1, 2, 3]], np.uint16), VOILUTSequence=[table])
    # a share of what the table can say, not of what this image happens to hold
    np.testing.assert_allclose(read_image(path)[0][0, :, 0], np.array([0, 1000, 3000, 4000]) / 65535, atol=1e-6)
