"""Masks with a palette: black and white are what is shown, everything else keeps its indices."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.data.description import DatasetDescription
from engine.data.masks import MaskRule
from engine.data.prepare.pictures import labels
from engine.data.readers import read_mask
from engine.data.sources import FolderItem
from tests.unit.data_medical_files import write_dicom

MASK = np.zeros((20, 24), np.uint8)
MASK[5:9, 5:9] = 255  # 16 pixels
WHITE, BLACK, RED, GREY = (255, 255, 255), (0, 0, 0), (255, 0, 0), (128, 128, 128)
SUFFIXES = ("png", "tif", "bmp", "dcm")


def written(path: Path, indices: np.ndarray, colours: Sequence[tuple[int, ...]], **options: object) -> Path:
    """Write indices with their palette by Pillow, or pydicom."""
    if path.suffix == ".dcm":
        return _written_dicom(path, indices.astype(np.uint8), np.array(colours, np.uint16))
    picture = Image.fromarray(indices.astype(np.uint8), mode="P")
    picture.putpalette([number for colour in colours for number in colour])
    picture.save(path, **options)
    return path


def _written_dicom(path: Path, indices: np.ndarray, colours: np.ndarray) -> Path:
    palette: dict[str, object] = {}
    for channel, name in enumerate(("Red", "Green", "Blue")):
        palette[f"{name}PaletteColorLookupTableDescriptor"] = [len(colours), 0, 16]
        palette[f"{name}PaletteColorLookupTableData"] = (colours[:, channel] * 257).tobytes()  # 255 is 65535
    return write_dicom(path, indices, PhotometricInterpretation="PALETTE COLOR", **palette)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_black_and_white_palettes_are_read_as_they_are_shown(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"m.{suffix}"
    coloured = Image.fromarray(MASK).convert("RGB")
    for picture in (Image.fromarray(MASK).quantize(2), coloured.convert("P", palette=Image.Palette.ADAPTIVE)):
        written(path, np.asarray(picture), np.reshape(picture.getpalette(), (-1, 3)).tolist())
        np.testing.assert_array_equal(read_mask(path), MASK)
    for colours in ((WHITE, BLACK), (BLACK, WHITE), (RED, WHITE, GREY, BLACK)):
        stored = np.where(MASK == 255, colours.index(WHITE), colours.index(BLACK))
        written(path, stored, colours)
        np.testing.assert_array_equal(read_mask(path) != 0, MASK != 0, err_msg=str(colours))


@pytest.mark.parametrize(("suffix", "bits"), [("png", 1), ("png", 2), ("tif", 1), ("bmp", 1)])
def test_palettes_of_few_bits_too(tmp_path: Path, suffix: str, bits: int) -> None:
    path = tmp_path / f"m.{suffix}"
    if suffix == "bmp":  # Pillow writes palettes of 8 bits: the two entries of a 1-bit file are exchanged
        Image.fromarray(MASK == 0).save(path)
        data = bytearray(path.read_bytes())
        data[54:62] = b"\xff\xff\xff\0\0\0\0\0"
        path.write_bytes(data)
    else:
        written(path, MASK == 0, (WHITE, BLACK), bits=bits)
    np.testing.assert_array_equal(np.array(Image.open(path).convert("L")), MASK)
    np.testing.assert_array_equal(read_mask(path), MASK)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_of_one_colour_the_palette_decides(tmp_path: Path, suffix: str) -> None:
    empty, full = np.zeros_like(MASK), np.full_like(MASK, 255)
    for index, colours, expected in (
        (1, (WHITE, BLACK), empty),
        (0, (WHITE, BLACK), full),
        (1, (BLACK, WHITE), full),
        (0, (WHITE, RED), empty),  # a label map on white, without a label
        (5, (BLACK,) * 6, np.full_like(MASK, 5)),  # a palette that was never filled in
    ):
        found = read_mask(written(tmp_path / f"m.{suffix}", np.full_like(MASK, index), colours))
        found = found * 255 if suffix == "bmp" and colours == (BLACK, WHITE) else found  # of 1 bit for Pillow
        np.testing.assert_array_equal(found, expected, err_msg=str(colours))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_label_maps_keep_their_indices(tmp_path: Path, suffix: str) -> None:
    third = MASK // 255
    third[0, 0] = 2
    for stored, colours in (
        (third, (WHITE, BLACK, RED)),
        (third, (BLACK, WHITE, WHITE)),
        (third, (BLACK, WHITE, BLACK)),
        (MASK // 255, (WHITE, RED)),
        (MASK // 255, (BLACK, BLACK)),
    ):
        path = written(tmp_path / f"m.{suffix}", stored, colours)
        np.testing.assert_array_equal(read_mask(path), stored, err_msg=str(colours))
    path = written(tmp_path / f"m.{suffix}", MASK // 255, (WHITE, BLACK))
    np.testing.assert_array_equal(read_mask(path, white=None), MASK // 255)
    np.testing.assert_array_equal(labels(path), MASK // 255)  # the official datasets say what their numbers mean


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("keys", "foreground"),
    [
        ({}, "white"),
        ({"mask_values": (0, 1)}, "white"),
        ({"mask_values": (0, 255)}, "white"),
        ({"mask_threshold": 128}, "white"),
        ({"mask_values": {"blob": (1,)}}, "black"),
        ({"mask_values": (1, 0)}, "white"),  # as whoever looked at the numbers has declared them
        ({"mask_values": {"blob": (0,)}, "mask_background": (1,)}, "white"),
    ],
)
def test_what_a_dataset_declares_decides_what_a_palette_means(
    tmp_path: Path, keys: dict, foreground: str, suffix: str
) -> None:
    description = DatasetDescription(name="x", modality="y", classes=("blob",), **keys)
    path = written(tmp_path / f"m.{suffix}", MASK == 0, (WHITE, BLACK))
    expected = (MASK == 255) == (foreground == "white")
    stored = read_mask(path, white=MaskRule.of(description).white)
    np.testing.assert_array_equal(MaskRule.of(description).planes([stored])[0], expected)
    np.testing.assert_array_equal(FolderItem.planes(_Item(path, description))[0], expected)  # type: ignore[arg-type]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("order", ["dark to light", "light to dark", "by how often"])
def test_a_threshold_is_of_the_levels_that_a_palette_shows(tmp_path: Path, order: str, suffix: str) -> None:
    shown = MASK.copy()
    shown[5:9, 9], shown[5:9, 10] = 170, 60  # a soft edge
    levels = {"dark to light": [0, 60, 170, 255], "light to dark": [255, 170, 60, 0], "by how often": [0, 255, 170, 60]}
    stored = np.select([shown == level for level in levels[order]], range(4))
    path = written(tmp_path / f"m.{suffix}", stored, [(level,) * 3 for level in levels[order]])
    for threshold in (50, 128, 200):
        description = DatasetDescription(name="x", modality="y", classes=("blob",), mask_threshold=threshold)
        planes = FolderItem.planes(_Item(path, description))  # type: ignore[arg-type]
        np.testing.assert_array_equal(planes[0], shown >= threshold, err_msg=str(threshold))
    coloured = written(tmp_path / f"c.{suffix}", stored, [BLACK, RED, WHITE, GREY])  # labels: nobody can tell a level
    np.testing.assert_array_equal(read_mask(coloured, white="levels"), stored)


class _Item(FolderItem):
    def __init__(self, mask: Path, description: DatasetDescription) -> None:
        for name, value in (("masks", (mask,)), ("description", description), ("geometry", None), ("slice_index", 0)):
            object.__setattr__(self, name, value)
