"""Real files of every format, written by the formats' own libraries, sound and damaged."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from engine.data.readers import MAX_PIXELS, image_info, read_image, read_mask
from engine.errors import UserError
from tests.unit.data_medical_files import nifti_volume, save_nifti, write_dicom

H, W = 6, 10
GREY = (np.arange(H * W, dtype=np.uint8) * 4).reshape(H, W)
RGB = np.stack([GREY, GREY[::-1], 255 - GREY], axis=-1)
DEEP = GREY.astype(np.uint16) * 257 + 3


def grey3(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[..., None], 3, axis=2)


def palette(path: Path) -> None:
    image = Image.fromarray((GREY > 100).astype(np.uint8), mode="P")
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.save(path)


def npy(values: np.ndarray) -> Callable[[Path], None]:
    return lambda path: np.save(path, values)


def pillow(values: np.ndarray, **options: object) -> Callable[[Path], None]:
    return lambda path: Image.fromarray(values).save(path, **options)


def tiff(values: np.ndarray, **options: object) -> Callable[[Path], None]:
    return lambda path: tifffile.imwrite(path, values, **options)


PALETTE_RGB = np.where((GREY > 100)[..., None], [200, 100, 50], [10, 20, 30]).astype(np.uint8)
CASES = [  # name, writer, (H, W, 3) expected
    ("grey.png", pillow(GREY), grey3(GREY)),
    ("rgb.png", pillow(RGB), RGB),
    ("rgba.png", pillow(np.dstack([RGB, GREY])), RGB),
    ("grey_alpha.png", lambda p: Image.merge("LA", [Image.fromarray(GREY)] * 2).save(p), grey3(GREY)),
    ("one_bit.png", lambda p: Image.fromarray(GREY > 100).save(p), grey3((GREY > 100) * np.uint8(255))),
    ("deep.png", pillow(DEEP), grey3(DEEP)),
    ("palette.png", palette, PALETTE_RGB),
    ("UPPER.PNG", lambda p: Image.fromarray(RGB).save(p, format="png"), RGB),
    ("rgb.bmp", pillow(RGB), RGB),
    ("grey.tif", tiff(GREY), grey3(GREY)),
    ("rgb.tiff", tiff(RGB, photometric="rgb"), RGB),
    ("planar.tif", tiff(np.moveaxis(RGB, -1, 0), photometric="rgb", planarconfig="separate"), RGB),
    ("deep.tif", tiff(DEEP, compression="zlib"), grey3(DEEP)),
    ("lzw.tif", lambda p: Image.fromarray(RGB).save(p, compression="tiff_lzw"), RGB),
    ("white_is_zero.tif", tiff(GREY, photometric="miniswhite"), grey3(255 - GREY)),
    ("unit_float.tif", tiff((GREY / 255).astype(np.float32)), grey3((GREY / 255).astype(np.float32))),
    ("cmyk.tif", lambda p: Image.fromarray(RGB).convert("CMYK").save(p), RGB),
    ("rgb.npy", npy(RGB), RGB),
    ("one_channel.npy", npy(GREY[..., None]), grey3(GREY)),
    ("deep.npy", npy(DEEP), grey3(DEEP)),
    ("bool.npy", npy(GREY > 100), grey3((GREY > 100) * np.uint8(255))),
    ("unit_float.npy", npy(GREY / 255), grey3((GREY / 255).astype(np.float32))),
]


@pytest.mark.parametrize(("name", "write", "expected"), CASES, ids=[case[0] for case in CASES])
def test_each_everyday_format_gives_the_stored_pixels(tmp_path: Path, name: str, write, expected) -> None:
    write(tmp_path / name)
    image, geometry = read_image(tmp_path / name)
    assert image.dtype == expected.dtype
    np.testing.assert_array_equal(image, expected)
    assert (geometry.height_px, geometry.width_px, geometry.num_slices) == (H, W, 1)


def test_jpeg_is_close_and_turned_as_its_camera_says(tmp_path: Path) -> None:
    smooth = np.tile(np.linspace(0, 255, 32, dtype=np.uint8), (16, 1))
    exif = Image.Exif()
    exif[0x0112] = 6  # the top of the scene is on the right: a viewer turns it clockwise
    Image.fromarray(smooth).save(tmp_path / "a.jpg", quality=95, exif=exif)
    image, geometry = read_image(tmp_path / "a.jpg")
    assert image.shape == (32, 16, 3) and (geometry.height_px, geometry.width_px) == (32, 16)
    assert np.abs(image[..., 0].astype(int) - np.rot90(smooth, -1)).max() < 6


@pytest.mark.parametrize(
    "write",
    [
        lambda p, pages: tifffile.imwrite(p, pages, photometric="minisblack"),
        lambda p, pages: tifffile.imwrite(p, pages, photometric="minisblack", compression="zlib", metadata=None),
        lambda p, pages: tifffile.imwrite(p, pages, photometric="miniswhite", compression="zlib"),
        lambda p, pages: tifffile.imwrite(p, pages[:, None], imagej=True),
        lambda p, pages: Image.fromarray(pages[0]).save(
            p, save_all=True, append_images=[Image.fromarray(page) for page in pages[1:]], compression="tiff_lzw"
        ),
    ],
    ids=["contiguous", "deflate", "white_is_zero", "imagej", "lzw"],
)
def test_pages_of_a_tiff_are_slices(tmp_path: Path, write, request: pytest.FixtureRequest) -> None:
    path = tmp_path / "stack.tif"
    write(path, np.stack([GREY, GREY + 1, GREY + 2]))
    assert image_info(path).num_slices == 3
    expected = GREY + 2 if "white" not in request.node.name else 255 - (GREY + 2)
    np.testing.assert_array_equal(read_image(path, slice_index=2)[0], grey3(expected))
    np.testing.assert_array_equal(read_mask(path, slice_index=2), GREY + 2)


def test_floats_of_unknown_range_are_windowed_and_declared_ones_mapped(tmp_path: Path) -> None:
    np.save(tmp_path / "hu.npy", np.linspace(-1000, 1000, 2001, dtype=np.float32).reshape(3, 667))
    free, _ = read_image(tmp_path / "hu.npy")
    assert free.min() == 0 and free.max() == 1 and abs(float(np.median(free)) - 0.5) < 0.01
    window = read_image(tmp_path / "hu.npy", value_range=(0, 500))[0][..., 0]
    assert window.flat[1000] == 0 and window.flat[1250] == pytest.approx(0.5) and window.flat[2000] == 1


# ----------------------------------------------------------------------------------------------- masks


def test_masks_keep_their_numbers(tmp_path: Path) -> None:
    palette(tmp_path / "p.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "p.png"), GREY > 100)
    Image.fromarray(np.dstack([GREY] * 3)).save(tmp_path / "rgb.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "rgb.png"), GREY)
    Image.fromarray(RGB).save(tmp_path / "coloured.png")
    with pytest.raises(UserError, match="coloured"):
        read_mask(tmp_path / "coloured.png")
    np.save(tmp_path / "f.npy", np.array([[0.0, 1.0]]))
    assert read_mask(tmp_path / "f.npy").dtype == np.int64
    np.save(tmp_path / "half.npy", np.array([[0.0, 0.5]]))
    with pytest.raises(UserError, match="fractions"):
        read_mask(tmp_path / "half.npy")


@pytest.mark.parametrize("ending", [".npy", ".nii.gz", ".tif"])
@pytest.mark.parametrize(
    ("values", "told"),
    [
        ([0, np.nan, 1, np.nan], "of the 4 in this one's slice 2 are NaN (not a number)."),
        ([0, np.inf, 1, 0.5], "of the 4 in this one's slice 1 is infinite."),
        ([-np.inf, np.nan, 1, np.inf], "of the 4 in this one's slice 1 is NaN (not a number) and 2 are infinite."),
    ],
)
def test_masks_without_a_number_are_told_so(tmp_path: Path, ending: str, values: list[float], told: str) -> None:
    labels, path = np.array([values], np.float32), tmp_path / f"m{ending}"
    if ending == ".npy":
        np.save(path, labels)
    elif ending == ".tif":
        tifffile.imwrite(path, labels)
    else:
        save_nifti(path, labels[..., None])
    with pytest.raises(UserError) as caught:
        read_mask(path)
    assert caught.value.code == "data.image_unsupported" and told in caught.value.what
    assert "fractions" not in caught.value.what and "0 where nothing is marked" in caught.value.fix


@pytest.mark.parametrize("value", [1e30, -1e19, 2.0**54])
def test_a_mask_of_enormous_numbers_is_told_so(tmp_path: Path, value: float) -> None:
    np.save(tmp_path / "m.npy", np.array([[0, value]]))
    with pytest.raises(UserError) as caught:
        read_mask(tmp_path / "m.npy")
    assert caught.value.code == "data.image_unsupported" and f"as large as {abs(value):g}" in caught.value.what
    np.save(tmp_path / "m.npy", np.array([[0, 2.0**53]]))
    assert read_mask(tmp_path / "m.npy").tolist() == [[0, 2**53]]


# ----------------------------------------------------------------------------------------------- damage


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


BIG_RGB = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
SOUND: list[tuple[str, Callable[[Path], object]]] = [
    ("a.png", pillow(BIG_RGB)),
    ("a.jpg", pillow(BIG_RGB)),
    ("a.bmp", pillow(BIG_RGB)),
    ("a.tif", tiff(BIG_RGB, photometric="rgb")),
    ("lzw.tif", pillow(BIG_RGB, compression="tiff_lzw")),
    ("a.npy", npy(BIG_RGB)),
    ("a.nii", lambda p: save_nifti(p, BIG_RGB.astype(np.int16))),
    ("a.nii.gz", lambda p: save_nifti(p, BIG_RGB.astype(np.int16))),
    ("a.dcm", lambda p: write_dicom(p, BIG_RGB[..., 0].astype(np.uint16))),
]


@pytest.mark.parametrize("damage", [cut, lambda p: p.write_bytes(b""), lambda p: p.write_bytes(b"not an image" * 90)])
@pytest.mark.parametrize(("name", "write"), SOUND, ids=[name for name, _ in SOUND])
def test_a_damaged_file_is_named(tmp_path: Path, name: str, write, damage) -> None:
    path = tmp_path / name
    write(path)
    assert read_image(path)[0].shape[2] == 3
    damage(path)
    with pytest.raises(UserError) as caught:
        read_image(path)
    assert caught.value.code == "data.image_unreadable"
    assert str(path) in caught.value.what


def bomb_png(path: Path) -> Path:
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    body = b"\x89PNG\r\n\x1a\n"
    for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(10**6))), (b"IEND", b"")):
        body += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    path.write_bytes(body)
    return path


def bomb_between_pillows_bounds(path: Path) -> Path:
    side = int(MAX_PIXELS**0.5) + 100  # Pillow itself would only warn here
    Image.new("1", (side, side)).save(path)
    return path


def bomb_npy(path: Path) -> Path:
    np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(20_000, 20_000)).flush()  # sparse on disk
    return path


def bomb_tiff(path: Path) -> Path:
    tifffile.imwrite(
        path, shape=(40_000, 40_000), dtype=np.uint8, data=None, compression=None, tile=None, contiguous=True
    )
    return path


def bomb_nifti(path: Path) -> Path:
    save_nifti(path, nifti_volume())
    raw = bytearray(path.read_bytes())
    raw[40:48] = struct.pack("<4h", 3, 32_000, 32_000, 100)
    path.write_bytes(bytes(raw))
    return path


def bomb_dicom(path: Path) -> Path:
    return write_dicom(path, GREY, Rows=65_535, Columns=65_535)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("b.png", bomb_png),
        ("c.png", bomb_between_pillows_bounds),
        ("b.npy", bomb_npy),
        ("b.tif", bomb_tiff),
        ("b.nii", bomb_nifti),
        ("b.dcm", bomb_dicom),
    ],
)
@pytest.mark.parametrize("read", [image_info, read_image, read_mask])
def test_a_bomb_is_refused_before_its_pixels_are_decoded(tmp_path: Path, name: str, write, read) -> None:
    path = write(tmp_path / name)
    with pytest.raises(UserError) as caught:
        read(path)
    assert caught.value.code == "data.image_too_large"
    assert str(path) in caught.value.what


def test_a_pickle_in_npy_is_never_opened(tmp_path: Path) -> None:
    np.save(tmp_path / "o.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(UserError) as caught:
        read_image(tmp_path / "o.npy")
    assert caught.value.code == "data.image_unsupported"


@pytest.mark.parametrize("values", [np.full((4, 4), np.nan), np.array([[0.0, np.inf]])])
def test_values_that_are_not_finite_are_refused(tmp_path: Path, values: np.ndarray) -> None:
    np.save(tmp_path / "n.npy", values)
    with pytest.raises(UserError, match="not finite"):
        read_image(tmp_path / "n.npy")


def test_an_unknown_ending_and_a_missing_file(tmp_path: Path) -> None:
    (tmp_path / "a.xyz").write_text("?")
    for path, code in ((tmp_path / "a.xyz", "data.format_unknown"), (tmp_path / "no.png", "data.file_missing")):
        with pytest.raises(UserError) as caught:
            read_image(path)
        assert caught.value.code == code
