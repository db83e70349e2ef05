"""TIFF files whose directories cost far more than their bytes: refused by name, and soon."""

from __future__ import annotations

import struct
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import tifffile

from bench.bombs import tiff_pages
from engine.data.budget import at_most
from engine.data.readers import image_info, read_image
from engine.errors import UserError

SOON_S = 20
"""Far more than counting takes, far less than the minutes that these files took."""
Entry = tuple[int, int, int, int]


def page(width: int, *more: Entry) -> list[Entry]:
    """Return the tags (tag, type, count, value) of one row of ``width`` grey pixels, which begin at byte 8."""
    tags = ((256, width), (257, 1), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1), (279, width))
    replaced = {entry[0] for entry in more}
    return sorted([*((tag, 4, 1, value) for tag, value in tags if tag not in replaced), *more])


def write(
    path: Path, pages: Sequence[Sequence[Entry]], *, first: bytes = bytes(64), last_to: int | None = None
) -> Path:
    """Write ``first`` at byte 8, then the directories; the last one leads to page ``last_to``."""
    places = [8 + len(first)]
    for tags in pages:
        places.append(places[-1] + 2 + 12 * len(tags) + 4)
    places[-1] = 0 if last_to is None else places[last_to]
    out = [b"II*\0", struct.pack("<I", 8 + len(first)), first]
    for tags, following in zip(pages, places[1:], strict=True):
        out += [
            struct.pack("<H", len(tags)),
            *(struct.pack("<HHII", *tag) for tag in tags),
            struct.pack("<I", following),
        ]
    path.write_bytes(b"".join(out))
    return path


def refused(path: Path) -> UserError:
    begun = time.perf_counter()
    with pytest.raises(UserError) as caught:
        image_info(path)
    assert time.perf_counter() - begun < SOON_S
    return caught.value


def test_pages_of_very_many_sizes_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", [page(index + 1) for index in range(257)], first=bytes(300))
    error = refused(path)
    assert error.code == "data.image_too_large"
    assert error.what == f"The file {path} has pages of more than 256 sizes or kinds."
    assert refused(tiff_pages(tmp_path)).code == "data.image_too_large"


def test_very_many_pages_beside_one_of_another_size_are_refused(tmp_path: Path) -> None:
    pages = [page(8)] * 5000 + [page(9)]
    error = refused(write(tmp_path / "a.tif", pages))
    assert (error.code, "5,001 pages, which are not all of one kind" in error.what) == ("data.image_too_large", True)


def test_very_many_pages_that_other_pages_name_are_refused(tmp_path: Path) -> None:
    part = write(tmp_path / "part.tif", [page(8)]).read_bytes()[72:]  # its directory alone
    first = part + bytes(2) + struct.pack("<5000I", *([8] * 5000))
    table = 8 + len(part) + 2
    error = refused(write(tmp_path / "a.tif", [page(8, (330, 4, 5000, table))], first=first))
    assert (error.code, "5,001 pages" in error.what) == ("data.image_too_large", True)


def test_stacks_of_thousands_of_equal_pages_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", [page(8)] * 6000, first=bytes(range(8)))
    assert image_info(path).num_slices == 6000
    np.testing.assert_array_equal(read_image(path, slice_index=5999)[0][0, :, 0], range(8))


def test_colour_stacks_whose_depths_lie_apart_are_one_kind(tmp_path: Path) -> None:
    # three depths take six bytes: each page says where its own lie, and the place is not what it is
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        for _ in range(300):
            writer.write(np.zeros((2, 3, 3), np.uint8), photometric="rgb", metadata=None)
    assert image_info(path).num_slices == 300


def test_pages_in_a_circle_are_told(tmp_path: Path) -> None:
    error = refused(write(tmp_path / "a.tif", [page(8)] * 150, last_to=120))
    assert error.code == "data.image_unreadable"
    assert "its pages lead back to an earlier one" in error.what


def test_one_long_table_that_all_pages_name_is_counted_for_each(tmp_path: Path) -> None:
    # 2,000 strips of one page are 16,000 bytes; for 400 pages 2 tables x 2,000 x 400 x 40 bytes = 61 MiB
    table = np.full(2000, 8, "<u4").tobytes()
    strips = [page(8, (273, 4, 2000, 8), (279, 4, 2000, 8), (257, 4, 1, 2000))] * 400
    path = write(tmp_path / "a.tif", strips, first=table)
    with at_most(32 * 2**20):
        error = refused(path)
    assert (error.code, "in its tags alone" in error.what) == ("data.image_too_large", True)


@pytest.mark.parametrize(
    "about",
    [
        '<Pixels SizeT="3000000" SizeC="1" SizeZ="1" {}/>',
        '<Pixels SizeT="1" {}><TiffData PlaneCount="3000000"/></Pixels>',
    ],
)
def test_a_description_of_millions_of_planes_is_refused(tmp_path: Path, about: str) -> None:
    pixels = about.format('SizeX="8" SizeY="1" Type="uint8" DimensionOrder="XYCZT" ID="Pixels:0"')
    text = f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">{pixels}</Image></OME>'
    first = text.encode() + bytes(1)
    error = refused(write(tmp_path / "a.ome.tif", [page(8, (270, 2, len(first), 8))], first=first + bytes(64)))
    assert (error.code, "3,000,00" in error.what) == ("data.image_too_large", True)


def test_frames_that_no_page_lists_are_not_made_up(tmp_path: Path) -> None:
    # ScanImage's old files: the reader takes the distance of pages 2 to 5 for that of all pages to the end of the file
    first = b"state.configPath=''\r\n" + bytes(18)
    step = 2 + 12 * 11 + 4
    starts = [8 + len(first) + step * index for index in range(6)]  # the pixels lie where the directory does
    pages = [page(8, (270, 2, 22, 8), (305, 2, 2, 0), (273, 4, 1, start)) for start in starts]
    path = write(tmp_path / "a.tif", pages, first=first)
    with path.open("ab") as file:
        file.write(bytes(2**20))
    assert image_info(path).num_slices == 6
