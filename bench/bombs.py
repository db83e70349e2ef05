"""Files that are small on the disk and large in memory, for ``bench.attack``."""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import tifffile
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from engine.data.phantoms import render


def write_all(folder: Path) -> list[Path]:
    """Write every bomb into ``folder`` and return their paths."""
    nifti = (nifti_volume, nifti_promise, nifti_extension, nifti_offset, nifti_slice)
    others = (dicom_deflated, dicom_elements, tiff_float64, tiff_uint16, tiff_pages, png_large, npy_promise)
    makers = (*nifti, *others)
    return [maker(folder) for maker in makers]


def nifti_volume(folder: Path) -> Path:
    """30 KB that are 31 million voxels, of which a careless reader makes float64 several times over."""
    path = folder / "volume.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.zeros((512, 512, 120), np.uint8), np.eye(4)), path)
    return path


def nifti_promise(folder: Path) -> Path:
    """A header that promises four gigabytes, and eight megabytes of zeros behind it."""
    header = nibabel.Nifti1Header()
    header.set_data_shape((1024, 1024, 1024))
    header.set_data_dtype(np.float32)
    header.set_data_offset(352)
    path = folder / "promise.nii.gz"
    path.write_bytes(gzip.compress(header.binaryblock + bytes(4) + bytes(8 * 2**20)))
    return path


def nifti_extension(folder: Path) -> Path:
    """A volume of 64 x 64 x 2 voxels whose header has an extension of 1.5 GB, which nobody needs."""
    return _far_nifti(folder / "extension.nii.gz", extension_bytes=1536 * 2**20, offset=352 + 16)


def nifti_offset(folder: Path) -> Path:
    """A volume of 64 x 64 x 2 voxels that begin behind 1.5 GB of zeros."""
    return _far_nifti(folder / "offset.nii.gz", extension_bytes=0, offset=1536 * 2**20)


def nifti_slice(folder: Path) -> Path:
    """One slice of 4600 x 4600 voxels of 8 bits, of which a scale makes numbers of 64 bits."""
    header = nibabel.Nifti1Header()
    header.set_data_shape((4600, 4600))
    header.set_data_dtype(np.uint8)
    header.set_data_offset(352)
    header.set_slope_inter(0.5, 0)
    path = folder / "slice.nii.gz"
    path.write_bytes(gzip.compress(header.binaryblock + bytes(4 + 4600 * 4600)))
    return path


def _far_nifti(path: Path, *, extension_bytes: int, offset: int) -> Path:
    header = nibabel.Nifti1Header()
    header.set_data_shape((64, 64, 2))
    header.set_data_dtype(np.uint8)
    header.set_data_offset(offset)
    with gzip.open(path, "wb") as stream:
        stream.write(header.binaryblock + struct.pack("<3i", extension_bytes > 0, extension_bytes, 6))
        for _ in range(1537):
            stream.write(bytes(2**20))
    return path


def dicom_deflated(folder: Path) -> Path:
    """A deflated DICOM of 400 frames of 1024 x 1024, 16 bits."""
    data = _capture(side_px=1024, num_frames=400)
    pydicom.dcmwrite(folder / "deflated.dcm", data, enforce_file_format=True)
    return folder / "deflated.dcm"


def dicom_elements(folder: Path) -> Path:
    """A deflated DICOM of 300,000 empty elements beside one small frame, less than half a megabyte."""
    data = _capture(side_px=16, num_frames=1)
    for group in range(0x0011, 0x0011 + 2 * 5, 2):
        for element in range(0x1000, 0x1000 + 60_000):
            data[group, element] = pydicom.DataElement((group, element), "LO", "")
    pydicom.dcmwrite(folder / "elements.dcm", data, enforce_file_format=True)
    return folder / "elements.dcm"


def _capture(*, side_px: int, num_frames: int) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    data = FileDataset("capture.dcm", {}, file_meta=meta, preamble=bytes(128))
    data.SOPClassUID, data.SOPInstanceUID, data.Modality = SecondaryCaptureImageStorage, generate_uid(), "OT"
    data.Rows = data.Columns = side_px
    data.NumberOfFrames, data.SamplesPerPixel, data.PhotometricInterpretation = num_frames, 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation = 15, 0
    data.PixelData = bytes(num_frames * side_px**2 * 2)
    return data


def tiff_float64(folder: Path) -> Path:
    """A TIFF of 8192 x 8192 float64, half a gigabyte of zeros."""
    path = folder / "float64.tif"
    tifffile.imwrite(path, np.zeros((8192, 8192), np.float64), compression="zlib", rowsperstrip=64)
    return path


def tiff_uint16(folder: Path) -> Path:
    """A colour TIFF of 8000 x 8000 at 16 bits."""
    path = folder / "uint16.tif"
    tifffile.imwrite(path, np.zeros((8000, 8000, 3), np.uint16), compression="zlib", rowsperstrip=64, photometric="rgb")
    return path


def tiff_pages(folder: Path) -> Path:
    """A TIFF of 5,000 pages, each of another width, in half a megabyte."""
    path, count, tags = folder / "pages.tif", 5000, 6
    pages, step = [], 2 + 12 * tags + 4
    for index in range(count):
        width, end = index + 1, index == count - 1
        values = ((256, width), (257, 1), (258, 8), (262, 1), (273, 8), (279, width))
        pages.append(
            struct.pack("<H", tags) + b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in values)
        )
        pages.append(struct.pack("<I", 0 if end else 8 + step * (index + 1)))
    path.write_bytes(b"II*\0" + struct.pack("<I", 8) + b"".join(pages) + bytes(count))
    return path


def png_large(folder: Path) -> Path:
    """A PNG of 8000 x 8000 pixels in one colour."""
    path = folder / "large.png"
    Image.new("RGB", (8000, 8000)).save(path)
    return path


def npy_promise(folder: Path) -> Path:
    """An npy header that promises eight gigabytes."""
    text = "{'descr': '<f8', 'fortran_order': False, 'shape': (32768, 32768), }"
    head = text.ljust(117) + "\n"
    path = folder / "promise.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head.encode() + bytes(4096))
    return path


def honest_png() -> bytes:
    """Return an ordinary small picture, of the kind that the shipped model was made for."""
    buffer = io.BytesIO()
    nuclei = render("nuclei", site="dapi_20x", index=0, image_px=96).image
    Image.fromarray(nuclei).save(buffer, format="PNG")
    return buffer.getvalue()


def deep_json(levels: int) -> bytes:
    """Return a JSON text of so many brackets within each other."""
    return b"[" * levels + b"]" * levels


def zipped_body(num_bytes: int) -> bytes:
    """Return zeros as a deflated body."""
    return zlib.compress(bytes(num_bytes))
