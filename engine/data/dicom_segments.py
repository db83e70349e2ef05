"""DICOM segmentations as label maps: one slice for each plane, whatever the order and number of frames. Torch-free.

A segmentation has a frame for each segment and plane, in any order, and leaves empty ones out (PS3.3 C.8.20). A slice
here is a plane; its labels are the numbers of the segments, or what is stored where there is one segment alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pydicom

from engine.data.dicom_frames import FrameTags, frame_affines, number, tag
from engine.data.geometry import TOLERANCE_PX, Geometry, as_affine
from engine.data.pixels import Unsupported

if TYPE_CHECKING:
    from engine.data.dicom import DicomFile

SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
"""Segmentation Storage and Label Map Segmentation Storage (PS3.4 B.5)."""


@dataclass(frozen=True, eq=False)
class Planes:
    """The frames of each plane, planes in the order in which they lie; where they lie, (S, 4, 4) LPS mm; and each
    frame's segment."""

    frames: tuple[tuple[int, ...], ...]
    affines: np.ndarray
    segments: tuple[int, ...]


def is_segmentation(tags: pydicom.Dataset) -> bool:
    """Return whether a file is a Segmentation object."""
    return str(tag(tags, "Modality")) == "SEG" or tag(tags, "SOPClassUID") in SEGMENTATIONS


def segment_of(file: DicomFile, index: int) -> int:
    """Return the number of the segment that a frame is of, 1 where the frame does not say."""
    item = file.frame_tags(index).item("SegmentIdentificationSequence", with_tag="ReferencedSegmentNumber")
    return int(number(item, "ReferencedSegmentNumber") or 1)


def planes(file: DicomFile) -> Planes | None:
    """Return the planes of a segmentation's frames; None where these do not say where they lie.

    Raises :class:`Unsupported` where frames of several segments do not say where they lie, or lie across each other.
    """
    groups = tag(file.tags, "PerFrameFunctionalGroupsSequence") or []
    segments = [segment_of(file, index) for index in range(len(groups))]
    affines = np.array(frame_affines(file.tags, file.num_frames))
    if not len(affines):
        if len(set(segments)) > 1:
            raise Unsupported(f"its {len(set(segments))} segments do not say where their frames lie")
        return None
    finest = float(np.linalg.norm(affines[0, :3, :2], axis=0).min())
    if np.abs(affines[:, :3, :2] - affines[0, :3, :2]).max() > TOLERANCE_PX * finest:
        raise Unsupported("its frames lie in different planes")
    normal = np.cross(affines[0, :3, 0], affines[0, :3, 1])
    depths = affines[:, :3, 3] @ (normal / np.linalg.norm(normal))
    found: list[list[int]] = []
    for index in np.argsort(depths, kind="stable"):
        is_same = found and depths[index] - depths[found[-1][0]] <= TOLERANCE_PX * finest
        found[-1].append(int(index)) if is_same else found.append([int(index)])
    for frames in found:
        if len({segments[index] for index in frames}) < len(frames):
            raise Unsupported("two of its frames show the same segment in one plane")
    return Planes(tuple(map(tuple, found)), affines[[frames[0] for frames in found]], tuple(segments))


def segmentation_geometry(file: DicomFile, size: Geometry) -> Geometry:
    """Return ``size`` with one slice a plane, and where each of them lies."""
    size = replace(size, unit=FrameTags(file.tags, 0).unit)
    if file.planes is None:
        return size
    places = tuple(map(as_affine, file.planes.affines))
    return replace(size, num_slices=len(places), slices_lps=places, is_sparse=True)


def segmentation_labels(file: DicomFile, slice_index: int) -> np.ndarray:
    """Return the labels of a plane, (H, W): what is stored of a single segment, the segments' numbers of several.

    Raises :class:`Unsupported` where segments overlap: a label map cannot say both.
    """
    if file.planes is None:
        return file.stored(slice_index)
    frames, segments = file.planes.frames[slice_index], file.planes.segments
    if set(segments) == {1} or str(tag(file.tags, "SegmentationType")) == "LABELMAP":
        return file.stored(frames[0])
    labels = np.zeros((int(file.tags.Rows), int(file.tags.Columns)), np.int64)
    for index in frames:
        drawn = file.stored(index) > (number(file.tags, "MaximumFractionalValue") or 0) / 2
        if labels[drawn].any():
            raise Unsupported("two of its segments share pixels: give each class a mask of its own")
        labels[drawn] = segments[index]
    return labels
