"""DICOM, classic and enhanced, one frame or many: pydicom reads, imagecodecs decodes what is compressed. Torch-free.

Frames are the slices, in their stored order and as they are stored: no frame is turned. highdicom's ``Image`` was
tried first and is what ``bench.readers`` compares with: it cannot read big-endian files, segmented palettes, files with
an incomplete reference to their source or without some tags, and its windows are wrong where values are rescaled.
"""

from __future__ import annotations

import io
import zlib
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pydicom
from pydicom.encaps import encapsulate
from pydicom.filereader import _read_file_meta_info, read_preamble
from pydicom.pixels import get_decoder
from pydicom.pixels.utils import as_pixel_options
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from engine.data.budget import require_bytes
from engine.data.dicom_codestreams import bare_codestream, frame_in_pieces, list_pieces
from engine.data.dicom_decoders import PLUGIN, is_available
from engine.data.dicom_elements import ELEMENT_BYTES, Tally, counted, read_tags
from engine.data.dicom_frames import FrameTags, frame_affine, frame_affines, number, tag, volume_affine
from engine.data.dicom_pixels import PixelElement, is_as_long, pixel_element, require_frames, require_length
from engine.data.dicom_segments import Planes, is_segmentation, planes, segmentation_geometry, segmentation_labels
from engine.data.dicom_values import (
    colour_depth,
    from_palette,
    grey_values,
    palette_colours,
    shown_share,
    stored_range,
)
from engine.data.geometry import Geometry, as_affine
from engine.data.pixels import Unsupported, Window, scale_to_unit
from engine.data.ranges import range_of_pages
from engine.data.samples import White, label_plane, palette_plane, white_is_zero_plane
from engine.data.transforms import percentile_range
from engine.data.volume_cache import VolumeCache

HEADER_BYTES = 8 * 2**20
"""What a deflated file may hold before its pixels (ours)."""
CACHE_BYTES = 2**28
"""Memory of headers and inflated files that stay open (ours)."""
COPIES = 5
"""Arrays of one frame at once: its bytes, its stored numbers twice, their meaning, and their share of the range."""
RANGE_COPIES = 12
"""The same while the range of a series is looked for: two frames, and what orders their values."""
PIECES, PIECES_A_FRAME = 1024, 64
"""How many pieces compressed pixels may be in (ours): a frame is one, or a few where it was sent in parts."""
GREY = ("MONOCHROME1", "MONOCHROME2")
COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")


