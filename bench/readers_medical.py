"""DICOM and NIfTI files that pydicom, pydicom-data and nibabel ship, by our reader and by independent ones.

DICOM: GDCM's own reader for stored numbers (pydicom where GDCM cannot), highdicom for values and windows, pydicom for
colours. NIfTI: nibabel's ``get_fdata``, brought to the left, posterior and superior by a few lines here.
"""

from __future__ import annotations

import gzip
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import data_store
import gdcm
import nibabel
import numpy as np
import pydicom
from highdicom.image import Image as HighdicomImage
from pydicom.pixels import apply_color_lut, apply_rescale, pixel_array
from pydicom.uid import ImplicitVRLittleEndian

from bench.reading import Outcome
from engine.data.readers import image_info, read_image, read_mask
from engine.errors import UserError

CASES = Path(__file__).resolve().parent.parent.parent / "shared" / "cases" / "readers"
TOLERANCE = 2e-6
"""Of shares in [0, 1]: float32 arithmetic in another order."""
GDCM_DIFFERS = ("J2K_pixelrep_mismatch.dcm",)
"""GDCM takes these stored numbers for unsigned, against the file's own tag."""
TWINS = {"emri_small_jpeg_2k_lossless_too_short.dcm": "emri_small.dcm"}
"""Ends within its last frame's padding, which pydicom gives up on: the same pixels, uncompressed."""
OTHER_FORMATS = (
    ".par", ".rec", ".mnc", ".nc", ".head", ".brik", ".brik.gz", ".mgz", ".v", ".gii", ".gii.gz", ".trk", ".tck",
)  # fmt: skip
"""Endings of what nibabel reads and we do not: Philips, MINC, AFNI, FreeSurfer, ECAT, surfaces and tracts."""
NO_IMAGE = ("without pixels", "which is no image", "one of an ANALYZE or NIfTI pair", "an ending that no reader knows")
"""What a refusal says of a file in which pydicom finds no pixels either."""
REFUSED = {
    # files with pixels that neither reader can use, and why
    "JPEG2000-embedded-sequence-delimiter.dcm": ("data.image_unreadable", ""),
    "MR_truncated.dcm": ("data.image_unreadable", ""),
    "badVR.dcm": ("data.image_unreadable", ""),
    "row_major.dconn.nii": ("data.image_unsupported", "100 numbers"),
    "example4d.nii.gz": ("data.image_unsupported", "series"),
    "example_nifti2.nii.gz": ("data.image_unsupported", "series"),
    "functional.nii": ("data.image_unsupported", "series"),
    "resampled_anat_moved.nii": ("data.image_unsupported", "not finite"),
    "no_meta.dcm": ("data.image_unreadable", "does not begin as a DICOM file"),
    "eCT_Supplemental.dcm": ("data.image_unsupported", "supplemental palette"),
}


def compare() -> list[Outcome]:
    """Return an outcome for every DICOM and NIfTI file that the libraries ship, and for our own small cases."""
    logging.disable(logging.CRITICAL)  # the libraries tell about every odd tag of their own test files
    try:
        with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return [_outcome(name, path, check) for name, path, check in _files(Path(scratch))]
    finally:
        logging.disable(logging.NOTSET)


def _files(scratch: Path) -> Iterator[tuple[str, Path, Callable[[Path], str]]]:
    """Yield (name, path, comparison); DICOM files whose ending says nothing get a link with the right one."""
    pydicom_root, nibabel_root = Path(pydicom.__file__).parent, Path(nibabel.__file__).parent
    roots = {
        "pydicom": pydicom_root / "data",
        "pydicom-data": Path(data_store.__file__).parent / "data",
        "nibabel": nibabel_root,
        "cases": CASES,
    }
    for library, root in roots.items():
        for path in sorted(root.rglob("*")):
            name = f"{library}/{path.relative_to(root)}"
            if not path.is_file():
                continue
            if path.name.lower().endswith((".nii", ".nii.gz")):
                yield name, path, _compare_nifti
            elif path.name.endswith((".hdr", ".img")):
                yield name, path, _compare_nothing
            elif path.name.endswith(".dcm.gz"):
                link = scratch / f"{len(list(scratch.iterdir()))}.dcm"
                link.write_bytes(gzip.decompress(path.read_bytes()))
                yield name, link, _compare_dicom
            elif path.name.lower().endswith(OTHER_FORMATS):
                yield name, path, _compare_nothing
            elif path.suffix == ".dcm" or _has_dicom_mark(path):
                link = scratch / f"{len(list(scratch.iterdir()))}.dcm"
                link.symlink_to(path)
                yield name, link, _compare_dicom


