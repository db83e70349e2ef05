"""PNG, JPEG, JPEG-LS, JPEG 2000 and npy at every depth, written by other hands than the reader's."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from PIL import Image, ImageOps

from engine.data.budget import at_most
from engine.data.readers import image_info, read_image, read_mask
from engine.errors import UserError
from tests.unit.data_raster_files import TURNED, grey3, packed, refused, too_large

H, W = 8, 16
NOISE = np.random.default_rng(0).integers(0, 256, (H, W, 4), dtype=np.uint8)
RGB = np.ascontiguousarray(NOISE[..., :3])
GREY = np.ascontiguousarray(NOISE[..., 0])
PALETTE = np.random.default_rng(1).integers(0, 256, (256, 3), dtype=np.uint8)
SMOOTH = np.stack([np.add.outer(np.arange(64), np.arange(96)) + c * 30 for c in range(3)], -1).astype(np.uint8)


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(path: Path, samples: np.ndarray, *, bits: int, colours: int, chunks: bytes = b"", tail: bytes = b"") -> Path:
    """A PNG byte by byte: ``samples`` (H, W) or (H, W, C), colour type ``colours``."""
    rows = packed(samples.reshape(len(samples), -1), bits)
    step = len(rows) // len(samples)
    lines = b"".join(b"\0" + rows[start : start + step] for start in range(0, len(rows), step))
    header = struct.pack(">IIBBBBB", samples.shape[1], len(samples), bits, colours, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunks + chunk(b"IDAT", zlib.compress(lines)) + tail + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    return path


def exif(orientation: int, order: str = "<") -> bytes:
    mark = b"II*\0" if order == "<" else b"MM\0*"
    entries = struct.pack(f"{order}HHIHH", 271, 3, 1, 0, 0) + struct.pack(f"{order}HHIHH", 274, 3, 1, orientation, 0)
    return mark + struct.pack(f"{order}IH", 8, 2) + entries + bytes(4)


# ------------------------------------------------------------------------------------------------- PNG


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_grey_png_of_every_depth(tmp_path: Path, bits: int) -> None:
    top = 2**bits - 1
    stored = np.arange(H * W).reshape(H, W) * 515 % (top + 1)
    path = png(tmp_path / "a.png", stored, bits=bits, colours=0)
    image = read_image(path)[0]
    assert image.dtype == (np.uint16 if bits == 16 else np.uint8)
    np.testing.assert_array_equal(image, grey3(stored if bits == 16 else stored * 255 // top))
    np.testing.assert_array_equal(read_mask(path), stored)
    half = np.clip(stored / (top / 2), 0, 1)
    np.testing.assert_allclose(read_image(path, value_range=(0, top / 2))[0], grey3(half), atol=1e-6)
    keyed = png(tmp_path / "k.png", stored, bits=bits, colours=0, chunks=chunk(b"tRNS", b"\0\1"))
    np.testing.assert_array_equal(read_image(keyed)[0], image)
    np.testing.assert_array_equal(read_mask(keyed), stored)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(("colours", "channels"), [(2, 3), (4, 2), (6, 4)], ids=["rgb", "grey_alpha", "rgba"])
def test_colour_and_alpha_png_at_full_depth(tmp_path: Path, colours: int, channels: int, bits: int) -> None:
    stored = NOISE[..., :channels].astype(np.uint16) * (1 if bits == 8 else 13)
    path = png(tmp_path / "a.png", stored, bits=bits, colours=colours)
    image, geometry = read_image(path)
    assert image.dtype == (np.uint8 if bits == 8 else np.uint16) and geometry.channels == channels
    np.testing.assert_array_equal(image, stored[..., :3] if channels > 2 else grey3(stored[..., 0]))
    if bits == 16:
        expected = np.clip(image / 2000, 0, 1)
        np.testing.assert_allclose(read_image(path, value_range=(0, 2000))[0], expected, atol=1e-6)


@pytest.mark.parametrize("transparency", [b"", chunk(b"tRNS", b"\0\x80")], ids=["opaque", "transparent"])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palette_png_gives_colours_and_indices(tmp_path: Path, bits: int, transparency: bytes) -> None:
    stored = np.arange(H * W).reshape(H, W) % 2**bits
    table = chunk(b"PLTE", PALETTE[: 2**bits].tobytes())
    path = png(tmp_path / "a.png", stored, bits=bits, colours=3, chunks=table + transparency)
    np.testing.assert_array_equal(read_image(path)[0], PALETTE[stored])
    np.testing.assert_array_equal(read_mask(path), stored)


def test_an_interlaced_png(tmp_path: Path) -> None:
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    rows = [row for y, x, down, right in passes for row in GREY[y::down, x::right]]  # Adam7
    header = struct.pack(">IIBBBBB", W, H, 8, 0, 0, 0, 1)
    lines = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    data = chunk(b"IHDR", header) + chunk(b"IDAT", lines) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png")[0], grey3(GREY))


MASK = np.zeros((H, W), np.uint16)
MASK[2:5, 3:9] = 1  # 18 pixels


def alpha_cases(top: int) -> list[tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
    """Return (colour, alpha, labels to expect or None) of (H, W) masks with ``top`` as white."""
    full, empty, mask = np.full((H, W), top), np.zeros((H, W), int), MASK * top
    return [
        (full, mask, None),  # white on a transparent layer
        (empty, mask, None),  # black on a transparent layer
        (full, empty, None),  # a layer with nothing on it
        (mask, top - mask, None),  # what is drawn is hidden
        (mask, full, mask),
        (mask, mask, mask),  # white where it is opaque, black elsewhere
        (empty, full, empty),
        (empty, empty, empty),
        (full, full, full),
    ]


@pytest.mark.parametrize("bits", [8, 16])
def test_masks_in_alpha_are_refused_and_beside_it_read(tmp_path: Path, bits: int) -> None:
    for number, (colour, alpha, expected) in enumerate(alpha_cases(2**bits - 1)):
        for colours, planes in ((4, [colour, alpha]), (6, [colour, colour, colour, alpha])):
            path = png(tmp_path / f"{number}_{colours}.png", np.dstack(planes), bits=bits, colours=colours)
            if expected is None:
                refused(path, "lies in the alpha channel", read_mask)
            else:
                np.testing.assert_array_equal(read_mask(path), expected, err_msg=str(number))


# ------------------------------------------------------------------------------------------------- orientation


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("orientation", TURNED)
def test_exif_orientation_turns_png_and_jpeg(tmp_path: Path, orientation: int, order: str) -> None:
    expected = TURNED[orientation](RGB)
    for place in ("chunks", "tail"):  # before or behind the pixels
        mark = {place: chunk(b"eXIf", exif(orientation, order))}
        path = png(tmp_path / "a.png", RGB, bits=8, colours=2, **mark)
        image, geometry = read_image(path)
        np.testing.assert_array_equal(image, expected)
        assert (geometry.height_px, geometry.width_px) == expected.shape[:2]
    grey = png(tmp_path / "m.png", GREY, bits=8, colours=0, chunks=chunk(b"eXIf", exif(orientation, order)))
    np.testing.assert_array_equal(read_mask(grey), TURNED[orientation](GREY))
    Image.fromarray(SMOOTH).save(tmp_path / "a.jpg", quality=98, exif=b"Exif\0\0" + exif(orientation, order))
    turned = TURNED[orientation](SMOOTH)
    image, geometry = read_image(tmp_path / "a.jpg")
    assert (geometry.height_px, geometry.width_px) == turned.shape[:2] == image.shape[:2]
    assert np.abs(image.astype(int) - turned).max() < 6


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(
    ("kind", "letter", "count"), [(1, "B", 1), (3, "H", 1), (4, "I", 1), (6, "b", 1), (9, "i", 1), (3, "H", 2)]
)
def test_exif_orientation_of_every_type_of_number(
    tmp_path: Path, kind: int, letter: str, count: int, order: str
) -> None:
    mark = b"II*\0" if order == "<" else b"MM\0*"
    value = struct.pack(f"{order}{count}{letter}", *([6] * count)).ljust(4, b"\0")
    block = mark + struct.pack(f"{order}IHHHI", 8, 1, 274, kind, count) + value + bytes(4)
    Image.fromarray(SMOOTH).save(tmp_path / "a.jpg", quality=98, exif=b"Exif\0\0" + block)
    for name, begin in (("a", b""), ("b", b"Exif\0\0")):
        png(tmp_path / f"{name}.png", RGB, bits=8, colours=2, chunks=chunk(b"eXIf", begin + block))
    for path in sorted(tmp_path.iterdir()):
        with Image.open(path) as picture, warnings.catch_warnings(action="ignore"):  # of two numbers for one
            shown = np.array(ImageOps.exif_transpose(picture))
        np.testing.assert_allclose(read_image(path)[0], shown, atol=3, err_msg=path.name)
        assert (shown.shape[0] > shown.shape[1]) == (kind != 1)  # Pillow takes a byte for text


# ------------------------------------------------------------------------------------------------- JPEG and its kin


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}], ids=["444", "progressive", "420"])
def test_jpeg_is_close_to_what_was_written(tmp_path: Path, mode: str, options: dict) -> None:
    shown = Image.fromarray(SMOOTH).convert(mode)
    shown.save(tmp_path / "a.jpg", quality=98, **options)
    image, geometry = read_image(tmp_path / "a.jpg")
    assert np.abs(image.astype(int) - np.array(shown.convert("RGB"))).max() < 6
    assert geometry.channels == len(mode)


def test_inks_of_a_jpeg_are_stored_inverted(tmp_path: Path) -> None:
    ink = np.full((16, 16, 4), 255, np.uint8)  # 255: no ink
    ink[..., 0], ink[..., 3] = 51, 204
    for space in ("cmyk", "ycck"):
        data = imagecodecs.jpeg8_encode(ink, level=100, colorspace="cmyk", outcolorspace=space)
        (tmp_path / "a.jpg").write_bytes(data)
        pixel = read_image(tmp_path / "a.jpg")[0][8, 8].astype(int)
        assert np.abs(pixel - [51 * 204 // 255, 204, 204]).max() <= 2


LOSSLESS = [(codec, bits) for codec in ("jpeg_lossless", "jp2", "j2k") for bits in (8, 10, 12, 16)]


@pytest.mark.parametrize("shape", [(H, W), (H, W, 3)], ids=["grey", "rgb"])
@pytest.mark.parametrize(("codec", "bits"), [*LOSSLESS, ("jpegls", 8), ("jpegls", 16)])  # its encoder has no others
def test_lossless_kinds_keep_every_bit(tmp_path: Path, codec: str, shape: tuple[int, ...], bits: int) -> None:
    top = 2**bits - 1
    stored = np.random.default_rng(bits).integers(0, top + 1, shape).astype(np.uint8 if bits == 8 else np.uint16)
    stored.flat[0] = top
    if codec == "jpeg_lossless":
        data = imagecodecs.jpeg8_encode(stored, lossless=True, bitspersample=bits)
        assert b"\xff\xc3" in data
    elif codec == "jpegls":
        data = imagecodecs.jpegls_encode(stored)
    else:
        data = imagecodecs.jpeg2k_encode(stored, level=0, codecformat=codec, bitspersample=bits)
    path = tmp_path / {"jpeg_lossless": "a.jpg", "jpegls": "a.jls", "jp2": "a.jp2", "j2k": "a.j2k"}[codec]
    path.write_bytes(data)
    image, geometry = read_image(path)
    assert (geometry.height_px, geometry.width_px, geometry.channels) == (H, W, stored.size // (H * W))
    expected = stored if stored.ndim == 3 else grey3(stored)
    if bits in (8, 16):
        assert image.dtype == stored.dtype
        np.testing.assert_array_equal(image, expected)
    else:  # the depth is declared: its largest number is white
        np.testing.assert_allclose(image, expected / top, atol=1e-6)
    expected = np.clip(expected / (top / 2), 0, 1)
    np.testing.assert_allclose(read_image(path, value_range=(0, top / 2))[0], expected, atol=1e-6)
    if stored.ndim == 2:
        np.testing.assert_array_equal(read_mask(path), stored)


def test_lossy_jpeg_of_12_bits(tmp_path: Path) -> None:
    stored = SMOOTH[..., 0].astype(np.uint16) * 16
    (tmp_path / "a.jpg").write_bytes(imagecodecs.jpeg8_encode(stored, level=100, bitspersample=12))
    assert np.abs(read_image(tmp_path / "a.jpg")[0][..., 0] - stored / 4095).max() < 0.002


def test_signed_jpeg_2000_and_its_alpha(tmp_path: Path) -> None:
    signed = GREY.astype(np.int16) * 4 - 500
    (tmp_path / "s.jp2").write_bytes(imagecodecs.jpeg2k_encode(signed, level=0))
    image = read_image(tmp_path / "s.jp2", value_range=(-500, 520))[0]
    np.testing.assert_allclose(image, grey3((signed + 500) / 1020), atol=1e-6)
    assert read_image(tmp_path / "s.jp2")[0].max() == 1
    (tmp_path / "a.jp2").write_bytes(imagecodecs.jpeg2k_encode(NOISE, level=0))
    np.testing.assert_array_equal(read_image(tmp_path / "a.jp2")[0], RGB)
    (tmp_path / "5.jp2").write_bytes(imagecodecs.jpeg2k_encode(np.dstack([NOISE, GREY]), level=0))
    refused(tmp_path / "5.jp2", "5 channels")
    data = bytearray((tmp_path / "a.jp2").read_bytes())
    data[data.index(b"colr") + 7 : data.index(b"colr") + 11] = struct.pack(">I", 12)  # enumerated CMYK
    (tmp_path / "c.jp2").write_bytes(data)
    refused(tmp_path / "c.jp2", "colour space 12")


def test_the_first_bytes_decide_and_not_the_ending(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.jpg", format="png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.jpg")[0], RGB)


# ------------------------------------------------------------------------------------------------- npy


@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2", ">i2", ">i4", "<u4", ">f4", "<f8", "<f2", "<i8"])
def test_npy_of_every_kind_of_number(tmp_path: Path, dtype: str) -> None:
    stored = (GREY.astype(int) - (100 if "i" in dtype or "f" in dtype else 0)).astype(dtype)
    np.save(tmp_path / "a.npy", stored)
    np.save(tmp_path / "f.npy", np.asfortranarray(stored))
    image = read_image(tmp_path / "a.npy")[0]
    np.testing.assert_array_equal(image, read_image(tmp_path / "f.npy")[0])
    if dtype[-2:] in ("u1", "u2"):
        assert image.dtype == np.dtype(dtype).newbyteorder("=")
        np.testing.assert_array_equal(image, grey3(stored))
    else:
        assert image.dtype == np.float32 and image.max() == 1
    expected = np.clip(stored.astype(float) / 100, 0, 1)
    np.testing.assert_allclose(read_image(tmp_path / "a.npy", value_range=(0, 100))[0], grey3(expected), atol=1e-6)
    np.testing.assert_array_equal(read_mask(tmp_path / "a.npy"), stored)


def test_npy_alpha_classes_and_refusals(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    floats = np.dstack([RGB / 255, np.full((H, W), 9.0)])  # alpha has no say in the range
    np.save(path, floats)
    np.testing.assert_allclose(read_image(path)[0], RGB / 255, atol=1e-6)
    five = np.dstack([NOISE, GREY])
    np.save(path, five)
    refused(path, "5 channels")
    np.testing.assert_array_equal(read_mask(path), five)
    for values, word in (
        (GREY.astype(np.complex64), "complex"),
        (np.zeros((2, 3, 4, 5)), "shape (2, 3, 4, 5)"),
        (np.zeros(7), "shape (7,)"),
        (np.zeros((2, 2), [("a", "u1")]), "no plain numbers"),
        (np.array([["a"]]), "no plain numbers"),
        (np.array([[1, None]]), "no plain numbers but Python objects"),
        (np.zeros((2, 2), [("a", "O")]), "no plain numbers but Python objects"),
        *((np.zeros((count, 40, 50)), f"channels came first: its shape is ({count}, 40, 50)") for count in (1, 3, 4)),
    ):
        np.save(path, values)
        refused(path, word)
        refused(path, word, read_mask)
    with pytest.raises(UserError, match="channels came first"):
        np.save(path, np.zeros((3, 40, 50)))
        image_info(path)
    np.save(path, np.zeros((3, 8, 9)))
    refused(path, "channels came first")
    for shape in ((3, 8, 9), (3, 40, 3), (40, 3, 20)):
        np.save(path, np.zeros(shape))
        assert read_mask(path).shape == shape


# ------------------------------------------------------------------------------------------------- damage and bombs


def _streams() -> dict[str, bytes]:
    def jpeg(**options: object) -> bytes:
        stream = io.BytesIO()
        Image.fromarray(SMOOTH).save(stream, "jpeg", **options)
        return stream.getvalue()

    noise = np.random.default_rng(2).integers(0, 256, (64, 64), dtype=np.uint8)
    return {
        "a.png": imagecodecs.png_encode(noise),
        "a.jpg": jpeg(),
        "p.jpg": jpeg(progressive=True),
        "l.jpg": imagecodecs.jpeg8_encode(noise, lossless=True),
        "a.jls": imagecodecs.jpegls_encode(noise),
        "a.jp2": imagecodecs.jpeg2k_encode(noise, level=0),
        "a.j2k": imagecodecs.jpeg2k_encode(noise, level=0, codecformat="j2k"),
    }


STREAMS = _streams()


@pytest.mark.parametrize("name", STREAMS)
def test_a_picture_that_is_cut_off_is_never_filled_in(tmp_path: Path, name: str) -> None:
    path, data = tmp_path / name, STREAMS[name]
    path.write_bytes(data)
    assert read_image(path)[0].shape[2] == 3
    for size in [*range(1, len(data) - 14, max(1, len(data) // 30)), len(data) - 14]:
        path.write_bytes(data[:size])
        with pytest.raises(UserError) as caught:
            read_image(path)
        assert caught.value.code == "data.image_unreadable" and str(path) in caught.value.what


def test_a_bit_that_turns_over_in_the_header_of_a_png_is_told(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 3
    stored = io.BytesIO()
    Image.fromarray(GREY).save(stored, "png", exif=exif)
    data, path = stored.getvalue(), tmp_path / "a.png"
    path.write_bytes(data)
    np.testing.assert_array_equal(read_mask(path), np.rot90(GREY, 2))
    orientation = data.index(struct.pack(">HHI", 274, 3, 1)) + 9  # a short, in the first half of its four bytes
    for at in (*range(16, 33), orientation):  # size, depth, colours, interlacing, their checksum; which way is up
        for bit in range(8):
            flipped = bytearray(data)
            flipped[at] ^= 1 << bit
            path.write_bytes(flipped)
            for read in (image_info, read_image, read_mask):
                with pytest.raises(UserError) as caught:
                    read(path)
                assert caught.value.code == "data.image_unreadable" and "checksum" in caught.value.what


def test_profiles_and_texts_of_a_png_are_not_inflated(tmp_path: Path) -> None:
    bomb = b"k\0\0" + zlib.compress(bytes(1 << 26))
    chunks = chunk(b"zTXt", bomb) + chunk(b"iCCP", bomb)
    with at_most(1 << 20):
        path = png(tmp_path / "a.png", GREY, bits=8, colours=0, chunks=chunks)
        np.testing.assert_array_equal(read_image(path)[0], grey3(GREY))


def test_the_size_in_the_header_is_budgeted(tmp_path: Path) -> None:
    path = png(tmp_path / "a.png", np.zeros((600, 600), int), bits=16, colours=0)
    too_large(path)
    data = bytearray(STREAMS["a.jpg"])
    struct.pack_into(">HH", data, data.index(b"\xff\xc0") + 5, 4000, 4000)
    (tmp_path / "a.jpg").write_bytes(data)
    too_large(tmp_path / "a.jpg")
    data = bytearray(STREAMS["a.j2k"])
    struct.pack_into(">4I", data, 8, 4000, 4000, 0, 0)
    (tmp_path / "a.j2k").write_bytes(data)
    too_large(tmp_path / "a.j2k")
    np.save(tmp_path / "a.npy", np.zeros((300, 300)))
    too_large(tmp_path / "a.npy", 1 << 18)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**5, 10**5)})
    (tmp_path / "h.npy").write_bytes(header.getvalue())
    with pytest.raises(UserError) as caught:
        image_info(tmp_path / "h.npy")
    assert caught.value.code == "data.image_unreadable"