@dataclass(frozen=True, eq=False)
class DicomFile:
    """A file's tags without its pixels, and where the pixels are read from."""

    path: Path
    tags: pydicom.Dataset
    syntax: UID
    pixels: PixelElement
    num_bytes: int
    inflated: bytes | None = None

    @cached_property
    def num_frames(self) -> int:
        """Return the number of frames, 1 where the tag is missing or empty."""
        return int(number(self.tags, "NumberOfFrames") or 1)

    @cached_property
    def photometric(self) -> str:
        """Return what the samples are, such as MONOCHROME2."""
        told = tag(self.tags, "PhotometricInterpretation")
        return str(told or ("MONOCHROME2" if self.samples == 1 else "RGB")).strip().upper()

    @cached_property
    def samples(self) -> int:
        """Return the samples of one pixel."""
        return int(number(self.tags, "SamplesPerPixel") or 1)

    @cached_property
    def bits(self) -> tuple[int, int, int]:
        """Return (allocated, stored, highest bit) of one sample; the lowest ones where the highest cannot be right."""
        allocated = int(number(self.tags, "BitsAllocated") or 0)
        stored = int(number(self.tags, "BitsStored") or allocated)
        high = int(number(self.tags, "HighBit") or 0)
        return allocated, stored, high if stored <= high < allocated else stored - 1

    @cached_property
    def is_signed(self) -> bool:
        """Return whether the stored numbers are two's complement."""
        return bool(number(self.tags, "PixelRepresentation") or 0)

    @cached_property
    def geometry(self) -> Geometry:
        """Return size and placement of the frames."""
        first = self.frame_tags(0)
        size = Geometry(
            int(self.tags.Rows),
            int(self.tags.Columns),
            num_slices=self.num_frames,
            channels=3 if self.photometric == "PALETTE COLOR" else self.samples,
            spacing_mm=first.spacing_mm,
        )
        if is_segmentation(self.tags):
            return segmentation_geometry(self, size)
        if self.num_frames == 1:
            return size.placed(frame_affine(first), unit=first.unit)
        placed = size.placed(volume_affine(self.tags, self.num_frames), unit=first.unit)
        if placed.affine_lps is not None:
            return placed
        return replace(placed, slices_lps=tuple(map(as_affine, frame_affines(self.tags, self.num_frames))))

    @cached_property
    def pieces(self) -> array[int]:
        """Return where each piece of compressed pixels begins; raises ``ValueError`` where they are too many."""
        with self.stream() as stream:
            stream.seek(self.pixels.offset)
            found = list_pieces(stream, most=PIECES + PIECES_A_FRAME * self.num_frames)
            require_frames(stream, self.pixels, pieces=found, num_frames=self.num_frames, syntax=self.syntax)
            return found

    @cached_property
    def planes(self) -> Planes | None:
        """Return the planes of a segmentation."""
        return planes(self)

    @contextmanager
    def stream(self) -> Iterator[BinaryIO]:
        """Open the file, or what was inflated of it."""
        with self.path.open("rb") if self.inflated is None else io.BytesIO(self.inflated) as stream:
            yield stream

    def frame_tags(self, index: int) -> FrameTags:
        """Return the tags that hold for one frame: its own, the shared ones, the file's."""
        return FrameTags(self.tags, index)

    def stored(self, index: int) -> np.ndarray:
        """Return one frame's stored numbers, (H, W) or (H, W, C), colours as RGB, without bits above the stored."""
        rows, columns = int(self.tags.Rows), int(self.tags.Columns)
        allocated, stored, high = self.bits
        require_bytes(
            self.path, num_values=rows * columns * self.samples, dtype=_working_dtype(allocated), copies=COPIES
        )
        is_coded = self.syntax.is_encapsulated and self.syntax != RLELossless  # which keeps the words as they are
        options = {
            **as_pixel_options(self.tags),
            "pixel_keyword": self.pixels.keyword,
            "pixel_vr": self.pixels.vr,
            "number_of_frames": self.num_frames,
            "photometric_interpretation": self.photometric,
            "samples_per_pixel": self.samples,
            "bits_stored": stored,
            "pixel_representation": int(self.is_signed),
            "planar_configuration": int(number(self.tags, "PlanarConfiguration") or 0),
            "correct_unused_bits": is_coded,  # pydicom takes no notice of the highest bit
        }
        with self.stream() as stream:
            if self.syntax.is_encapsulated:
                source: BinaryIO = io.BytesIO(encapsulate([self._frame(stream, index)], has_bot=False))
                index, options["number_of_frames"], options["extended_offsets"] = 0, 1, None
            else:
                source = stream
                self._require_length(stream)
                stream.seek(self.pixels.offset)
            if allocated == 1 and rows * columns % 8:
                return _packed_bits(stream, index, rows=rows, columns=columns)
            plugin = PLUGIN if is_available(self.syntax) else ""
            pixels, _ = get_decoder(self.syntax).as_array(source, index=index, decoding_plugin=plugin, **options)
        pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
        if pixels.dtype.kind == "f" or allocated == 1 or is_coded:
            return pixels
        spare = 8 * pixels.dtype.itemsize - stored
        below = high + 1 - stored
        return (pixels << (spare - below)) >> spare if spare else pixels  # an arithmetic shift keeps the sign

    def _frame(self, stream: BinaryIO, index: int) -> bytes:
        """Return one compressed frame, checked, without a file format around it."""
        lies = {"begin": self.pixels.offset, "pieces": self.pieces, "num_frames": self.num_frames}
        offsets = as_pixel_options(self.tags).get("extended_offsets")
        frame = frame_in_pieces(stream, index, **lies, extended_offsets=offsets)
        rows, columns = int(self.tags.Rows), int(self.tags.Columns)
        announced = -(-rows * columns * self.samples * self.bits[0] // 8)
        size = {"rows": rows, "columns": columns, "samples": self.samples}
        return bare_codestream(frame, self.syntax, **size, frame_bytes=announced)

    def _require_length(self, stream: BinaryIO) -> None:
        frame_bits = int(self.tags.Rows) * int(self.tags.Columns) * self.samples * self.bits[0]
        if self.photometric == "YBR_FULL_422":
            if is_as_long(self.pixels, num_bits=frame_bits * self.num_frames):
                raise ValueError("its pixels have a colour each, where its tags say that two share one (YBR_FULL_422)")
            frame_bits = frame_bits * 2 // 3
        require_length(stream, self.pixels, frame_bits=frame_bits, num_frames=self.num_frames)


class DicomFormat:
    """DICOM images; video, whole-slide tiles and retired colours are refused by name."""

    @staticmethod
    def header(path: Path, *, slice_axis: int) -> Geometry:
        """Return size and placement from the tags; ``slice_axis`` says nothing here: frames are the slices."""
        return open_dicom(path).geometry

    @staticmethod
    def image(
        path: Path,
        *,
        slice_index: int,
        slice_axis: int,
        value_range: tuple[float, float] | None,
        window: Window = "auto",
        series: Sequence[Path] = (),
    ) -> np.ndarray:
        """Return one frame: grey as float32 in [0, 1], dark as 0; colour as uint8, uint16 or a share of its bits.

        ``series``: the files whose common range holds for one without a window; this file alone where there are none.
        """
        file = open_dicom(path)
        frame = file.frame_tags(slice_index)
        pixels = file.stored(slice_index)
        if file.photometric == "PALETTE COLOR":
            return from_palette(pixels, file.tags)
        if pixels.ndim == 3:
            return colour_depth(pixels, bits=file.bits[1])
        values, padding = grey_values(pixels, frame)
        if value_range is not None:
            shown = scale_to_unit(values, value_range)
        elif window == "stored":
            shown = scale_to_unit(pixels, stored_range(pixels.dtype, bits=file.bits[1], is_signed=file.is_signed))
        else:
            share = shown_share(values, frame)
            if share is None and window == "dicom":
                raise Unsupported("it has no DICOM window, and the dataset is read by its windows")
            shown = scale_to_unit(values, series_range(series or [path])) if share is None else share
        shown = np.float32(1) - shown if file.photometric == "MONOCHROME1" else shown
        if padding is not None:
            shown[padding] = 0  # PS3.3 C.7.5.1.1.2: what pads the picture is not part of it
        return shown

    @staticmethod
    def labels(path: Path, *, slice_index: int, slice_axis: int, white: White = 255) -> np.ndarray:
        """Return the stored numbers, without rescale or window; of a segmentation, the labels of a plane.

        Where white is zero (MONOCHROME1) they follow :func:`engine.data.samples.white_is_zero_plane`; a palette's are
        its indices, or 0 and ``white`` (:func:`engine.data.samples.palette_plane`).
        """
        file = open_dicom(path)
        if is_segmentation(file.tags):
            return segmentation_labels(file, slice_index)
        labels = label_plane(path, file.stored(slice_index))
        if file.photometric == "MONOCHROME1" and labels.dtype.kind == "u":
            return white_is_zero_plane(path, labels, bits=file.bits[1])
        if file.photometric == "PALETTE COLOR" and labels.dtype in (np.uint8, np.uint16):
            return palette_plane(labels, palette_colours(labels.dtype, file.tags), white=white)
        return labels


def open_dicom(path: Path) -> DicomFile:
    """Return the tags of a file, kept open between its frames."""
    return _OPEN.get(path, read_dicom)


def read_dicom(path: Path) -> DicomFile:
    """Return the tags of a file, which may lack a preamble; of a deflated one, what it announces is inflated."""
    inflated, tally = None, Tally(path)
    with counted(path, tally) as stream:
        has_preamble = read_preamble(stream, force=True) is not None
        syntax = tally.held(lambda: _read_file_meta_info(stream)).get("TransferSyntaxUID")
        if syntax == DeflatedExplicitVRLittleEndian:
            inflated, syntax = _inflated(path, stream.read()), ExplicitVRLittleEndian
        tally = Tally(path)
        with counted(path, tally, inflated=inflated) as source:
            tags = read_tags(source, tally)
            num_bytes = (source.tell() if inflated is None else len(inflated)) + tally.found * ELEMENT_BYTES
            pixels = pixel_element(source, is_little_endian=bool(tags.original_encoding[1]))
    if pixels is None or tag(tags, "Rows") is None or tag(tags, "Columns") is None:
        raise _no_image(tags, has_preamble=has_preamble)
    if not syntax:
        implicit, little = tags.original_encoding
        syntax = ExplicitVRBigEndian if not little else ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    file = DicomFile(path, tags, UID(syntax), pixels, num_bytes, inflated)
    _refuse_kinds(file)
    return file


_OPEN: VolumeCache[DicomFile] = VolumeCache(budget_bytes=CACHE_BYTES)


def series_range(paths: Sequence[Path]) -> tuple[float, float]:
    """Return the 0.5 and 99.5 % of the grey values of all frames of ``paths``, padding left out; one is in memory."""
    about = [(path, path.stat()) for path in sorted(set(paths))]
    return _series_range(tuple((path, stat.st_mtime_ns, stat.st_size) for path, stat in about))


@lru_cache(maxsize=256)  # two numbers a series: its slices are asked for one after the other
def _series_range(files: tuple[tuple[Path, int, int], ...]) -> tuple[float, float]:
    paths = [path for path, _, _ in files]
    first = list(islice(_grey_frames(paths), 2))
    if len(first) < 2:
        return percentile_range(first[0]) if first else (0.0, 0.0)
    return range_of_pages(lambda: _grey_frames(paths), has_unit=False)


def _grey_frames(paths: Sequence[Path]) -> Iterator[np.ndarray]:
    """Yield what the grey values of each frame mean, (N,), without padding; frames of padding alone are left out."""
    for path in paths:
        file = open_dicom(path)
        size = int(file.tags.Rows) * int(file.tags.Columns)
        if file.num_frames > 1 or len(paths) > 1:
            require_bytes(path, num_values=size, dtype=_working_dtype(file.bits[0]), copies=RANGE_COPIES)
        for index in range(file.num_frames if file.photometric in GREY else 0):
            values, padding = grey_values(file.stored(index), file.frame_tags(index))
            shown = values.reshape(-1) if padding is None else values[~padding]
            if shown.size:
                yield shown


def _no_image(tags: pydicom.Dataset, *, has_preamble: bool) -> ValueError:
    if not has_preamble and tag(tags, "SOPClassUID") is None:
        return ValueError("it does not begin as a DICOM file, and holds no image either")
    kind = UID(str(tag(tags, "SOPClassUID") or "")).name or "DICOM object"
    if tag(tags, "Rows") is not None or "Image" in kind:
        return ValueError(f"it is a {kind} without pixels")
    return Unsupported(f"it is a {kind}, which is no image")


def _refuse_kinds(file: DicomFile) -> None:
    if file.photometric not in (*GREY, *COLOUR, "PALETTE COLOR"):
        raise Unsupported(f"its colours are {file.photometric}")
    if file.photometric.startswith("YBR_FULL") and file.bits[0] > 8:
        raise Unsupported(f"its colours are {file.photometric} of {file.bits[0]} bits")
    if file.bits[0] not in (1, 8, 16, 32, 64):
        raise Unsupported(f"its pixels take {file.bits[0]} bits each")
    if file.photometric in GREY and str(tag(file.tags, "PixelPresentation")) in ("COLOR", "MIXED"):
        raise Unsupported("some of its grey values stand for colours (supplemental palette)")
    wide, high = (number(file.tags, f"TotalPixelMatrix{side}") for side in ("Columns", "Rows"))
    if (wide or 0) > int(file.tags.Columns) or (high or 0) > int(file.tags.Rows):
        raise Unsupported("its frames are the tiles of a whole-slide image")
    is_read = False
    with suppress(NotImplementedError):
        is_read = get_decoder(file.syntax).is_available
    if not is_read:
        raise Unsupported(f"its pixels are stored as {file.syntax.name}")
    if file.pixels.is_in_pieces and not file.syntax.is_encapsulated:
        raise Unsupported(f"its pixels are compressed, and it does not say how ({file.syntax.name})")


def _inflated(path: Path, compressed: bytes) -> bytes:
    """Return the data set of a deflated file as far as the end of its pixels."""
    head = zlib.decompressobj(-zlib.MAX_WBITS).decompress(compressed, HEADER_BYTES)
    if head[:2] == b"\2\0" or head[128:132] == b"DICM":  # pydicom would inflate what is deflated in it, to any size
        raise ValueError("what is deflated in it is a whole file again")
    tally = Tally(path)
    stream = counted(path, tally, inflated=head)
    tags = read_tags(stream, tally)
    values = int(tags.get("Rows") or 0) * int(tags.get("Columns") or 0) * int(number(tags, "SamplesPerPixel") or 1)
    values *= int(number(tags, "NumberOfFrames") or 1)
    bits = int(number(tags, "BitsAllocated") or 0)
    require_bytes(path, num_values=values, dtype=f"u{max(1, bits // 8)}", copies=2)
    needed = stream.tell() + 12 + -(-values * bits // 8) + 1  # tag, VR, length; pixels; a byte that makes them even
    return zlib.decompressobj(-zlib.MAX_WBITS).decompress(compressed, needed)


def _working_dtype(bits_allocated: int) -> type:
    return np.float32 if bits_allocated <= 16 else np.float64


def _packed_bits(stream: BinaryIO, index: int, *, rows: int, columns: int) -> np.ndarray:
    """Return frame ``index`` of bits that begin inside a byte, which pydicom reads a byte short (PS3.5 8.1.1)."""
    first = index * rows * columns
    stream.seek(first // 8, io.SEEK_CUR)
    packed = np.frombuffer(stream.read(-(-(first % 8 + rows * columns) // 8)), np.uint8)
    return np.unpackbits(packed, bitorder="little")[first % 8 :][: rows * columns].reshape(rows, columns)
