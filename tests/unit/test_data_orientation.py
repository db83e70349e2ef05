"""Letters and planes of a labelled volume in all 48 orientations, and its masks on the source's own grid."""

from __future__ import annotations

import itertools
from pathlib import Path

import nibabel
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform

from engine.data.orientation import (
    PLANES,
    between,
    direction_letters,
    picture_letters,
    plane_letters,
    plane_picture,
    to_patient,
)
from engine.data.readers import read_image
from engine.data.volumes import open_volume
from export.outputs.nifti import write_nifti

ORIENTATIONS = sorted(
    "".join(codes) for axes in itertools.permutations(("RL", "AP", "SI")) for codes in itertools.product(*axes)
)
"""Where the three axes of an array grow to, in nibabel's words: all 48."""
SIZE = {"R": 4, "A": 5, "S": 6}
STEP = {"R": 0.5, "A": 0.8, "S": 3.0}
WHERE = {"R": (3, 2, 3), "A": (2, 4, 3), "H": (2, 2, 5)}
"""Voxels (x to the right, y to the front, z to the head) that mark a side: each alone at its end."""
VALUE = {"R": 50, "A": 100, "H": 200}
EXPECTED = {
    # the edges (left, right, top, bottom), and where the marks R, A and H are seen: (row, column) of their slice
    "axial": ("RLAP", {"R": (2, 0), "A": (0, 1), "H": (2, 1)}),
    "coronal": ("RLHF", {"R": (2, 0), "A": (2, 1), "H": (0, 1)}),
    "sagittal": ("APHF", {"R": (2, 2), "A": (2, 0), "H": (0, 2)}),
}


def labelled() -> np.ndarray:
    """Return (4, 5, 6) uint8 in RAS axes."""
    voxels = np.zeros((4, 5, 6), np.uint8)
    for name, at in WHERE.items():
        voxels[at] = VALUE[name]
    return voxels


def stored_as(codes: str, voxels: np.ndarray) -> nibabel.Nifti1Image:
    """Return a RAS volume in another order of axes, at a place of its own."""
    affine = np.diag([0.5, 0.8, 3.0, 1.0])
    affine[:3, 3] = (-20, -30, 40)
    image = nibabel.Nifti1Image(voxels, affine)
    turned = image.as_reoriented(ornt_transform(io_orientation(affine), axcodes2ornt(tuple(codes))))
    assert "".join(nibabel.aff2axcodes(turned.affine)) == codes
    return turned


def test_there_are_48_orientations() -> None:
    assert len(set(ORIENTATIONS)) == 48


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_a_volume_is_shown_radiologically_and_its_mask_lies_on_its_own_grid(codes: str, tmp_path: Path) -> None:
    source = stored_as(codes, labelled())
    nibabel.save(source, tmp_path / "scan.nii.gz")
    for slice_axis in range(3):
        volume = open_volume(tmp_path / "scan.nii.gz", slice_axis=slice_axis)
        labels_SHW = np.stack([volume.values(number) for number in range(len(volume))]).astype(np.uint8)
        matrix = volume.geometry.matrix
        assert matrix is not None
        shown = to_patient(matrix).apply(labels_SHW)
        np.testing.assert_array_equal(shown, labelled().transpose(2, 1, 0)[:, ::-1, ::-1])
        for plane in PLANES:
            edges, marks = EXPECTED[plane]
            assert "".join(plane_letters(matrix, plane).values()) == edges
            axis = PLANES.index(plane)
            for name, place in marks.items():
                index = int(np.argwhere(shown == VALUE[name])[0][axis])
                assert tuple(np.argwhere(plane_picture(shown, plane, index) == VALUE[name])[0]) == place, (plane, name)
        assert "".join(picture_letters(matrix).values()) == ("APHF", "RLHF", "RLAP")[slice_axis]
        write_nifti(tmp_path / "mask.nii.gz", volume, labels_SHW)
        mask = nibabel.load(tmp_path / "mask.nii.gz")
        np.testing.assert_array_equal(np.asarray(mask.dataobj), np.asarray(source.dataobj))
        np.testing.assert_array_equal(mask.affine, nibabel.load(tmp_path / "scan.nii.gz").affine)
        assert mask.header["sform_code"] == source.header["sform_code"]
        assert mask.get_data_dtype() == np.uint8


