"""Masks as a DICOM Segmentation object that refers to the instances it was made of (highdicom). Torch-free.

The object is written for the patient and the study of its source: it carries their identifiers, as every object of a
study does, and belongs where the source belongs.
"""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pydicom
from pydicom.uid import generate_uid

from engine.data.dicom_frames import tag
from engine.data.volumes import SourceVolume
from engine.errors import UserError
from engine.version import VERSION
from export.manifest import Manifest

if TYPE_CHECKING:
    from highdicom.seg import SegmentDescription

NEEDED = {
    "StudyInstanceUID": "its study",
    "SeriesInstanceUID": "its series",
    "SOPClassUID": "its kind",
    "SOPInstanceUID": "itself",
    "FrameOfReferenceUID": "its frame of reference",
}
"""Tags without which nothing can refer to an instance, and what they name."""
EMPTY_ALLOWED = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate"),
    "StudyTime",
)
"""Tags that an object must have and may leave empty (PS3.3, type 2); de-identified files lack them."""
SEXES = ("M", "F", "O", "")
MANUFACTURER = "DSFedMed Studio"
SERIES_NUMBER = 900
"""Number of the new series (ours): beyond those that scanners give."""
MAX_LABEL = 64


def write_dicom_seg(
    path: Path, volume: SourceVolume, masks_KSHW: np.ndarray, *, manifest: Manifest, note: str = ""
) -> None:
    """Write masks (K, S, H, W) in {0, 1} as one binary DICOM Segmentation, one segment a class; classes may overlap.

    Frames have the rows, columns, places and orientation of their source frames, and refer to them; frames without
    foreground are left out, as readers expect. ``note`` ends the description of the series. Raises ``UserError``
    ``output.no_segmentation`` where the source lacks what an object must refer to, or where its slices lie.
    """
    import highdicom.seg

    sources, masks_FHWK = _sources(volume, masks_KSHW)
    described = [_segment(number + 1, name, manifest) for number, name in enumerate(manifest.classes)]
    try:
        made = highdicom.seg.Segmentation(
            source_images=sources,
            pixel_array=masks_FHWK,
            segmentation_type="BINARY",
            segment_descriptions=described,
            series_instance_uid=generate_uid(),
            series_number=SERIES_NUMBER,
            sop_instance_uid=generate_uid(),
            instance_number=1,
            manufacturer=MANUFACTURER,
            manufacturer_model_name=manifest.name[:MAX_LABEL],
            software_versions=VERSION,
            device_serial_number=manifest.config_hash[:MAX_LABEL] or "none",
            content_label="SEGMENTATION",
        )
    except (ValueError, TypeError, AttributeError, KeyError) as error:  # what it makes of tags that it does not expect
        raise _refused(f"its tags do not fit together ({type(error).__name__})") from error
    made.SeriesDescription = f"Segmentation, for research use only{f'; {note}' if note else ''}"[:MAX_LABEL]
    made.save_as(path, enforce_file_format=True)


def _sources(volume: SourceVolume, masks_KSHW: np.ndarray) -> tuple[list[pydicom.Dataset], np.ndarray]:
    """Return the source instances, without pixels, and the masks (F, H, W, K) of their frames in stored order."""
    if volume.kind != "dicom":
        raise _refused("it was not made of DICOM files")
    if volume.geometry.affine_lps is None:
        raise _refused("nothing says where its frames lie in the patient")
    paths = list(dict.fromkeys(at.path for at in volume.slices))
    order = list(range(len(volume)))
    if len(paths) == 1:  # the frames of one file, which may have been put in order
        order.sort(key=lambda number: volume.slices[number].index)
    elif len(paths) < len(volume):
        raise _refused("its series is of several files with several frames each")
    first = {at.path: number for number, at in reversed(list(enumerate(volume.slices)))}
    sources = [_instance(volume.dicom_file(first[path]).tags) for path in paths]
    return sources, np.ascontiguousarray(masks_KSHW[:, order].transpose(1, 2, 3, 0))


def _instance(tags: pydicom.Dataset) -> pydicom.Dataset:
    """Return the tags of an instance with those that must be there, empty where its file has none."""
    for keyword, named in NEEDED.items():
        if tag(tags, keyword) is None:
            raise _refused(f"a file of it has no {keyword}, which names {named}")
    copy = pydicom.Dataset(tags)
    for keyword in EMPTY_ALLOWED:
        if keyword not in copy:
            setattr(copy, keyword, "")
    if copy.PatientSex not in SEXES:
        copy.PatientSex = ""
    for keyword, pattern in (("PatientBirthDate", "%Y%m%d"), ("StudyDate", "%Y%m%d")):
        if not _is_date(str(copy[keyword].value or ""), pattern):
            setattr(copy, keyword, "")
    return copy


def _is_date(text: str, pattern: str) -> bool:
    try:
        datetime.datetime.strptime(text, pattern)
    except ValueError:
        return text == ""
    return True


def _segment(number: int, name: str, manifest: Manifest) -> SegmentDescription:
    import highdicom.seg
    from highdicom.sr.coding import CodedConcept

    body = CodedConcept("123037004", "SCT", "Body structure")
    intelligence = CodedConcept("123109", "DCM", "Artificial Intelligence")
    made_by = highdicom.AlgorithmIdentificationSequence(
        name=manifest.name[:MAX_LABEL], version=manifest.config_hash[:MAX_LABEL] or "none", family=intelligence
    )
    return highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=name[:MAX_LABEL],
        segmented_property_category=body,
        segmented_property_type=body,
        algorithm_type="AUTOMATIC",
        algorithm_identification=made_by,
    )


def _refused(text: str) -> UserError:
    return UserError(
        "output.no_segmentation",
        what=f"The masks cannot be saved as a DICOM Segmentation: {text}.",
        why="It refers to the instances that it was made of, frame by frame.",
        fix="Take the NIfTI or PNG masks, or give the original DICOM files.",
    )
