"""NIfTI-1 and NIfTI-2 in one file (nibabel reads the header), of any byte order, plain or gzipped. Torch-free.

Voxels are brought to the patient axes that lie closest (left, posterior, superior) and cut across one of them. A slice
is what a DICOM viewer shows: the patient's left on the right of the picture, the front or the head at the top.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import nibabel
import numpy as np
from nibabel.nifti1 import data_type_codes
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation
from nibabel.spatialimages import HeaderDataError

from engine.data.budget import limit_bytes, require_bytes
from engine.data.geometry import Geometry
from engine.data.gzipped import GzipReader
from engine.data.pixels import Unsupported, scale_to_unit
from engine.data.samples import label_plane
from engine.data.transforms import mirrored_range, percentile_range, ranked_range
from engine.data.volume_cache import VolumeCache
from engine.errors import UserError

HEADER_BYTES = {348: nibabel.Nifti1Header, 540: nibabel.Nifti2Header}
"""The first number of a header is its own size, in the file's byte order."""
SINGLE_FILE, PAIRS = (b"n+1", b"n+2"), (b"ni1", b"ni2")
UNIT_MM = {1: 1000.0, 2: 1.0, 3: 0.001}
"""Low bits of xyzt_units: metres, millimetres, micrometres; 0 (unknown) is taken for mm."""
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
COPIES = 2
"""Arrays of the stored size at once: the voxels, and their copy while percentiles are sought."""
SLICE_COPIES = 4
"""Arrays of a slice at once: scaled, in [0, 1] and as three channels; or a mask's numbers, rounded and compared."""
CACHE_BYTES = 2**30
"""Memory of gzipped volumes that stay open (ours); plain files are mapped and take none."""


@dataclass(frozen=True)
class Header:
    """What a file says before its voxels: shape (X, Y, Z) as stored, and the affine to LPS mm."""

    shape: tuple[int, int, int]
    dtype: np.dtype
    offset: int
    slope: float
    intercept: float
    affine: np.ndarray
    is_placed: bool
    """Whether the file has an sform or a qform."""
    is_gzipped: bool

    @property
    def is_scaled(self) -> bool:
        """Return whether stored numbers mean others."""
        return (self.slope, self.intercept) != (1.0, 0.0)

    @property
    def working_dtype(self) -> np.dtype:
        """Return what a slice is scaled in: a float32 holds every 16-bit number, not every wider one."""
        is_short = not self.is_scaled and (self.dtype.itemsize <= 2 or self.dtype == np.float32)
        return np.dtype(np.float32 if is_short else np.float64)

    @property
    def is_default_place(self) -> bool:
        """Return whether the affine is one that libraries write where none was given: no origin, no angle."""
        return not self.is_placed or (not self.affine[:3, 3].any() and np.count_nonzero(self.affine[:3, :3]) == 3)

    @property
    def orientation(self) -> np.ndarray:
        """Return (3, 2): which LPS axis each stored axis lies closest to, and its direction."""
        return io_orientation(self.affine)

    def geometry(self, slice_axis: int) -> Geometry:
        """Return where the pixels of slices across ``slice_axis`` lie."""
        canonical = np.empty(3, int)
        canonical[self.orientation[:, 0].astype(int)] = self.shape
        column, row = (axis for axis in range(3) if axis != slice_axis)
        picture = np.zeros((4, 4))  # from (column, row, slice) to canonical voxels
        picture[column, 0] = picture[slice_axis, 2] = picture[3, 3] = 1
        picture[row, 1] = -1 if _head_up(slice_axis) else 1
        picture[row, 3] = canonical[row] - 1 if _head_up(slice_axis) else 0
        matrix = self.affine @ inv_ornt_aff(self.orientation, self.shape) @ picture
        steps = np.linalg.norm(matrix[:3, :3], axis=0)
        return Geometry(
            int(canonical[row]),
            int(canonical[column]),
            num_slices=int(canonical[slice_axis]),
            channels=len(self.dtype.names or (0,)),
            spacing_mm=(float(steps[1]), float(steps[0])),
        ).placed(matrix, is_default_place=self.is_default_place)


