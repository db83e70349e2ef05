"""Masks of DICOM files whose slices are placed one by one: sparse, unordered, of several segments."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from data_medical_files import write_frames

from engine.data.readers import image_info, read_mask
from engine.errors import UserError

SHARED: dict[str, dict[str, object]] = {
    "PlaneOrientationSequence": {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]},
    "PixelMeasuresSequence": {"PixelSpacing": [1, 1], "SliceThickness": 2},
}
SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"


def places(depth_mm: float, *, segment: int | None = None) -> dict[str, dict[str, object]]:
    """Return the groups of an axial frame, ``depth_mm`` towards the head."""
    told = {} if segment is None else {"SegmentIdentificationSequence": {"ReferencedSegmentNumber": segment}}
    return {"PlanePositionSequence": {"ImagePositionPatient": [0, 0, depth_mm]}, **told}


def numbered(values: list[int]) -> np.ndarray:
    """Return frames (F, 4, 5) of which each has its number everywhere but in the first column."""
    frames = np.repeat(np.array(values, np.uint8), 20).reshape(-1, 4, 5)
    frames[:, :, 0] = 0
    return frames


def frames(path: Path, depths_mm: list[float]) -> Path:
    """Write an enhanced file of frames at ``depths_mm``, in this order."""
    pixels = numbered([round(depth) for depth in depths_mm])
    per_frame = [places(depth) for depth in depths_mm]
    return write_frames(path, pixels, per_frame=per_frame, shared=SHARED, SOPClassUID=ENHANCED_MR)


def segmentation(path: Path, at: list[tuple[float, int]], *, pixels: np.ndarray | None = None) -> Path:
    """Write a segmentation with a frame for each (depth in mm, segment), all of ones but for the first column."""
    per_frame = [places(depth, segment=segment) for depth, segment in at]
    ones = numbered([1] * len(at)) if pixels is None else pixels
    return write_frames(path, ones, per_frame=per_frame, shared=SHARED, SOPClassUID=SEGMENTATION)


def nifti(path: Path, depths_mm: list[float]) -> Path:
    """Write a volume of four slices, the same places as ``frames``: NIfTI counts x to the left and y to the front."""
    volume = np.stack([numbered([round(depth)])[0].T for depth in depths_mm], axis=2)
    matrix = np.diag([-1.0, -1.0, depths_mm[1] - depths_mm[0], 1.0])
    matrix[2, 3] = depths_mm[0]
    nibabel.save(nibabel.Nifti1Image(volume, matrix), path)
    return path


def shown(mask: Path, image: Path) -> list[int]:
    """Return the number that the mask has in the middle of each of the image's slices."""
    like = image_info(image)
    found = [read_mask(mask, slice_index=index, like=like) for index in range(like.num_slices)]
    assert all(labels.shape == (4, 5) and not labels[:, 0].any() for labels in found)
    return [int(labels[2, 3]) for labels in found]


def test_frames_in_any_order_are_those_of_the_images_slices(tmp_path: Path) -> None:
    image = nifti(tmp_path / "image.nii", [30, 32, 34, 36])
    ordered = frames(tmp_path / "ordered.dcm", [30, 32, 34, 36])
    shuffled = frames(tmp_path / "shuffled.dcm", [30, 34, 32, 36])
    assert shown(ordered, image) == shown(shuffled, image) == [30, 32, 34, 36]
    assert shown(image, shuffled) == [30, 34, 32, 36], "and the other way round: an image that is stored so"
    assert shown(ordered, shuffled) == [30, 34, 32, 36]


def test_planes_that_a_segmentation_leaves_out_are_empty(tmp_path: Path) -> None:
    image = nifti(tmp_path / "image.nii", [30, 32, 34, 36])
    assert shown(segmentation(tmp_path / "a.dcm", [(36, 1), (32, 1)]), image) == [0, 1, 0, 1]
    assert shown(segmentation(tmp_path / "b.dcm", [(34, 1)]), image) == [0, 0, 1, 0]
    shuffled = frames(tmp_path / "shuffled.dcm", [30, 34, 32, 36])
    assert shown(segmentation(tmp_path / "c.dcm", [(34, 1), (36, 1)]), shuffled) == [0, 1, 0, 1]


