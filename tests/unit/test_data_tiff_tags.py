"""TIFF whose tables name no pixels, whose tags are of rare types, or whose tag of colours is not theirs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from engine.data.readers import read_image, read_mask
from engine.errors import UserError
from tests.unit.data_raster_files import refused, tiff

GREY = np.random.default_rng(2).integers(1, 256, (32, 48), np.uint8)
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