@dataclass(frozen=True, eq=False)
class Volume:
    """The stored numbers of a file in its own order, of a map of the file where it is plain."""

    header: Header
    flat: np.ndarray
    num_bytes: int

    @cached_property
    def voxels(self) -> np.ndarray:
        """Return the stored numbers as (X, Y, Z) on LPS axes, a view."""
        return apply_orientation(self.flat.reshape(self.header.shape, order="F"), self.header.orientation)

    @cached_property
    def value_range(self) -> tuple[float, float]:
        """Return the scaled 0.5 and 99.5 % values of all voxels."""
        slope, intercept = self.header.slope, self.header.intercept
        if self.flat.dtype.kind == "f" and not np.isfinite(self.flat).all():
            raise Unsupported("it holds values that are not finite")
        if self.flat.dtype.kind in "ui" and self.flat.dtype.itemsize <= 2:
            levels, counts = _histogram(self.flat)
            scaled = levels * slope + intercept
            return ranked_range(scaled, counts) if slope > 0 else ranked_range(scaled[::-1], counts[::-1])
        if slope < 0:  # the lowest stored number is the highest value
            low, high = mirrored_range(self.flat)
            return high * slope + intercept, low * slope + intercept
        low, high = percentile_range(self.flat)
        return low * slope + intercept, high * slope + intercept

    def cut(self, index: int, *, slice_axis: int) -> np.ndarray:
        """Return the stored numbers of one slice, (H, W) or (H, W, C)."""
        pixels = np.take(self.voxels, index, axis=slice_axis).swapaxes(0, 1)
        pixels = np.ascontiguousarray(pixels[::-1] if _head_up(slice_axis) else pixels)
        if pixels.dtype.names:
            return pixels.view(np.uint8).reshape(*pixels.shape, -1)
        return pixels

    def scaled(self, pixels: np.ndarray) -> np.ndarray:
        """Return what stored numbers mean: themselves where the file has no scale, else float64."""
        return pixels * self.header.slope + self.header.intercept if self.header.is_scaled else pixels


_OPEN: VolumeCache[Volume] = VolumeCache(budget_bytes=CACHE_BYTES)


class NiftiFormat:
    """NIfTI, 2-D or 3-D; further axes of length 1 are dropped."""

    @staticmethod
    def header(path: Path, *, slice_axis: int) -> Geometry:
        """Return size and placement of the slices from the header."""
        return read_header(path).geometry(slice_axis)

    @staticmethod
    def image(path: Path, *, slice_index: int, slice_axis: int, value_range: tuple[float, float] | None) -> np.ndarray:
        """Return one slice as float32 in [0, 1], scaled by the whole volume's range; uint8 and colours as they are."""
        volume = open_nifti(path)
        header = volume.header
        is_kept = bool(header.dtype.names) or (
            header.dtype == np.uint8 and value_range is None and not header.is_scaled
        )
        _require_slice(path, volume, slice_axis=slice_axis, dtype=header.dtype if is_kept else header.working_dtype)
        shown_range = None if is_kept else value_range or volume.value_range  # sought before a slice takes memory
        pixels = volume.cut(slice_index, slice_axis=slice_axis)
        return pixels if is_kept else scale_to_unit(volume.scaled(pixels), shown_range)

    @staticmethod
    def labels(path: Path, *, slice_index: int, slice_axis: int) -> np.ndarray:
        """Return one slice's numbers as the file means them: labels kept as scaled integers come back as labels."""
        volume = open_nifti(path)
        header = volume.header
        if header.is_scaled or header.dtype.kind == "f":
            _require_slice(path, volume, slice_axis=slice_axis, dtype=header.working_dtype)
        return volume.scaled(label_plane(path, volume.cut(slice_index, slice_axis=slice_axis)))


def open_nifti(path: Path) -> Volume:
    """Return the voxels of a file, kept open between its slices."""
    return _OPEN.get(path, read_volume)


