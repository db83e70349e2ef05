"""What reading takes is no more than what was declared before: measured for every kind of number and colour."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from engine.data import npy, pictures, samples, tiff
from engine.data.budget import require_bytes
from engine.data.readers import read_image, read_mask

SIDE = 800
GREY = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
RGB, INKS = np.dstack([GREY] * 3), np.dstack([GREY] * 4)
OVERHEAD = 1 << 18
"""Bytes of the interpreter's own, whatever the size of the picture; rows that are worked on at once come on top."""


def twelve_bits(path: Path) -> None:
    """Write (SIDE, SIDE) samples of 12 bits, two in three bytes, tag by tag."""
    pairs = (GREY.astype(np.uint16) * 16).reshape(-1, 2)
    data = np.stack([pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], -1)
    stored = data.astype(np.uint8).tobytes()
    tags = {256: SIDE, 257: SIDE, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: SIDE, 279: len(stored)}
    entries = b"".join(struct.pack("<HHII", code, 4, 1, value) for code, value in sorted(tags.items()))
    header = struct.pack("<2sHI", b"II", 42, 8 + len(stored))
    path.write_bytes(header + stored + struct.pack("<H", len(tags)) + entries + bytes(4))


def tiff_of(values: np.ndarray, **options: object) -> Callable[[Path], None]:
    return lambda path: tifffile.imwrite(path, values, **options)


def saved(values: np.ndarray) -> Callable[[Path], None]:
    return lambda path: np.save(path, values)


def pillow(values: np.ndarray, mode: str | None = None) -> Callable[[Path], None]:
    return lambda path: Image.fromarray(values, mode=mode).save(path)


COLOURS = np.arange(768, dtype=np.uint16).reshape(3, 256)
FILES: dict[str, Callable[[Path], None]] = {
    "grey.png": pillow(GREY),
    "palette.png": lambda path: Image.fromarray(GREY).quantize(16).save(path),
    "inks.jpg": pillow(INKS, "CMYK"),
    "12.jpg": lambda path: path.write_bytes(imagecodecs.jpeg8_encode(GREY.astype(np.uint16) * 16, bitspersample=12)),
    "8.bmp": pillow(GREY),
    "1.bmp": pillow(GREY > 100),
    "inks.tif": tiff_of(INKS, photometric="separated"),
    "inks_16.tif": tiff_of(INKS.astype(np.uint16), photometric="separated"),
    "palette.tif": tiff_of(GREY, photometric="palette", colormap=COLOURS),
    "white.tif": tiff_of(GREY, photometric="miniswhite"),
    "planes.tif": tiff_of(np.moveaxis(RGB, -1, 0).astype(np.int16), photometric="rgb", planarconfig=2),
    "12.tif": twelve_bits,
    **{f"{kind}.npy": saved(GREY.astype(kind)) for kind in ("u1", "u2", "i1", "i2", "i4", "i8", "f2", "f4", "f8")},
    **{f"{kind}_3.npy": saved(RGB.astype(kind)) for kind in ("i1", "i2", "f2", "f8")},
    **{f"{kind}.tif": tiff_of(GREY.astype(kind)) for kind in ("u1", "u2", "i2", "i8", "f2", "f4", "f8")},
}


@pytest.mark.parametrize("name", FILES)
def test_reading_takes_no_more_than_was_declared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    declared: list[int] = []

    def noted(path: Path, *, num_values: int, dtype: type, copies: int = 1) -> None:
        declared.append(int(num_values) * np.dtype(dtype).itemsize * copies)
        require_bytes(path, num_values=num_values, dtype=dtype, copies=copies)

    for module in (npy, pictures, samples, tiff):
        monkeypatch.setattr(module, "require_bytes", noted)
    path = tmp_path / name
    FILES[name](path)
    for read, options in ((read_image, {}), (read_image, {"value_range": (0, 100)}), (read_mask, {})):
        if name.startswith("inks") and read is read_mask:
            continue
        read(path, **options)  # what is imported or kept at the first time is not the file's
        declared.clear()
        tracemalloc.start()
        read(path, **options)
        taken = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert taken <= max(declared) + OVERHEAD, (read.__name__, options, taken, max(declared))
