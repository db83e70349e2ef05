"""Real NIfTI and DICOM files for the data tests, written by nibabel and pydicom."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pydicom
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid


def nifti_volume(*, dtype: type = np.int16) -> np.ndarray:
    """Return (X=5, Y=7, Z=3) with a bright mark at the right, front, top corner in RAS axes."""
    voxels = np.zeros((5, 7, 3), dtype)
    voxels[4, 6, 2] = 100
    voxels[0, 0, 0] = 50
    return voxels


def save_nifti(path: Path, voxels: np.ndarray, *, flips: tuple[int, ...] = (1, 1, 1)) -> Path:
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([0.5 * flips[0], 0.8 * flips[1], 3.0 * flips[2], 1])), path)
    return path


def write_dicom(path: Path, pixels: np.ndarray, **tags: object) -> Path:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = pydicom.Dataset()
    dataset.file_meta = meta
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel = 1 if pixels.ndim == 2 else 3
    dataset.PhotometricInterpretation = "MONOCHROME2" if pixels.ndim == 2 else "RGB"
    if pixels.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = dataset.BitsStored = pixels.dtype.itemsize * 8
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.tobytes()
    for tag, value in tags.items():
        setattr(dataset, tag, value)
    dataset.save_as(path, enforce_file_format=True)
    return path


def group(**tags: object) -> pydicom.Dataset:
    """Return a dataset of ``tags``: an item of a sequence."""
    item = pydicom.Dataset()
    for tag, value in tags.items():
        setattr(item, tag, value)
    return item


def lut(descriptor: list[int], data: list[int] | bytes) -> pydicom.Dataset:
    """Return a lookup table's item."""
    item = pydicom.Dataset()
    item.add_new("LUTDescriptor", "US", descriptor)
    item.add_new("LUTData", "OW" if isinstance(data, bytes) else "US", data)
    return item


def write_frames(path: Path, frames: np.ndarray, *, per_frame: list[dict], shared: dict | None = None, **tags) -> Path:
    """Write an enhanced file of ``frames`` (N, H, W) with functional groups {sequence: {tag: value}}."""

    def groups(items: dict) -> pydicom.Dataset:
        return group(**{name: [group(**values)] for name, values in items.items()})

    return write_dicom(
        path,
        frames[0],
        NumberOfFrames=len(frames),
        PixelData=frames.tobytes(),
        PerFrameFunctionalGroupsSequence=[groups(items) for items in per_frame],
        SharedFunctionalGroupsSequence=[groups(shared or {})],
        **tags,
    )