def stored_header(path: Path) -> nibabel.Nifti1Header:
    """Return the fields of NIfTI-1 or -2, voxel sizes mended, of the first bytes: no extension is ever inflated."""
    with _opened(path) as stream:
        first = stream.read(max(HEADER_BYTES))
    sizes = (int.from_bytes(first[:4], order) for order in ("little", "big"))
    size = next((size for size in sizes if size in HEADER_BYTES), None)
    if size is None or len(first) < size:
        raise ValueError("it does not begin with the header of a NIfTI file")
    magic = first[344:347] if size == 348 else first[4:7]
    if magic not in SINGLE_FILE:
        kind = "the header of a NIfTI pair" if magic in PAIRS else "an ANALYZE header"
        raise Unsupported(f"it is {kind}, whose voxels lie in another file (.img)")
    return _mended(HEADER_BYTES[size](first[:size], check=False))


def read_header(path: Path) -> Header:
    """Return what the first bytes say; nothing else is inflated."""
    stored = stored_header(path)
    dtype = _voxel_type(stored)
    if not np.isfinite(stored["vox_offset"]):
        raise ValueError(f"its voxels begin at no byte ({stored['vox_offset']})")
    offset = stored.get_data_offset()
    if offset < stored.single_vox_offset:
        raise ValueError(f"its voxels would begin inside its header, at byte {offset}")
    slope, intercept = stored.get_slope_inter()
    if slope is not None and not (np.isfinite(slope) and np.isfinite(intercept)):
        raise ValueError(f"its scale ({slope}, {intercept}) is not a number")
    shape = _three_axes(stored.get_data_shape())
    return Header(
        shape,
        dtype,
        offset,
        1.0 if slope is None else float(slope),
        0.0 if intercept is None else float(intercept),
        affine_lps(stored),
        bool(stored["sform_code"] > 0 or stored["qform_code"] > 0),
        _is_gzipped(path),
    )


def _voxel_type(header: nibabel.Nifti1Header) -> np.dtype:
    code = int(header["datatype"])
    if code not in data_type_codes.value_set():
        raise ValueError(f"its voxels are of no known kind (code {code})")
    dtype = header.get_data_dtype()
    is_number = dtype.kind in "uif" and dtype.itemsize <= 8
    if not is_number and dtype.names is None:
        kind = "complex numbers" if dtype.kind == "c" else "numbers of a kind that is not read"
        raise Unsupported(f"its voxels are {kind} ({data_type_codes.label[code]})")
    return dtype


def _mended(header: nibabel.Nifti1Header) -> nibabel.Nifti1Header:
    """Return the header with voxel sizes above 0 and a qfac of 1 or -1, as nibabel's own check would."""
    sizes = np.abs(header["pixdim"][1:4])
    header["pixdim"][1:4] = np.where(np.isfinite(sizes) & (sizes > 0), sizes, 1)
    if header["pixdim"][0] not in (-1, 1):
        header["pixdim"][0] = 1
    return header


def read_volume(path: Path) -> Volume:
    """Return the voxels of ``path``: mapped where the file is plain, inflated as far as its header says where not."""
    header = read_header(path)
    num_values = math.prod(header.shape)
    num_bytes = num_values * header.dtype.itemsize
    require_bytes(path, num_values=num_values, dtype=header.dtype, copies=COPIES)
    if header.is_gzipped:
        require_reach(path, offset=header.offset, num_bytes=num_bytes)
        return Volume(header, inflated(path, offset=header.offset, num_bytes=num_bytes).view(header.dtype), num_bytes)
    found = min(num_bytes, path.stat().st_size - header.offset)
    _require_all(found, num_bytes)
    stored = np.memmap(path, np.uint8, mode="r", offset=header.offset, shape=num_bytes)
    return Volume(header, stored.view(header.dtype), 0)


def inflated(path: Path, *, offset: int, num_bytes: int) -> np.ndarray:
    """Return the voxels of a gzipped file as bytes, with the checksum behind the last of them compared."""
    stored = np.empty(num_bytes, np.uint8)
    with GzipReader(path.open("rb")) as stream:
        stream.skip(offset)
        _require_all(stream.fill(memoryview(stored)), num_bytes)
        stream.finish_member()
    return stored


def _require_all(found: int, num_bytes: int) -> None:
    if found < num_bytes:
        raise ValueError(f"it is truncated: {max(found, 0)} of {num_bytes} bytes of voxels are there")


