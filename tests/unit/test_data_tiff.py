"""TIFF of every kind, written by tifffile, by Pillow or tag by tag; right values follow from what was written."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from engine.data.budget import at_most
from engine.data.readers import read_image, read_mask
from engine.data.transforms import percentile_range
from engine.errors import UserError
from tests.unit.data_raster_files import TURNED, grey3, packed, refused, retag, tag, tiff, too_large

H, W = 16, 24
NOISE = np.random.default_rng(0).integers(0, 256, (H, W, 3), dtype=np.uint8)
GREY = np.ascontiguousarray(NOISE[..., 0])
RAMP = np.linspace(0, 4000, H * W).round().reshape(H, W)
BITS = GREY > 100


# ------------------------------------------------------------------------------------ numbers, layouts, compressions

LOSSLESS = ("none", "lzw", "zlib", "packbits", "zstd", "lzma", "png", "jpeg2000")
LAYOUTS = [  # id, tifffile's options for (H, W, 3) RGB
    ("big_endian", {"byteorder": ">"}),
    ("big_tiff", {"bigtiff": True}),
    ("tiles", {"tile": (16, 16)}),
    ("strips", {"rowsperstrip": 5, "compression": "lzw"}),
    ("predictor", {"predictor": True, "compression": "lzw"}),
    *((name, {"compression": name}) for name in LOSSLESS),
]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(("name", "options"), LAYOUTS, ids=[name for name, _ in LAYOUTS])
def test_colour_keeps_its_depth_in_every_layout(tmp_path: Path, name: str, options: dict, dtype: type) -> None:
    stored = NOISE.astype(dtype) * dtype(1 if dtype == np.uint8 else 13)
    path = tiff(tmp_path / "a.tif", stored, photometric="rgb", **options)
    image, geometry = read_image(path)
    assert image.dtype == dtype and (geometry.height_px, geometry.width_px, geometry.channels) == (H, W, 3)
    np.testing.assert_array_equal(image, stored)
    if name in ("tiles", "lzw", "none"):
        planes = tiff(tmp_path / "p.tif", np.moveaxis(stored, -1, 0), photometric="rgb", planarconfig=2, **options)
        np.testing.assert_array_equal(read_image(planes)[0], stored)


@pytest.mark.parametrize("compression", ["none", "lzw", "zlib"])
@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.uint32, np.int64, np.float32, np.float64])
def test_numbers_of_no_known_range_are_scaled_alike_in_every_compression(tmp_path, dtype, compression: str) -> None:
    stored = (RAMP / 4000 * 252 - 128 if dtype == np.int8 else RAMP - (0 if dtype == np.uint32 else 500)).astype(dtype)
    predictor = compression != "none" and dtype != np.int64
    path = tiff(tmp_path / "a.tif", stored, compression=compression, predictor=predictor)
    low, high = percentile_range(stored.astype(np.float32))
    expected = np.clip((stored.astype(np.float64) - low) / (high - low), 0, 1)
    np.testing.assert_allclose(read_image(path)[0], grey3(expected), atol=1e-6)
    np.testing.assert_allclose(  # in the file's own units
        read_image(path, value_range=(-100, 100))[0][..., 0],
        np.clip((stored.astype(float) + 100) / 200, 0, 1),
        atol=1e-6,
    )


def raw_tiff(path: Path, data: bytes, bits: int, photometric: int, **more: int) -> Path:
    """One uncompressed strip of (H, W) with ``bits`` a sample, tag by tag."""
    tags = {256: W, 257: H, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: H, 279: len(data)}
    tags |= {int(code[1:]): value for code, value in more.items()}
    start = 8 + len(data) + len(data) % 2
    entries = b"".join(struct.pack("<HHII", code, 4, 1, value) for code, value in sorted(tags.items()))
    header = struct.pack("<2sHI", b"II", 42, start) + data + b"\0" * (len(data) % 2)
    path.write_bytes(header + struct.pack("<H", len(tags)) + entries + bytes(4))
    return path


@pytest.mark.parametrize("photometric", [0, 1], ids=["white_is_zero", "black_is_zero"])
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 12])
def test_packed_samples_reach_from_black_to_white(tmp_path: Path, bits: int, photometric: int) -> None:
    top = 2**bits - 1
    stored = np.arange(H * W).reshape(H, W) % (top + 1)
    path = raw_tiff(tmp_path / "a.tif", packed(stored, bits), bits, photometric)
    share = stored / top if photometric else 1 - stored / top
    image = read_image(path)[0]
    assert image.dtype == (np.float32 if bits == 12 else np.uint8)
    np.testing.assert_allclose(image / (1 if bits == 12 else 255), grey3(share), atol=1e-6)
    half = np.clip(stored / (top / 2), 0, 1)  # value_range is in stored numbers
    expected = half if photometric else 1 - half
    np.testing.assert_allclose(read_image(path, value_range=(0, top / 2))[0][..., 0], expected, atol=1e-6)
    if photometric:
        np.testing.assert_array_equal(read_mask(path), stored)


def test_reversed_bits_and_a_missing_photometric_tag(tmp_path: Path) -> None:
    reverse = bytes(int(format(byte, "08b")[::-1], 2) for byte in packed(BITS, 1))
    np.testing.assert_array_equal(read_mask(raw_tiff(tmp_path / "f.tif", reverse, 1, 1, t266=2)), BITS)
    path = raw_tiff(tmp_path / "a.tif", GREY.tobytes(), 8, 1)
    path.write_bytes(path.read_bytes().replace(struct.pack("<HH", 262, 4), struct.pack("<HH", 263, 4)))
    np.testing.assert_array_equal(read_image(path)[0], grey3(GREY))


# ------------------------------------------------------------------------------------------------- white is zero


def imagej(path: Path, stored: np.ndarray, **calibration: float) -> Path:
    tifffile.imwrite(path, stored, imagej=True, metadata={"vunit": "HU", **calibration})
    return path


def test_values_that_imagej_has_calibrated_are_in_the_units_of_the_window(tmp_path: Path) -> None:
    """Signed 16 bits are kept as c0 + stored, c0 = -32768: air of -1000 HU is stored as 31768, water as 32768."""
    stored = np.array([[31768, 32768], [32968, 33168]], dtype=np.uint16)  # -1000, 0, 200 and 400 HU
    signed = imagej(tmp_path / "signed.tif", stored, cf=0, c0=-32768.0, c1=1.0)
    found = read_image(signed, value_range=(-200.0, 400.0))[0][..., 0]
    np.testing.assert_allclose(found, [[0, 1 / 3], [2 / 3, 1]], atol=1e-6)
    halved = imagej(tmp_path / "slope.tif", stored, cf=0, c0=-16384.0, c1=0.5)  # -500, 0, 100 and 200
    np.testing.assert_allclose(
        read_image(halved, value_range=(-500.0, 500.0))[0][..., 0], [[0, 0.5], [0.6, 0.7]], atol=1e-6
    )
    np.testing.assert_array_equal(read_image(signed)[0], read_image(tiff(tmp_path / "plain.tif", stored))[0])
    curved = imagej(tmp_path / "curved.tif", stored, cf=4, c0=1.0, c1=1.0)
    with pytest.raises(UserError, match="calibration"):
        read_image(curved, value_range=(0.0, 1.0))


def test_a_mask_of_signed_numbers_from_imagej_keeps_its_numbers(tmp_path: Path) -> None:
    stored = np.array([[32768, 32769], [32770, 32768]], dtype=np.uint16)
    path = imagej(tmp_path / "mask.tif", stored, cf=0, c0=-32768.0, c1=1.0)
    np.testing.assert_array_equal(read_mask(path), [[0, 1], [2, 0]])


@pytest.mark.parametrize("compression", ["none", "lzw", "zlib", "packbits", "zstd", "jpeg2000"])
def test_white_is_zero_is_turned_over_at_every_depth(tmp_path: Path, compression: str) -> None:
    options = {"photometric": "miniswhite", "compression": compression}
    deep = RAMP.astype(np.uint16)
    np.testing.assert_array_equal(read_image(tiff(tmp_path / "8.tif", GREY, **options))[0], grey3(255 - GREY))
    path = tiff(tmp_path / "16.tif", deep, **options)
    np.testing.assert_array_equal(read_image(path)[0], grey3(65535 - deep))
    np.testing.assert_allclose(read_image(path, value_range=(0, 4000))[0], grey3(1 - deep / 4000), atol=1e-6)
    if compression == "jpeg2000":
        return
    unit = (RAMP / 4000).astype(np.float32)
    np.testing.assert_allclose(read_image(tiff(tmp_path / "f.tif", unit, **options))[0], grey3(1 - unit), atol=1e-6)
    signed = read_image(tiff(tmp_path / "s.tif", RAMP.astype(np.int32), **options), value_range=(0, 4000))[0]
    np.testing.assert_allclose(signed, grey3(1 - RAMP.round() / 4000), atol=1e-6)


@pytest.mark.parametrize(
    "compression", ["raw", "packbits", "tiff_lzw", "tiff_deflate", "group3", "group4", "tiff_ccitt"]
)
def test_one_bit_is_what_a_viewer_shows(tmp_path: Path, compression: str) -> None:
    mask = np.zeros((8, 16), bool)
    mask[2:5, 3:9] = True  # 18 pixels
    path = tmp_path / "m.tif"
    Image.fromarray(mask).save(path, compression=None if compression == "raw" else compression, tiffinfo={262: 0})
    with tifffile.TiffFile(path) as file:
        assert file.pages[0].photometric == 0
    np.testing.assert_array_equal(read_mask(path), mask)
    np.testing.assert_array_equal(read_image(path)[0], grey3(mask * np.uint8(255)))


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"ome": True}], ids=["plain", "zlib", "ome"])
def test_truth_values_that_tifffile_wrote_are_foreground_where_they_are_true(tmp_path: Path, options: dict) -> None:
    masks = np.zeros((2, 8, 16), bool)
    masks[0, 2:5, 3:9] = masks[1, 1:3, 4:6] = True
    for path, values in ((tmp_path / "m.tif", masks[0]), (tmp_path / "stack.tif", masks)):
        tifffile.imwrite(path, values, **options)  # no word of colours: tifffile chooses white-is-zero
        with tifffile.TiffFile(path) as file:
            assert (file.pages[0].photometric, file.pages[0].bitspersample) == (0, 1)
            np.testing.assert_array_equal(file.asarray(), values)
    np.testing.assert_array_equal(read_mask(tmp_path / "m.tif"), masks[0])
    for index, mask in enumerate(masks):
        np.testing.assert_array_equal(read_mask(tmp_path / "stack.tif", slice_index=index), mask)


def test_deep_white_is_zero_label_maps_keep_their_numbers_and_two_valued_ones_are_refused(tmp_path: Path) -> None:
    labels = np.arange(H * W, dtype=np.uint8).reshape(H, W) % 4
    np.testing.assert_array_equal(read_mask(tiff(tmp_path / "l.tif", labels, photometric="miniswhite")), labels)
    path = tiff(tmp_path / "b.tif", BITS * np.uint8(255), photometric="miniswhite")
    refused(path, "white is zero", read_mask)


# ------------------------------------------------------------------------------------------------- orientation


@pytest.mark.parametrize("orientation", TURNED)
def test_orientation_turns_pictures_masks_and_sizes(tmp_path: Path, orientation: int) -> None:
    path = tiff(tmp_path / "a.tif", NOISE, photometric="rgb", **tag(274, orientation))
    expected = TURNED[orientation](NOISE)
    image, geometry = read_image(path)
    np.testing.assert_array_equal(image, expected)
    assert (geometry.height_px, geometry.width_px) == expected.shape[:2]
    mask = tiff(tmp_path / "m.tif", GREY, compression="zlib", **tag(274, orientation))
    np.testing.assert_array_equal(read_mask(mask), TURNED[orientation](GREY))


# ------------------------------------------------------------------------------------------------- colours


def test_palettes_give_colours_to_pictures_and_indices_to_masks(tmp_path: Path) -> None:
    table = np.random.default_rng(1).integers(0, 256, (3, 256)).astype(np.uint16)
    expected = table.T[GREY].astype(np.uint8)
    for name, colormap in (("16", table * 257), ("16_low", table << 8), ("8", table)):
        path = tiff(tmp_path / f"{name}.tif", GREY, photometric="palette", colormap=colormap)
        np.testing.assert_array_equal(read_image(path)[0], expected)
        np.testing.assert_array_equal(read_mask(path), GREY)
    one_bit = Image.fromarray(BITS.astype(np.uint8), mode="P")
    one_bit.putpalette([10, 20, 30, 200, 100, 50])
    one_bit.save(tmp_path / "1.tif", bits=1)
    expected = np.where(BITS[..., None], [200, 100, 50], [10, 20, 30])
    np.testing.assert_array_equal(read_image(tmp_path / "1.tif")[0], expected)
    np.testing.assert_array_equal(read_mask(tmp_path / "1.tif"), BITS)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_inks_become_colours(tmp_path: Path, dtype: type) -> None:
    top = np.iinfo(dtype).max
    fifth = top // 5
    inks = [[0, 0, 0, 0], [top, 0, 0, 0], [0, fifth, 0, 0], [0, 0, 0, top], [0, 0, top, fifth * 4], [55, 55, 55, 54]]
    path = tiff(tmp_path / "a.tif", np.array([inks], dtype), photometric="separated")
    expected = [[top] * 3, [0, top, top], [top, fifth * 4, top], [0] * 3, [fifth, fifth, 0]]
    expected.append([round((top - 55) * (top - 54) / top)] * 3)
    np.testing.assert_array_equal(read_image(path)[0][0], expected)
    refused(path, "SEPARATED", read_mask)
    refused(tiff(path, np.array([inks], dtype), photometric="separated", **tag(332, 2)), "SEPARATED")  # other inks


def test_jpeg_colours_in_a_tiff_are_close(tmp_path: Path) -> None:
    smooth = np.stack([np.add.outer(np.arange(64), np.arange(96)) + c * 30 for c in range(3)], -1).astype(np.uint8)
    for subsampling in (1, 2):  # the stream is Pillow's own JPEG
        Image.fromarray(smooth).save(tmp_path / "a.jpg", quality=98, subsampling=0 if subsampling == 1 else 2)
        stream = (tmp_path / "a.jpg").read_bytes()
        halves = {"extratags": [(530, "H", 2, (subsampling, subsampling), True)]}
        path = tiff(tmp_path / "a.tif", smooth, photometric="rgb", **halves)
        offset = path.stat().st_size
        path.write_bytes(path.read_bytes() + stream)
        new = {"StripOffsets": offset, "StripByteCounts": len(stream), "Compression": 7, "PhotometricInterpretation": 6}
        for name, value in new.items():
            retag(path, name, value)
        assert np.abs(read_image(path)[0].astype(int) - smooth).max() < 6


@pytest.mark.parametrize("extra", ["unassalpha", "assocalpha", "unspecified"])
def test_alpha_is_dropped_from_pictures(tmp_path: Path, extra: str) -> None:
    alpha = np.dstack([NOISE, GREY])
    path = tiff(tmp_path / "a.tif", alpha, photometric="rgb", extrasamples=[extra])
    np.testing.assert_array_equal(read_image(path)[0], NOISE)
    grey = tiff(tmp_path / "g.tif", alpha[..., 2:], photometric="minisblack", planarconfig=1, extrasamples=[extra])
    if extra == "unspecified":  # two stains, or grey and something: nobody can tell
        refused(grey, "2 channels")
        np.testing.assert_array_equal(read_mask(grey), alpha[..., 2:])  # or two classes
    else:
        np.testing.assert_array_equal(read_image(grey)[0], grey3(NOISE[..., 2]))


def test_a_mask_in_alpha_is_refused_and_beside_it_read(tmp_path: Path) -> None:
    white = np.full((H, W, 2), 255, np.uint8)
    white[..., 1] = BITS * 255
    options = {"photometric": "minisblack", "planarconfig": 1, "extrasamples": ["unassalpha"]}
    refused(tiff(tmp_path / "a.tif", white, **options), "lies in the alpha channel", read_mask)
    opaque = tiff(tmp_path / "b.tif", white[..., ::-1], **options)
    np.testing.assert_array_equal(read_mask(opaque), BITS * 255)


# ------------------------------------------------------------------------------------------------- refused by name


def test_kinds_that_are_not_read_are_refused_by_their_name(tmp_path: Path) -> None:
    refused(tiff(tmp_path / "c.tif", GREY.astype(np.complex64)), "complex")
    five = np.dstack([NOISE, GREY, GREY])
    path = tiff(tmp_path / "5.tif", five, photometric="minisblack", planarconfig=1)
    refused(path, "5 channels")
    np.testing.assert_array_equal(read_mask(path), five)  # a channel for each class
    holes = RAMP.astype(np.float32).copy()
    holes[3, 4] = np.nan
    refused(tiff(tmp_path / "n.tif", holes), "not finite")
    refused(tiff(tmp_path / "s.tif", np.stack([np.ones_like(holes), holes]), photometric="minisblack"), "not finite")
    refused(tiff(tmp_path / "d.tif", RAMP.astype(np.int16), **tag(42113, "0", "s")), "no data")
    assert read_image(tiff(tmp_path / "e.tif", RAMP.astype(np.int16), **tag(42113, "-9999", "s")))[0].max() == 1
    for text in ("", " ", "none", "-9999,0"):  # no number: it marks nothing
        marked = tiff(tmp_path / "x.tif", RAMP.astype(np.int16), **tag(42113, text, "s"))
        assert read_image(marked)[0].max() == 1
    Image.fromarray(NOISE).convert("LAB").save(tmp_path / "lab.tif")
    refused(tmp_path / "lab.tif", "CIELAB")
    refused(tmp_path / "lab.tif", "CIELAB", read_mask)
    refused(retag(tiff(tmp_path / "z.tif", GREY), "Compression", 34661), "compression 34661")
    refused(retag(tiff(tmp_path / "y.tif", NOISE, photometric="rgb"), "PhotometricInterpretation", 6), "subsampled")
    whole = {"extratags": [(530, "H", 2, (1, 1), True)]}
    refused(retag(tiff(tmp_path / "y.tif", NOISE, photometric="rgb", **whole), "PhotometricInterpretation", 6), "YCBCR")
    refused(tiff(tmp_path / "x.tif", NOISE, photometric="rgb", compression="jpegxl"), "JPEGXL")
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((5, 6, 7), np.uint8), metadata={"axes": "YXZ"}, photometric=1)
    refused(tmp_path / "a.tif", "YXZ")
    refused(tiff(tmp_path / "rgb.tif", NOISE, photometric="rgb"), "coloured", read_mask)


# ------------------------------------------------------------------------------------------------- damage and bombs


@pytest.mark.parametrize("compression", ["none", "lzw", "zlib", "jpeg", "packbits", "zstd"])
def test_what_is_cut_off_is_never_made_up(tmp_path: Path, compression: str) -> None:
    whole = tmp_path / "a.tif"
    with tifffile.TiffWriter(whole) as writer:  # the directory lies before the pixels
        writer.write(NOISE, photometric="rgb", compression=compression, rowsperstrip=4, metadata=None)
    data, expected = whole.read_bytes(), read_image(whole)[0]
    for size in range(9, len(data) - 1, max(1, len(data) // 40)):
        whole.write_bytes(data[:size])
        with pytest.raises(UserError) as caught:
            np.testing.assert_array_equal(read_image(whole)[0], expected)
        assert caught.value.code == "data.image_unreadable"


def test_bytes_are_budgeted_before_anything_is_inflated(tmp_path: Path) -> None:
    too_large(tiff(tmp_path / "f.tif", np.zeros((400, 400)), compression="zlib"))
    too_large(tiff(tmp_path / "i.tif", np.zeros((400, 400), np.int16), compression="zlib"))  # becomes float32
    tile = tiff(tmp_path / "t.tif", np.zeros((16, 16), np.uint8), tile=(16, 16), compression="zlib")
    too_large(retag(retag(tile, "TileWidth", 4096), "TileLength", 4096))
    jpeg = tiff(tmp_path / "j.tif", GREY, compression="jpeg")
    data = bytearray(jpeg.read_bytes())
    struct.pack_into(">HH", data, data.index(b"\xff\xc0") + 5, 60_000, 60_000)  # the strip's own header
    jpeg.write_bytes(data)
    too_large(jpeg)
    stack = tiff(tmp_path / "s.tif", np.zeros((40, 64, 64), np.int16), photometric="minisblack", compression="zlib")
    with at_most(64 * 64 * 4 * 8):  # a page at a time, for the range too
        assert read_image(stack, slice_index=39)[0].shape == (64, 64, 3)
