"""What DICOM's stored numbers become: every expected value follows from PS3.3, worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest

from engine.data.readers import image_info, read_image, read_mask
from engine.errors import UserError
from tests.unit.data_medical_files import group, lut, write_dicom, write_frames


def grey(path: Path, **how) -> np.ndarray:
    return read_image(path, **how)[0][0, :, 0]


def line(*values: int, dtype: str = "u2") -> np.ndarray:
    return np.array([values], dtype)


# ------------------------------------------------------------------------------------------- windows


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        # (x - (c - .5)) / (w - 1) + .5 with c = 200, w = 200
        ("LINEAR", [0, (100 - 199.5) / 199 + 0.5, (200 - 199.5) / 199 + 0.5, 1, 1]),
        ("LINEAR_EXACT", [0, 0, 0.5, 1, 1]),
        ("SIGMOID", [1 / (1 + np.exp(4)), 1 / (1 + np.exp(2)), 0.5, 1 / (1 + np.exp(-2)), 1 / (1 + np.exp(-4))]),
        ("", [0, (100 - 199.5) / 199 + 0.5, (200 - 199.5) / 199 + 0.5, 1, 1]),
    ],
)
@pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
def test_each_function_of_a_window(tmp_path: Path, function: str, expected: list[float], photometric: str) -> None:
    tags = {"WindowCenter": 200, "WindowWidth": 200, "VOILUTFunction": function}
    path = write_dicom(tmp_path / "w.dcm", line(0, 100, 200, 300, 400), PhotometricInterpretation=photometric, **tags)
    inverse = photometric == "MONOCHROME1"
    np.testing.assert_allclose(grey(path), 1 - np.array(expected) if inverse else expected, atol=1e-6)


@pytest.mark.parametrize(
    ("width", "function", "expected"),
    [
        (1, "LINEAR", [0, 0, 1]),  # a step above c - .5
        (0.5, "LINEAR", [0, 0.5, 1]),  # below 1 only the exact function is defined
        (0, "LINEAR", [0, 0.5, 1]),  # no window: percentiles
        (-3, "LINEAR", [0, 0.5, 1]),
    ],
)
def test_windows_of_no_width(tmp_path: Path, width: float, function: str, expected: list[float]) -> None:
    tags = {"WindowCenter": 10.5 if width == 1 else 10, "WindowWidth": width, "VOILUTFunction": function}
    np.testing.assert_allclose(grey(write_dicom(tmp_path / "w.dcm", line(9, 10, 11), **tags)), expected, atol=1e-6)


def test_a_window_counts_rescaled_values(tmp_path: Path) -> None:
    tags = {"RescaleSlope": 2.5, "RescaleIntercept": -1000, "WindowCenter": 0, "WindowWidth": 501}
    path = write_dicom(tmp_path / "w.dcm", line(300, 400, 500), **tags)  # -250, 0, 250
    np.testing.assert_allclose(grey(path), [(-250 + 0.5) / 500 + 0.5, 0.501, 1], atol=1e-6)


def test_a_window_is_a_setting(tmp_path: Path) -> None:
    stored = line(0, 1024, 4095)
    window = {
        "WindowCenter": 1024,
        "WindowWidth": 2048,
        "VOILUTFunction": "LINEAR_EXACT",
        "BitsStored": 12,
        "HighBit": 11,
    }
    path = write_dicom(tmp_path / "w.dcm", stored, RescaleSlope=2, RescaleIntercept=-1024, **window)
    np.testing.assert_allclose(grey(path), [0, 0.5, 1], atol=1e-6)  # -1024, 1024, 7166 in a window 0 to 2048
    np.testing.assert_allclose(grey(path, window="dicom"), [0, 0.5, 1], atol=1e-6)
    np.testing.assert_allclose(grey(path, window="stored"), [0, 1024 / 4095, 1], atol=1e-6)
    np.testing.assert_allclose(grey(path, value_range=(-1024, 7166)), [0, 0.25006, 1], atol=1e-4)
    plain = write_dicom(tmp_path / "p.dcm", stored)
    with pytest.raises(UserError, match="no DICOM window") as caught:
        grey(plain, window="dicom")
    assert caught.value.code == "data.image_unsupported"


@pytest.mark.parametrize("stored", [(64, 96, 128, 192), (128, 128, 128, 128), (0, 96, 128, 255)])
def test_a_table_gives_a_tissue_the_same_value_in_every_image(tmp_path: Path, stored: tuple[int, ...]) -> None:
    table = lut([256, 0, 12], [round(level * 4095 / 255) for level in range(256)])
    path = write_dicom(tmp_path / "t.dcm", line(*stored), VOILUTSequence=[table])
    np.testing.assert_allclose(grey(path), np.array(stored) / 255, atol=2e-4)


@pytest.mark.parametrize(
    ("descriptor", "data", "stored", "expected"),
    [
        ([4, 10, 8], [0, 50, 100, 255], [0, 10, 12, 13, 99], [0, 0, 100, 255, 255]),  # clipped at both ends
        ([4, 10, 8], bytes([0, 50, 100, 255]), [10, 11, 12, 13, 13], [0, 50, 100, 255, 255]),  # two entries a word
        ([4, 10, 8], [50 << 8, 100 | 255 << 8], [10, 11, 12, 13, 13], [0, 50, 100, 255, 255]),  # the same, as numbers
    ],
)
def test_tables_of_eight_bits(tmp_path: Path, descriptor: list, data, stored: list, expected: list) -> None:
    path = write_dicom(tmp_path / "t.dcm", line(*stored), VOILUTSequence=[lut(descriptor, data)])
    np.testing.assert_allclose(grey(path), np.array(expected) / 255, atol=1e-6)


def test_a_table_of_65536_entries_that_begins_below_zero(tmp_path: Path) -> None:
    data = np.arange(65536, dtype="<u2").tobytes()  # 0 entries stand for 65536; the first stands for -1024
    table = lut([0, 65536 - 1024, 16], data)
    path = write_dicom(
        tmp_path / "t.dcm", line(0, 1024, 2000), VOILUTSequence=[table], RescaleSlope=1, RescaleIntercept=-1024
    )
    np.testing.assert_allclose(grey(path), np.array([0, 1024, 2000]) / 65535, atol=1e-6)


def test_a_modality_table_comes_before_the_window(tmp_path: Path) -> None:
    table = lut([4, 0, 16], [0, 1000, 3000, 4000])
    tags = {"WindowCenter": 2000, "WindowWidth": 4000, "VOILUTFunction": "LINEAR_EXACT"}
    path = write_dicom(tmp_path / "m.dcm", line(0, 1, 2, 3), ModalityLUTSequence=[table], **tags)
    np.testing.assert_allclose(grey(path), [0, 0.25, 0.75, 1], atol=1e-6)
    np.testing.assert_allclose(grey(path, value_range=(0, 2000)), [0, 0.5, 1, 1], atol=1e-6)


# ------------------------------------------------------------------------------------------- stored numbers


def test_bits_above_the_stored_ones_are_cut(tmp_path: Path) -> None:
    overlay = line(0x8005, 0x0FFF, 0x1000)  # an overlay in bits 15 and 12, as ACR-NEMA kept them
    path = write_dicom(tmp_path / "o.dcm", overlay, BitsStored=12, HighBit=11)
    np.testing.assert_array_equal(read_mask(path), [[5, 4095, 0]])
    high = write_dicom(tmp_path / "h.dcm", line(0xFFF0, 0x0010), BitsStored=12, HighBit=15)
    np.testing.assert_array_equal(read_mask(high), [[4095, 1]])


def test_signed_numbers_of_fewer_bits_keep_their_sign(tmp_path: Path) -> None:
    stored = line(0x0FFF, 0x0800, 0x07FF).view("i2")  # -1, -2048, 2047 in 12 bits
    path = write_dicom(tmp_path / "s.dcm", stored, BitsStored=12, HighBit=11)
    np.testing.assert_array_equal(read_mask(path), [[-1, -2048, 2047]])
    np.testing.assert_allclose(grey(path, window="stored"), [2047 / 4095, 0, 1], atol=1e-6)


@pytest.mark.parametrize(
    ("padding", "expected"),
    [({"PixelPaddingValue": -2000}, [0, 0.25, 1]), ({}, [0, (2000 + 500) / 3500, 1])],
)
def test_padding_is_no_part_of_the_picture(tmp_path: Path, padding: dict, expected: list[float]) -> None:
    path = write_dicom(tmp_path / "p.dcm", line(-2000, 500, 1500, dtype="i2"), **padding)
    image = grey(path)
    if padding:
        assert image[0] == 0 and image[1] == 0 and image[2] == 1  # the percentiles go from 500 to 1500
    else:
        np.testing.assert_allclose(image, expected, atol=1e-6)


def test_padding_is_black_in_an_inverted_picture_and_may_be_a_range(tmp_path: Path) -> None:
    tags = {"PhotometricInterpretation": "MONOCHROME1", "PixelPaddingValue": 0, "PixelPaddingRangeLimit": 2}
    path = write_dicom(tmp_path / "p.dcm", line(0, 1, 2, 3, 100), **tags)
    np.testing.assert_allclose(grey(path, value_range=(0, 100)), [0, 0, 0, 0.97, 0], atol=1e-6)


@pytest.mark.parametrize("kind", ["f4", "f8"])
def test_float_pixels(tmp_path: Path, kind: str) -> None:
    values = np.array([[-0.5, 0.25, 1.5]], f"<{kind}")
    name = "FloatPixelData" if kind == "f4" else "DoubleFloatPixelData"
    path = write_dicom(tmp_path / "f.dcm", values, **{name: values.tobytes()})
    tags = pydicom.dcmread(path)
    for absent in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
        delattr(tags, absent)
    tags.save_as(path)
    np.testing.assert_allclose(grey(path), [0, 0.375, 1], atol=1e-6)
    np.testing.assert_allclose(grey(path, value_range=(0, 1)), [0, 0.25, 1], atol=1e-6)
    with pytest.raises(UserError, match="no stored range"):
        grey(path, window="stored")


def test_one_bit_a_pixel(tmp_path: Path) -> None:
    frames = np.array([[[1, 0, 1], [0, 0, 1]], [[0, 1, 1], [1, 1, 0]]], np.uint8)
    packed = np.packbits(frames.reshape(-1), bitorder="little").tobytes()
    path = write_dicom(
        tmp_path / "b.dcm", frames[0], NumberOfFrames=2, BitsAllocated=1, BitsStored=1, HighBit=0, PixelData=packed
    )
    for index in range(2):
        np.testing.assert_array_equal(read_mask(path, slice_index=index), frames[index])
        np.testing.assert_array_equal(read_image(path, slice_index=index)[0][..., 0], frames[index])


# ------------------------------------------------------------------------------------------- colour


@pytest.mark.parametrize(
    ("bits", "kind", "expected"),
    [(8, "u1", "u1"), (16, "u2", "u2"), (10, "u2", "f4"), (12, "u2", "f4"), (32, "u4", "f4")],
)
@pytest.mark.parametrize("planar", [0, 1])
def test_colours_keep_their_depth(tmp_path: Path, bits: int, kind: str, expected: str, planar: int) -> None:
    full = 2**bits - 1
    colours = np.array([[[full, 0, 0], [full // 2, full // 4, full]]], kind)
    data = np.moveaxis(colours, -1, 0) if planar else colours
    tags = {"BitsStored": bits, "HighBit": bits - 1, "PlanarConfiguration": planar, "PixelData": data.tobytes()}
    image, geometry = read_image(write_dicom(tmp_path / "c.dcm", colours, **tags))
    assert image.dtype == expected and geometry.channels == 3
    np.testing.assert_allclose(image, colours if expected != "f4" else colours / full, rtol=1e-6)


def test_colours_whose_chroma_two_pixels_share(tmp_path: Path) -> None:
    # Y1 Y2 Cb Cr: white and black without colour; mid grey and mid grey with red's chroma
    data = bytes([255, 0, 128, 128, 76, 76, 85, 255])
    rgb = np.zeros((1, 4, 3), np.uint8)
    path = write_dicom(tmp_path / "y.dcm", rgb, PhotometricInterpretation="YBR_FULL_422", PixelData=data)
    image = read_image(path)[0]
    np.testing.assert_array_equal(image[0, :2], [[255] * 3, [0] * 3])
    assert np.abs(image[0, 2:].astype(int) - [254, 0, 0]).max() <= 1


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("is_segmented", [False, True])
def test_palettes(tmp_path: Path, bits: int, is_segmented: bool) -> None:
    kind, top = f"<u{bits // 8}", 2**bits - 1
    tags: dict[str, object] = {}
    for colour, first, last in (("Red", 0, top), ("Green", top, 0), ("Blue", 7, 7)):
        table = np.rint(np.linspace(first, last, 4)).astype(kind)
        # PS3.3 C.7.9.2: discrete segment (0) of 1 entry, then a line (1) of 3 entries to the last value
        segments = np.array([0, 1, first, 1, 3, last], kind)
        tags[f"{colour}PaletteColorLookupTableDescriptor"] = [4, 5, bits]
        name = f"{colour}PaletteColorLookupTableData"
        tags[f"Segmented{name}" if is_segmented else name] = (segments if is_segmented else table).tobytes()
    path = write_dicom(tmp_path / "p.dcm", line(0, 5, 6, 8, 99), PhotometricInterpretation="PALETTE COLOR", **tags)
    image, geometry = read_image(path)
    assert image.dtype == f"u{bits // 8}" and geometry.channels == 3
    third = np.rint(top / 3)
    np.testing.assert_allclose(image[0, :, 0], [0, 0, third, top, top], atol=1)
    np.testing.assert_allclose(image[0, :, 1], [top, top, top - third, 0, 0], atol=1)
    assert (image[0, :, 2] == 7).all()
    np.testing.assert_array_equal(read_mask(path), [[0, 5, 6, 8, 99]])  # a mask holds indices


def test_a_palette_of_65536_entries_and_one_of_eight_bits_for_sixteen_bit_pixels(tmp_path: Path) -> None:
    ramp = np.arange(65536, dtype="<u2")
    for count, bits, table, expected in (
        (0, 16, ramp, [0, 300, 65535]),
        (1024, 8, (np.arange(1024) // 4).astype("u1"), [0, 75, 255]),
    ):
        tags: dict[str, object] = {}
        for colour in ("Red", "Green", "Blue"):
            tags[f"{colour}PaletteColorLookupTableDescriptor"] = [count, 0, bits]
            tags[f"{colour}PaletteColorLookupTableData"] = table.tobytes()
        path = write_dicom(
            tmp_path / f"{bits}.dcm", line(0, 300, 65535), PhotometricInterpretation="PALETTE COLOR", **tags
        )
        np.testing.assert_array_equal(read_image(path)[0][0, :, 0], expected)


@pytest.mark.parametrize("photometric", ["HSV", "CMYK", "YBR_PARTIAL_420", "XYZ"])
def test_colours_that_are_not_read_are_named(tmp_path: Path, photometric: str) -> None:
    path = write_dicom(tmp_path / "c.dcm", np.zeros((2, 2, 3), np.uint8), PhotometricInterpretation=photometric)
    with pytest.raises(UserError, match=photometric) as caught:
        read_image(path)
    assert caught.value.code == "data.image_unsupported"


# ------------------------------------------------------------------------------------------- enhanced files


@pytest.mark.parametrize("place", ["top", "shared", "per frame"])
def test_rescale_window_and_spacing_are_found_wherever_they_lie(tmp_path: Path, place: str) -> None:
    groups = {
        "PixelValueTransformationSequence": {"RescaleIntercept": -1024, "RescaleSlope": 1, "RescaleType": "HU"},
        "FrameVOILUTSequence": {"WindowCenter": 40, "WindowWidth": 400},
        "PixelMeasuresSequence": {"PixelSpacing": [0.7, 0.6]},
    }
    stored = line(0, 864, 1064, 1264, 4000)
    top = {name: value for values in groups.values() for name, value in values.items()}
    path = write_frames(
        tmp_path / "e.dcm",
        stored[None],
        per_frame=[groups if place == "per frame" else {}],
        shared=groups if place == "shared" else {},
        **(top if place == "top" else {}),
    )
    np.testing.assert_allclose(grey(path, value_range=(-160, 240)), [0, 0, 0.5, 1, 1], atol=1e-6)
    np.testing.assert_allclose(grey(path)[2], (40 - 39.5) / 399 + 0.5, atol=1e-6)
    geometry = image_info(path)
    assert geometry.spacing_mm == (0.7, 0.6) and geometry.unit == "HU"


def test_each_frame_has_its_own_rescale(tmp_path: Path) -> None:
    frames = np.stack([line(10, 20)] * 2)
    path = write_frames(
        tmp_path / "e.dcm",
        frames,
        per_frame=[
            {"PixelValueTransformationSequence": {"RescaleIntercept": 0, "RescaleSlope": slope}} for slope in (1, 2)
        ],
    )
    np.testing.assert_allclose(grey(path, slice_index=0, value_range=(0, 40)), [0.25, 0.5])
    np.testing.assert_allclose(grey(path, slice_index=1, value_range=(0, 40)), [0.5, 1])
    np.testing.assert_allclose(grey(path, slice_index=1), [1 / 3, 1], atol=1e-6)  # one range (10 to 40) for all frames


@pytest.mark.parametrize(
    "odd",
    [
        {"RescaleSlope": None, "RescaleIntercept": None},
        {"RescaleSlope": "", "RescaleIntercept": ""},
        {"PixelSpacing": [0.7]},
        {"PixelSpacing": [0, 0]},
        {"WindowCenter": None, "WindowWidth": None},
        {"WindowCenter": 40},
        {"NumberOfFrames": None},
        {"PixelPaddingValue": None},
        {"VOILUTSequence": []},
        {"ImagePositionPatient": None, "ImageOrientationPatient": [1, 0, 0]},
        {"PerFrameFunctionalGroupsSequence": []},
        {"PerFrameFunctionalGroupsSequence": [group()], "SharedFunctionalGroupsSequence": [group()]},
    ],
    ids=lambda odd: "-".join(odd),
)
def test_optional_tags_without_a_value_count_as_absent(tmp_path: Path, odd: dict) -> None:
    stored = line(0, 100, 200)
    plain, with_odd = (write_dicom(tmp_path / f"{k}.dcm", stored, **tags) for k, tags in enumerate(({}, odd)))
    np.testing.assert_array_equal(grey(with_odd), grey(plain))
    assert image_info(with_odd) == image_info(plain)


def test_a_slope_of_zero_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="RescaleSlope is 0"):
        read_image(write_dicom(tmp_path / "z.dcm", line(1, 2), RescaleSlope=0, RescaleIntercept=5))


def test_values_that_are_not_finite_are_told_unless_they_are_padding(tmp_path: Path) -> None:
    values = np.array([[0, np.inf, 1]], "<f4")
    path = write_dicom(tmp_path / "f.dcm", values, FloatPixelData=values.tobytes(), WindowCenter=1, WindowWidth=2)
    tags = pydicom.dcmread(path)
    for absent in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
        delattr(tags, absent)
    tags.save_as(path)
    with pytest.raises(UserError, match="not finite"):
        read_image(path)
    tags.FloatPixelPaddingValue = np.inf
    tags.save_as(path)
    assert grey(path, value_range=(0, 2)).tolist() == [0, 0, 0.5]


def test_a_mask_in_grey_colours_has_one_plane(tmp_path: Path) -> None:
    labels = np.array([[0, 3], [7, 1]], np.uint8)
    np.testing.assert_array_equal(read_mask(write_dicom(tmp_path / "g.dcm", np.dstack([labels] * 3))), labels)
    with pytest.raises(UserError, match="coloured"):
        read_mask(write_dicom(tmp_path / "c.dcm", np.dstack([labels, labels, labels * 2])))
