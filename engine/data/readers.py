"""One way in for every image file: PNG, JPEG, BMP, TIFF, NIfTI, DICOM and npy. Torch-free.

Reader contract. A file holds one picture or a volume of slices. ``read_image`` gives one of them as (H, W, 3): row 0 at
the top, column 0 on the left, channels RGB, grey repeated; uint8 for 8-bit files, uint16 for 16-bit PNG, TIFF and npy,
else float32 in [0, 1]. ``read_mask`` gives the stored numbers as they are, (H, W) or (H, W, C) integers.

Volumes (NIfTI) are brought to the closest canonical axes (right, anterior, superior) and cut across ``slice_axis``;
a slice shows its first remaining axis to the right and its second one upwards. An image and its mask go the same way.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from engine.data import npy, pictures, tiff
from engine.data.pixels import Format, Geometry
from engine.errors import UserError

MAX_PIXELS = 89_478_485
"""Largest accepted picture: Pillow's own bound for a decompression bomb, used for every format."""
MAX_VOXELS = 2**30
"""Largest accepted volume."""
RASTER_SUFFIXES = (".png", ".jpg", ".jpeg", ".jls", ".jp2", ".j2k", ".bmp")
TIFF_SUFFIXES = (".tif", ".tiff")
NIFTI_SUFFIXES = (".nii", ".nii.gz")
DICOM_SUFFIXES = (".dcm", ".dicom")
NPY_SUFFIXES = (".npy",)
SUFFIXES = (*RASTER_SUFFIXES, *TIFF_SUFFIXES, *NIFTI_SUFFIXES, *DICOM_SUFFIXES, *NPY_SUFFIXES)


def file_suffix(path: Path) -> str:
    """Return the lower-case ending that decides the reader (``.nii.gz`` counts as one)."""
    name = path.name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else path.suffix.lower()


def file_stem(path: Path) -> str:
    """Return the file name without the ending of :func:`file_suffix`."""
    return path.name[: len(path.name) - len(file_suffix(path))]


def is_supported(path: Path) -> bool:
    """Return whether a reader exists for the file's ending."""
    return file_suffix(path) in SUFFIXES


def image_info(path: str | Path, *, slice_axis: int = 2) -> Geometry:
    """Return the size of a picture or volume from its header, refusing what is too large to decode safely."""
    path = Path(path)
    with reading(path):
        geometry = _format(path).header(path, slice_axis=slice_axis)
    _refuse_bombs(path, geometry)
    return geometry


def read_image(
    path: str | Path, *, slice_index: int = 0, slice_axis: int = 2, value_range: tuple[float, float] | None = None
) -> tuple[np.ndarray, Geometry]:
    """Return one picture (H, W, 3), uint8, uint16 or float32 in [0, 1], and its geometry.

    ``value_range`` (in the file's own units: Hounsfield units after rescale for CT) becomes [0, 1]. Without it, DICOM
    uses its window, and values of no known range (NIfTI, DICOM without a window, floats outside [0, 1]) their file's
    0.5-99.5 percentiles. Raises ``UserError`` ``data.image_unreadable``, ``data.image_too_large`` or
    ``data.format_unknown``.
    """
    path = Path(path)
    geometry = image_info(path, slice_axis=slice_axis)
    with reading(path):
        pixels = _format(path).image(path, slice_index=slice_index, slice_axis=slice_axis, value_range=value_range)
        return _three_channels(pixels), geometry


def read_mask(path: str | Path, *, slice_index: int = 0, slice_axis: int = 2) -> np.ndarray:
    """Return the stored labels, (H, W) or (H, W, C) integers: palette indices, not colours; no rescale, no window."""
    path = Path(path)
    image_info(path, slice_axis=slice_axis)
    with reading(path):
        labels = np.asarray(_format(path).labels(path, slice_index=slice_index, slice_axis=slice_axis))
        if labels.dtype == bool:
            return labels.astype(np.uint8)
        if labels.dtype.kind == "f":
            whole = np.rint(labels)
            if not np.array_equal(whole, labels):
                raise ValueError("a mask holds whole numbers, this one has fractions")
            return whole.astype(np.int64)
        if labels.dtype.kind not in "ui":
            raise ValueError(f"a mask holds numbers, this one has {labels.dtype}")
        return labels


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever a decoder raises on a damaged file into one ``UserError`` that names the file."""
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(
            "data.file_missing",
            what=f"The file {path} does not exist.",
            why="It was asked for by name.",
            fix="Correct the path, or put the file back.",
        ) from error
    except MemoryError as error:
        raise _too_large(path, "more memory than this machine has") from error
    except (
        Exception
    ) as error:  # decoders of foreign files raise anything at all: struct.error, KeyError, zlib.error ...
        if type(error).__name__ == "DecompressionBombError":
            raise _too_large(path, str(error)) from error
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            "data.image_unreadable",
            what=f"The file {path} cannot be read: {reason}.",
            why="It is truncated, damaged, or not what its ending says.",
            fix="Export or copy it again, or take it (and its mask) out of the dataset.",
        ) from error


def _format(path: Path) -> type[Format]:
    suffix = file_suffix(path)
    if suffix in NIFTI_SUFFIXES or suffix in DICOM_SUFFIXES:
        from engine.data import medical  # nibabel and pydicom take longest to import: the page starts without them

        return medical.NiftiFormat if suffix in NIFTI_SUFFIXES else medical.DicomFormat
    if suffix in RASTER_SUFFIXES:
        return pictures.PictureFormat
    if suffix in TIFF_SUFFIXES:
        return tiff.TiffFormat
    if suffix in NPY_SUFFIXES:
        return npy.NpyFormat
    raise UserError(
        "data.format_unknown",
        what=f"The file {path} has an ending that no reader knows.",
        why=f"Readers exist for {', '.join(SUFFIXES)}.",
        fix="Convert the file to one of these, or take it out of the folder.",
    )


def _refuse_bombs(path: Path, geometry: Geometry) -> None:
    pixels = geometry.height_px * geometry.width_px
    if geometry.height_px < 1 or geometry.width_px < 1 or geometry.num_slices < 1:
        raise UserError(
            "data.image_unreadable",
            what=f"The file {path} cannot be read: it holds no pixels.",
            why="An image has at least one pixel.",
            fix="Export or copy it again, or take it (and its mask) out of the dataset.",
        )
    if pixels > MAX_PIXELS or pixels * geometry.num_slices > MAX_VOXELS:
        raise _too_large(path, f"{geometry.width_px} x {geometry.height_px} x {geometry.num_slices} pixels")


def _too_large(path: Path, size: str) -> UserError:
    return UserError(
        "data.image_too_large",
        what=f"The file {path} announces {size}.",
        why=f"Files above {MAX_PIXELS} pixels (a volume: {MAX_VOXELS}) are refused before they fill the memory.",
        fix="Reduce or tile the image before it enters the dataset; if it should be small, the file is damaged.",
    )


def _three_channels(pixels: np.ndarray) -> np.ndarray:
    if pixels.ndim == 3 and pixels.shape[2] in (1, 2):  # grey, or grey with alpha
        pixels = pixels[..., 0]
    if pixels.ndim == 2:
        return np.repeat(pixels[..., None], 3, axis=2)
    if pixels.ndim == 3 and pixels.shape[2] in (3, 4):  # alpha carries no anatomy: dropped
        return np.ascontiguousarray(pixels[..., :3])
    raise ValueError(f"its shape {pixels.shape} is neither (H, W) nor (H, W, 1 to 4)")