def _require_slice(path: Path, volume: Volume, *, slice_axis: int, dtype: np.dtype) -> None:
    """Raise where a slice that is worked on in ``dtype`` takes too much beside its volume, which may be one slice."""
    pixels = volume.voxels.size // volume.voxels.shape[slice_axis]
    needed = volume.num_bytes + pixels * dtype.itemsize * SLICE_COPIES
    require_bytes(path, num_values=needed, dtype=np.uint8)


def require_reach(path: Path, *, offset: int, num_bytes: int) -> None:
    """Raise ``UserError`` ``data.image_too_large`` where more than the limit would be inflated to reach the voxels."""
    if offset + num_bytes > limit_bytes():
        raise UserError(
            "data.image_too_large",
            what=f"The voxels of {path} begin at byte {offset:,} of what is compressed in it.",
            why="All bytes before them are inflated on the way, and with the voxels at most "
            f"{limit_bytes() / 2**20:,.0f} MiB of one file are here.",
            fix="Save the volume again without what lies between its header and its voxels, or not compressed.",
        )


def _is_gzipped(path: Path) -> bool:
    return path.name.lower().endswith(".gz")


def _opened(path: Path) -> BinaryIO | GzipReader:
    stream = path.open("rb")
    return GzipReader(stream) if _is_gzipped(path) else stream


def _three_axes(shape: tuple[int, ...]) -> tuple[int, int, int]:
    if min(shape, default=0) < 1:
        raise ValueError(f"its shape {tuple(map(int, shape))} holds no voxels")
    numbers = math.prod(map(int, shape[4:]))  # the fourth axis is time, those behind it are what a voxel holds
    if numbers > 1:
        series = f", in a series of {shape[3]} volumes" if shape[3] > 1 else ""
        raise Unsupported(
            f"each voxel of its shape {tuple(map(int, shape))} holds {numbers:,} numbers (a vector image, such as "
            f"colours or displacements){series}, and one number is read"
        )
    if any(size != 1 for size in shape[3:]):
        raise Unsupported(f"its shape {tuple(map(int, shape))} is a series of volumes, one is read")
    x, y, z = (*map(int, shape[:3]), 1, 1)[:3]
    return x, y, z


def affine_lps(header: nibabel.Nifti1Header) -> np.ndarray:
    """Return the affine (4, 4) from stored voxels to LPS mm: the sform, else the qform, else the voxel sizes alone.

    Raises ``ValueError`` where what the header has is no use.
    """
    candidates, unusable = [], []
    for name, code, form in (
        ("sform", int(header["sform_code"]), header.get_sform),
        ("qform", int(header["qform_code"]), header.get_qform),
    ):
        if code > 0:
            try:
                matrix = form()
            except HeaderDataError:  # a quaternion longer than 1
                matrix = np.zeros((4, 4))
            (candidates if _is_usable(matrix) else unusable).append((name, matrix))
    if not candidates and not unusable:
        candidates.append(("voxel sizes", header.get_base_affine()))
    if not candidates or not _is_usable(candidates[0][1]):
        told = " and ".join(name for name, _ in unusable or candidates)
        raise ValueError(f"its header places the voxels nowhere: the {told} (zero, singular or not finite) is no use")
    factor = UNIT_MM.get(int(header["xyzt_units"]) & 7, 1.0)
    return np.diag([factor, factor, factor, 1.0]) @ RAS_TO_LPS @ candidates[0][1]


def _is_usable(matrix: np.ndarray) -> bool:
    if not np.isfinite(matrix).all():
        return False
    lengths = np.linalg.norm(matrix[:3, :3], axis=0)
    return bool(lengths.min() > 0 and abs(np.linalg.det(matrix[:3, :3] / lengths)) > 1e-3)


def _head_up(slice_axis: int) -> bool:
    # z grows to the head, and picture rows grow downwards; y grows to the back, as rows of an axial picture do
    return slice_axis != 2


def _histogram(flat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the levels of 8- or 16-bit integers and how often each occurs, a piece at a time."""
    about = np.iinfo(flat.dtype)
    counts = np.zeros(about.max - about.min + 1, np.int64)
    for start in range(0, flat.size, 1 << 20):
        levels = flat[start : start + (1 << 20)].astype(np.int32) - about.min
        counts += np.bincount(levels, minlength=counts.size)
    return np.arange(about.min, about.max + 1, dtype=np.float64), counts
