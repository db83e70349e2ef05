"""Kinds of images, from a dataset's own word, a DICOM file's Modality or a file's format. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engine.data.readers import DICOM_SUFFIXES, NIFTI_SUFFIXES, file_suffix

FileKind = Literal["dicom", "nifti", "picture"]
TITLES = {
    "ct": "CT", "mr": "MR", "pet": "nuclear medicine", "ultrasound": "ultrasound", "xray": "X-ray",
    "microscopy": "microscopy", "endoscopy": "endoscopy", "fundus": "photographs of the eye", "skin": "dermoscopy",
}  # fmt: skip
"""What each kind is called after "images of"."""
SCANNERS = frozenset({"ct", "mr", "pet", "ultrasound"})
"""What NIfTI files hold: volumes of a scanner."""
WORDS = {
    "ct": ("ct", "computed tomography"),
    "mr": ("mr", "mri", "magnetic resonance"),
    "pet": ("pet", "spect"),
    "ultrasound": ("ultrasound", "sonography", "us"),
    "xray": ("x-ray", "xray", "radiograph", "radiography", "mammography"),
    "microscopy": ("microscopy", "histology", "histopathology", "cytology"),
    "endoscopy": ("endoscopy", "colonoscopy", "gastroscopy", "laparoscopy"),
    "fundus": ("fundus", "retina", "ophthalmoscopy"),
    "skin": ("dermoscopy", "dermatoscopy", "skin"),
}
DICOM_CODES = {
    "CT": "ct", "MR": "mr", "PT": "pet", "NM": "pet", "US": "ultrasound", "IVUS": "ultrasound", "CR": "xray",
    "DX": "xray", "MG": "xray", "RF": "xray", "XA": "xray", "IO": "xray", "PX": "xray", "SM": "microscopy",
    "GM": "microscopy", "ES": "endoscopy", "OP": "fundus", "DMS": "skin",
}  # fmt: skip
"""Of DICOM PS3.3 C.7.3.1.1.1 those that say the kind of image; OT, XC and others do not."""


@dataclass(frozen=True)
class Origin:
    """What an image's file says of it; ``modality`` is a key of ``TITLES``, None where it does not say."""

    file: FileKind = "picture"
    modality: str | None = None
    code: str | None = None
    """DICOM's own word."""
    spacing_mm: tuple[float, float] | None = None


def modality_of(words: str) -> str | None:
    """Return the kind that a dataset's word for its images names, None for a word that is not known or several."""
    said = f" {words.lower().replace(',', ' ').replace('(', ' ').replace(')', ' ').replace('/', ' ')} "
    found = [kind for kind, names in WORDS.items() if any(f" {name} " in said for name in names)]
    return found[0] if len(found) == 1 else None


def file_kind(path: Path) -> FileKind:
    """Return what kind of file a path names."""
    suffix = file_suffix(path)
    return "dicom" if suffix in DICOM_SUFFIXES else "nifti" if suffix in NIFTI_SUFFIXES else "picture"


def origin_of(path: Path, *, slice_axis: int = 2) -> Origin:
    """Return what the header of a readable image file says; raises ``UserError`` as ``image_info`` does."""
    from engine.data.readers import image_info

    kind = file_kind(path)
    spacing = image_info(path, slice_axis=slice_axis).spacing_mm
    if kind != "dicom":
        return Origin(kind, spacing_mm=spacing)
    from engine.data.dicom import open_dicom
    from engine.data.file_faults import reading

    with reading(path, suffix=DICOM_SUFFIXES[0]):
        code = str(open_dicom(path).tags.get("Modality", "")).strip().upper()[:16] or None
    return Origin(kind, DICOM_CODES.get(code or ""), code, spacing)
