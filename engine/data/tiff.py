"""Decoder of TIFF: tifffile with imagecodecs, and nothing else.

Slices are the pages of the first picture series that is no thumbnail, in the file's own order of axes (time, depth and
separate microscopy channels are all slices), and all pages where equal ones were written one by one; thumbnails,
pyramid levels and pages of another size are not.
A picture is turned as tag 274 says, white-is-zero is turned over at every depth, palettes and inks become RGB.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import tifffile
from tifffile import COMPRESSION, PHOTOMETRIC, TIFF

from engine.data.budget import require_bytes
from engine.data.jpeg2000 import require_whole
from engine.data.picture_headers import codestream_start, ends_as_jpeg, read_header
from engine.data.pixels import Geometry, Unsupported
from engine.data.ranges import range_of_pages
from engine.data.samples import (
    White,
    cmyk_to_rgb,
    coloured,
    has_known_range,
    is_turned,
    label_plane,
    palette_plane,
    picture,
    require_finite,
    unsupported,
    upright,
    upright_size,
    white_is_zero_plane,
    ycbcr_to_rgb,
)
from engine.data.tiff_directories import THUMBNAIL_OR_MASK, open_tiff

GREY = (PHOTOMETRIC.MINISWHITE, PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.MASK)
JPEGS = (COMPRESSION.OJPEG, COMPRESSION.JPEG, COMPRESSION.JPEG_LOSSY, COMPRESSION.ALT_JPEG)
"""Compressions that tifffile brings from YCbCr to RGB."""
FAX = (COMPRESSION.CCITTRLE, COMPRESSION.CCITTFAX3, COMPRESSION.CCITTFAX4)
JPEG2000 = (
    COMPRESSION.JPEG2000,
    COMPRESSION.APERIO_JP2000_YCBC,
    COMPRESSION.APERIO_JP2000_RGB,
    COMPRESSION.JPEG_2000_LOSSY,
)
SIZED = (*JPEGS, *JPEG2000, COMPRESSION.PNG, COMPRESSION.WEBP)
"""Picture formats within TIFF whose size is read, or small by their standard (WebP), before they are decoded."""
EMBEDDED_HEADER_BYTES = 1 << 16
ORIENTATION, INK_SET, GDAL_NODATA = 274, 332, 42113
IMAGEJ_STRAIGHT_LINE, IMAGEJ_NONE = 0, 20
"""Functions of a calibration (``ij.measure.Calibration``): value = c0 + c1 * stored number, or none."""
WRITER = "tifffile.py"
"""What tifffile calls itself in the files that it writes, also for imageio."""
ALIKE = {
    "generic": "of its pages are as large, and stored in another way (compression, strips, white)",
    "ome": "of its pages are as large, and belong to other images of its (OME series, such as several positions)",
}
"""Kinds of series, as tifffile calls them, of which several with pages of one size are not read: what the others are.

