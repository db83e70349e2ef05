"""Masks are brought to their image's pixels by where they lie in the patient, or refused by name."""

from __future__ import annotations

import itertools
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from engine.data.readers import image_info, place_mask, read_image, read_mask
from engine.errors import UserError
from tests.unit.data_medical_files import write_dicom, write_frames

SHAPE = (7, 6, 5)
AFFINE = np.diag([-0.5, -0.8, 3.0, 1.0])
AFFINE[:3, 3] = (40, 30, -20)
VOXELS = np.zeros(SHAPE, np.uint8)
VOXELS[1, 2, 3] = VOXELS[5, 2, 3] = VOXELS[1, 4, 0] = 1  # no symmetry


def save(path: Path, voxels: np.ndarray, affine: np.ndarray) -> Path:
    nibabel.save(nibabel.Nifti1Image(voxels, affine), path)
    return path


def slices(path: Path, like, *, axis: int = 2) -> np.ndarray:
    return np.stack([read_mask(path, slice_index=k, slice_axis=axis, like=like) for k in range(like.num_slices)])


def shifted(affine: np.ndarray, mm: float) -> np.ndarray:
    moved = affine.copy()
    moved[0, 3] += mm
    return moved


def refused(path: Path, like) -> UserError:
    with pytest.raises(UserError) as caught:
        read_mask(path, like=like)
    assert caught.value.code == "data.mask_elsewhere" and str(path) in caught.value.what
    return caught.value


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("flips", list(itertools.product([1, -1], repeat=3)))
@pytest.mark.parametrize("axis", [0, 2])
def test_a_mask_stored_in_another_order_is_matched(tmp_path: Path, order: tuple, flips: tuple, axis: int) -> None:
    image = save(tmp_path / "image.nii", VOXELS * 100, AFFINE)
    voxels, affine = VOXELS.copy(), AFFINE.copy()
    for k, flip in enumerate(flips):
        if flip < 0:
            voxels = np.flip(voxels, k)
            affine[:3, 3] += affine[:3, k] * (SHAPE[k] - 1)
            affine[:3, k] *= -1
    mask = save(tmp_path / "mask.nii", voxels.transpose(order), affine[:, [*order, 3]])
    like = image_info(image, slice_axis=axis)
    shown = np.stack([read_image(image, slice_index=k, slice_axis=axis)[0][..., 0] for k in range(like.num_slices)])
    np.testing.assert_array_equal(slices(mask, like, axis=axis), shown > 0)