def test_several_segments_are_the_numbers_of_one_label_map(tmp_path: Path) -> None:
    image = nifti(tmp_path / "image.nii", [30, 32, 34, 36])
    path = segmentation(tmp_path / "a.dcm", [(30, 2), (34, 2), (32, 1), (30, 5)], pixels=_apart())
    like = image_info(image)
    found = [read_mask(path, slice_index=index, like=like) for index in range(4)]
    assert [sorted(np.unique(labels)) for labels in found] == [[0, 2, 5], [0, 1], [0, 2], [0]]
    assert (found[0][0, 1:] == 2).all() and (found[0][1, 1:] == 5).all()


def _apart() -> np.ndarray:
    """Four frames, of which the first has its ones in the first row and the last in the second."""
    pixels = np.zeros((4, 4, 5), np.uint8)
    pixels[0, 0, 1:] = pixels[1, 2, 1:] = pixels[2, 2, 1:] = pixels[3, 1, 1:] = 1
    return pixels


@pytest.mark.parametrize(("at", "told"), [
    ([(30, 1), (30, 2)], "share pixels"), ([(30, 1), (30, 1)], "same segment in one plane"),
])  # fmt: skip
def test_segments_that_no_label_map_can_tell_are_refused(
    tmp_path: Path, at: list[tuple[float, int]], told: str
) -> None:
    path = segmentation(tmp_path / "a.dcm", at)
    with pytest.raises(UserError) as caught:
        read_mask(path, like=image_info(nifti(tmp_path / "image.nii", [30, 32, 34, 36])))
    assert told in caught.value.what and caught.value.code == "data.image_unsupported"


@pytest.mark.parametrize("depths_mm", [[30, 32, 34, 37], [30, 34, 32, 38], [30, 34, 32, 32]])
def test_a_slice_that_lies_nowhere_in_the_image_is_refused(tmp_path: Path, depths_mm: list[float]) -> None:
    image = nifti(tmp_path / "image.nii", [30, 32, 34, 36])
    with pytest.raises(UserError) as caught:
        read_mask(frames(tmp_path / "a.dcm", depths_mm), like=image_info(image))
    assert caught.value.code == "data.mask_elsewhere" and "None" not in caught.value.what
    with pytest.raises(UserError) as caught:
        read_mask(segmentation(tmp_path / "b.dcm", [(30, 1), (33, 1)]), like=image_info(image))
    assert caught.value.code == "data.mask_elsewhere"


def test_a_mask_of_too_few_frames_is_refused_where_none_may_be_left_out(tmp_path: Path) -> None:
    image = nifti(tmp_path / "image.nii", [30, 32, 34, 36])
    with pytest.raises(UserError) as caught:
        read_mask(frames(tmp_path / "a.dcm", [30, 36, 34]), like=image_info(image))
    assert caught.value.code == "data.mask_elsewhere"


@pytest.mark.parametrize("depths_mm", [[30, 30, 30, 30], [30, 30, 32, 32], [32, 30, 32, 30]])
def test_frames_of_a_film_go_with_those_of_a_mask_in_their_order(tmp_path: Path, depths_mm: list[float]) -> None:
    per_frame = [places(depth) for depth in depths_mm]
    image = frames(tmp_path / "image.dcm", depths_mm)
    pixels = numbered([1, 2, 3, 4])
    mask = write_frames(tmp_path / "mask.dcm", pixels, per_frame=per_frame, shared=SHARED, SOPClassUID=ENHANCED_MR)
    assert shown(mask, image) == [1, 2, 3, 4]


@pytest.mark.parametrize("depths_mm", [[30, 32], [30, 32, 30, 32]])
def test_a_mask_of_no_known_frames_of_a_film_is_told_so(tmp_path: Path, depths_mm: list[float]) -> None:
    image = frames(tmp_path / "image.dcm", [30, 30, 32, 32])
    for mask in (frames(tmp_path / "a.dcm", depths_mm), segmentation(tmp_path / "b.dcm", [(30, 1)])):
        with pytest.raises(UserError) as caught:
            read_mask(mask, like=image_info(image))
        assert (
            caught.value.code == "data.mask_elsewhere"
            and "several of its image's lie in one place" in caught.value.what
        )
