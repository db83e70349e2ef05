"""TIFF whose tables name no pixels, whose tags are of rare types, or whose tag of colours is not theirs."""

from __future__ import annotations

import struct
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from engine.data.readers import image_info, read_image, read_mask
from engine.errors import UserError
from tests.unit.data_raster_files import TURNED, refused, tiff

GREY = np.random.default_rng(2).integers(1, 256, (32, 48), np.uint8)
SIZES = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i"}


def by_hand(path: Path, pixels: bytes, tags: dict[int, tuple[int, tuple[int, ...]]], *, order: str = "<") -> Path:
    """Write one page of ``tags`` {number: (type, values)} whose pixels begin at byte 8."""
    out = bytearray(struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", 42, 0)) + pixels
    entries = b""
    for number, (kind, values) in sorted(tags.items()):
        told = struct.pack(f"{order}{len(values)}{SIZES[kind]}", *values)
        if len(told) > 4:
            out, told = out + told, struct.pack(f"{order}I", len(out))
        entries += struct.pack(f"{order}HHI", number, kind, len(values)) + told.ljust(4, b"\0")
    struct.pack_into(f"{order}I", out, 4, len(out))
    path.write_bytes(out + struct.pack(f"{order}H", len(tags)) + entries + bytes(4))
    return path


def page(bits: int, num_bytes: int, **more: tuple[int, tuple[int, ...]]) -> dict[int, tuple[int, tuple[int, ...]]]:
    """Return the tags of 32 rows and 48 columns of grey in one strip; ``more`` are called t274 and the like."""
    plain = {256: 48, 257: 32, 258: bits, 259: 1, 262: 1, 273: 8, 277: 1, 278: 32, 279: num_bytes}
    tags = {number: (4, (value,)) for number, value in plain.items()}
    return tags | {int(name[1:]): told for name, told in more.items()}


TABLES = ["Offsets", "ByteCounts"]


@pytest.mark.parametrize("tables", [TABLES, TABLES[:1], TABLES[1:]], ids=["both", "offset", "count"])
@pytest.mark.parametrize("compression", [None, "lzw", "zlib", "packbits", "jpeg", "jpeg2000"])
def test_tiles_that_are_not_in_the_file_are_never_black(tmp_path: Path, compression: str, tables: list[str]) -> None:
    path = tiff(tmp_path / "a.tif", GREY, compression=compression, tile=(16, 16))
    read_image(path)
    with tifffile.TiffFile(path, mode="r+") as file:
        tags = file.pages.first.tags
        for name in tables:
            told = list(tags[f"Tile{name}"].value)
            tags[f"Tile{name}"].overwrite([0, told[1], 0, *told[3:]])
    for read in (read_image, read_mask):
        refused(path, "2 of its 6 strips or tiles are not in the file", read)


@pytest.mark.parametrize("compression", [None, "lzw"])
def test_a_strip_at_no_place_is_never_read_from_the_files_head(tmp_path: Path, compression: str) -> None:
    path = tiff(tmp_path / "a.tif", GREY, compression=compression)
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages.first.tags["StripOffsets"].overwrite(0)
    for read in (read_image, read_mask):
        with pytest.raises(UserError, match="not in the file"):
            read(path)


@pytest.mark.parametrize("orientation", [3, 6])
@pytest.mark.parametrize("kind", SIZES)
@pytest.mark.parametrize("more", [(), (1,), (1, 1, 1)])
def test_an_orientation_of_any_type_of_number_counts(tmp_path: Path, kind: int, orientation: int, more: tuple) -> None:
    path = by_hand(tmp_path / "a.tif", GREY.tobytes(), page(8, GREY.size, t274=(kind, (orientation, *more))))
    expected = TURNED[orientation](GREY)
    assert (image_info(path).height_px, image_info(path).width_px) == expected.shape
    np.testing.assert_array_equal(read_image(path)[0][..., 0], expected)
    np.testing.assert_array_equal(read_mask(path), expected)


@pytest.mark.parametrize("order", ["<", ">"])
def test_whole_numbers_of_24_bits_are_never_read_in_a_wrong_order_of_bytes(tmp_path: Path, order: str) -> None:
    for bits in (23, 24, 25):  # the others are packed without regard to bytes
        numbers = np.arange(32 * 48).reshape(32, 48) * 10_007 % 2**bits
        rows = ("".join(f"{number:0{bits}b}" for number in row) for row in numbers)
        stored = b"".join(int(row, 2).to_bytes(48 * bits // 8, "big") for row in rows)
        path = by_hand(tmp_path / "a.tif", stored, page(bits, len(stored)), order=order)
        if bits == 24:
            refused(path, "24 bits", read_mask)
        else:
            np.testing.assert_array_equal(read_mask(path), numbers)


def test_aperios_jpeg_2000_of_luma_and_chroma_is_shown_in_its_colours(tmp_path: Path) -> None:
    rows, columns = np.mgrid[:32, :48]
    colours = np.stack([200 - 2 * columns, 40 + 3 * rows, rows + columns], axis=-1).astype(np.uint8)
    inside = np.asarray(Image.fromarray(colours).convert("YCbCr"))
    path = tiff(tmp_path / "a.tif", colours, photometric="rgb")
    stream = imagecodecs.jpeg2k_encode(inside, level=0, mct=False, codecformat="j2k")
    offset = path.stat().st_size
    path.write_bytes(path.read_bytes() + stream)
    for compression, expected in ((33003, colours), (33005, inside)):  # YCbCr, and RGB
        with tifffile.TiffFile(path, mode="r+") as file:
            for name, value in (
                ("StripOffsets", offset),
                ("StripByteCounts", len(stream)),
                ("Compression", compression),
            ):
                file.pages.first.tags[name].overwrite(value)
        assert np.abs(read_image(path)[0].astype(int) - expected).max() <= 4