Pages of generic series are together because they are alike, those of OME because its description says so.
"""
CONVERT = "Convert it to a grey or RGB TIFF (8 or 16 bits, LZW, deflate or uncompressed)."


class TiffFormat:
    """TIFF, single or multi-page; several pages are the slices of a volume."""

    @staticmethod
    def header(path: Path, *, slice_axis: int) -> Geometry:
        """Return the size from the tags of the first picture series."""
        with _opened(path) as stack:
            height, width = upright_size(stack.key.imagelength, stack.key.imagewidth, stack.orientation)
            channels, turned = stack.key.samplesperpixel, is_turned(stack.orientation)
            return Geometry(height, width, num_slices=stack.num_slices, channels=channels, is_turned=turned)

    @staticmethod
    def image(path: Path, *, slice_index: int, slice_axis: int, value_range: tuple[float, float] | None) -> np.ndarray:
        """Return one slice, (H, W) or (H, W, 3), without alpha; values of no known range by the whole file's.

        A ``value_range`` is in the units that ImageJ's calibration says, where the file has one.
        """
        with _opened(path) as stack:
            seen, bits = stack.seen(slice_index)
            if value_range is not None:
                seen = stack.calibrated(seen)
            if value_range is None and stack.num_slices > 1 and not has_known_range(seen, bits):
                stat = path.stat()
                value_range = _file_range(path, stat.st_mtime_ns, stat.st_size)
            white_is_zero = stack.photometric == PHOTOMETRIC.MINISWHITE
            return picture(path, seen, bits=bits, value_range=value_range, white_is_zero=white_is_zero)

    @staticmethod
    def labels(path: Path, *, slice_index: int, slice_axis: int, white: White = 255) -> np.ndarray:
        """Return one slice's stored numbers; several grey channels, one for each class, as (H, W, C).

        A palette's are its indices, or 0 and ``white`` (:func:`palette_plane`).

        Of one bit, white is foreground however it is stored, but for arrays of truth values that tifffile wrote: it
        calls them white-is-zero and never turns them over. Deeper label maps follow :func:`white_is_zero_plane`.
        """
        with _opened(path) as stack:
            labels = stack.upright_plane(slice_index)
            if labels.ndim == 2 and stack.is_calibrated:  # signed numbers of ImageJ: zero is stored as 32768
                labels = stack.calibrated(labels)
            if stack.photometric not in (*GREY, PHOTOMETRIC.PALETTE, PHOTOMETRIC.RGB, PHOTOMETRIC.YCBCR):
                raise unsupported(
                    path, f"a mask is grey or a palette picture, this one is {stack.colours}", fix=CONVERT
                )
            if stack.photometric == PHOTOMETRIC.MINISWHITE and not stack.is_truth:
                labels = white_is_zero_plane(path, labels, bits=stack.bits)
            if stack.photometric == PHOTOMETRIC.PALETTE and labels.ndim == 2 and labels.dtype.kind in "bu":
                return palette_plane(labels, stack.palette(slice_index), white=white)
            is_channels = stack.photometric in GREY and stack.num_grey not in (1, 3)
            return labels if is_channels else label_plane(path, labels)


@lru_cache(maxsize=256)
def _file_range(path: Path, modified_ns: int, num_bytes: int) -> tuple[float, float]:
    """Return the range of all slices; the time and size of the file are there to forget it when it changes."""
    with _opened(path) as stack:
        return range_of_pages(lambda: (stack.seen(index)[0] for index in range(stack.num_slices)))


@contextmanager
def _opened(path: Path) -> Iterator[_Stack]:
    with open_tiff(path) as file:
        pictures = [series for series in file.series if not series.keyframe.subfiletype & THUMBNAIL_OR_MASK]
        if not file.series:
            raise ValueError("it holds no picture")
        series = (pictures or file.series)[0]
        key = series.keyframe
        fault = _fault(series)
        if fault:
            raise unsupported(path, fault, fix=CONVERT)
        left_out = sum(len(other) for other in pictures[1:] if _is_alike(other, series))
        if left_out:
            raise unsupported(path, f"{left_out} more {ALIKE[series.kind]}", fix="Save all its pages as one stack.")
        yield _Stack(
            path, series, key, math.prod(series.shape) // (key.imagelength * key.imagewidth * key.samplesperpixel)
        )


def _is_alike(one: tifffile.TiffPageSeries, other: tifffile.TiffPageSeries) -> bool:
    """Return whether pages may be slices of the same stack: of the same size, samples and kind of numbers."""
    keys = one.keyframe, other.keyframe
    is_equal = keys[0].shaped == keys[1].shaped and keys[0].dtype == keys[1].dtype
    return is_equal and one.kind == other.kind and one.kind in ALIKE


def _fault(series: tifffile.TiffPageSeries) -> str | None:
    key = series.keyframe
    if key.dtype is None:
        return f"it holds samples of {key.bitspersample} bits (sample format {key.sampleformat})"
    if key.dtype.kind == "c":
        return "it holds complex numbers"
    if key.bitspersample == 24 and key.dtype.kind in "iu":  # tifffile takes their bytes in the wrong order
        return "it holds whole numbers of 24 bits"
    if not series.axes.replace("S", "").endswith("YX"):
        return f"its axes {series.axes} are no rows and columns of pictures"
    if key.compression != COMPRESSION.NONE and key.compression not in TIFF.DECOMPRESSORS:
        return f"its compression {key.compression} is not known"
    if key.compression in TIFF.IMAGE_COMPRESSIONS and key.compression not in SIZED:
        return f"its compression {key.compression.name} does not say its size before it is decoded"
    if key.is_subsampled and key.compression not in JPEGS:
        return "its colours are subsampled without JPEG"
    return None


def _orientation(page: tifffile.TiffPage) -> int:
    """Return tag 274, of whatever type a whole number has there, the first of several; 1 where it says nothing."""
    told = page.tags.valueof(ORIENTATION, 1)
    first = told[0] if isinstance(told, bytes | tuple) and told else told  # bytes are of type BYTE
    return int(first) if isinstance(first, int) else 1


def _number(text: object) -> float | None:
    """Return what a tag says as text; None where that is empty or no number, so that it marks no pixel."""
    try:
        return float(str(text).strip(" \0"))
    except ValueError:
        return None


@dataclass(frozen=True)
class _Stack:
    """The picture series of an open file; ``key`` is the page whose tags hold for all."""

    path: Path
    series: tifffile.TiffPageSeries
    key: tifffile.TiffPage
    num_slices: int

    @property
    def orientation(self) -> int:
        return _orientation(self.key)

    @property
    def bits(self) -> int:
        bits = self.key.bitspersample
        return bits if isinstance(bits, int) else 8  # RGB 565 and the like come as 8 bits

    @property
    def photometric(self) -> int:
        if 262 in self.key.tags or self.key.compression in FAX:
            return self.key.photometric
        return PHOTOMETRIC.RGB if self.key.samplesperpixel == 3 else PHOTOMETRIC.MINISBLACK  # as libtiff guesses

    @property
    def is_truth(self) -> bool:
        """Whether it is an array of truth values: what is True is stored as 1, whatever 1 is said to look like."""
        return self.bits == 1 and self.key.software == WRITER

    @property
    def colours(self) -> str:
        return getattr(self.photometric, "name", str(self.photometric))

    @property
    def num_grey(self) -> int:
        """Samples that are not declared as alpha."""
        return self.key.samplesperpixel - sum(extra in (1, 2) for extra in self.key.extrasamples)

    def plane(self, slice_index: int) -> np.ndarray:
        """Return the stored samples (H, W) or (H, W, S) of one slice."""
        page_index, depth = divmod(slice_index, self.key.imagedepth)
        page = None if self.series.dataoffset is not None else self.series[page_index]
        self._require_bytes(page)
        if page is not None:
            stored = page.asarray(squeeze=False)
        elif self.series.dataoffset:  # one block of samples, with or without a page for each slice
            file, dtype = self.key.parent, self.key.dtype
            file.filehandle.seek(self.series.dataoffset + page_index * self.key.nbytes)
            stored = file.filehandle.read_array(dtype.newbyteorder(file.byteorder), self.key.size)
            stored = stored.astype(dtype, copy=False).reshape(self.key.shaped)
        else:
            raise ValueError(f"its slice {slice_index} is not in the file")
        plane = stored[0, depth] if self.key.planarconfig == 1 else np.moveaxis(stored[:, depth, ..., 0], 0, -1)
        return plane[..., 0] if plane.shape[-1] == 1 else plane

    def upright_plane(self, slice_index: int) -> np.ndarray:
        """Return :meth:`plane` turned as its own page says."""
        own = _orientation(self._page(slice_index))
        if upright_size(0, 1, own) != upright_size(0, 1, self.orientation):
            raise unsupported(self.path, "some of its pages lie on their side and others do not", fix=CONVERT)
        return upright(self.plane(slice_index), own)

    def _page(self, slice_index: int) -> tifffile.TiffPage:
        """Return the page with the tags of one slice; ``key`` where one directory stands for all."""
        if self.series.is_truncated or len(self.key.parent.pages) == 1:
            return self.key
        page = self.series[slice_index // self.key.imagedepth]
        return self.key if page is None else page.aspage()

    def seen(self, slice_index: int) -> tuple[np.ndarray, int]:
        """Return one slice upright, (H, W) or (H, W, 3), as grey or RGB in stored numbers, and their depth in bits."""
        plane, key = self.upright_plane(slice_index), self.key
        require_finite(self.path, plane)
        nodata = _number(key.tags.valueof(GDAL_NODATA))
        if nodata is not None and (plane == nodata).any():
            raise unsupported(self.path, f"it marks pixels as having no data ({nodata:g})", fix="Fill them first.")
        if self.photometric in GREY and self.num_grey in (1, 3):
            return (plane if plane.ndim == 2 else plane[..., 0] if self.num_grey == 1 else plane[..., :3]), self.bits
        if self.photometric == PHOTOMETRIC.PALETTE and self.num_grey == 1 and plane.dtype.kind in "bu":
            return coloured(plane if plane.ndim == 2 else plane[..., 0], self.palette(slice_index)), 8
        if key.compression == COMPRESSION.APERIO_JP2000_YCBC and plane.dtype == np.uint8 and plane.shape[2:] == (3,):
            return ycbcr_to_rgb(plane), self.bits  # which its tag calls RGB
        if self.photometric == PHOTOMETRIC.RGB and key.samplesperpixel in (3, 4):
            return plane[..., :3], self.bits
        if self.photometric == PHOTOMETRIC.YCBCR and key.compression in JPEGS and key.samplesperpixel == 3:
            return plane, self.bits
        is_cmyk = self.photometric == PHOTOMETRIC.SEPARATED and key.tags.valueof(INK_SET, 1) == 1
        if is_cmyk and key.samplesperpixel == 4 and has_known_range(plane, self.bits):
            return cmyk_to_rgb(plane, 2**self.bits - 1), self.bits
        fault = f"its {key.samplesperpixel} channels ({self.colours}) are neither grey, RGB, CMYK nor a palette"
        raise unsupported(self.path, fault, fix=CONVERT)

    def palette(self, slice_index: int) -> np.ndarray:
        """Return the colours (N, 3) uint8 of one slice's indices."""
        colormap = self._page(slice_index).colormap
        if colormap is None:
            raise ValueError("its palette is missing")
        return (colormap if colormap.max() <= 255 else colormap >> 8).astype(np.uint8).T

    @property
    def is_calibrated(self) -> bool:
        """Whether ImageJ says that the numbers mean others than those that are stored."""
        return (self.key.parent.imagej_metadata or {}).get("cf", IMAGEJ_NONE) != IMAGEJ_NONE

    def calibrated(self, seen: np.ndarray) -> np.ndarray:
        """Return stored numbers (H, W) as ImageJ's calibration means them, float32; its signed 16 bits are such."""
        if not self.is_calibrated:
            return seen
        about = self.key.parent.imagej_metadata
        function = about["cf"]
        if function != IMAGEJ_STRAIGHT_LINE or seen.ndim != 2:
            fault = f"ImageJ has given its values a calibration (function {function}) that is no straight line"
            raise unsupported(self.path, fault, fix="Apply the calibration, save as 32 bits, and try again.")
        intercept, slope = (float(about.get(key, default)) for key, default in (("c0", 0.0), ("c1", 1.0)))
        return (intercept + slope * seen.astype(np.float64)).astype(np.float32)

    def _require_bytes(self, page: tifffile.TiffPage | tifffile.TiffFrame | None) -> None:
        """Raise where decoding a page takes too much, or where the file ends before it."""
        key, has_range = self.key, self.key.dtype.kind in "bu" and self.bits <= 16
        working = key.dtype if has_range else np.result_type(key.dtype, np.float32)  # else it is scaled
        num_values = key.size if page is None else math.prod(key.chunked) * math.prod(key.chunks)
        require_bytes(self.path, num_values=num_values, dtype=working, copies=3)
        if page is None:
            return
        handle = key.parent.filehandle
        if len(page.dataoffsets) != len(page.databytecounts):
            raise ValueError("its table of strips or tiles is damaged")
        parts = list(zip(page.dataoffsets, page.databytecounts, strict=True))
        missing = sum(not (offset and count) for offset, count in parts)
        if missing:  # tifffile takes them for black: programs leave out what is empty, or stop before all is written
            raise Unsupported(f"{missing} of its {len(parts)} strips or tiles are not in the file")
        for offset, count in parts:
            if offset + count > handle.size:
                raise ValueError("it ends before its last pixels")
            if key.compression in TIFF.IMAGE_COMPRESSIONS:  # a strip or tile with a header, and a size, of its own
                handle.seek(offset)
                is_whole = key.compression in (*JPEGS, *JPEG2000)
                stream = handle.read(count if is_whole else min(count, EMBEDDED_HEADER_BYTES))
                header = read_header(stream)
                if key.compression in JPEGS and header is not None:
                    ends_as_jpeg(stream)  # it refuses very many scans
                if key.compression in JPEG2000 and header is not None:
                    require_whole(stream, codestream_start(stream))
                if header is not None:
                    size = header.height_px * header.width_px * header.channels
                    require_bytes(self.path, num_values=size, dtype=np.int32, copies=3)
