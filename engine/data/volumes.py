"""A picture, a volume or a DICOM series as slices in order, each read alone, and where they lie. Torch-free.

Slices are what :mod:`engine.data.readers` returns of each file: NIfTI cut across ``slice_axis``, frames of DICOM, pages
of TIFF. A series of DICOM files, or frames stored out of order, are put in the order in which they lie.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from engine.data.archives import is_dicom
from engine.data.file_faults import reading
from engine.data.geometry import Geometry
from engine.data.pixels import Window
from engine.data.readers import DICOM_SUFFIXES, NIFTI_SUFFIXES, file_suffix, image_info, read_image
from engine.data.series import NoVolume, Placed, stack
from engine.errors import UserError

if TYPE_CHECKING:
    from engine.data.dicom import DicomFile

Kind = Literal["nifti", "dicom", "stack", "picture"]
GREY_SHARES = (0.299, 0.587, 0.114)
"""What red, green and blue add to a grey value (ITU-R BT.601)."""
MIXED_SHOWN = 5
"""Series that the refusal of a mixed folder lists."""


@dataclass(frozen=True)
class SliceAt:
    """One slice: the file that holds it, and its number there, from 0."""

    path: Path
    index: int


@dataclass(frozen=True, eq=False)
class SourceVolume:
    """Slices in order.

    ``geometry`` places columns, rows and slices in this order (LPS mm); ``slice_axis`` is that of NIfTI files.
    ``kind``: ``stack`` is several pictures without a place (TIFF pages), ``picture`` a single one without.
    """

    kind: Kind
    slices: tuple[SliceAt, ...]
    geometry: Geometry
    slice_axis: int = 2

    def __len__(self) -> int:
        """Return the number of slices."""
        return len(self.slices)

    @cached_property
    def paths(self) -> tuple[Path, ...]:
        """Return the files, sorted."""
        return tuple(sorted({at.path for at in self.slices}))

    @property
    def path(self) -> Path:
        """Return the first slice's file."""
        return self.slices[0].path

    @property
    def voxel_mm(self) -> tuple[float, float, float] | None:
        """Return the distance of columns, rows and slices in mm, None where it is not known.

        Of a single slice the third is the thickness that its file tells, or 1 where it tells none.
        """
        matrix = self.geometry.matrix
        if matrix is None:
            return None
        columns, rows, slices = (float(step) for step in np.linalg.norm(matrix[:3, :3], axis=0))
        return columns, rows, slices

    def picture(self, number: int, *, value_range: tuple[float, float] | None, window: Window) -> np.ndarray:
        """Return slice ``number`` as a model sees it, (H, W, 3); see :func:`engine.data.readers.read_image`.

        Slices of DICOM without a window have one range, that of all slices.
        """
        at = self.slices[number]
        if self.kind != "dicom":
            where = {"slice_index": at.index, "slice_axis": self.slice_axis}
            return read_image(at.path, **where, value_range=value_range, window=window)[0]  # type: ignore[arg-type]
        from engine.data.dicom import DicomFormat

        with reading(at.path, suffix=DICOM_SUFFIXES[0]):
            how = {"value_range": value_range, "window": window, "series": self.paths}
            shown = DicomFormat.image(at.path, slice_index=at.index, slice_axis=2, **how)  # type: ignore[arg-type]
            return shown if shown.ndim == 3 else np.repeat(shown[..., None], 3, axis=2)

    def values(self, number: int) -> np.ndarray:
        """Return what the numbers of slice ``number`` mean, (H, W) float32: Hounsfield units, stored numbers, or grey.

        Colours become grey; padding of DICOM is the lowest value of its slice.
        """
        at = self.slices[number]
        with reading(at.path, suffix=file_suffix(at.path)):
            if self.kind == "dicom":
                return _dicom_values(at)
            if self.kind == "nifti":
                from engine.data.nifti import open_nifti

                volume = open_nifti(at.path)
                return _grey(volume.scaled(volume.cut(at.index, slice_axis=self.slice_axis)))
        return _grey(self.picture(number, value_range=None, window="auto"))

    @property
    def is_inverted(self) -> bool:
        """Return whether low values are shown bright (DICOM's MONOCHROME1)."""
        return self.kind == "dicom" and self.dicom_file().photometric == "MONOCHROME1"

    @property
    def window(self) -> tuple[float, float] | None:
        """Return the (centre, width) that the middle slice's DICOM file tells, None where none is told."""
        if self.kind != "dicom":
            return None
        from engine.data.dicom_frames import number

        middle = len(self) // 2
        frame = self.dicom_file(middle).frame_tags(self.slices[middle].index)
        group = frame.item("FrameVOILUTSequence", with_tag="WindowCenter")
        centre, width = number(group, "WindowCenter"), number(group, "WindowWidth")
        return None if centre is None or width is None or width <= 0 else (centre, width)

    def dicom_file(self, number: int = 0) -> DicomFile:
        """Return the tags of the file of slice ``number``."""
        from engine.data.dicom import open_dicom

        path = self.slices[number].path
        with reading(path, suffix=DICOM_SUFFIXES[0]):
            return open_dicom(path)


