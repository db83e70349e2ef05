"""One way in for every image file: PNG, JPEG, BMP, TIFF, NIfTI, DICOM and npy. Torch-free.

Reader contract. A file holds one picture or a volume of slices. ``read_image`` gives one of them as (H, W, 3): row 0 at
the top, column 0 on the left, channels RGB, grey repeated; uint8 for 8-bit files, uint16 for 16-bit PNG, TIFF, npy and
DICOM colours, else float32 in [0, 1]. ``read_mask`` gives the stored numbers as they are, (H, W) or (H, W, C) integers;
of a palette picture that shows black and white alone, what it shows.
The size that ``image_info`` tells from the header is the size of the pixels.

One rule of orientation: a picture is what a viewer of its format shows. Frames of DICOM and pages of TIFF are the
slices, as they are stored. NIfTI volumes are brought to the closest patient axes and cut across ``slice_axis``
(0 sagittal, 1 coronal, 2 axial); the patient's left is on the right (of a sagittal slice: the back), the front of an
axial slice and the head of the others at the top, and slices go from right to left, front to back, feet to head. So a
DICOM series and the NIfTI file made of it show the same. ``Geometry.affine_lps`` says where the pixels lie, and a mask
that is read ``like`` its image is brought to the image's pixels by it, or refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from engine.data import npy, pictures, samples, tiff
from engine.data.file_faults import AGAIN, PICTURES, own_ending, reading, unsupported
from engine.data.geometry import Geometry, Reindex, same_place, same_slices, shares_places
from engine.data.pixels import Format, Unsupported, Window
from engine.data.samples import White, whole_numbers
from engine.errors import UserError

MAX_PIXELS = 89_478_485
"""Largest accepted picture: Pillow's own bound for a decompression bomb, used for every format."""
MAX_VOXELS = 2**30
"""Largest accepted volume."""
RASTER_SUFFIXES = PICTURES
TIFF_SUFFIXES = (".tif", ".tiff")
NIFTI_SUFFIXES = (".nii", ".nii.gz")
DICOM_SUFFIXES = (".dcm", ".dicom")
NPY_SUFFIXES = (".npy",)
PAIR_SUFFIXES = (".hdr", ".img", ".hdr.gz", ".img.gz")
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
    """Return size and placement of a picture or volume from its header, refusing what is too large to decode safely.

    Raises ``UserError`` with the codes of ``engine.data.file_faults.reading``, or ``data.format_unknown``.
    """
    path = Path(path)
    decoder = _format(path)
    with reading(path, suffix=file_suffix(path)):
        geometry = decoder.header(path, slice_axis=slice_axis)
    _refuse_bombs(path, geometry)
    return geometry


def read_image(
    path: str | Path,
    *,
    slice_index: int = 0,
    slice_axis: int = 2,
    value_range: tuple[float, float] | None = None,
    window: Window = "auto",
    series: Sequence[Path] = (),
) -> tuple[np.ndarray, Geometry]:
    """Return one picture (H, W, 3), uint8, uint16 or float32 in [0, 1], and its geometry.

    ``value_range`` (in the file's own units: Hounsfield units after rescale for CT) becomes [0, 1]. Without it, grey
    DICOM goes by ``window``: its own window or table ("auto": percentiles where it has none, "dicom": refused where it
    has none), or the whole range of its stored bits ("stored"). Other values of no known range (NIfTI, floats outside
    [0, 1]) are mapped from their file's 0.5-99.5 percentiles, DICOM from those of ``series``, the files of its series,
    where they are given. Raises ``UserError`` as :func:`image_info`.
    """
    path = Path(path)
    geometry = image_info(path, slice_axis=slice_axis)
    _refuse_index(path, slice_index, geometry)
    with reading(path, suffix=file_suffix(path)):
        where = {"slice_index": slice_index, "slice_axis": slice_axis, "value_range": value_range}
        if file_suffix(path) in DICOM_SUFFIXES:
            from engine.data.dicom import DicomFormat

            pixels = DicomFormat.image(path, **where, window=window, series=series)  # type: ignore[arg-type]
        else:
            pixels = _format(path).image(path, **where)  # type: ignore[arg-type]
        return _three_channels(pixels), geometry


