"""What DICOM's stored numbers mean: rescale and modality tables, windows and VOI tables, palettes. Torch-free."""

from __future__ import annotations

import numpy as np
import pydicom
from pydicom.pixels.processing import _expand_segmented_lut

from engine.data.dicom_frames import FrameTags, number, numbers, tag
from engine.data.pixels import Unsupported


def grey_values(pixels: np.ndarray, frame: FrameTags) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the values (H, W), float32 of up to 16 bits, else float64, and where the picture is padded, if anywhere.

    The modality table if the file has one, else slope and intercept (PS3.3 C.11.1).
    """
    padding = _padding(pixels, frame.file)
    if pixels.dtype.kind == "f" and not np.isfinite(pixels if padding is None else pixels[~padding]).all():
        raise Unsupported("it holds values that are not finite")
    values = pixels.astype(np.float32 if pixels.dtype.itemsize <= 2 or pixels.dtype == np.float32 else np.float64)
    if padding is not None:
        values[padding] = 0  # it may be infinite
    tables = tag(frame.file, "ModalityLUTSequence")
    if tables is not None:
        found, _ = _looked_up(values, tables[0], file=frame.file)
        return found, padding
    slope, intercept = frame.rescale
    if slope != 1:
        values *= slope
    if intercept != 0:
        values += intercept
    return values, padding


def shown_share(values: np.ndarray, frame: FrameTags) -> np.ndarray | None:
    """Return the share in [0, 1] that the file's own table or window gives ``values``; None where it has neither.

    PS3.3 C.11.2.1: a table's output as a share of its bits; else the first window with its function.
    """
    group = frame.item("FrameVOILUTSequence", with_tag="WindowCenter")
    tables = tag(frame.file, "VOILUTSequence")
    if tables is not None and group is frame.file:
        found, bits = _looked_up(values, tables[0], file=frame.file, signed=frame.rescale[1] < 0)
        return np.clip(found / np.float32(2**bits - 1), 0, 1).astype(np.float32)
    centre, width = number(group, "WindowCenter"), number(group, "WindowWidth")
    if centre is None or width is None or width <= 0:
        return None
    return windowed(values, centre=centre, width=width, function=str(tag(group, "VOILUTFunction") or "LINEAR").upper())


def windowed(values: np.ndarray, *, centre: float, width: float, function: str) -> np.ndarray:
    """Return the share in [0, 1] of a window (PS3.3 C.11.2.1.2.1, C.11.2.1.3.1 and C.11.2.1.3.2), float32."""
    if function == "SIGMOID":
        return (1 / (1 + np.exp(-4 * (values.astype(np.float64) - centre) / width))).astype(np.float32)
    if function not in ("LINEAR", "LINEAR_EXACT"):
        raise Unsupported(f"its VOILUTFunction is {function}")
    if function == "LINEAR" and width >= 1:  # below 1 (values of PET, say) only the exact function is defined
        centre, width = centre - 0.5, width - 1
    if width == 0:
        return (values > centre).astype(np.float32)
    return np.clip((values - centre) / width + 0.5, 0, 1).astype(np.float32)


def stored_range(dtype: np.dtype, *, bits: int, is_signed: bool) -> tuple[float, float]:
    """Return the lowest and highest number that ``bits`` can store."""
    if dtype.kind == "f":
        raise Unsupported("its pixels are floats, which have no stored range: set value_range")
    return (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if is_signed else (0.0, 2.0**bits - 1)


def colour_depth(pixels: np.ndarray, *, bits: int) -> np.ndarray:
    """Return colours of 8 and 16 bits as they are, and others as a share of their bits, float32 in [0, 1]."""
    if bits in (8, 16):
        return pixels.astype(f"u{bits // 8}", copy=False)
    return (pixels / (2.0**bits - 1)).astype(np.float32)


def from_palette(pixels: np.ndarray, file: pydicom.Dataset) -> np.ndarray:
    """Return (H, W, 3) uint8 or uint16, as deep as the palette's entries (PS3.3 C.7.6.3.1.5, C.7.9.2)."""
    planes = []
    for colour in ("Red", "Green", "Blue"):
        descriptor = numbers(file, f"{colour}PaletteColorLookupTableDescriptor", count=3)
        if descriptor is None:
            raise ValueError(f"it has no palette for {colour.lower()}")
        count, first, bits = _descriptor(descriptor, signed=pixels.dtype.kind == "i")
        data = tag(file, f"{colour}PaletteColorLookupTableData")
        segments = tag(file, f"Segmented{colour}PaletteColorLookupTableData")
        if data is not None:
            table = _entries(data, count=count, file=file)
        elif segments is not None:
            table = _expanded(segments, bits=bits, file=file)
        else:
            raise ValueError(f"it has no palette for {colour.lower()}")
        if bits == 8 and table.size and table.max() > 255:  # an entry in the high byte of each word
            table = table >> 8
        places = np.clip(pixels.astype(np.int64) - first, 0, min(count, table.size) - 1)
        planes.append(table[places].astype(np.uint8 if bits == 8 else np.uint16))
    return np.stack(planes, axis=-1)


