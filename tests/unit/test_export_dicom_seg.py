"""DICOM series in five orientations: shown with the right letters, saved as DICOM-SEG and NIfTI on their own grid."""

from __future__ import annotations

from pathlib import Path

import highdicom.seg
import nibabel
import numpy as np
import pydicom
import pytest
from data_medical_files import write_dicom, write_frames
from pydicom.uid import EnhancedCTImageStorage, generate_uid
from volume_files import ORIENTATIONS, PATIENT, SPACING_MM, STEP_MM, affine_of, manifest, write_series

from engine.data.orientation import picture_letters
from engine.data.volumes import open_series, open_volume
from engine.errors import UserError
from export.cases import read_reference
from export.outputs.dicom_seg import write_dicom_seg
from export.outputs.nifti import write_nifti
from export.volumes import label_volume

FRAMES, ROWS, COLUMNS = 5, 7, 9
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def masks(num_classes: int = 2) -> np.ndarray:
    """Return (K, S, H, W): overlapping, asymmetric, an empty slice among them."""
    made = (np.random.default_rng(5).random((num_classes, FRAMES, ROWS, COLUMNS)) > 0.6).astype(np.uint8)
    made[:, 3] = 0
    return made


def frames() -> np.ndarray:
    return np.arange(FRAMES * ROWS * COLUMNS, dtype=np.int16).reshape(FRAMES, ROWS, COLUMNS)


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_a_series_is_read_back_on_its_own_grid(name: str, tmp_path: Path) -> None:
    columns, rows, letters = ORIENTATIONS[name]
    paths = write_series(tmp_path / "series", frames(), columns=columns, rows=rows)
    volume = open_series(paths)
    matrix = volume.geometry.matrix
    assert matrix is not None
    np.testing.assert_allclose(matrix, affine_of(columns, rows), atol=1e-5)
    assert "".join(picture_letters(matrix).values()) == letters.replace(" ", "")
    for number in range(FRAMES):
        np.testing.assert_array_equal(volume.values(number), frames()[number])

    made = masks()
    path = tmp_path / "seg.dcm"
    write_dicom_seg(path, volume, made, manifest=manifest(classes=("disc", "cup")))
    seg = highdicom.seg.segread(path)
    uids = [pydicom.dcmread(at.path).SOPInstanceUID for at in volume.slices]
    found = seg.get_pixels_by_source_instance(uids, ignore_spatial_locations=True, assert_missing_frames_are_empty=True)
    np.testing.assert_array_equal(found.transpose(3, 0, 1, 2), made)
    placed = seg.get_volume(segment_numbers=[1, 2], allow_missing_positions=True)
    known = np.linalg.inv(placed.affine)  # from LPS mm to (frame, row, column) of the read volume
    lies = placed.array
    for at in np.argwhere(made):
        segment, number, row, column = (int(one) for one in at)
        where = known @ matrix @ (column, row, number, 1)
        np.testing.assert_allclose(where[:3], np.rint(where[:3]), atol=1e-3)
        assert lies[(*np.rint(where[:3]).astype(int), segment)] == 1
    assert int(lies.sum()) == int(made.sum())
    assert [str(one.SegmentLabel) for one in seg.SegmentSequence] == ["disc", "cup"]

    raw = pydicom.dcmread(path)  # by pydicom alone: every frame lies where the frame that it refers to lies
    for bits, group in zip(raw.pixel_array, raw.PerFrameFunctionalGroupsSequence, strict=True):
        source = group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        number = uids.index(source)
        segment = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber - 1
        np.testing.assert_array_equal(bits, made[segment, number])
        place = [float(value) for value in group.PlanePositionSequence[0].ImagePositionPatient]
        np.testing.assert_allclose(place, matrix[:3, 3] + number * matrix[:3, 2], atol=1e-5)
    assert (raw.PatientName, raw.PatientID) == (PATIENT["PatientName"], PATIENT["PatientID"])

    write_nifti(tmp_path / "mask.nii.gz", volume, label_volume(made))
    mask = nibabel.load(tmp_path / "mask.nii.gz")
    np.testing.assert_allclose(RAS_TO_LPS @ mask.affine, matrix, atol=1e-4)
    np.testing.assert_array_equal(np.asarray(mask.dataobj).transpose(2, 1, 0), np.where(made[1], 2, made[0]))
    np.testing.assert_allclose(mask.header.get_zooms(), (SPACING_MM[1], SPACING_MM[0], STEP_MM), atol=1e-5)


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4), (4, 3, 2, 1, 0), (2, 0, 4, 1, 3)])
def test_the_frames_of_an_enhanced_file_are_put_in_order_and_back(order: tuple[int, ...], tmp_path: Path) -> None:
    matrix = affine_of((1, 0, 0), (0, 1, 0))
    path = write_frames(
        tmp_path / "enhanced.dcm",
        frames()[list(order)],
        per_frame=[
            {
                "PlanePositionSequence": {"ImagePositionPatient": [*(matrix[:3, 3] + index * matrix[:3, 2])]},
                "FrameContentSequence": {"DimensionIndexValues": [1]},
            }
            for index in order
        ],
        shared={
            "PlaneOrientationSequence": {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]},
            "PixelMeasuresSequence": {"PixelSpacing": list(SPACING_MM), "SliceThickness": STEP_MM},
        },
        Modality="CT",
        StudyInstanceUID=generate_uid(),
        SeriesInstanceUID=generate_uid(),
        FrameOfReferenceUID=generate_uid(),
        SOPClassUID=EnhancedCTImageStorage,
    )
    volume = open_volume(path)
    assert volume.kind == "dicom" and len(volume) == FRAMES and volume.geometry.affine_lps is not None
    made = np.array(
        masks()[:, [list(order).index(int(volume.values(n)[0, 0]) // (ROWS * COLUMNS)) for n in range(FRAMES)]]
    )
    write_dicom_seg(tmp_path / "seg.dcm", volume, made, manifest=manifest(classes=("disc", "cup")))
    seg = highdicom.seg.segread(tmp_path / "seg.dcm")
    found = seg.get_pixels_by_source_frame(
        pydicom.dcmread(path).SOPInstanceUID,
        source_frame_numbers=list(range(1, FRAMES + 1)),
        ignore_spatial_locations=True,
        assert_missing_frames_are_empty=True,
    )
    np.testing.assert_array_equal(found.transpose(3, 0, 1, 2), masks(), "frame by frame, as they are stored")


def test_a_single_picture_and_a_file_without_a_patient_have_their_segmentation(tmp_path: Path) -> None:
    (path,) = write_series(tmp_path, frames()[:1], PatientName="", PatientID="", PatientSex="X")
    volume = open_volume(path)
    made = masks(1)[:, :1]
    write_dicom_seg(tmp_path / "seg.dcm", volume, made, manifest=manifest())
    np.testing.assert_array_equal(highdicom.seg.segread(tmp_path / "seg.dcm").pixel_array.reshape(made.shape), made)


@pytest.mark.parametrize(("left_out", "told"), [
    ("StudyInstanceUID", "StudyInstanceUID"), ("FrameOfReferenceUID", "FrameOfReferenceUID"),
    ("ImagePositionPatient", "nothing says where"),
])  # fmt: skip
def test_what_cannot_be_referred_to_is_named(left_out: str, told: str, tmp_path: Path) -> None:
    (path,) = write_series(tmp_path, frames()[:1])
    tags = pydicom.dcmread(path)
    delattr(tags, left_out)
    tags.save_as(path)
    with pytest.raises(UserError, match=told) as caught:
        write_dicom_seg(tmp_path / "seg.dcm", open_volume(path), masks(1)[:, :1], manifest=manifest())
    assert caught.value.code == "output.no_segmentation" and not (tmp_path / "seg.dcm").exists()


def test_a_file_of_another_format_has_no_segmentation_and_one_without_place_no_nifti(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "photograph.dcm", frames()[0])
    with pytest.raises(UserError) as caught:
        write_nifti(tmp_path / "mask.nii.gz", open_volume(path), masks(1)[0, :1])
    assert caught.value.code == "output.no_place"
    nibabel.save(nibabel.Nifti1Image(np.zeros((3, 4, 5), np.int16), np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(UserError, match="not made of DICOM"):
        write_dicom_seg(
            tmp_path / "seg.dcm", open_volume(tmp_path / "a.nii"), np.zeros((1, 5, 4, 3)), manifest=manifest()
        )


@pytest.mark.parametrize("classes", [("polyp",), ("disc", "cup")])
@pytest.mark.parametrize("name", ["axial", "sagittal"])
def test_what_is_written_is_read_back_as_a_reference(name: str, classes: tuple[str, ...], tmp_path: Path) -> None:
    columns, rows, _ = ORIENTATIONS[name]
    volume = open_series(write_series(tmp_path / "series", frames(), columns=columns, rows=rows))
    made = masks(len(classes))
    made[1:] *= 1 - made[:1]  # a label map cannot say that classes overlap
    path = tmp_path / "seg.dcm"
    write_dicom_seg(path, volume, made, manifest=manifest(classes=classes))
    assert pydicom.dcmread(path).NumberOfFrames == 4 * len(classes), "an empty slice has no frame"
    np.testing.assert_array_equal(read_reference(path, volume, num_classes=len(classes)), made)