def _has_dicom_mark(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM"


def _outcome(name: str, path: Path, check: Callable[[Path], str]) -> Outcome:
    try:
        return Outcome(name, "equal", check(path))
    except UserError as error:
        code, word = REFUSED.get(Path(name).name, (None, ""))
        if code is None:
            is_right = not _has_pixels(path) and any(told in error.what for told in NO_IMAGE)
        else:
            is_right = error.code == code and word in error.what
        return Outcome(name, "refused" if is_right else "wrong", f"{error.code}: {error.what}")
    except Exception as error:  # either reader's; what cannot be compared is not equal
        return Outcome(name, "wrong", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")


def _has_pixels(path: Path) -> bool:
    """Return whether pydicom finds pixels in the file; only others may be refused without being listed."""
    if path.suffix != ".dcm":
        return path.name.endswith((".nii", ".nii.gz"))
    tags = pydicom.dcmread(path, force=True)
    return "Rows" in tags and any(name in tags for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData"))


def _compare_nothing(path: Path) -> str:
    image_info(path)
    raise AssertionError("it has an ending that is not read, and was read")


def _compare_dicom(path: Path) -> str:
    geometry = image_info(path)
    twin = TWINS.get(path.resolve().name)
    tags = pydicom.dcmread(path if twin is None else path.resolve().parent / twin, force=True)
    if "TransferSyntaxUID" not in tags.file_meta:
        tags.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    for element in [element for element in tags if element.is_empty]:
        del tags[element.tag]
    image = _in_highdicom(path) if tags.PhotometricInterpretation.startswith("MONOCHROME") else None
    frames = sorted({0, geometry.num_slices // 2, geometry.num_slices - 1})
    for index in frames:
        if geometry.channels == 3:
            _same_colours(path, tags, index)
        else:
            stored = read_mask(path, slice_index=index)
            np.testing.assert_array_equal(stored, _stored_by_gdcm(path if twin is None else None, tags, index))
            _same_values(path, tags, index, stored, image)
    return f"{geometry.num_slices} frame(s), {geometry.width_px} x {geometry.height_px}"


def _stored_by_gdcm(path: Path | None, tags: pydicom.Dataset, index: int) -> np.ndarray:
    if path is None:
        return pixel_array(tags, index=index)
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    kinds = {"UINT8": "u1", "INT8": "i1", "UINT16": "<u2", "INT16": "<i2", "UINT32": "<u4", "INT32": "<i4"}
    # GDCM ends the process on functional groups and dose grids that lack what it expects
    is_plain = "PixelData" in tags and not _is_enhanced(tags) and tags.get("Modality") != "RTDOSE"
    if is_plain and path.resolve().name not in GDCM_DIFFERS and reader.Read():
        image = reader.GetImage()
        kind = kinds.get(image.GetPixelFormat().GetScalarTypeAsString())
        if kind is not None:
            values = np.frombuffer(image.GetBuffer().encode("utf-8", "surrogateescape"), kind)
            return values.reshape(-1, tags.Rows, tags.Columns)[index]
    return pixel_array(tags, index=index)


def _same_colours(path: Path, tags: pydicom.Dataset, index: int) -> None:
    expected = pixel_array(tags, index=index)
    bits = tags.BitsStored
    if tags.PhotometricInterpretation == "PALETTE COLOR":
        expected = apply_color_lut(expected, tags)
        bits = 8 * expected.dtype.itemsize
        if not tags.original_encoding[1]:  # pydicom reads its palettes in the machine's byte order
            expected = expected.byteswap()
    ours, geometry = read_image(path, slice_index=index)
    assert ours.shape[:2] == (geometry.height_px, geometry.width_px), "the header's size is not the pixels'"
    np.testing.assert_allclose(_share(ours), expected / (2.0**bits - 1), atol=TOLERANCE)


def _share(image: np.ndarray) -> np.ndarray:
    return image / float(np.iinfo(image.dtype).max) if image.dtype.kind == "u" else image


def _same_values(
    path: Path, tags: pydicom.Dataset, index: int, stored: np.ndarray, image: HighdicomImage | None
) -> None:
    """Compare the stored range, and a range in units or the file's own window, with other arithmetic."""
    signed, bits = bool(tags.get("PixelRepresentation")), tags.BitsStored
    low = -(2.0 ** (bits - 1)) if signed else 0.0
    share = (stored - low) / (2.0**bits - 1)
    padding = tags.get("PixelPaddingValue")
    inverse = tags.PhotometricInterpretation == "MONOCHROME1"
    seen = np.ones(stored.shape, bool) if padding is None else stored != padding
    ours = read_image(path, slice_index=index, window="stored")[0][..., 0]
    np.testing.assert_allclose(ours[seen], (1 - share if inverse else share)[seen], atol=TOLERANCE)
    values = apply_rescale(stored, tags).astype(np.float64) * float(tags.get("DoseGridScaling", 1))
    if _is_enhanced(tags) and image is not None:
        values = image.get_frame(index + 1, apply_real_world_transform=False, apply_presentation_lut=False)
    ends = float(values.min()), float(values.max()) + 1
    expected = (values - ends[0]) / (ends[1] - ends[0])
    ours = read_image(path, slice_index=index, value_range=ends)[0][..., 0]
    np.testing.assert_allclose(ours[seen], (1 - expected if inverse else expected)[seen], atol=TOLERANCE)
    slope = apply_rescale(np.array([1]), tags)[0] - apply_rescale(np.array([0]), tags)[0]
    if image is None or slope != 1:  # highdicom scales the window's width before it takes 1 away, against PS3.3
        return
    try:
        shown = image.get_frame(index + 1, apply_voi_transform=True, apply_real_world_transform=False)
    except RuntimeError:  # no window
        return
    ours = read_image(path, slice_index=index, window="dicom")[0][..., 0]
    np.testing.assert_allclose(ours[seen], shown[seen], atol=TOLERANCE)


def _is_enhanced(tags: pydicom.Dataset) -> bool:
    return "SharedFunctionalGroupsSequence" in tags or "PerFrameFunctionalGroupsSequence" in tags


def _in_highdicom(path: Path) -> HighdicomImage | None:
    """Return what highdicom makes of the file; None for big-endian files, incomplete references and empty tags."""
    try:
        return HighdicomImage.from_dataset(pydicom.dcmread(path, force=True), copy=False)
    except (ValueError, AttributeError, TypeError):
        return None


def _compare_nifti(path: Path) -> str:
    geometry = image_info(path)
    content = path.read_bytes()
    content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    kind = nibabel.Nifti2Image if b"n+2" in content[:8] else nibabel.Nifti1Image
    image = kind.from_bytes(content)
    values = np.asarray(image.get_fdata()).reshape((*image.shape[:3], 1, 1)[:3])
    codes = [nibabel.orientations.axcodes2ornt(("L", "P", "S")), nibabel.io_orientation(image.affine)]
    moved = nibabel.apply_orientation(values, nibabel.orientations.ornt_transform(codes[1], codes[0]))
    ends = float(values.min()), float(values.max()) + 1
    for axis, turn in ((0, True), (1, True), (2, False)):
        told = image_info(path, slice_axis=axis)
        for index in sorted({0, told.num_slices // 2, told.num_slices - 1}):
            expected = (np.take(moved, index, axis=axis).T - ends[0]) / (ends[1] - ends[0])
            ours = read_image(path, slice_index=index, slice_axis=axis, value_range=ends)[0][..., 0]
            assert ours.shape == (told.height_px, told.width_px), "the header's size is not the pixels'"
            np.testing.assert_allclose(ours, expected[::-1] if turn else expected, atol=TOLERANCE)
    return f"{geometry.num_slices} slice(s), {geometry.width_px} x {geometry.height_px}"
