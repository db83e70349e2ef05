"""Masks as NIfTI: on the source's own grid and affine, or, of DICOM, on the grid of its slices. Torch-free."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np

from engine.data.nifti import read_header, stored_header
from engine.data.orientation import between
from engine.data.volumes import SourceVolume
from engine.errors import UserError

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
PLACES = (
    *("pixdim", "xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
)
"""Fields of a header that say where voxels lie; no other is copied, for descriptions may name a patient."""


def write_nifti(path: Path, volume: SourceVolume, labels_SHW: np.ndarray, *, note: str = "") -> None:
    """Write labels (S, H, W) as ``.nii.gz`` (or ``.nii``), voxel for voxel where the source's lie.

    Of a NIfTI file the array has its order of axes and the header its affines, bit for bit; of DICOM axes are columns,
    rows and slices. ``note`` goes into the header's description. Raises ``UserError`` ``output.no_place`` where nothing
    says where the slices lie.
    """
    labels_XYZ = labels_SHW.transpose(2, 1, 0)
    matrix = volume.geometry.matrix
    if matrix is None:
        raise UserError(
            "output.no_place",
            what="The masks cannot be saved as NIfTI: nothing says where the slices lie.",
            why="A NIfTI file places its voxels in the patient, and the source does not.",
            fix="Take the PNG or TIFF masks, which have the source's own rows and columns.",
        )
    if volume.kind == "nifti":
        image = _like(volume, labels_XYZ, matrix)
    else:
        image = nibabel.Nifti1Image(np.ascontiguousarray(labels_XYZ), RAS_TO_LPS @ matrix)
        image.header.set_xyzt_units("mm")
        image.set_qform(image.affine, code="scanner", strip_shears=True)
        image.set_sform(image.affine, code="scanner")
    image.header["descrip"] = note.encode()[:79]
    nibabel.save(image, path)


def _like(volume: SourceVolume, labels_XYZ: np.ndarray, matrix: np.ndarray) -> nibabel.Nifti1Image:
    """Return labels in the order of axes of the source's file, under a new header with its places."""
    header = read_header(volume.path)
    stored = np.ascontiguousarray(between(matrix, header.affine, shape=header.shape).apply(labels_XYZ))
    source = stored_header(volume.path)
    kind = nibabel.Nifti2Image if isinstance(source, nibabel.Nifti2Header) else nibabel.Nifti1Image
    image = kind(stored.reshape(source.get_data_shape()), None)
    for field in PLACES:
        image.header[field] = source[field]
    # affine None: the places of the header are written as they are
    return image
