"""Volumes between formats: MetaImage, NRRD, NIfTI and DICOM series in, NIfTI out; masks on their image's own grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from nibabel.volumeutils import apply_read_scaling

from engine.data.budget import require_bytes
from engine.data.dicom import DicomFile, read_dicom
from engine.data.dicom_frames import frame_affine, number
from engine.data.dicom_values import grey_values
from engine.data.file_faults import reading
from engine.data.nifti import affine_lps, inflated, require_reach, stored_header
from engine.data.prepare.records import LeaveOut, Volume
from engine.data.readers import image_info
from engine.data.series import NoVolume, Placed, stack

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
SAME_WITHIN_MM = 0.5
"""How far the corners of a mask's grid may lie from its image's (ours): headers of two programs round differently."""


def write_nifti(volume: Volume, path: Path) -> Path:
    """Write a gzipped NIfTI-1; without a placement, its affine is that of a file saved without one."""
    voxels = volume.voxels
    if voxels.dtype == bool:
        voxels = voxels.astype(np.uint8)
    if voxels.dtype in (np.int64, np.uint64, np.float64):
        voxels = voxels.astype(np.float32 if voxels.dtype.kind == "f" else np.int32)
    affine = np.eye(4) if volume.affine_lps is None else RAS_TO_LPS @ volume.affine_lps
    image = nibabel.Nifti1Image(voxels, affine)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)
    return path


def read_nifti(path: Path, *, channel: int = 0) -> Volume:
    """Return a volume's voxels as stored, scaled if the file says so; of several volumes, the one ``channel``."""
    with reading(path, suffix=".nii.gz" if path.name.endswith(".gz") else ".nii"):
        header = stored_header(path)
        shape, offset = header.get_data_shape(), header.get_data_offset()
        num_values = math.prod(shape)
        require_bytes(path, num_values=num_values, dtype=np.float32, copies=2)
        if path.name.endswith(".gz"):  # nibabel would stop before the checksum
            num_bytes = num_values * header.get_data_dtype().itemsize
            require_reach(path, offset=offset, num_bytes=num_bytes)
            flat = inflated(path, offset=offset, num_bytes=num_bytes).view(header.get_data_dtype())
            stored = flat.reshape(shape, order="F")
            slope, intercept = header.get_slope_inter()
            scale = (1.0 if slope is None else slope, 0.0 if intercept is None else intercept)
            voxels = apply_read_scaling(stored[..., channel] if len(shape) == 4 else stored, *scale)
        else:
            proxy = ArrayProxy(path, header)
            voxels = np.asarray(proxy[..., channel] if len(shape) == 4 else proxy)
        if voxels.ndim != 3:
            raise ValueError(f"its shape {tuple(shape)} is no volume")
        return Volume(voxels, affine_lps(header))


def on_grid_of(image: Volume, mask: Volume) -> Volume:
    """Return ``mask`` with its image's placement where both have the same array, as these datasets' publishers intend.

    Raises ``LeaveOut`` where the arrays have different shapes.
    """
    if image.voxels.shape != mask.voxels.shape:
        told = (" x ".join(map(str, one.voxels.shape)) for one in (mask, image))
        raise LeaveOut("its mask has {} voxels, the image {}".format(*told))
    return Volume(mask.voxels, image.affine_lps)


def lies_on(image: Volume, mask: Volume) -> bool:
    """Return whether the corners of both grids lie at the same places, in the same order."""
    if image.voxels.shape != mask.voxels.shape or image.affine_lps is None or mask.affine_lps is None:
        return False
    ends = np.array(image.voxels.shape) - 1
    corners = np.array(np.meshgrid(*([0, end] for end in ends), indexing="ij")).reshape(3, -1)
    points = np.vstack([corners, np.ones(corners.shape[1])])
    return bool(np.abs((image.affine_lps - mask.affine_lps) @ points).max() <= SAME_WITHIN_MM)


def read_series(paths: Sequence[Path]) -> tuple[Volume, list[int]]:
    """Return the volume of a DICOM series of one picture a file, and which of ``paths`` each of its slices is.

    Slices are put in the order in which they lie along the normal of their plane, feet to head for axial ones; where
    the files do not say where they lie, in the order of their InstanceNumber. Values are rescaled (Hounsfield units
    for CT); whole numbers are stored as int16. Raises ``LeaveOut`` where the slices are no volume.
    """
    files = []
    for path in paths:
        with reading(path, suffix=".dcm"):
            files.append(read_dicom(path))
    if len({(int(file.tags.Rows), int(file.tags.Columns)) for file in files}) != 1:
        raise LeaveOut("the slices of its series differ in size")
    affines = [frame_affine(file.frame_tags(0)) for file in files]
    order, affine = _stacked(files, affines)
    first = files[0]
    pixels = int(first.tags.Rows) * int(first.tags.Columns)
    require_bytes(first.path, num_values=pixels * len(files), dtype=np.float32, copies=3)
    slices = []
    for index in order:
        with reading(files[index].path, suffix=".dcm"):
            slices.append(grey_values(files[index].stored(0), files[index].frame_tags(0))[0].T)
    voxels = np.stack(slices, axis=2)
    whole = np.rint(voxels)
    if (whole == voxels).all() and np.abs(whole).max() < 2**15:
        voxels = whole.astype(np.int16)
    return Volume(voxels, affine), order


def _stacked(files: list[DicomFile], affines: list[np.ndarray | None]) -> tuple[list[int], np.ndarray | None]:
    numbers = [number(file.tags, "InstanceNumber") for file in files]
    try:
        return stack([Placed(*both) for both in zip(affines, numbers, strict=True)])
    except NoVolume as error:
        raise LeaveOut(str(error)) from error


def is_placed_like(image: Path, mask: Path) -> bool:
    """Return whether two NIfTI files lie on one grid, so that both can be copied as they are."""
    one, other = image_info(image), image_info(mask)
    return one.shape == other.shape and one.affine_lps == other.affine_lps
