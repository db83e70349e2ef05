"""NIfTI: every header that occurs, and what stored numbers mean."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import nibabel
import numpy as np
import pytest

from engine.data.readers import image_info, read_image, read_mask
from engine.errors import UserError

SHAPE = (4, 3, 2)
VOXELS = np.arange(24, dtype=np.int16).reshape(SHAPE, order="F")
AFFINE = np.diag([-1.0, -2.0, 3.0, 1.0])  # stored in LPS
AFFINE[:3, 3] = (10, 20, 30)
PIXELS = VOXELS[:, :, 0].T  # of the first slice: columns to the left, rows to the back, as stored


def save(
    path: Path, voxels: np.ndarray = VOXELS, affine: np.ndarray | None = AFFINE, *, kind=nibabel.Nifti1Image
) -> Path:
    nibabel.save(kind(voxels, affine, dtype=voxels.dtype), path)
    return path


def changed(path: Path, **fields: tuple[int, bytes]) -> Path:
    """Overwrite bytes of a plain file's header: name = (offset, bytes)."""
    raw = bytearray(path.read_bytes())
    for offset, content in fields.values():
        raw[offset : offset + len(content)] = content
    path.write_bytes(bytes(raw))
    return path


def refused(path: Path, code: str, word: str, **how) -> None:
    with pytest.raises(UserError) as caught:
        read_image(path, **how)
    assert caught.value.code == code and word in caught.value.what, caught.value


# ------------------------------------------------------------------------------------------- headers


