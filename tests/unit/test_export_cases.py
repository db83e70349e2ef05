"""Folders, zips and volumes through a model: cases, files on the source's grid, figures worked out by hand."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from pathlib import Path

import highdicom.seg
import nibabel
import numpy as np
import pytest
import tifffile
from PIL import Image
from volume_files import PATIENT, manifest, write_series

from engine.__main__ import main
from engine.data.archives import Member
from engine.data.budget import at_most
from engine.data.volumes import open_volume
from engine.errors import UserError
from export import foreign, foreign_volumes
from export.cases import find_cases, segment_case, write_masks
from export.outputs.measurements import Measurement, as_csv
from export.outputs.references import read_reference


class Bright:
    """A model that finds what is brighter than half, without any learning; its second class is what is white."""

    def __init__(self, *classes: str) -> None:
        self.manifest = manifest(classes=classes or ("organ",)).model_copy(update={"value_range": (0.0, 100.0)})

    def levels(self, image_HW3: np.ndarray) -> np.ndarray:
        cuts = (0.5, 0.99)[: len(self.manifest.classes)]
        return np.stack([np.where(image_HW3[..., 0] > cut, 70, 20) for cut in cuts]).astype(np.uint8)


def box(shape: tuple[int, int, int]) -> np.ndarray:
    """Return (X, Y, Z) int16 with a box of 100 in 20: 4 x 2 x 3 voxels, and one voxel that touches no other."""
    voxels = np.full(shape, 20, np.int16)
    voxels[1:5, 2:4, 1:4] = 100
    voxels[7, 7, 0] = 60
    return voxels


def nifti(path: Path) -> Path:
    nibabel.save(nibabel.Nifti1Image(box((9, 8, 5)), np.diag([2.0, 3.0, 5.0, 1.0]) + np.eye(4, k=3)), path)
    return path


def test_another_threshold_makes_other_masks_and_every_file_says_so(tmp_path: Path) -> None:
    """What the model gives is 0.71 in the box and 0.21 around it, in hundredths 70 and 20."""
    (case,) = find_cases([Member(nifti(tmp_path / "scan.nii.gz"), "scan.nii.gz")])
    sizes, kept = {}, []
    for percent in (20, 21, 50, 70, 71):
        found = segment_case(Bright(), case, percent=percent)  # type: ignore[arg-type]
        (organ,) = found.measurements
        assert organ.threshold == percent / 100 and f",{percent / 100:.6g},0\n" in as_csv(found.measurements)
        sizes[percent] = organ.foreground_px
        (path,) = write_masks(found, tmp_path, session=Bright())  # type: ignore[arg-type]
        kept.append(path.name)
        assert np.count_nonzero(nibabel.load(path).get_fdata()) == organ.foreground_px
    assert sizes == {20: 9 * 8 * 5, 21: 25, 50: 25, 70: 25, 71: 0}
    assert kept == [
        "scan_threshold_0.20_mask.nii.gz", "scan_threshold_0.21_mask.nii.gz", "scan_mask.nii.gz",
        "scan_threshold_0.70_mask.nii.gz", "scan_threshold_0.71_mask.nii.gz",
    ]  # fmt: skip


def test_figures_of_a_volume_are_those_worked_out_by_hand(tmp_path: Path) -> None:
    (case,) = find_cases([Member(nifti(tmp_path / "scan.nii.gz"), "scan.nii.gz")])
    told: list[tuple[int, int]] = []
    session = Bright("organ", "core")
    found = segment_case(session, case, progress=lambda done, of: told.append((done, of)))  # type: ignore[arg-type]
    organ, core = found.measurements
    assert told == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]
    assert (organ.foreground_px, organ.components, organ.area_slice, organ.slices) == (25, 2, 2, 5)
    assert organ.volume_ml == pytest.approx(25 * 30 / 1000) and organ.share == pytest.approx(25 / 360)
    assert organ.area_mm2 == pytest.approx(8 * 6)
    # 4 columns of 2 mm and 2 rows of 3 mm: from the middle of an outer edge to that of the opposite corner's pixel
    assert organ.largest_long_axis == pytest.approx(np.hypot(8, 3)) and organ.length_unit == "mm"
    # the other piece is one voxel of 2 x 3 mm: 3 mm long, and of two the median is the mean
    assert organ.largest_px == 24 and organ.median_long_axis == pytest.approx((np.hypot(8, 3) + 3) / 2)
    assert organ.mean_intensity == pytest.approx((24 * 100 + 60) / 25)
    assert (core.foreground_px, core.components, core.mean_intensity) == (24, 1, 100)
    (path,) = write_masks(found, tmp_path, session=session)  # type: ignore[arg-type]
    stored = np.asarray(nibabel.load(path).dataobj)
    np.testing.assert_array_equal(stored, np.select([box((9, 8, 5)) == 100, box((9, 8, 5)) == 60], [2, 1]))


def test_a_reference_on_another_order_of_axes_is_compared_by_place(tmp_path: Path) -> None:
    scan = nifti(tmp_path / "scan.nii")
    truth = nibabel.Nifti1Image((box((9, 8, 5)) == 100).astype(np.uint8), nibabel.load(scan).affine)
    flipped = truth.as_reoriented(np.array([[1, -1], [0, 1], [2, -1]]))
    nibabel.save(flipped, tmp_path / "truth.nii")
    (case,) = find_cases([Member(scan, "scan.nii")])
    (organ,) = segment_case(Bright(), case, reference=tmp_path / "truth.nii").measurements  # type: ignore[arg-type]
    assert organ.dice == pytest.approx(48 / 49) and organ.iou == pytest.approx(24 / 25)
    nibabel.save(nibabel.Nifti1Image(np.zeros((9, 8, 4), np.uint8), np.eye(4)), tmp_path / "other.nii")
    with pytest.raises(UserError) as caught:
        segment_case(Bright(), case, reference=tmp_path / "other.nii")  # type: ignore[arg-type]
    assert caught.value.code == "data.mask_elsewhere"


def test_a_spreadsheet_takes_no_name_for_a_formula() -> None:
    one = Measurement(
        "=cmd|' /C calc'!A0", "@organ", 1, 3, 0.5, None, 1, None, 1, None, 3, 2.0, 1.0, 2.0, "px", 1.5, "grey"
    )
    (row,) = csv.DictReader(io.StringIO(as_csv([one])))
    assert row["image"].startswith("'=") and row["class_name"] == "'@organ"
    assert (row["share"], row["area_mm2"], row["largest_long_axis"]) == ("0.5", "", "2")


def test_files_of_a_series_are_one_case_and_radiographs_are_not(tmp_path: Path) -> None:
    frames = np.full((3, 4, 5), 80, np.int16)
    series = write_series(tmp_path / "ct", frames)
    radiographs = write_series(tmp_path / "dx", frames[:2], ImagePositionPatient=None)
    broken = tmp_path / "ct" / "broken.dcm"
    broken.write_bytes(b"no image")
    cases = find_cases([Member(path, path.name) for path in (*series, *radiographs, broken)])
    assert [(case.stem, len(case.paths), case.is_series) for case in cases] == [
        ("ct", 3, True), ("000", 1, False), ("001", 1, False), ("broken", 1, False)
    ]  # fmt: skip
    found = segment_case(Bright(), cases[0])  # type: ignore[arg-type]
    (path,) = write_masks(found, tmp_path, session=Bright())  # type: ignore[arg-type]
    assert path.name == "ct_seg.dcm" and highdicom.seg.segread(path).pixel_array.sum() == 60
    assert PATIENT["PatientID"] not in json.dumps([case.name for case in cases])


def test_pages_of_a_tiff_become_pages_of_a_mask(tmp_path: Path) -> None:
    frames = np.zeros((3, 4, 5), np.uint8)
    frames[1, 2] = 90
    tifffile.imwrite(tmp_path / "stack.tif", frames, photometric="minisblack")
    found = segment_case(Bright(), find_cases([Member(tmp_path / "stack.tif", "stack.tif")])[0])  # type: ignore[arg-type]
    (path,) = write_masks(found, tmp_path, session=Bright())  # type: ignore[arg-type]
    np.testing.assert_array_equal(tifffile.imread(path), frames > 0)
    (organ,) = found.measurements
    assert (organ.area_mm2, organ.volume_ml, organ.length_unit, organ.largest_long_axis) == (None, None, "px", 5)


def test_a_volume_above_the_budget_is_refused_with_the_number(tmp_path: Path) -> None:
    path = tmp_path / "large.nii"
    nibabel.save(nibabel.Nifti1Image(np.zeros((200, 200, 60), np.uint8), np.eye(4)), path)
    (case,) = find_cases([Member(path, path.name)])
    with at_most(6 * 2**20), pytest.raises(UserError, match="60 slices of 200 x 200 pixels and 3 classes take 7 MiB"):
        segment_case(Bright("a", "b", "c"), case)  # type: ignore[arg-type]
    with at_most(4 * 2**20), pytest.raises(UserError, match="would take"):
        segment_case(Bright(), case)  # type: ignore[arg-type]


def test_predict_makes_one_segmentation_of_a_zipped_series_and_a_table(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    paths = write_series(tmp_path / "ct", np.random.default_rng(3).integers(0, 90, (3, 40, 48)).astype(np.int16))
    with zipfile.ZipFile(tmp_path / "study.zip", "w") as archive:
        for number, path in enumerate(paths):
            archive.write(path, f"study/IM{number}")
    Image.fromarray(np.full((30, 20), 90, np.uint8)).save(tmp_path / "b.png")
    words = [
        "predict",
        "nuclei_cpu",
        str(tmp_path / "study.zip"),
        str(tmp_path / "b.png"),
        "--csv",
        "--json",
        "--anyway",
    ]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "b_unlike_training_mask.png",
        "measurements.csv",
        "study_unlike_training_seg.dcm",
    ]
    rows = list(csv.DictReader((tmp_path / "out" / "measurements.csv").open()))
    assert [(Path(row["image"]).name, row["slices"]) for row in rows] == [("b.png", "1"), ("study", "3")]
    assert not any(value in told for value in PATIENT.values())


def test_a_scan_given_to_a_model_of_photographs_is_answered_only_on_request(tmp_path: Path) -> None:
    (case,) = find_cases([Member(nifti(tmp_path / "scan.nii.gz"), "scan.nii.gz")])
    session = Bright()
    session.manifest = session.manifest.model_copy(update={"modality": "endoscopy"})
    with pytest.raises(UserError, match="A NIfTI file holds a scanner's images") as caught:
        segment_case(session, case)  # type: ignore[arg-type]
    assert caught.value.code == "image.foreign"
    found = segment_case(session, case, anyway=True)  # type: ignore[arg-type]
    assert found.unlike and found.measurements[0].foreground_px == 25
    (file,) = write_masks(found, tmp_path, session=session)  # type: ignore[arg-type]
    assert file.name == "scan_unlike_training_mask.nii.gz"


@pytest.mark.parametrize(("bright", "unlike"), [(0, False), (2, False), (3, True), (5, True)])
def test_a_volume_is_foreign_where_most_of_its_middle_looks_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bright: int, unlike: bool
) -> None:
    """Ten slices; numbers 2, 3, 4 or 5, 6 and 7 are looked at, and the air at both ends tells nothing."""
    voxels = np.zeros((6, 6, 10), np.int16)
    looked_at = [2, 3, 4, 6, 7]
    voxels[..., looked_at[:bright]] = 100
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / "scan.nii")
    seen: list[float] = []

    def looks(session: object, image_HW3: np.ndarray, origin: object) -> tuple[str, ...]:
        seen.append(float(image_HW3.max()))
        return ("It is bright.",) if image_HW3.max() > 0.5 else ()

    monkeypatch.setattr(foreign, "reasons", looks)
    volume = open_volume(tmp_path / "scan.nii")
    assert foreign_volumes.reasons(Bright(), volume) == (("It is bright.",) if unlike else ())  # type: ignore[arg-type]
    assert len(seen) == 5


def test_a_reference_is_of_the_models_classes_or_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 6), np.uint8)).save(tmp_path / "image.png")
    volume = open_volume(tmp_path / "image.png")
    labels = np.zeros((4, 6), np.uint8)
    labels[0, :3], labels[2:, 4:] = 1, 2
    planes = np.stack([labels == 1, labels == 2])[:, None]
    Image.fromarray(labels).save(tmp_path / "labels.png")
    np.save(tmp_path / "channels.npy", np.moveaxis(planes[:, 0], 0, -1))
    for name in ("labels.png", "channels.npy"):
        np.testing.assert_array_equal(read_reference(tmp_path / name, volume, num_classes=2), planes)
    one = read_reference(tmp_path / "labels.png", volume, num_classes=1)
    np.testing.assert_array_equal(one, planes.any(axis=0)[None])  # everything that is not 0
    Image.fromarray(labels * 127).save(tmp_path / "grey.png")
    np.save(tmp_path / "negative.npy", labels.astype(np.int16) - 1)
    for name, num_classes, told in (
        ("grey.png", 2, "labels from 0 to 254"),
        ("negative.npy", 2, "labels from -1 to 1"),
        ("channels.npy", 1, "2 channels"),
        ("channels.npy", 3, "2 channels"),
    ):
        with pytest.raises(UserError) as caught:
            read_reference(tmp_path / name, volume, num_classes=num_classes)
        assert caught.value.code == "reference.values" and told in caught.value.what