def read_mask(
    path: str | Path,
    *,
    slice_index: int = 0,
    slice_axis: int = 2,
    like: Geometry | None = None,
    white: White = 255,
) -> np.ndarray:
    """Return the stored labels, (H, W) or (H, W, C) integers: palette indices, not colours; no window.

    A palette picture that shows black and white alone is 0 and ``white`` instead, for its program chose the numbers.
    With ``white`` None it keeps them, for whoever knows what they mean; with "levels" greys are their grey levels.

    With ``like``, its image's geometry, the mask is brought to the image's pixels (:func:`place_mask`), and
    ``slice_index`` counts the image's slices. Raises ``UserError`` as :func:`image_info`, ``data.mask_elsewhere``.
    """
    path = Path(path)
    geometry = image_info(path, slice_axis=slice_axis)
    fit = Reindex()
    if like is not None:
        fit, slice_axis = place_mask(path, like=like, slice_axis=slice_axis)
        geometry = image_info(path, slice_axis=slice_axis)
        found = fit.slice_index(slice_index, num_slices=geometry.num_slices)
        if found is None:
            return np.zeros((like.height_px, like.width_px), np.uint8)
        slice_index = found
    _refuse_index(path, slice_index, geometry)
    with reading(path, suffix=file_suffix(path)):
        decoder, where = _format(path), {"slice_index": slice_index, "slice_axis": slice_axis}
        has_palettes = decoder in (pictures.PictureFormat, tiff.TiffFormat) or file_suffix(path) in DICOM_SUFFIXES
        if has_palettes:
            where["white"] = white  # type: ignore[assignment]
        labels = np.asarray(decoder.labels(path, **where))
        return fit.pixels(_whole(path, labels))


def place_mask(path: str | Path, *, like: Geometry, slice_axis: int = 2) -> tuple[Reindex, int]:
    """Return how a mask's slices become those of the image ``like``, and the axis that they are cut across.

    Where both files say where their pixels lie in the patient, that decides: the same pixels in another order are
    matched, others raise ``UserError`` ``data.mask_elsewhere``; slice by slice where a file places each of its slices.
    Where one of them does not (PNG, TIFF, npy), rows are rows and slices are slices. Only headers are read.
    """
    path = Path(path)
    mask = image_info(path, slice_axis=slice_axis)
    if not mask.is_placed or not like.is_placed:
        return Reindex(), slice_axis
    one_by_one = mask.affine_lps is None or like.affine_lps is None
    axes = (0, 1, 2) if file_suffix(path) in NIFTI_SUFFIXES else (slice_axis,)
    for axis in sorted(axes, key=lambda axis: axis != slice_axis):  # oblique volumes may name another axis the nearest
        fit = (same_slices if one_by_one else same_place)(like, image_info(path, slice_axis=axis))
        if fit is not None:
            return fit, axis
    where = f"lies elsewhere in the patient than its image: its pixels are {_placed(mask)}"
    if one_by_one and shares_places(like):
        where = "cannot be told which slices it belongs to, for several of its image's lie in one place"
    if mask.is_default_place and not like.is_default_place:  # it can say the very same place, mirrored
        where = "was saved without geometry (its header is that of a new file), so where its pixels lie is not known"
    raise UserError(
        "data.mask_elsewhere",
        what=f"The mask {path} {where}; the image's are {_placed(like)}.",
        why="The geometry of mask and image differ (affine, spacing or size), so their pixels do not show the same.",
        fix="Export the mask with the image's own geometry (its header, or resampled to its grid).",
    )