def palette_colours(dtype: np.dtype, file: pydicom.Dataset) -> np.ndarray:
    """Return the colours (N, 3) uint8 of every index that an unsigned ``dtype`` of up to 16 bits can hold."""
    colours = from_palette(np.arange(1 + np.iinfo(dtype).max, dtype=dtype), file)
    return colours if colours.dtype == np.uint8 else (colours >> 8).astype(np.uint8)


def _padding(pixels: np.ndarray, file: pydicom.Dataset) -> np.ndarray | None:
    """Return where ``pixels`` lie in the padding's range; its sign bit may be written either way."""
    prefix = {"f4": "Float", "f8": "DoubleFloat"}.get(pixels.dtype.str[1:], "")
    ends = [number(file, f"{prefix}PixelPadding{end}") for end in ("Value", "RangeLimit")]
    if ends[0] is None:
        return None
    low, high = sorted(_as_stored(end, pixels.dtype) for end in (ends[0], ends[0] if ends[1] is None else ends[1]))
    padding = (pixels >= low) & (pixels <= high)
    return padding if padding.any() else None


def _as_stored(value: float, dtype: np.dtype) -> float:
    if dtype.kind == "f":
        return value
    return float(np.array(int(value) % 2 ** (8 * dtype.itemsize), np.uint64).astype(f"u{dtype.itemsize}").view(dtype))


def _looked_up(
    values: np.ndarray, table: pydicom.Dataset, *, file: pydicom.Dataset, signed: bool = False
) -> tuple[np.ndarray, int]:
    """Return the table's entries for ``values``, float32, and how many bits an entry has."""
    descriptor, data = numbers(table, "LUTDescriptor", count=3), tag(table, "LUTData")
    if descriptor is None or data is None:
        raise ValueError("a lookup table of it has no descriptor or no data")
    is_signed = signed or bool(number(file, "PixelRepresentation"))
    count, first, bits = _descriptor(descriptor, signed=is_signed)
    entries = _entries(data, count=count, file=file)
    places = np.clip(np.rint(values).astype(np.int64) - first, 0, min(count, entries.size) - 1)
    return entries[places].astype(np.float32), bits


def _descriptor(values: tuple[float, ...], *, signed: bool) -> tuple[int, int, int]:
    """Return (entries, first value mapped, bits of an entry); 0 entries stand for 65536."""
    count, first, bits = (int(value) for value in values)
    count &= 0xFFFF
    if signed and first > 0x7FFF:  # written without its sign
        first -= 0x10000
    return count or 0x10000, first, bits


def _entries(data: object, *, count: int, file: pydicom.Dataset) -> np.ndarray:
    """Return a table's entries as uint16, whether a word holds one of them or two."""
    if isinstance(data, bytes):
        words = np.frombuffer(data[: len(data) // 2 * 2], "<u2" if _is_little(file) else ">u2")
    else:
        words = (np.atleast_1d(np.array(data)).astype(np.int64) & 0xFFFF).astype(np.uint16)
    if words.size < count and 2 * words.size >= count:  # two 8-bit entries a word, the first in its low byte
        return words.astype("<u2").view(np.uint8)[:count].astype(np.uint16)
    if words.size < count:
        raise ValueError(f"a lookup table of it has {words.size} of {count} entries")
    return words[:count].astype(np.uint16)


def _expanded(segments: bytes, *, bits: int, file: pydicom.Dataset) -> np.ndarray:
    order, letter = "<" if _is_little(file) else ">", "B" if bits == 8 else "H"
    words = np.frombuffer(segments, f"{order}u{bits // 8}").tolist()
    return np.array(_expand_segmented_lut(tuple(words), f"{order}{len(words)}{letter}"), np.uint16)


def _is_little(file: pydicom.Dataset) -> bool:
    return bool(file.original_encoding[1])