@pytest.mark.parametrize("name", ["a.nii", "a.Nii", "a.NII", "a.nii.gz", "a.Nii.gz", "a.nii.Gz", "a.NII.GZ"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("version", [1, 2])
def test_any_ending_byte_order_and_version(tmp_path: Path, name: str, order: str, version: int) -> None:
    header_kind, kind = {
        1: (nibabel.Nifti1Header, nibabel.Nifti1Image),
        2: (nibabel.Nifti2Header, nibabel.Nifti2Image),
    }[version]
    image = kind(VOXELS, AFFINE, header_kind(endianness=order), dtype=np.int16)
    content = image.to_bytes()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.lower().endswith("gz") else content)
    np.testing.assert_array_equal(read_mask(tmp_path / name), PIXELS)
    geometry = image_info(tmp_path / name)
    assert geometry.shape == SHAPE and geometry.spacing_mm == (2.0, 1.0)


def test_a_place_in_ras_is_told_in_lps(tmp_path: Path) -> None:
    geometry = image_info(save(tmp_path / "a.nii"))
    # x and y change sign: the first voxel lies at (-10, -20, 30), columns go on to +x, rows to +y
    np.testing.assert_allclose(geometry.matrix, [[1, 0, 0, -10], [0, 2, 0, -20], [0, 0, 3, 30], [0, 0, 0, 1]])
    assert geometry.orientation == "LPS"


@pytest.mark.parametrize(
    ("axis", "letters", "origin"),
    # head up: the first row lies at the last z, 30 + 3
    [(0, "PIL", (-10, -20, 33)), (1, "LIP", (-10, -20, 33)), (2, "LPS", (-10, -20, 30))],
)
def test_slices_across_each_axis(tmp_path: Path, axis: int, letters: str, origin: tuple) -> None:
    path = save(tmp_path / "a.nii")
    geometry = image_info(path, slice_axis=axis)
    assert geometry.orientation == letters
    np.testing.assert_allclose(geometry.matrix[:3, 3], origin)
    image = read_mask(path, slice_index=1, slice_axis=axis)
    expected = {0: VOXELS[1].T[::-1], 1: VOXELS[:, 1].T[::-1], 2: VOXELS[:, :, 1].T}[axis]
    np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_affine_leads_every_pixel_to_its_voxel(tmp_path: Path, axis: int) -> None:
    oblique = np.array([[0.1, -0.9, 0.2, 5], [0.8, 0.2, -0.1, 6], [-0.1, 0.1, -1.9, 7], [0, 0, 0, 1]])
    path = save(tmp_path / "a.nii", affine=oblique)
    geometry = image_info(path, slice_axis=axis)
    back = np.linalg.inv(np.diag([-1, -1, 1, 1]) @ oblique) @ geometry.matrix
    for index in range(geometry.num_slices):
        image = read_mask(path, slice_index=index, slice_axis=axis)
        for row in range(geometry.height_px):
            for column in range(geometry.width_px):
                i, j, k = np.rint(back @ [column, row, index, 1])[:3].astype(int)
                assert image[row, column] == VOXELS[i, j, k]


SFORM_CODE, QFORM_CODE, SROW, PIXDIM, UNITS = 254, 252, 280, 76, 123


def with_qform(path: Path) -> Path:
    """Save with an sform and a qform that agree on ``AFFINE``."""
    image = nibabel.Nifti1Image(VOXELS, AFFINE)
    image.set_qform(AFFINE, code=1)
    image.set_sform(AFFINE, code=1)
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize(
    "rows",
    [np.zeros(12), np.full(12, np.nan), np.array([1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0.0])],
    ids=["zero", "nan", "singular"],
)
def test_an_unusable_sform_gives_way_to_the_qform(tmp_path: Path, rows: np.ndarray) -> None:
    expected = image_info(with_qform(tmp_path / "a.nii"))
    path = changed(with_qform(tmp_path / "b.nii"), srow=(SROW, rows.astype("<f4").tobytes()))
    np.testing.assert_allclose(image_info(path).matrix, expected.matrix, atol=1e-5)
    np.testing.assert_array_equal(read_mask(path), PIXELS)
    alone = changed(path, qform=(QFORM_CODE, struct.pack("<h", 0)))
    refused(alone, "data.image_unreadable", "places the voxels nowhere: the sform")


def test_the_sform_counts_where_both_are_usable(tmp_path: Path) -> None:
    path = with_qform(tmp_path / "a.nii")
    moved = np.array([[-1, 0, 0, 99], [0, -2, 0, 20], [0, 0, 3, 30]], "<f4")
    assert image_info(changed(path, srow=(SROW, moved.tobytes()))).matrix[0, 3] == -99
    assert image_info(changed(path, code=(SFORM_CODE, struct.pack("<h", 0)))).matrix[0, 3] == -10


@pytest.mark.parametrize(("code", "factor"), [(1, 1000), (2, 1), (3, 0.001), (0, 1)])
def test_spacing_is_in_mm_whatever_the_file_counts_in(tmp_path: Path, code: int, factor: float) -> None:
    path = changed(save(tmp_path / "a.nii"), units=(UNITS, bytes([code])))
    geometry = image_info(path)
    np.testing.assert_allclose(geometry.spacing_mm, (2 * factor, factor))
    np.testing.assert_allclose(geometry.matrix[:3, 3], np.array([-10, -20, 30]) * factor)


def test_a_negative_voxel_size_and_no_form_at_all(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", affine=None)
    raw = struct.pack("<3f", -1, 2, 3)
    geometry = image_info(changed(path, pixdim=(PIXDIM + 4, raw)))
    assert geometry.spacing_mm == (2, 1) and geometry.is_default_place


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 1), (4, 3, 2, 1), (4, 3, 2, 1, 1)])
def test_axes_of_length_one_are_dropped(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = save(tmp_path / "a.nii", np.arange(np.prod(shape), dtype=np.int16).reshape(shape, order="F"))
    np.testing.assert_array_equal(read_mask(path), PIXELS)


@pytest.mark.parametrize(
    ("voxels", "code", "word"),
    [
        (np.zeros((4, 3, 2, 5), np.int16), "data.image_unsupported", "(4, 3, 2, 5) is a series of volumes"),
        (np.zeros((4, 3, 2, 5, 1), np.int16), "data.image_unsupported", "(4, 3, 2, 5, 1) is a series of volumes"),
        (np.zeros((4, 3, 2, 1, 3), np.int16), "data.image_unsupported", "(4, 3, 2, 1, 3) holds 3 numbers (a vector"),
        (np.zeros((4, 3, 1, 1, 2, 3), "f4"), "data.image_unsupported", "(4, 3, 1, 1, 2, 3) holds 6 numbers (a vector"),
        (np.zeros((4, 3, 2, 5, 3), np.int16), "data.image_unsupported", "displacements), in a series of 5 volumes"),
        (np.zeros(SHAPE, np.complex64), "data.image_unsupported", "complex"),
        (np.zeros(SHAPE, np.complex128), "data.image_unsupported", "complex"),
        (np.full(SHAPE, np.nan, np.float32), "data.image_unsupported", "not finite"),
    ],
)
def test_kinds_that_are_not_read_are_named(tmp_path: Path, voxels: np.ndarray, code: str, word: str) -> None:
    refused(save(tmp_path / "a.nii", voxels), code, word)


def test_pairs_and_damaged_headers_are_named(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Pair(VOXELS, AFFINE), tmp_path / "a.img")
    for name in ("a.img", "a.hdr"):
        refused(tmp_path / name, "data.image_unsupported", "pair")
    (tmp_path / "b.nii").write_bytes((tmp_path / "a.hdr").read_bytes())
    refused(tmp_path / "b.nii", "data.image_unsupported", "the header of a NIfTI pair")
    nibabel.save(nibabel.AnalyzeImage(VOXELS, AFFINE), tmp_path / "c.img")
    (tmp_path / "c.nii").write_bytes((tmp_path / "c.hdr").read_bytes())
    refused(tmp_path / "c.nii", "data.image_unsupported", "ANALYZE")
    binary = changed(save(tmp_path / "d.nii"), datatype=(70, struct.pack("<h", 1)))
    refused(binary, "data.image_unsupported", "binary")
    unknown = changed(save(tmp_path / "j.nii"), datatype=(70, struct.pack("<h", 77)))
    refused(unknown, "data.image_unreadable", "code 77")
    flat = changed(save(tmp_path / "e.nii"), dim=(42, struct.pack("<h", 0)))
    refused(flat, "data.image_unreadable", "no voxels")
    inside = changed(save(tmp_path / "i.nii"), offset=(108, struct.pack("<f", 20)))
    refused(inside, "data.image_unreadable", "inside its header")
    for number in (np.nan, np.inf, -np.inf):
        changed(inside, offset=(108, struct.pack("<f", number)))
        refused(inside, "data.image_unreadable", "begin at no byte")
    plain = save(tmp_path / "f.nii")
    plain.write_bytes(plain.read_bytes()[:-7])
    refused(plain, "data.image_unreadable", "41 of 48 bytes")
    zipped = save(tmp_path / "g.nii.gz")
    zipped.write_bytes(gzip.compress(gzip.decompress(zipped.read_bytes())[:-7]))
    refused(zipped, "data.image_unreadable", "41 of 48 bytes")
    (tmp_path / "h.nii").write_bytes(zipped.read_bytes())
    refused(tmp_path / "h.nii", "data.image_unreadable", "a gzipped file, which its ending .nii does not say")


# ------------------------------------------------------------------------------------------- values


def scaled(path: Path, stored: np.ndarray, *, slope: float, intercept: float) -> Path:
    """Save ``stored`` under a scale that the header tells."""
    save(path, stored)
    return changed(path, scale=(112, struct.pack("<2f", slope, intercept)))


@pytest.mark.parametrize("kind", ["u1", "i2", "u2", "i4"])
def test_labels_kept_as_scaled_integers_are_labels(tmp_path: Path, kind: str) -> None:
    stored = (np.arange(24).reshape(SHAPE, order="F") % 4 * 85).astype(kind)  # 0, 85, 170, 255
    mask = read_mask(scaled(tmp_path / "m.nii", stored, slope=3 / 255, intercept=0))
    np.testing.assert_array_equal(mask, np.arange(24).reshape(SHAPE, order="F")[:, :, 0].T % 4)
    assert mask.dtype.kind == "i"


@pytest.mark.parametrize(("off", "is_read"), [(0.0009, True), (0.0011, False)])
def test_labels_are_whole_within_a_thousandth(tmp_path: Path, off: float, is_read: bool) -> None:
    path = save(tmp_path / "m.nii", np.full(SHAPE, 1 + off, np.float64))
    if is_read:
        np.testing.assert_array_equal(read_mask(path), 1)
    else:
        with pytest.raises(UserError, match="fractions"):
            read_mask(path)


@pytest.mark.parametrize("kind", ["u1", "i2", "i4", "f4", "i8", "u8"])
@pytest.mark.parametrize("slope", [0.5, -0.5])
def test_percentiles_are_those_of_the_scaled_values(tmp_path: Path, kind: str, slope: float) -> None:
    stored = np.concatenate([[0], np.full(998, 50), np.full(1000, 100), [120]]).astype(kind).reshape(20, 10, 10)
    path = scaled(tmp_path / "v.nii", stored, slope=slope, intercept=7)
    # 0.5 % and 99.5 % of 2,000 voxels leave out the one at 0 and the one at 120
    values = read_image(path, slice_index=5)[0][..., 0]
    expected = (stored[:, :, 5].T.astype(float) - 50) / 50
    np.testing.assert_allclose(values, np.clip(expected if slope > 0 else 1 - expected, 0, 1), atol=1e-6)
    declared = read_image(path, slice_index=5, value_range=(-100, 100))[0][..., 0]
    np.testing.assert_allclose(declared, (stored[:, :, 5].T.astype(float) * slope + 7 + 100) / 200, atol=1e-6)


def test_eight_bits_are_kept_unless_they_are_scaled(tmp_path: Path) -> None:
    stored = VOXELS.astype(np.uint8) * 10
    image = read_image(save(tmp_path / "a.nii", stored))[0]
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image[..., 0], stored[:, :, 0].T)
    assert read_image(scaled(tmp_path / "b.nii", stored, slope=2, intercept=0))[0].dtype == np.float32