def test_an_oblique_volume_is_matched_whichever_axis_is_the_nearest(tmp_path: Path) -> None:
    turn = np.deg2rad(44.99)  # the image's axes lie just this side of 45 degrees, the mask's header rounds to the other
    affine = np.eye(4)
    for path, angle, values in (("image.nii", turn, VOXELS * 100), ("mask.nii", turn + 5e-4, VOXELS)):
        affine[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        affine[:3, 3] = (4, 5, 6)
        save(tmp_path / path, values, affine)
    like = image_info(tmp_path / "image.nii")
    assert image_info(tmp_path / "mask.nii").shape != like.shape
    shown = np.stack([read_image(tmp_path / "image.nii", slice_index=k)[0][..., 0] for k in range(like.num_slices)])
    np.testing.assert_array_equal(slices(tmp_path / "mask.nii", like), shown > 0)


@pytest.mark.parametrize(
    "change",
    [
        lambda a: shifted(a, 500),  # another series
        lambda a: shifted(a, 0.25),  # half a column
        lambda a: a @ np.diag([1.1, 1, 1, 1]),  # other spacing
        lambda a: np.eye(4),  # saved without its header
        lambda a: np.diag([-1.0, -1, 1, 1]),  # saved without its header by ITK
    ],
)
def test_a_mask_elsewhere_is_refused(tmp_path: Path, change) -> None:
    image = save(tmp_path / "image.nii", VOXELS, AFFINE)
    mask = save(tmp_path / "mask.nii", VOXELS, change(AFFINE))
    assert "geometry of mask and image differ" in refused(mask, image_info(image)).why


def test_a_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    image = save(tmp_path / "image.nii", VOXELS, AFFINE)
    refused(save(tmp_path / "mask.nii", VOXELS[:, :, :4], AFFINE), image_info(image))


def test_a_mask_without_geometry_is_refused_where_it_would_be_mirrored(tmp_path: Path) -> None:
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    affine[:2, 3] = (SHAPE[0] - 1, SHAPE[1] - 1)  # the image ends where a new file begins: both fill one box
    image = save(tmp_path / "image.nii", VOXELS, affine)
    mask = save(tmp_path / "mask.nii", VOXELS, np.eye(4))
    assert "saved without geometry" in refused(mask, image_info(image)).what


def test_an_image_and_its_mask_both_without_geometry_go_together(tmp_path: Path) -> None:
    image = save(tmp_path / "image.nii", VOXELS * 100, np.eye(4))
    shown = np.stack([read_image(image, slice_index=k)[0][..., 0] for k in range(SHAPE[2])])
    np.testing.assert_array_equal(slices(save(tmp_path / "m.nii", VOXELS, np.eye(4)), image_info(image)), shown > 0)


def test_a_mask_of_a_format_without_geometry_is_taken_as_it_is(tmp_path: Path) -> None:
    image = save(tmp_path / "image.nii", VOXELS[:, :, :1], AFFINE)
    labels = np.arange(42, dtype=np.uint8).reshape(6, 7)
    Image.fromarray(labels).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png", like=image_info(image)), labels)


def test_a_nifti_mask_of_a_dicom_image(tmp_path: Path) -> None:
    """A coronal frame, shown as stored, and a mask of the same voxels that its tool stored in RAS."""
    frames = np.zeros((3, 5, 7), np.uint16)
    frames[2, 1, 4] = frames[0, 3, 6] = 900
    groups = {
        "PixelMeasuresSequence": {"PixelSpacing": [3, 0.5]},
        "PlaneOrientationSequence": {"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]},
    }
    per_frame = [{"PlanePositionSequence": {"ImagePositionPatient": [-10, 2 * k, 50]}} for k in range(3)]
    image = write_frames(tmp_path / "i.dcm", frames, per_frame=per_frame, shared=groups)
    # voxels (x, y, z) of the patient in RAS: x = -columns, y = -slices, z = -rows
    voxels = (frames[::-1, ::-1, ::-1] > 0).astype(np.uint8).transpose(2, 0, 1)
    affine = np.diag([0.5, 2, 3, 1.0])
    affine[:3, 3] = (10 - 0.5 * 6, -4, 50 - 3 * 4)
    mask = save(tmp_path / "m.nii.gz", np.ascontiguousarray(voxels), affine)
    like = image_info(image)
    for index in range(3):
        found = read_mask(mask, slice_index=index, slice_axis=1, like=like)
        np.testing.assert_array_equal(found, frames[index] > 0)
        again = read_mask(mask, slice_index=index, like=like)  # the axis is found by geometry, too
        np.testing.assert_array_equal(again, frames[index] > 0)


def test_frames_of_a_dicom_mask_are_matched_from_the_other_end(tmp_path: Path) -> None:
    frames = np.arange(3 * 4 * 5, dtype=np.uint16).reshape(3, 4, 5)
    groups = {
        "PixelMeasuresSequence": {"PixelSpacing": [1, 1]},
        "PlaneOrientationSequence": {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]},
    }
    paths = []
    for name, order in (("i.dcm", [0, 1, 2]), ("m.dcm", [2, 1, 0])):
        per_frame = [{"PlanePositionSequence": {"ImagePositionPatient": [0, 0, 4 * k]}} for k in order]
        paths.append(write_frames(tmp_path / name, frames[order], per_frame=per_frame, shared=groups))
    np.testing.assert_array_equal(slices(paths[1], image_info(paths[0])), frames)
    fit, axis = place_mask(paths[1], like=image_info(paths[0]))
    assert fit.flip_slices and axis == 2
    single = write_dicom(tmp_path / "s.dcm", frames[0])  # no place: taken as it is
    np.testing.assert_array_equal(read_mask(single, like=image_info(paths[0])), frames[0])
