"""Hand-made volumes for the tests of whole volumes: DICOM series of any orientation, and a model's manifest."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
from pydicom.uid import generate_uid

from export.manifest import Manifest, read_manifest
from export.pairs import Models
from tests.unit.data_medical_files import write_dicom

SHIPPED = Path(__file__).resolve().parents[2] / "assets" / "models" / "nuclei_cpu"
PATIENT = {"PatientName": "Mustermann^Erika", "PatientID": "4711-X", "PatientBirthDate": "19640812"}
SPACING_MM = (0.8, 0.5)
"""Of rows and of columns."""
STEP_MM = 3.0
ORIENTATIONS = {
    # where columns and rows grow to in LPS, the letters at left, right, top and bottom of a frame
    "axial": ((1, 0, 0), (0, 1, 0), "RLAP"),
    "coronal": ((1, 0, 0), (0, 0, -1), "RLHF"),
    "sagittal": ((0, 1, 0), (0, 0, -1), "APHF"),
    "axial, prone": ((-1, 0, 0), (0, -1, 0), "LRPA"),
    "oblique": ((0.8, 0.6, 0), (0, 0, -1), "RA LP H F"),
}


def affine_of(columns: tuple, rows: tuple) -> np.ndarray:
    """Return (4, 4) from (column, row, slice) to LPS mm of the series that :func:`write_series` makes, by hand."""
    matrix = np.eye(4)
    matrix[:3, 0], matrix[:3, 1] = np.array(columns) * SPACING_MM[1], np.array(rows) * SPACING_MM[0]
    matrix[:3, 2] = np.cross(columns, rows) * STEP_MM
    matrix[:3, 3] = (-20, 30, 5)
    return matrix


def write_series(
    folder: Path, frames: np.ndarray, *, columns: tuple = (1, 0, 0), rows: tuple = (0, 1, 0), **tags: object
) -> list[Path]:
    """Write (S, H, W) as one file a slice, under names and numbers that tell nothing of their order."""
    folder.mkdir(parents=True, exist_ok=True)
    matrix = affine_of(columns, rows)
    study, series, frame_of_reference = generate_uid(), generate_uid(), generate_uid()
    paths = []
    for index, frame in enumerate(frames):
        place = matrix[:3, 3] + index * matrix[:3, 2]
        name = f"{(index * 7 + 3) % len(frames):03d}.dcm" if len(frames) % 7 else f"{index:03d}.dcm"
        told = {
            "Modality": "CT",
            "StudyInstanceUID": study,
            "SeriesInstanceUID": series,
            "FrameOfReferenceUID": frame_of_reference,
            "ImagePositionPatient": [float(f"{value:.6g}") for value in place],
            "ImageOrientationPatient": [*columns, *rows],
            "PixelSpacing": list(SPACING_MM),
            "SliceThickness": STEP_MM,
            "InstanceNumber": len(frames) - index,
            **PATIENT,
            **tags,
        }
        paths.append(write_dicom(folder / name, frame, **told))
    return sorted(paths)


def manifest(*, classes: tuple[str, ...] = ("organ",)) -> Manifest:
    """Return the shipped model's manifest with other classes, of a kind of image that says nothing of others."""
    return read_manifest(SHIPPED).model_copy(update={"classes": classes, "modality": "drawn", "appearance": None})


class Told:
    """A model whose probabilities, in hundredths, are told for each value of a pixel, for each of its classes."""

    def __init__(
        self, name: str, *levels: dict[int, int], classes: tuple[str, ...] = ("organ",), axis: int = 2
    ) -> None:
        about = {"name": name, "value_range": (0.0, 100.0), "slice_axis": axis}
        self.manifest = manifest(classes=classes).model_copy(update=about)
        self.told = np.full((len(levels), 101), 10, np.uint8)
        for table, values in zip(self.told, levels, strict=True):
            table[list(values)] = list(values.values())

    def levels(self, image_HW3: np.ndarray) -> np.ndarray:
        """Return (K, H, W) of an image in [0, 1]."""
        return self.told[:, np.rint(100 * image_HW3[..., 0]).astype(int)]


def told_pair() -> Models:
    """Return two models that agree on what has 100, and of which only the first finds 60, only the second 30."""
    first, second = Told("first", {60: 80, 100: 90}), Told("second", {30: 55, 60: 45, 100: 99})
    return Models.of(first, second)  # type: ignore[arg-type]


def scan_voxels() -> np.ndarray:
    """Return (X, Y, Z) int16: 8 voxels of 100, 6 of 60 and 3 of 30 in 0."""
    made = np.zeros((6, 5, 4), np.int16)
    made[:2, :2, :2] = 100
    made[3:5, :3, 1] = 60
    made[5, :3, 3] = 30
    return made


def write_scan(path: Path) -> Path:
    """Write :func:`scan_voxels` as NIfTI, in voxels of 2 x 5 x 10 mm, which are 0.1 mL."""
    nibabel.save(nibabel.Nifti1Image(scan_voxels(), np.diag([-2.0, -5.0, 10.0, 1.0])), path)
    return path