@pytest.mark.parametrize(("names", "width"), [("RGB", 3), ("RGBA", 4)])
def test_colours_are_colours(tmp_path: Path, names: str, width: int) -> None:
    voxels = np.zeros(SHAPE, [(name, "u1") for name in names])
    voxels["R"], voxels["B"] = VOXELS * 10, 7
    image, geometry = read_image(save(tmp_path / "a.nii", voxels))
    assert image.dtype == np.uint8 and geometry.channels == width
    np.testing.assert_array_equal(image, np.dstack([PIXELS * 10, PIXELS * 0, PIXELS * 0 + 7]))


def test_a_mask_in_alpha_is_refused_and_beside_it_read(tmp_path: Path) -> None:
    shape = (VOXELS % 5 == 0) * np.uint8(255)
    empty, full = shape * 0, shape * 0 + 255

    def saved(colour: np.ndarray, alpha: np.ndarray) -> Path:
        voxels = np.zeros(SHAPE, [(name, "u1") for name in "RGBA"])
        voxels["R"] = voxels["G"] = voxels["B"] = colour
        voxels["A"] = alpha
        return save(tmp_path / "a.nii", voxels)

    for colour, alpha in ((full, shape), (empty, shape), (full, empty), (shape, 255 - shape)):
        with pytest.raises(UserError, match="lies in the alpha channel") as caught:
            read_mask(saved(colour, alpha))
        assert caught.value.code == "data.image_unsupported"
    for alpha in (full, shape):  # 0, 5, 10 of the slice's 12 numbers are drawn
        np.testing.assert_array_equal(read_mask(saved(shape, alpha)), np.where(PIXELS % 5 == 0, 255, 0))
