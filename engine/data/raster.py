"""Decoders of the everyday formats: PNG, JPEG and BMP (Pillow), TIFF (tifffile, else Pillow), npy (numpy)."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image, ImageOps

from engine.data.pixels import Geometry, known_depth

EXIF_ORIENTATION = 0x0112
TIFF_CONVERTED = (3, 5, 6, 8)
"""Photometric tags of palette, CMYK, YBR and LAB."""
TIFF_PLAIN = (1, 8, 32773, 32946)
"""TIFF compressions that need no library beyond Python's own: none, deflate, PackBits."""


class PillowFormat:
    """PNG, JPEG, BMP. A JPEG's EXIF orientation is applied, so that rows are what a viewer shows."""

    @staticmethod
    def header(path: Path, *, slice_axis: int) -> Geometry:
        """Return the size from the header; no pixel is decoded."""
        with _open(path) as image:
            width, height = image.size
            if _has_orientation(image) and image.getexif().get(EXIF_ORIENTATION, 1) >= 5:  # 5 to 8 turn by 90 degrees
                width, height = height, width
            return Geometry(height, width, channels=len(image.getbands()))

    @staticmethod
    def image(path: Path, *, slice_index: int, slice_axis: int, value_range: tuple[float, float] | None) -> np.ndarray:
        """Return (H, W) or (H, W, 3); palettes become RGB, alpha is dropped."""
        with _open(path) as stored:
            image = _upright(stored)
            return known_depth(_decoded(image), value_range)

    @staticmethod
    def labels(path: Path, *, slice_index: int, slice_axis: int) -> np.ndarray:
        """Return the stored numbers; a palette picture gives its indices."""
        with _open(path) as stored:
            image = _upright(stored)
            return single_label_plane(np.array(image))


class TiffFormat:
    """TIFF, single or multi-page; several pages are the slices of a volume."""

    @staticmethod
    def header(path: Path, *, slice_axis: int) -> Geometry:
        """Return the size from the first series' tags."""
        with tifffile.TiffFile(path) as file:
            shape, _ = _tiff_layout(file)
            return Geometry(shape[1], shape[2], num_slices=shape[0], channels=shape[3])

    @staticmethod
    def image(path: Path, *, slice_index: int, slice_axis: int, value_range: tuple[float, float] | None) -> np.ndarray:
        """Return one page, (H, W) or (H, W, C)."""
        return known_depth(_tiff_page(path, slice_index=slice_index, as_labels=False), value_range)

    @staticmethod
    def labels(path: Path, *, slice_index: int, slice_axis: int) -> np.ndarray:
        """Return one page's stored numbers."""
        return _tiff_page(path, slice_index=slice_index, as_labels=True)


class NpyFormat:
    """npy: (H, W), (H, W, 1), (H, W, 3) or (H, W, 4); a mask may have a channel per class. Never unpickled."""

    @staticmethod
    def header(path: Path, *, slice_axis: int) -> Geometry:
        """Return the size from the header, after checking that the file is as long as it claims."""
        shape = _npy_map(path).shape
        return Geometry(shape[0], shape[1], channels=shape[2] if len(shape) == 3 else 1)

    @staticmethod
    def image(path: Path, *, slice_index: int, slice_axis: int, value_range: tuple[float, float] | None) -> np.ndarray:
        """Return the array."""
        return known_depth(np.array(_npy_map(path)), value_range)

    @staticmethod
    def labels(path: Path, *, slice_index: int, slice_axis: int) -> np.ndarray:
        """Return the array."""
        return np.array(_npy_map(path))


def single_label_plane(labels: np.ndarray) -> np.ndarray:
    """Return (H, W) of a mask that was saved as grey RGB or with alpha; colours that differ raise ``ValueError``."""
    if labels.ndim == 2:
        return labels
    colours = labels[..., :1] if labels.shape[2] == 2 else labels[..., :3]
    if (colours != colours[..., :1]).any():
        raise ValueError("a mask is grey or a palette picture, this one is coloured")
    return np.ascontiguousarray(colours[..., 0])


def _open(path: Path) -> Image.Image:
    with warnings.catch_warnings():  # image_info refuses what Pillow only warns about
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(path)


def _has_orientation(image: Image.Image) -> bool:
    return image.format in ("JPEG", "MPO")  # only cameras set it; asking a PNG would decode all of it


def _upright(image: Image.Image) -> Image.Image:
    return ImageOps.exif_transpose(image) if _has_orientation(image) else image


def _decoded(image: Image.Image) -> np.ndarray:
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA").convert("RGB")
    elif image.mode in ("CMYK", "YCbCr", "LAB", "HSV", "RGBX"):
        image = image.convert("RGB")
    pixels = np.array(image)
    if image.mode.startswith("I") and pixels.min() >= 0 and pixels.max() <= 65535:
        pixels = pixels.astype(np.uint16)  # Pillow widens 16-bit grey to 32 bits on some paths
    return pixels


def _tiff_layout(file: tifffile.TiffFile) -> tuple[tuple[int, int, int, int], str]:
    """Return ((slices, H, W, channels), axes) of the first series."""
    series = file.series[0]
    axes, shape = series.axes, series.shape
    if "Y" not in axes or "X" not in axes:
        raise ValueError(f"its axes {axes} show no picture")
    sizes = dict(zip(axes, shape, strict=True))
    slices = int(np.prod([size for axis, size in sizes.items() if axis not in "YXS"], dtype=np.int64))
    return (slices, sizes["Y"], sizes["X"], sizes.get("S", 1)), axes


def _tiff_page(path: Path, *, slice_index: int, as_labels: bool) -> np.ndarray:
    """Return one page; what tifffile cannot decode by itself (LZW, JPEG) or bring to RGB, Pillow does."""
    with tifffile.TiffFile(path) as file:
        (slices, *_), axes = _tiff_layout(file)
        series = file.series[0]
        first = series.keyframe  # carries the tags of all pages of the series
        needs_pillow = first.compression not in TIFF_PLAIN or (first.photometric in TIFF_CONVERTED and not as_labels)
        if not needs_pillow:
            pixels = series.pages[slice_index].asarray() if len(series.pages) == slices else None
            if pixels is not None and pixels.ndim == 3 and first.planarconfig == 2:
                pixels = np.moveaxis(pixels, 0, -1)  # channels stored one after the other
            elif pixels is None:
                pixels = _one_slice(series.asarray(), axes, slice_index)
            if first.photometric == 0 and not as_labels and pixels.dtype.kind in "ub":  # white is zero
                pixels = np.invert(pixels)
            return single_label_plane(pixels) if as_labels and pixels.ndim == 3 and pixels.shape[2] <= 4 else pixels
    with _open(path) as image:
        image.seek(slice_index)
        return single_label_plane(np.array(image)) if as_labels else _decoded(image)


def _one_slice(volume: np.ndarray, axes: str, slice_index: int) -> np.ndarray:
    last = [axes.index(axis) for axis in "YXS" if axis in axes]
    moved = np.transpose(volume, [axis for axis in range(volume.ndim) if axis not in last] + last)
    return moved.reshape(-1, *moved.shape[-len(last) :])[slice_index]


def _npy_map(path: Path) -> np.ndarray:
    pixels = np.load(path, mmap_mode="r", allow_pickle=False)
    if pixels.ndim not in (2, 3):
        raise ValueError(f"its shape {pixels.shape} is neither (H, W) nor (H, W, C)")
    return pixels