def _placed(geometry: Geometry) -> str:
    size = f"{geometry.width_px} x {geometry.height_px} x {geometry.num_slices}"
    if geometry.slices_lps:
        origin = ", ".join(f"{place:.1f}" for place in geometry.slice_matrices[0, :3, 3])
        return f"{size}, placed slice by slice, the first at ({origin}) in LPS mm"
    matrix = geometry.matrix
    assert matrix is not None
    steps = " x ".join(f"{step:.4g}" for step in np.linalg.norm(matrix[:3, :3], axis=0))
    origin = ", ".join(f"{place:.1f}" for place in matrix[:3, 3])
    return f"{size} of {steps} mm, {geometry.orientation}, from ({origin}) in LPS mm"


def _whole(path: Path, labels: np.ndarray) -> np.ndarray:
    if labels.dtype == bool:
        return labels.astype(np.uint8)
    if labels.dtype.kind == "f":
        if not np.isfinite(labels).all():
            raise samples.unsupported(
                path,
                f"a mask holds whole numbers, and {_not_finite(labels)}",
                fix="Save the mask with the number of a class in their place, or with 0 where nothing is marked.",
            )
        whole = whole_numbers(path, labels)
        if whole is None:
            raise Unsupported("a mask holds whole numbers, this one has fractions")
        return whole
    if labels.dtype.kind not in "ui":
        raise Unsupported(f"a mask holds numbers, this one has {labels.dtype}")
    return labels


def _not_finite(labels: np.ndarray) -> str:
    counted = ((int(np.isnan(labels).sum()), "NaN (not a number)"), (int(np.isinf(labels).sum()), "infinite"))
    named = [f"{count:,} {'is' if count == 1 else 'are'} {kind}" for count, kind in counted if count]
    return f"of the {labels.size:,} in this one's slice {' and '.join(named)}"


def _refuse_index(path: Path, slice_index: int, geometry: Geometry) -> None:
    if not 0 <= slice_index < geometry.num_slices:
        raise UserError(
            "data.slice_missing",
            what=f"The file {path} has no slice {slice_index}: it has {geometry.num_slices}, counted from 0.",
            why="One slice is read at a time.",
            fix="Ask for a slice that it has.",
        )


def load_all() -> None:
    """Import every format's library now, for a program in which nobody is to wait for it at the first file."""
    for suffix in (*NIFTI_SUFFIXES[:1], *DICOM_SUFFIXES[:1]):
        _format(Path(f"image{suffix}"))


def _format(path: Path) -> type[Format]:
    suffix = file_suffix(path)
    if suffix in NIFTI_SUFFIXES or suffix in DICOM_SUFFIXES:
        # nibabel and pydicom take longest to import: programs start without them
        if suffix in DICOM_SUFFIXES:
            from engine.data.dicom import DicomFormat

            return DicomFormat
        from engine.data.nifti import NiftiFormat

        return NiftiFormat
    if suffix in RASTER_SUFFIXES:
        return pictures.PictureFormat
    if suffix in TIFF_SUFFIXES:
        return tiff.TiffFormat
    if suffix in NPY_SUFFIXES:
        return npy.NpyFormat
    found = own_ending(path)
    if found is None and path.name.lower().endswith(PAIR_SUFFIXES):
        raise unsupported(path, "it is one of an ANALYZE or NIfTI pair (.hdr and .img), and one file is read")
    raise UserError(
        "data.format_unknown",
        what=f"The file {path} has an ending that no reader knows"
        + (f", and begins as {found[0]} file." if found else "."),
        why=f"Readers exist for {', '.join(SUFFIXES)}.",
        fix=f"Rename it so that it ends in {found[1]}."
        if found
        else "Convert the file to one of these, or take it out of the folder.",
    )


def _refuse_bombs(path: Path, geometry: Geometry) -> None:
    pixels = geometry.height_px * geometry.width_px
    if geometry.height_px < 1 or geometry.width_px < 1 or geometry.num_slices < 1:
        raise UserError(
            "data.image_unreadable",
            what=f"The file {path} cannot be read: it holds no pixels.",
            why="An image has at least one pixel.",
            fix=AGAIN,
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
