"""A DICOM frame's own tags: where its pixels lie, and which groups of tags hold for it. Torch-free.

An enhanced file keeps what a classic one has at its top level in functional groups: those of the frame, else those that
all frames share (PS3.3 C.7.6.16). A tag that is there but empty, or has fewer values than it must, counts as absent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pydicom
from pydicom.multival import MultiValue

from engine.data.geometry import TOLERANCE_PX


def tag(dataset: pydicom.Dataset, keyword: str) -> Any:
    """Return a tag's value, None where it is missing or empty."""
    value = dataset.get(keyword)
    if value is None or (hasattr(value, "__len__") and len(value) == 0):
        return None
    return value


def numbers(dataset: pydicom.Dataset, keyword: str, *, count: int) -> tuple[float, ...] | None:
    """Return the first ``count`` values of a tag as floats, None where it has fewer or what is there is no number."""
    try:
        value = tag(dataset, keyword)
        values = list(value) if isinstance(value, MultiValue | list | tuple) else [value]
        return tuple(float(one) for one in values[:count]) if len(values) >= count else None
    except (ValueError, TypeError, ArithmeticError):  # "0,5", an empty value, or none
        return None


def number(dataset: pydicom.Dataset, keyword: str) -> float | None:
    """Return the first value of a tag, None where it is missing or empty."""
    values = numbers(dataset, keyword, count=1)
    return None if values is None else values[0]


def _required(dataset: pydicom.Dataset, keyword: str) -> float | None:
    """Return a tag's first value, None where it is missing or empty; raises ``ValueError`` where it is no number."""
    found = number(dataset, keyword)
    element = dataset.get_item(keyword) if found is None else None
    told = b"" if element is None else element.value
    if told and told.strip():
        said = told.decode("ascii", "replace") if isinstance(told, bytes) else told
        raise ValueError(f"its {keyword} is no number: {said!r:.60}")
    return found


@dataclass(frozen=True)
class FrameTags:
    """The tags that hold for frame ``index``."""

    file: pydicom.Dataset
    index: int

    def item(self, group: str, *, with_tag: str) -> pydicom.Dataset:
        """Return the item of a functional group that has ``with_tag``: the frame's, the shared one, else the file."""
        frames = tag(self.file, "PerFrameFunctionalGroupsSequence") or []
        shared = tag(self.file, "SharedFunctionalGroupsSequence") or []
        for item in (*frames[self.index : self.index + 1], *shared[:1]):
            found = tag(item, group)
            if found is not None and tag(found[0], with_tag) is not None:
                return found[0]
        return self.file

    @property
    def spacing_mm(self) -> tuple[float, float] | None:
        """Return the (row, column) distance; at the detector where nothing says what it is in the patient."""
        measured = self.item("PixelMeasuresSequence", with_tag="PixelSpacing")
        for dataset, keyword in (
            (measured, "PixelSpacing"),
            (self.file, "ImagerPixelSpacing"),
            (self.file, "NominalScannedPixelSpacing"),
        ):
            spacing = numbers(dataset, keyword, count=2)
            if spacing is not None and min(spacing) > 0:
                return spacing[0], spacing[1]
        return None

    @property
    def position(self) -> np.ndarray | None:
        """Return where the centre of the first pixel lies, (3,) LPS mm; None of slices side by side in one picture.

        Siemens's mosaics have the place that the whole picture would have, were it a slice, which is none of theirs.
        """
        if tag(self.file, "Modality") == "MR" and "MOSAIC" in (tag(self.file, "ImageType") or ()):
            return None
        found = numbers(
            self.item("PlanePositionSequence", with_tag="ImagePositionPatient"), "ImagePositionPatient", count=3
        )
        return None if found is None else np.array(found)

    @property
    def directions(self) -> np.ndarray | None:
        """Return unit vectors (2, 3) along which columns and rows are counted; None where they are skew."""
        found = numbers(
            self.item("PlaneOrientationSequence", with_tag="ImageOrientationPatient"),
            "ImageOrientationPatient",
            count=6,
        )
        if found is None:
            return None
        pair = np.array(found).reshape(2, 3)
        is_sound = np.allclose(np.linalg.norm(pair, axis=1), 1, atol=0.01) and abs(float(pair[0] @ pair[1])) < 0.01
        return pair if is_sound else None

    @property
    def rescale(self) -> tuple[float, float]:
        """Return (slope, intercept), (1, 0) where the file has none; of doses what brings them to their unit."""
        group = self.item("PixelValueTransformationSequence", with_tag="RescaleSlope")
        slope, intercept = _required(group, "RescaleSlope"), _required(group, "RescaleIntercept")
        if slope == 0:
            raise ValueError("its RescaleSlope is 0: all its values would be one")
        slope = slope or _required(self.file, "DoseGridScaling")  # PS3.3 C.8.8.3
        return 1.0 if slope is None else slope, 0.0 if intercept is None else intercept

    @property
    def unit(self) -> str | None:
        """Return what rescaled values mean; those of CT are Hounsfield units where nothing else is said."""
        group = self.item("PixelValueTransformationSequence", with_tag="RescaleType")
        told = tag(group, "RescaleType")
        if told is not None and str(told) != "US":  # "unspecified"
            return str(told)
        if number(self.file, "DoseGridScaling") is not None and tag(self.file, "DoseUnits") is not None:
            return str(tag(self.file, "DoseUnits"))
        has_rescale = self.rescale != (1.0, 0.0)
        return "HU" if tag(self.file, "Modality") == "CT" and has_rescale else None


