"""BMP at every depth, and what its spare bits hold."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.data.readers import read_image, read_mask
from tests.unit.test_data_pictures import GREY, MASK, NOISE, PALETTE, RGB, alpha_cases, grey3, refused


def test_bmp_of_every_depth(tmp_path: Path) -> None:
    coloured = Image.fromarray(GREY % 16, mode="P")
    coloured.putpalette(PALETTE[:16].tobytes())
    for name, image, shown in (
        ("1", Image.fromarray(GREY > 100), grey3((GREY > 100) * np.uint8(255))),
        ("8", Image.fromarray(GREY), grey3(GREY)),
        ("p", coloured, PALETTE[GREY % 16]),
        ("24", Image.fromarray(RGB), RGB),
        ("32", Image.fromarray(NOISE), RGB),
    ):
        image.save(tmp_path / f"{name}.bmp")
        np.testing.assert_array_equal(read_image(tmp_path / f"{name}.bmp")[0], shown, err_msg=name)
    data = bytearray((tmp_path / "24.bmp").read_bytes())
    data[30] = 6  # a compression that is not read
    (tmp_path / "rare.bmp").write_bytes(data)
    refused(tmp_path / "rare.bmp", "rare kind")
    np.testing.assert_array_equal(read_mask(tmp_path / "1.bmp"), GREY > 100)
    np.testing.assert_array_equal(read_mask(tmp_path / "8.bmp"), GREY)
    np.testing.assert_array_equal(read_mask(tmp_path / "p.bmp"), GREY % 16)


def bitmap(path: Path, pixels: np.ndarray, *, masks: tuple[int, ...] = (), upwards: bool = True) -> Path:
    """Write (H, W) uint32 or uint16 pixels; ``masks`` say which bits are red, green, blue and alpha."""
    height, width = pixels.shape
    rows = np.pad(pixels, [(0, 0), (0, width * pixels.itemsize % 4 // 2)])  # a row is whole words of 4 bytes
    content = (rows[::-1] if upwards else rows).astype(f"<u{pixels.itemsize}").tobytes()
    size = 40 if not masks else 108
    info = struct.pack("<IiiHHIIiiII", size, width, height if upwards else -height, 1, 8 * pixels.itemsize,
                       3 if masks else 0, len(content), 0, 0, 0, 0)  # fmt: skip
    info += struct.pack("<4I", *masks).ljust(68, b"\0") if masks else b""
    offset = 14 + size
    path.write_bytes(b"BM" + struct.pack("<IHHI", offset + len(content), 0, 0, offset) + info + content)
    return path


BGR = (0xFF0000, 0xFF00, 0xFF)


@pytest.mark.parametrize("upwards", [True, False])
@pytest.mark.parametrize(
    ("masks", "shifts"),  # of red, green, blue and what is left; by how many bits each is shifted
    [
        ((), (16, 8, 0, 24)),  # without masks: BI_RGB
        ((*BGR, 0), (16, 8, 0, 24)),
        ((*BGR, 0xFF000000), (16, 8, 0, 24)),
        ((0xFF000000, 0xFF0000, 0xFF00, 0), (24, 16, 8, 0)),
        ((0xFF000000, 0xFF00, 0xFF, 0), (24, 8, 0, 16)),
    ],
)
def test_bmp_masks_in_alpha_are_refused_whether_it_is_named_or_not(
    tmp_path: Path, masks: tuple[int, ...], shifts: tuple[int, ...], upwards: bool
) -> None:
    for number, (colour, alpha, expected) in enumerate(alpha_cases(255)):
        is_told = masks[3:] == (0xFF000000,) or alpha.min() != alpha.max()
        if not is_told:  # the spare byte of a file without alpha
            expected = colour
        planes = (colour, colour, colour, alpha)
        words = sum(plane.astype(np.uint32) << np.uint32(shift) for plane, shift in zip(planes, shifts, strict=True))
        path = bitmap(tmp_path / f"{number}.bmp", words, masks=masks, upwards=upwards)
        np.testing.assert_array_equal(read_image(path)[0], grey3(colour.astype(np.uint8)), err_msg=str(number))
        if expected is None:
            refused(path, "lies in the alpha channel", read_mask)
        else:
            np.testing.assert_array_equal(read_mask(path), expected, err_msg=str(number))


@pytest.mark.parametrize("masks", [(), (0x7C00, 0x3E0, 0x1F, 0x8000)])
def test_bmp_masks_in_the_sixteenth_bit_are_refused(tmp_path: Path, masks: tuple[int, ...]) -> None:
    shape = MASK.astype(np.uint16)
    drawn = bitmap(tmp_path / "a.bmp", np.uint16(0x7FFF) | shape << np.uint16(15), masks=masks)
    refused(drawn, "lies in the alpha channel", read_mask)
    for name, pixels in (("b", shape * np.uint16(0x7FFF)), ("c", shape * np.uint16(0xFFFF))):
        np.testing.assert_array_equal(read_mask(bitmap(tmp_path / f"{name}.bmp", pixels, masks=masks)), MASK * 255)


def indexed(path: Path, rows: list[list[int]], *, bits: int, greys: list[int], compression: int = 0) -> Path:
    """Write a BMP with a grey palette byte by byte, from the bottom up."""
    words = [int("".join(format(value, f"0{bits}b") for value in row).ljust(32, "0"), 2) for row in rows]
    content = b"".join(word.to_bytes(4, "big") for word in reversed(words))  # a row is whole words of 4 bytes
    table = b"".join(bytes((grey, grey, grey, 0)) for grey in greys)
    offset = 54 + len(table)
    info = struct.pack("<IiiHHIIiiII", 40, len(rows[0]), len(rows), 1, bits, compression, 0, 0, 0, len(greys), 0)
    path.write_bytes(b"BM" + struct.pack("<IHHI", offset + len(content), 0, 0, offset) + info + table + content)
    return path


@pytest.mark.parametrize("bits", [1, 4, 8])
def test_bmp_with_a_palette_shorter_than_its_depth(tmp_path: Path, bits: int) -> None:
    rows = [[0, 1, 1], [0, 0, 1]]
    path = indexed(tmp_path / "a.bmp", rows, bits=bits, greys=[0, 255])  # Pillow reads such files as 1 bit
    np.testing.assert_array_equal(read_image(path)[0], grey3(np.array(rows, np.uint8) * 255))
    np.testing.assert_array_equal(read_mask(path) != 0, rows)
    if bits > 1:
        path = indexed(tmp_path / "b.bmp", [[0, 3, 7], [2, 5, 1]], bits=bits, greys=list(range(16)))
        np.testing.assert_array_equal(read_image(path)[0][..., 0], [[0, 3, 7], [2, 5, 1]])
        np.testing.assert_array_equal(read_mask(path), [[0, 3, 7], [2, 5, 1]])
        refused(indexed(tmp_path / "c.bmp", rows, bits=bits, greys=[0, 255], compression=3 - bits // 4), "rare kind")