def open_volume(path: Path, *, slice_axis: int = 2) -> SourceVolume:
    """Return one file as a volume (a picture is one of a single slice); only headers are read.

    Raises ``UserError`` as :func:`engine.data.readers.image_info` does.
    """
    if is_dicom(path):
        return open_series([path])
    geometry = image_info(path, slice_axis=slice_axis)
    slices = tuple(SliceAt(path, index) for index in range(geometry.num_slices))
    if file_suffix(path) in NIFTI_SUFFIXES:
        return SourceVolume("nifti", slices, geometry, slice_axis)
    return SourceVolume("stack" if len(slices) > 1 else "picture", slices, geometry)


def open_series(paths: Sequence[Path]) -> SourceVolume:
    """Return the DICOM files of one series as a volume, its slices in the order in which they lie.

    Frames of a single file that are no volume stay in their stored order, without a place. Raises ``UserError``
    ``data.series_mixed``, ``data.series_broken`` (a slice is missing, there twice, or in another plane or size).
    """
    files = [_tags(path) for path in paths]
    series = Counter(_series(file) for file in files)
    if len(series) > 1:
        raise _mixed(paths, series)
    sizes = {(file.geometry.height_px, file.geometry.width_px) for file in files}
    if len(sizes) > 1:
        told = " and ".join(f"{width} x {height}" for height, width in sorted(sizes)[:2])
        raise _broken(paths, f"its slices differ in size: {told} pixels")
    first = files[0]
    if len(files) == 1 and first.num_frames == 1:
        return SourceVolume("dicom", (SliceAt(first.path, 0),), first.geometry)
    at = [SliceAt(file.path, index) for file in files for index in range(file.num_frames)]
    if len(files) == 1 and first.geometry.affine_lps is not None:
        return SourceVolume("dicom", tuple(at), first.geometry)
    try:
        is_alone = len(files) == 1
        placed = [_placed(file, index, is_alone=is_alone) for file in files for index in range(file.num_frames)]
        order, matrix = stack(placed)
    except NoVolume as error:
        if len(files) > 1:
            raise _broken(paths, str(error)) from error
        order, matrix = list(range(len(at))), None
    geometry = replace(first.geometry, num_slices=len(at)).placed(matrix, unit=first.geometry.unit)
    return SourceVolume("dicom", tuple(at[index] for index in order), geometry)


def placed_series(path: Path) -> str:
    """Return the SeriesInstanceUID of a DICOM file that says where its first frame lies, else ""."""
    from engine.data.dicom_frames import frame_affine

    file = _tags(path)
    return "" if frame_affine(file.frame_tags(0)) is None else _series(file)


def _series(file: DicomFile) -> str:
    from engine.data.dicom_frames import tag

    return str(tag(file.tags, "SeriesInstanceUID") or "")


def _tags(path: Path) -> DicomFile:
    from engine.data.dicom import open_dicom

    with reading(path, suffix=DICOM_SUFFIXES[0]):
        file = open_dicom(path)
        _ = file.geometry, _series(file)  # pydicom converts tags when they are asked for: their faults are told here
        return file


def _placed(file: DicomFile, index: int, *, is_alone: bool) -> Placed:
    from engine.data.dicom_frames import frame_affine, number

    instance = float(index) if is_alone and file.num_frames > 1 else number(file.tags, "InstanceNumber")
    return Placed(frame_affine(file.frame_tags(index)), instance, index)


def _dicom_values(at: SliceAt) -> np.ndarray:
    from engine.data.dicom import open_dicom
    from engine.data.dicom_values import from_palette, grey_values

    file = open_dicom(at.path)
    pixels = file.stored(at.index)
    if file.photometric == "PALETTE COLOR":
        return _grey(from_palette(pixels, file.tags))
    if pixels.ndim == 3:
        return _grey(pixels)
    values, padding = grey_values(pixels, file.frame_tags(at.index))
    if padding is not None and not padding.all():
        values[padding] = values[~padding].min()
    return values.astype(np.float32)


def _grey(pixels: np.ndarray) -> np.ndarray:
    if pixels.ndim == 2:
        return pixels.astype(np.float32)
    if pixels.shape[2] < 3 or (pixels[..., :1] == pixels[..., 1:3]).all():
        return pixels[..., 0].astype(np.float32)
    return (pixels[..., :3] @ np.array(GREY_SHARES)).astype(np.float32)


def _mixed(paths: Sequence[Path], series: Counter[str]) -> UserError:
    sizes = sorted(series.values(), reverse=True)
    told = ", ".join(str(size) for size in sizes[:MIXED_SHOWN]) + (", ..." if len(sizes) > MIXED_SHOWN else "")
    return UserError(
        "data.series_mixed",
        what=f"{paths[0].parent} holds {len(series)} DICOM series, of {told} files.",
        why="A volume is one series: slices of several would be taken for one patient's in one place.",
        fix="Put the files of one series into a zip or folder of their own.",
    )


def _broken(paths: Sequence[Path], text: str) -> UserError:
    return UserError(
        "data.series_broken",
        what=f"The DICOM series in {paths[0].parent} is no volume: {text}.",
        why="Masks and millimetres would be wrong in the places between.",
        fix="Export the whole series again, each slice once, without its localizer.",
    )