def frame_affine(frame: FrameTags) -> np.ndarray | None:
    """Return (4, 4) from (column, row, slice) of one frame to LPS mm (PS3.3 C.7.6.2.1.1), or None."""
    plane = _plane(frame)
    if plane is None:
        return None
    matrix, position, normal = plane
    measured = frame.item("PixelMeasuresSequence", with_tag="SliceThickness")
    matrix[:3, 2] = normal * (number(measured, "SliceThickness") or 1.0)
    matrix[:3, 3] = position
    return matrix


def volume_affine(file: pydicom.Dataset, num_frames: int) -> np.ndarray | None:
    """Return (4, 4) of all frames, None where they do not lie one after the other at equal steps, in stored order."""
    first = _plane(FrameTags(file, 0))
    if first is None:
        return None
    matrix, origin, normal = first
    offsets = numbers(file, "GridFrameOffsetVector", count=num_frames)  # dose grids
    if offsets is not None:
        places = origin + np.outer(np.array(offsets) - offsets[0], normal)
    elif len(tag(file, "PerFrameFunctionalGroupsSequence") or []) < num_frames:
        return None
    else:
        planes = [_plane(FrameTags(file, index)) for index in range(num_frames)]
        if any(plane is None or not np.allclose(plane[0], matrix, atol=1e-4) for plane in planes):
            return None
        places = np.array([plane[1] for plane in planes if plane is not None])
    step = (places[-1] - places[0]) / (num_frames - 1)
    even = origin + np.outer(np.arange(num_frames), step)
    finest = min(*np.linalg.norm(matrix[:3, :2], axis=0), float(np.linalg.norm(step)))
    if abs(float(step @ normal)) < 1e-6 or np.linalg.norm(places - even, axis=1).max() > TOLERANCE_PX * finest:
        return None
    matrix[:3, 2], matrix[:3, 3] = step, origin
    return matrix


def frame_affines(file: pydicom.Dataset, num_frames: int) -> tuple[np.ndarray, ...]:
    """Return (4, 4) of every frame, nothing where a frame does not say where it lies."""
    if len(tag(file, "PerFrameFunctionalGroupsSequence") or []) < num_frames:
        return ()  # without looking: a file may announce millions
    found = [frame_affine(FrameTags(file, index)) for index in range(num_frames)]
    placed = tuple(matrix for matrix in found if matrix is not None)
    return placed if len(placed) == num_frames else ()


def _plane(frame: FrameTags) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Return the affine's in-plane part (4, 4), the first pixel's place and the normal."""
    spacing, position, directions = frame.spacing_mm, frame.position, frame.directions
    if spacing is None or position is None or directions is None:
        return None
    matrix = np.eye(4)
    matrix[:3, 0] = directions[0] * spacing[1]
    matrix[:3, 1] = directions[1] * spacing[0]
    return matrix, position, np.cross(directions[0], directions[1])
