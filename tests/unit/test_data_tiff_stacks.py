"""Which pages of a TIFF are its slices, and which range holds for them."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import tifffile

from engine.data.budget import at_most
from engine.data.ranges import range_of_pages
from engine.data.readers import image_info, read_image, read_mask
from engine.data.transforms import percentile_range
from engine.errors import UserError
from tests.unit.data_raster_files import grey3, refused, tag, tiff

H, W = 16, 24
NOISE = np.random.default_rng(0).integers(0, 256, (H, W, 3), dtype=np.uint8)
GREY = np.ascontiguousarray(NOISE[..., 0])


def test_axes_of_microscopy_are_slices_in_the_order_of_the_file(tmp_path: Path) -> None:
    stack = np.random.default_rng(2).integers(0, 60000, (2, 3, 2, H, W), dtype=np.uint16)
    flat = stack.reshape(-1, H, W)
    tifffile.imwrite(tmp_path / "a.ome.tif", stack, metadata={"axes": "TZCYX"}, photometric="minisblack")
    tifffile.imwrite(tmp_path / "ij.tif", stack, imagej=True, metadata={"axes": "TZCYX"})
    tifffile.imwrite(tmp_path / "shaped.tif", stack, photometric="minisblack", compression="zlib")
    tifffile.imwrite(tmp_path / "one_page.tif", stack, photometric="minisblack", metadata={"truncated": True})
    tifffile.imwrite(tmp_path / "tiled.ome.tif", stack, metadata={"axes": "TZCYX"}, tile=(16, 16), photometric=1)
    for path in sorted(tmp_path.iterdir()):
        assert image_info(path).num_slices == 12, path
        for index in (0, 5, 11):
            np.testing.assert_array_equal(read_image(path, slice_index=index)[0], grey3(flat[index]), err_msg=str(path))
            np.testing.assert_array_equal(read_mask(path, slice_index=index), flat[index])


def test_colour_stacks_and_volumes_within_a_page(tmp_path: Path) -> None:
    stack = np.stack([NOISE, 255 - NOISE])
    tifffile.imwrite(tmp_path / "c.tif", stack, photometric="rgb", compression="lzw")
    tifffile.imwrite(tmp_path / "p.ome.tif", np.moveaxis(stack, -1, 1), photometric="rgb", planarconfig="separate")
    tifffile.imwrite(tmp_path / "v.tif", stack, photometric="rgb", volumetric=True, tile=(2, 16, 16))
    for path in sorted(tmp_path.iterdir()):
        assert image_info(path).num_slices == 2, path
        np.testing.assert_array_equal(read_image(path, slice_index=1)[0], 255 - NOISE, err_msg=str(path))


@pytest.mark.parametrize("compression", ["none", "lzw"])
def test_pages_of_another_size_are_no_slices(tmp_path: Path, compression: str) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        for page in (GREY, GREY[::2, ::2], 255 - GREY):
            writer.write(page, compression=compression, metadata=None, photometric="minisblack")
    assert image_info(path).num_slices == 2
    np.testing.assert_array_equal(read_image(path, slice_index=1)[0], grey3(255 - GREY))


def test_thumbnails_and_pyramids_are_no_slices(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "thumbnail_first.tif") as writer:
        writer.write(GREY[::4, ::4], subfiletype=1, metadata=None, photometric="minisblack")
        writer.write(GREY, metadata=None, photometric="minisblack")
    with tifffile.TiffWriter(tmp_path / "pyramid.ome.tif") as writer:
        writer.write(GREY, subifds=1, photometric="minisblack", tile=(16, 16), metadata={"axes": "YX"})
        writer.write(GREY[::2, ::2], subfiletype=1, photometric="minisblack", tile=(16, 16))
    with tifffile.TiffWriter(tmp_path / "levels.tif") as writer:
        for step in (1, 2, 4):
            writer.write(GREY[::step, ::step], subfiletype=int(step > 1), metadata=None, photometric="minisblack")
    for path in sorted(tmp_path.iterdir()):
        assert image_info(path).num_slices == 1, path
        np.testing.assert_array_equal(read_image(path)[0], grey3(GREY), err_msg=str(path))


@pytest.mark.parametrize("compression", ["none", "lzw"])
def test_each_page_has_its_own_palette_and_orientation(tmp_path: Path, compression: str) -> None:
    palettes = np.random.default_rng(4).integers(0, 256, (2, 3, 256)).astype(np.uint16) * 257
    with tifffile.TiffWriter(tmp_path / "p.tif") as writer:
        for colormap in palettes:
            writer.write(GREY, photometric="palette", colormap=colormap, compression=compression, metadata=None)
    for index, colormap in enumerate(palettes):
        expected = (colormap >> 8).T[GREY]
        np.testing.assert_array_equal(read_image(tmp_path / "p.tif", slice_index=index)[0], expected)
    for name, second in (("o", 3), ("side", 6)):
        with tifffile.TiffWriter(tmp_path / f"{name}.tif") as writer:
            for orientation in (1, second):
                writer.write(GREY, photometric=1, compression=compression, metadata=None, **tag(274, orientation))
    np.testing.assert_array_equal(read_image(tmp_path / "o.tif")[0], grey3(GREY))
    np.testing.assert_array_equal(read_mask(tmp_path / "o.tif", slice_index=1), np.rot90(GREY, 2))
    refused(tmp_path / "side.tif", "lie on their side", slice_index=1)


def test_no_other_file_is_opened_by_name(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "secret.ome.tif", GREY, metadata={"axes": "YX"}, photometric="minisblack")
    xml = tifffile.tiffcomment(tmp_path / "secret.ome.tif")
    other = '<TiffData FirstZ="1" IFD="0" PlaneCount="1"><UUID FileName="secret.ome.tif">urn:uuid:1</UUID></TiffData>'
    xml = xml.replace('SizeZ="1"', 'SizeZ="2"').replace("</Pixels>", other + "</Pixels>")
    tifffile.imwrite(tmp_path / "a.ome.tif", 255 - GREY, description=xml, metadata=None, photometric="minisblack")
    count = image_info(tmp_path / "a.ome.tif").num_slices
    for index in range(count):
        try:
            image = read_image(tmp_path / "a.ome.tif", slice_index=index)[0]
        except UserError as error:
            assert "not in the file" in error.what
        else:
            np.testing.assert_array_equal(image, grey3(255 - GREY))


def test_one_range_holds_for_the_whole_stack(tmp_path: Path) -> None:
    ramp = np.linspace(0, 1, 64).reshape(8, 8)
    whole = np.stack([np.full((8, 8), 10), (ramp * 1000).round(), (ramp * 5000).round()]).astype(np.int16)
    path = tiff(tmp_path / "i.tif", whole, photometric="minisblack")
    maxima = [read_image(path, slice_index=index)[0].max() for index in range(3)]
    np.testing.assert_allclose(maxima, [10 / 5000, 0.2, 1.0], atol=1e-4)
    floats = np.stack([ramp * 0.02, ramp * 500]).astype(np.float32)
    path = tiff(tmp_path / "f.tif", floats, photometric="minisblack", compression="zlib")
    assert read_image(path, slice_index=0)[0].max() == pytest.approx(0.00004)
    path = tiff(tmp_path / "f.tif", floats / 500, photometric="minisblack")  # the same name, another file
    np.testing.assert_allclose(read_image(path, slice_index=0)[0][..., 0], floats[0] / 500)


@pytest.mark.parametrize("scale", [1, 1e-3, 1e6])
def test_the_range_of_pages_is_that_of_all_their_values(scale: float) -> None:
    pages = (np.random.default_rng(3).standard_normal((5, 37, 41)) * scale).astype(np.float32)
    assert range_of_pages(lambda: iter(pages)) == percentile_range(pages)
    whole = (pages / scale * 50).astype(np.int32)
    assert range_of_pages(lambda: iter(whole)) == percentile_range(whole)
    spike = np.zeros((2, 100, 100), np.int16)
    spike[1, 0, 0] = 7  # both percentiles are 0: the extremes count
    assert range_of_pages(lambda: iter(spike)) == (0, 7)


PAGES = np.random.default_rng(5).integers(0, 4000, (10, H, W), dtype=np.uint16)


@pytest.mark.parametrize("compression", ["none", "lzw"])
@pytest.mark.parametrize("step", [1, 3])  # pages at a time, the last time one
@pytest.mark.parametrize("count", [4, 10])
def test_stacks_written_page_by_page_are_whole(tmp_path: Path, count: int, step: int, compression: str) -> None:
    path = tmp_path / "w.tif"
    with tifffile.TiffWriter(path) as writer:
        for start in range(0, count, step):
            pages = PAGES[start : min(start + step, count)]
            writer.write(pages if len(pages) > 1 else pages[0], compression=compression, photometric="minisblack")
    with tifffile.TiffFile(path) as file:
        assert len(file.series) > 1
    assert image_info(path).num_slices == count
    for index in range(count):
        np.testing.assert_array_equal(read_image(path, slice_index=index)[0], grey3(PAGES[index]))
        np.testing.assert_array_equal(read_mask(path, slice_index=index), PAGES[index])


def test_range_limits_and_colours_hold_for_pages_written_one_by_one(tmp_path: Path) -> None:
    ramp = np.linspace(0, 1, H * W).reshape(H, W).astype(np.float32)
    with tifffile.TiffWriter(tmp_path / "f.tif") as writer:
        for top in (4, 2, 1):
            writer.write(ramp * top)
    low, high = percentile_range(np.stack([ramp * 4, ramp * 2, ramp]))
    for index, top in enumerate((4, 2, 1)):
        expected = np.clip((ramp * top - low) / (high - low), 0, 1)
        np.testing.assert_allclose(read_image(tmp_path / "f.tif", slice_index=index)[0][..., 0], expected, atol=1e-6)
    with tifffile.TiffWriter(tmp_path / "c.tif") as writer:
        for page in (NOISE, 255 - NOISE):
            writer.write(page, photometric="rgb")
    np.testing.assert_array_equal(read_image(tmp_path / "c.tif", slice_index=1)[0], 255 - NOISE)
    with at_most(1 << 10), pytest.raises(UserError) as caught:
        read_image(tmp_path / "c.tif", slice_index=1)
    assert caught.value.code == "data.image_too_large"
    blank = np.zeros((8000, 8000), np.uint8)
    with tifffile.TiffWriter(tmp_path / "v.tif") as writer:
        for _ in range(17):  # 17 x 64,000,000 are more than 2**30 voxels
            writer.write(blank, compression="zstd", rowsperstrip=8000)
    with pytest.raises(UserError, match="8000 x 8000 x 17 pixels"):
        image_info(tmp_path / "v.tif")


def test_pages_of_their_own_that_are_no_stack_stay_one_image(tmp_path: Path) -> None:
    wide, small = np.hstack([GREY, GREY]), GREY[::2, ::2]
    for name, pages, options in (
        ("size", (GREY, small, GREY), ({}, {}, {})),
        ("kind", (GREY, GREY.astype(np.uint16)), ({}, {})),
        ("levels", (GREY, small), ({}, {"subfiletype": 1})),
        ("preview", (GREY, 255 - GREY), ({}, {"subfiletype": 1})),
        ("wide", (GREY, wide), ({}, {})),
        ("pyramids", (GREY, 255 - GREY), ({"tile": (16, 16)},) * 2),
    ):
        path = tmp_path / f"{name}.tif"
        with tifffile.TiffWriter(path) as writer:
            for page, more in zip(pages, options, strict=True):
                writer.write(page, photometric="minisblack", subifds=int(name == "pyramids"), **more)
                if name == "pyramids":
                    writer.write(small, photometric="minisblack", subfiletype=1, **more)
        assert image_info(path).num_slices == 1, name
        np.testing.assert_array_equal(read_image(path)[0], grey3(GREY), err_msg=name)


def test_very_many_series_are_refused_before_they_are_made(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for _ in range(513):
            writer.write(GREY[:2, :2])
        writer.write(GREY[:2, :3])
    begun = time.process_time()
    with pytest.raises(UserError) as caught:
        image_info(tmp_path / "a.tif")
    assert caught.value.code == "data.image_too_large" and "series of their own" in caught.value.what
    assert time.process_time() - begun < 5


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}], ids=["none", "zlib"])
def test_images_of_one_size_in_an_ome_file_are_not_left_out(tmp_path: Path, options: dict) -> None:
    stacks = np.random.default_rng(9).integers(0, 256, (3, 2, 16, 24), np.uint8)
    for name, axes, images in (("stacks", "ZYX", stacks), ("pictures", "YX", stacks[:, 0])):
        path = tmp_path / f"{name}.ome.tif"
        with tifffile.TiffWriter(path, ome=True) as writer:
            for image in images:
                writer.write(image, photometric="minisblack", metadata={"axes": axes}, **options)
        for read in (image_info, read_image, read_mask):
            refused(path, f"{4 if axes == 'ZYX' else 2} more of its pages are as large", read)
    path = tmp_path / "slide.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as writer:  # a slide with its label, and an image of other numbers
        for other in (stacks[0], stacks[0, 0, :8], stacks[0].astype(np.uint16)):
            axes = "ZYX" if other.ndim == 3 else "YX"
            writer.write(other, photometric="minisblack", metadata={"axes": axes}, **options)
    assert image_info(path).num_slices == 2
    np.testing.assert_array_equal(read_mask(path, slice_index=1), stacks[0, 1])


@pytest.mark.parametrize(
    "ways",
    [
        [{"compression": "lzw"}, {}, {"compression": "zlib"}],
        [{"rowsperstrip": 8}, {"rowsperstrip": 3}],
        [{"compression": "zlib"}, {"compression": "zlib", "predictor": True}],
        [{"photometric": "minisblack"}, {"photometric": "miniswhite"}, {"photometric": "minisblack"}],
    ],
    ids=["compression", "strips", "predictor", "white"],
)
def test_pages_of_one_size_that_are_stored_in_several_ways_are_not_left_out(tmp_path: Path, ways: list[dict]) -> None:
    path = tmp_path / "a.tif"
    pixels = np.random.default_rng(8).integers(0, 256, (16, 24), np.uint8)
    with tifffile.TiffWriter(path) as writer:
        for way in ways:
            writer.write(pixels, metadata=None, **way)
    for read in (image_info, read_image, read_mask):
        refused(path, "of its pages are as large, and stored in another way", read)
    with tifffile.TiffWriter(path) as writer:  # other sizes and kinds of numbers are other pictures
        for other in (pixels, pixels[:8], pixels.astype(np.uint16)):
            writer.write(other, metadata=None)
    assert image_info(path).num_slices == 1
    np.testing.assert_array_equal(read_mask(path), pixels)
