"""Reading a DICOM file's elements, which are counted: each takes hundreds of bytes, however empty it is. Torch-free.

A megabyte holds 100,000 elements, a deflated kilobyte nearly as many. What stands in sequences counts as well: pydicom
keeps those of a known length as bytes until somebody asks for them, so they are counted before.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, TypeVar

import pydicom
from pydicom.datadict import dictionary_has_tag
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.filereader import default_encoding, read_sequence
from pydicom.hooks import raw_element_vr

from engine.data.budget import limit_bytes
from engine.errors import UserError

ELEMENT_BYTES = 4096
"""Of the memory that a file may take, what is set aside for one element (ours); it takes 350 to 1,500 bytes. A frame of
an enhanced image has about a hundred: a thousand frames fit a visitor's limit, and more are refused within a second."""
HEADER_BYTES = 8
"""What pydicom reads of each element and item before it knows its length."""
MAX_DEPTH = 32
"""Sequences within each other (ours); a structured report has ten."""
LONG_BYTES = 1 << 17
"""Values that are longer become numbers one by one, unless their kind is one of ``BYTES``; a lookup table is not."""
BYTES = frozenset(("OB", "OW", "OF", "OD", "OL", "OV", "UN", "ST", "LT", "UT", "UR"))
T = TypeVar("T")


class TooMany(ValueError):
    """More elements than the limit that holds."""


class Tally:
    """How many elements of one file have been read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.most = max(1, limit_bytes() // ELEMENT_BYTES)
        self.found = 0

    def add(self, count: int) -> None:
        """Count some more; raises ``TooMany`` where they are more than the limit."""
        self.found += count
        if self.found > self.most:
            raise TooMany("it has too many elements beside its pixels")

    def held(self, read: Callable[[], T]) -> T:
        """Return what ``read`` does, or raise the limit's ``UserError``, whatever a library has made of it."""
        try:
            result = read()
        except Exception as error:
            if self.found > self.most:
                raise self._refusal() from error
            raise
        if self.found > self.most:
            raise self._refusal()
        return result

    def _refusal(self) -> UserError:
        return UserError(
            "data.image_too_large",
            what=f"The file {self.path} has too many elements beside its pixels: at most {self.most:,} are read.",
            why="Each takes memory and time of its own, however small the file is on the disk.",
            fix="Export fewer frames to a file, or take private elements out; if it should be small, it is damaged.",
        )


class _CountedBytes(io.BytesIO):
    def __init__(self, content: bytes, tally: Tally) -> None:
        super().__init__(content)
        self._tally = tally

    def read(self, size: int | None = -1, /) -> bytes:
        if size == HEADER_BYTES:
            self._tally.add(1)
        return super().read(size)


class _CountedFile(io.BufferedReader):
    def __init__(self, path: Path, tally: Tally) -> None:
        super().__init__(io.FileIO(path))
        self._tally = tally

    def read(self, size: int | None = -1, /) -> bytes:
        if size == HEADER_BYTES:
            self._tally.add(1)
        return super().read(size)


def counted(path: Path, tally: Tally, *, inflated: bytes | None = None) -> BinaryIO:
    """Open a file, or what was inflated of it, so that what pydicom reads of it is counted."""
    return _CountedFile(path, tally) if inflated is None else _CountedBytes(inflated, tally)


def read_tags(stream: BinaryIO, tally: Tally) -> pydicom.Dataset:
    """Return the elements before the pixels of a stream that is :func:`counted`, which then stands before the pixels.

    Raises ``UserError`` ``data.image_too_large`` where they, with those in sequences, are more than the limit.
    """

    def read() -> pydicom.Dataset:
        stream.seek(0)
        tags = pydicom.dcmread(stream, force=True, stop_before_pixels=True)
        _count_nested(tags, tally)
        return tags

    return tally.held(read)


def _count_nested(tags: pydicom.Dataset, tally: Tally) -> None:
    level = [tags]
    for _ in range(MAX_DEPTH):
        unread = [raw for dataset in level for raw in _sequences(dataset, tally)]
        if tally.found + sum(len(raw.value) for raw in unread) // HEADER_BYTES <= tally.most:
            return  # even were there nothing else in them
        level = [item for raw in unread for item in _items(raw, tally)]
    tally.add(tally.most + 1)


def _sequences(dataset: pydicom.Dataset, tally: Tally) -> Iterator[RawDataElement]:
    """Yield the sequences that have not been read yet, of a dataset and of the sequences in it that have."""
    datasets = [dataset]
    while datasets:
        one = datasets.pop()
        for element in one.values():
            if isinstance(element, DataElement):
                datasets += element.value if element.VR == "SQ" else ()
            elif element.value is not None and len(element.value) >= HEADER_BYTES:
                kind = _kind(element, one)
                if kind == "SQ":
                    yield element
                elif len(element.value) > LONG_BYTES and kind not in BYTES:
                    tally.add(len(element.value) // 2)


def _kind(element: RawDataElement, dataset: pydicom.Dataset) -> str:
    if element.VR not in (None, "UN"):
        return str(element.VR)
    if not element.tag.is_private and not dictionary_has_tag(element.tag):
        return "UN"
    found: dict[str, str] = {}
    raw_element_vr(element, found, ds=dataset)
    return str(found["VR"])


def _items(raw: RawDataElement, tally: Tally) -> list[pydicom.Dataset]:
    stream = _CountedBytes(raw.value or b"", tally)
    try:
        items = read_sequence(stream, raw.is_implicit_VR, raw.is_little_endian, len(raw.value or b""), default_encoding)
    except TooMany:
        raise
    except Exception:  # told when somebody asks for the sequence
        return []
    tally.add(0)  # once more: pydicom may have taken the limit's error for the end of the sequence
    return list(items)