def test_a_picture_of_the_shown_slice_has_its_mark_where_the_letter_is(tmp_path: Path) -> None:
    """What the model sees, and PNG masks have, is the picture that is shown: the right of the patient on the left."""
    nibabel.save(stored_as("PIR", labelled()), tmp_path / "scan.nii")
    picture = read_image(tmp_path / "scan.nii", slice_index=3)[0][..., 0]
    assert tuple(np.argwhere(picture == VALUE["R"])[0]) == (2, 0)


@pytest.mark.parametrize("places", ["qform", "none", "2d", "nifti2", "oblique"])
def test_other_places_of_a_header_are_kept_bit_for_bit(places: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    voxels = rng.integers(0, 3, (4, 5) if places == "2d" else (4, 5, 6)).astype(np.uint8)
    affine = np.diag([-0.7, 1.1, 2.3, 1.0])
    if places == "oblique":
        c, s = np.cos(0.3), np.sin(0.3)
        affine = np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]) @ affine
    affine[:3, 3] = (0.1, 1 / 3, -9)
    image = (nibabel.Nifti2Image if places == "nifti2" else nibabel.Nifti1Image)(voxels, affine)
    image.header["descrip"] = b"Erika Mustermann"
    if places == "qform":
        image.set_sform(None, code=0)
        image.set_qform(affine, code=1)
    if places == "none":
        image.header["sform_code"] = image.header["qform_code"] = 0
        image = nibabel.Nifti1Image(voxels, None, image.header)
    nibabel.save(image, tmp_path / "scan.nii")
    volume = open_volume(tmp_path / "scan.nii")
    write_nifti(
        tmp_path / "mask.nii", volume, np.stack([volume.values(n) for n in range(len(volume))]).astype(np.uint8)
    )
    source, mask = nibabel.load(tmp_path / "scan.nii"), nibabel.load(tmp_path / "mask.nii")
    np.testing.assert_array_equal(np.asarray(mask.dataobj), voxels)
    np.testing.assert_array_equal(mask.affine, source.affine)
    for field in ("sform_code", "qform_code", "pixdim", "srow_x"):
        np.testing.assert_array_equal(mask.header[field], source.header[field])
    assert type(mask) is type(source) and b"Erika" not in (tmp_path / "mask.nii").read_bytes()


@pytest.mark.parametrize(
    ("direction", "letters"),
    [((1, 0, 0), "L"), ((-1, 0, 0), "R"), ((0, 1, 0), "P"), ((0, -1, 0), "A"), ((0, 0, 2), "H"), ((0, 0, -9), "F"),
     ((0.8, -0.6, 0.1), "LA"), ((-0.3, 0.1, -0.9), "FR")],
)  # fmt: skip
def test_a_direction_is_called_by_its_largest_parts(direction: tuple, letters: str) -> None:
    assert direction_letters(np.array(direction)) == letters


def test_turning_back_is_turning_undone() -> None:
    array = np.random.default_rng(1).integers(0, 99, (3, 4, 5, 2))
    for codes in ORIENTATIONS:
        matrix = inv_ornt_aff(axcodes2ornt(tuple(codes)), (5, 4, 3))
        turn = to_patient(matrix)
        np.testing.assert_array_equal(turn.undo(turn.apply(array)), array)


def test_grids_of_other_voxels_are_no_order_of_axes() -> None:
    source = np.diag([1.0, 1, 2, 1])
    assert between(source, source, shape=(2, 3, 4)).axes == (0, 1, 2)
    for other in (np.diag([1.0, 1, 1, 1]), np.array([[1.0, 0, 0, 5], [0, 1, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]])):
        with pytest.raises(ValueError, match="grids'"):
            between(source, other, shape=(2, 3, 4))
