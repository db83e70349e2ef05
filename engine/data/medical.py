"""Decoders of the clinic's formats: NIfTI (nibabel) and single-frame DICOM (pydicom)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import nibabel
import numpy as np
import pydicom
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut, pixel_array

from engine.data.pixels import Geometry, scale_to_unit
from engine.data.transforms import percentile_range


@dataclass(frozen=True)
class Volume:
    """A NIfTI file on canonical axes: voxels (X, Y, Z), voxel size in mm, and the range that becomes [0, 1]."""

    voxels: np.ndarray
    spacing_mm: tuple[float, float, float]
    value_range: tuple[float, float] | None


class NiftiFormat:
    """NIfTI-1 and -2, 2-D or 3-D (a fourth axis of length 1 is dropped)."""

    @staticmethod
    def header(path: Path, *, slice_axis: int) -> Geometry:
        """Return a slice's size and the number of slices from the header."""
        image = nibabel.load(path)
        shape = _three_axes(image.shape)
        # reorientation permutes axes: where each canonical axis lies in the stored array
        stored = nibabel.orientations.io_orientation(image.affine)[:, 0].astype(int)
        canonical = [shape[int(np.flatnonzero(stored == axis)[0])] for axis in range(3)]
        zooms = (*image.header.get_zooms(), 1.0)[:3]
        spacing = [float(zooms[int(np.flatnonzero(stored == axis)[0])]) for axis in range(3)]
        axes = _in_plane(slice_axis)
        return Geometry(
            canonical[axes[1]],
            canonical[axes[0]],
            num_slices=canonical[slice_axis],
            spacing_mm=(spacing[axes[1]], spacing[axes[0]]),
        )

    @staticmethod
    def image(path: Path, *, slice_index: int, slice_axis: int, value_range: tuple[float, float] | None) -> np.ndarray:
        """Return one slice as float32 in [0, 1], scaled by the whole volume's range; uint8 volumes as they are."""
        volume = _volume(path, path.stat().st_mtime_ns)
        pixels = _cut(volume.voxels, slice_index, slice_axis)
        if value_range is None and volume.value_range is None:
            return pixels
        return scale_to_unit(pixels, value_range or volume.value_range)

    @staticmethod
    def labels(path: Path, *, slice_index: int, slice_axis: int) -> np.ndarray:
        """Return one slice's stored numbers."""
        return _cut(_volume(path, path.stat().st_mtime_ns).voxels, slice_index, slice_axis)


class DicomFormat:
    """DICOM, one frame a file; rescale, window, MONOCHROME1, palettes and YBR are applied to images."""

    @staticmethod
    def header(path: Path, *, slice_axis: int) -> Geometry:
        """Return the size from the tags; several frames are refused."""
        dataset = pydicom.dcmread(path, stop_before_pixels=True)
        frames = int(dataset.get("NumberOfFrames", 1) or 1)
        if frames != 1:
            raise ValueError(f"it holds {frames} frames, one is expected: split it into single-frame files")
        spacing = dataset.get("PixelSpacing") or dataset.get("ImagerPixelSpacing")
        return Geometry(
            int(dataset.Rows),
            int(dataset.Columns),
            channels=int(dataset.get("SamplesPerPixel", 1)),
            spacing_mm=None if spacing is None else (float(spacing[0]), float(spacing[1])),
        )

    @staticmethod
    def image(path: Path, *, slice_index: int, slice_axis: int, value_range: tuple[float, float] | None) -> np.ndarray:
        """Return (H, W) float32 in [0, 1] with dark as 0, or (H, W, 3) uint8."""
        dataset = pydicom.dcmread(path)
        photometric = str(dataset.PhotometricInterpretation)
        pixels = pixel_array(dataset)  # colour spaces other than RGB are converted
        if photometric == "PALETTE COLOR":
            return _eight_bits(apply_color_lut(pixels, dataset))
        if pixels.ndim == 3:
            return _eight_bits(pixels)
        values = apply_modality_lut(pixels, dataset)
        scaled = scale_to_unit(values, value_range) if value_range else _windowed(values, dataset)
        return np.float32(1) - scaled if photometric == "MONOCHROME1" else scaled

    @staticmethod
    def labels(path: Path, *, slice_index: int, slice_axis: int) -> np.ndarray:
        """Return the stored numbers, without rescale or window."""
        pixels = pixel_array(pydicom.dcmread(path))
        return pixels


@lru_cache(maxsize=2)  # slices of one volume are asked for one after the other: an image and its mask stay open
def _volume(path: Path, modified_ns: int) -> Volume:
    image = nibabel.load(path)
    shape = _three_axes(image.shape)
    array = np.asanyarray(image.dataobj).reshape(shape)
    stored = nibabel.Nifti1Image(array, image.affine, dtype=array.dtype)  # asked for: 64-bit integers are refused else
    canonical = nibabel.as_closest_canonical(stored)
    voxels = np.asanyarray(canonical.dataobj)
    if voxels.dtype.kind not in "uifb":
        raise ValueError(f"its voxels are {voxels.dtype}, numbers are expected")
    if voxels.dtype.kind == "f" and not np.isfinite(voxels).all():
        raise ValueError("it holds values that are not finite")
    value_range = None if voxels.dtype == np.uint8 else percentile_range(voxels)
    spacing = tuple(float(zoom) for zoom in canonical.header.get_zooms()[:3])
    return Volume(voxels, spacing, value_range)  # type: ignore[arg-type]


def _three_axes(shape: tuple[int, ...]) -> tuple[int, int, int]:
    kept = shape[:3] + (1,) * (3 - len(shape[:3]))
    if any(size != 1 for size in shape[3:]):
        raise ValueError(f"its shape {shape} is neither a picture nor a volume")
    return kept  # type: ignore[return-value]


def _in_plane(slice_axis: int) -> tuple[int, int]:
    first, second = (axis for axis in range(3) if axis != slice_axis)
    return first, second


def _cut(voxels: np.ndarray, slice_index: int, slice_axis: int) -> np.ndarray:
    # canonical axes grow to the right, to the front and upwards; picture rows grow downwards
    return np.ascontiguousarray(np.take(voxels, slice_index, axis=slice_axis).T[::-1])


def _windowed(values: np.ndarray, dataset: pydicom.Dataset) -> np.ndarray:
    if "VOILUTSequence" in dataset:
        shown = apply_voi_lut(values, dataset)
        return scale_to_unit(shown, (float(shown.min()), float(shown.max())))
    if any(dataset.get(key) in (None, "") for key in ("WindowCenter", "WindowWidth")):
        return scale_to_unit(values, None)
    centre, width = (_first(dataset[key].value) for key in ("WindowCenter", "WindowWidth"))
    # DICOM PS3.3 C.11.2.1.2.1: the linear function is off by half a level and one level wide less
    if str(dataset.get("VOILUTFunction", "LINEAR")) == "LINEAR":
        centre, width = centre - 0.5, max(width - 1, 1e-6)
    return scale_to_unit(values, (centre - width / 2, centre + width / 2))


def _first(value: object) -> float:
    return float(value[0]) if isinstance(value, pydicom.multival.MultiValue) else float(value)  # type: ignore[arg-type]


def _eight_bits(pixels: np.ndarray) -> np.ndarray:
    return pixels if pixels.dtype == np.uint8 else (pixels >> 8).astype(np.uint8)
