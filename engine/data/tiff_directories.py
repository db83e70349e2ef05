"""What the directories of a TIFF announce, counted before tifffile reads them all. Torch-free.

tifffile puts pages into series by comparing each with the others of its kind, and each kind with the other kinds: a
file of half a megabyte with 5,000 pages of 5,000 sizes kept it busy for minutes. Equal pages are read at once.
"""

from __future__ import annotations

import math
import re
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from xml.etree import ElementTree

import tifffile

from engine.data.budget import limit_bytes, over_budget
from engine.errors import UserError

MAX_PAGES = 1 << 18
"""Pages of one file (ours); they take a kilobyte each while it is open."""
MAX_KINDS = 256
"""Pages that differ in size or in how they are stored (ours): 256 take a quarter of a second, 1,000 four."""
MAX_COMPARED = 2048
"""Pages of one kind beside pages of another (ours): 2,048 take a third of a second, 16,000 twenty."""
MAX_SERIES = 512
"""Pages that begin a series of their own and are no stack together (ours): 512 take a second, 2,048 seven."""
MAX_TAGS = 4096
"""Tags of one page above which tifffile takes its directory for damaged."""
KIND_TAGS = frozenset((256, 257, 258, 259, 262, 266, 277, 278, 284, 317, 322, 323, 338, 339, 32997, 32998))
"""What tifffile tells kinds of pages by: size, samples, strips or tiles, compression, colours."""
KIND_BYTES = 64
SUBFILE_TYPE, DESCRIPTION, SUB_IFDS = 254, 270, 330
THUMBNAIL_OR_MASK = 0b101
"""Bits of NewSubfileType: a reduced picture, a transparency mask."""
SHAPE = re.compile(rb'\{"shape": \[([0-9, ]{0,200})\]')
"""How the description begins in which tifffile notes the shape of what it writes."""
NOTE_BYTES = 256
BYTES_OF_TYPE = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
AS_BYTES = (1, 2, 7)
"""Types whose values stay one string; each value of the others becomes a number of its own."""
NUMBER_BYTES = 40
"""What a number in a tuple takes in Python."""
CUT = "Save one image or one stack of equal pages to a file, without the others."


def open_tiff(path: Path) -> tifffile.TiffFile:
    """Return a TIFF whose directories have been counted, to be closed by whoever asked.

    Raises ``UserError`` ``data.image_too_large`` where they would keep the reader busy or take more than the limit,
    ``ValueError`` where its pages lead back to an earlier one.
    """
    about = path.stat()
    is_page_by_page = _refuse_directories(path, about.st_mtime_ns, about.st_size, limit_bytes())
    # tifffile would make a series of each page that says its own shape
    return _opened(path, is_shaped=False if is_page_by_page else None)


def _opened(path: Path, *, is_shaped: bool | None = None) -> tifffile.TiffFile:
    # never another file that this one names, and no frames where ScanImage's first ones only suggest them
    return tifffile.TiffFile(path, _multifile=False, is_scanimage=False, is_shaped=is_shaped)


@lru_cache(maxsize=256)  # the slices of a stack are asked for one after the other
def _refuse_directories(path: Path, modified_ns: int, num_bytes: int, limit: int) -> bool:
    """Return whether its pages are one stack that was written page by page (:func:`_is_page_by_page`)."""
    with _opened(path) as file:
        return _refuse(path, file, limit=limit)


def _refuse(path: Path, file: tifffile.TiffFile, *, limit: int) -> bool:
    kinds: Counter[tuple] = Counter()
    taken, pages, has_parts, described = 0, 0, False, _Described()
    for kind, num_bytes, is_part, about in _directories(file):
        kinds[kind] += 1
        taken, pages, has_parts = taken + num_bytes, pages + 1, has_parts or is_part
        described.add(about)
        if pages > MAX_PAGES:
            raise _too_many(path, f"more than {MAX_PAGES:,} pages")
        if len(kinds) > MAX_KINDS:
            raise _too_many(path, f"pages of more than {MAX_KINDS} sizes or kinds")
        if taken > limit:
            raise over_budget(path, f"more than {limit / 2**20:,.0f} MiB in its tags alone")
    if (len(kinds) > 1 or has_parts) and sum(count**2 for count in kinds.values()) > MAX_COMPARED**2:
        raise _too_many(path, f"{pages:,} pages, which are not all of one kind")
    is_page_by_page = len(kinds) == 1 and not has_parts and described.is_every_page(file, pages)
    if described.pages > MAX_SERIES and not is_page_by_page:
        raise _too_many(path, f"{described.pages:,} pages that begin a series of their own")
    if file.is_ome:
        _refuse_ome(path, file.ome_metadata or "")
    return is_page_by_page


@dataclass
class _Described:
    """Pages in which tifffile has noted the shape of what it wrote, and their samples by what the notes say."""

    pages: int = 0
    samples: int = 0
    has_reduced: bool = False

    def add(self, about: tuple[bytes, int]) -> None:
        """Count one page by (description, NewSubfileType)."""
        noted = SHAPE.match(about[0])
        if noted:
            self.pages += 1
            self.samples += math.prod(int(number) for number in noted[1].split(b",") if number.strip())
        self.has_reduced = self.has_reduced or bool(about[1] & THUMBNAIL_OR_MASK)

    def is_every_page(self, file: tifffile.TiffFile, pages: int) -> bool:
        """Return whether equal ``pages`` were written one, or some, at a time, and hold all that the notes say.

        Otherwise a page may hold a whole stack, or the file may lack some.
        """
        return self.pages > 1 and not self.has_reduced and self.samples == pages * math.prod(file.pages.first.shape)


def _directories(file: tifffile.TiffFile) -> Iterator[tuple[tuple, int, bool, tuple[bytes, int]]]:
    """Yield kind, bytes in memory, whether another page names it, and notes of each page as tifffile finds it."""
    handle = file.filehandle
    seen, offset = set(), file.pages.first.offset if len(file.pages._offsets) else 0
    while 0 < offset < handle.size:
        if offset in seen:
            raise ValueError("its pages lead back to an earlier one")
        seen.add(offset)
        entries, offset = _entries(file, offset)
        if entries is None:
            return
        yield *_weighed(file, entries), False, _noted(file, entries)
        for part in _parts(file, entries):
            yield *_weighed(file, _entries(file, part)[0] or []), True, (b"", 0)


def _noted(file: tifffile.TiffFile, entries: list[tuple[int, int, int, bytes]]) -> tuple[bytes, int]:
    """Return how a page's description begins, and its NewSubfileType."""
    description, subfile_type = b"", 0
    for tag, dtype, count, value in entries:
        if tag == DESCRIPTION and dtype in AS_BYTES and not description:
            description = _value(file, value, min(count, NOTE_BYTES), most=NOTE_BYTES, is_apart=count > len(value))
        elif tag == SUBFILE_TYPE:
            subfile_type = int.from_bytes(value[:4], "little" if file.tiff.byteorder == "<" else "big")
    return description, subfile_type


def _entries(file: tifffile.TiffFile, offset: int) -> tuple[list[tuple[int, int, int, bytes]] | None, int]:
    """Return (tag, type, count, value or its place) of one directory, None where it is damaged, and the next one."""
    handle, tiff = file.filehandle, file.tiff
    handle.seek(offset)
    head = handle.read(tiff.tagnosize)
    count = struct.unpack(tiff.tagnoformat, head)[0] if len(head) == tiff.tagnosize else MAX_TAGS + 1
    if count > MAX_TAGS:
        return None, 0
    table = handle.read(count * tiff.tagsize + tiff.offsetsize)
    inline = tiff.tagsize - (12 if file.is_bigtiff else 8)
    order, wide = tiff.byteorder, "Q" if file.is_bigtiff else "I"
    whole = len(table) // tiff.tagsize * tiff.tagsize
    entries = list(struct.iter_unpack(f"{order}HH{wide}{inline}s", table[: min(whole, count * tiff.tagsize)]))
    next_offset = table[count * tiff.tagsize :]
    if len(next_offset) < tiff.offsetsize:
        return entries, 0
    return entries, int(struct.unpack(tiff.offsetformat, next_offset)[0])


def _weighed(file: tifffile.TiffFile, entries: list[tuple[int, int, int, bytes]]) -> tuple[tuple, int]:
    kind, taken = [], 0
    for tag, dtype, count, value in entries:
        num_bytes = BYTES_OF_TYPE.get(dtype, 1) * count
        if num_bytes > len(value):
            taken += min(count, file.filehandle.size) * (1 if dtype in AS_BYTES else NUMBER_BYTES)
        if tag in KIND_TAGS:
            kind.append((tag, dtype, count, _value(file, value, num_bytes)))
    return tuple(kind), taken


def _parts(file: tifffile.TiffFile, entries: list[tuple[int, int, int, bytes]]) -> Iterator[int]:
    """Yield the places of a page's SubIFDs."""
    for tag, dtype, count, value in entries:
        size = BYTES_OF_TYPE.get(dtype, 0)
        if tag == SUB_IFDS and size in (4, 8):
            held = _value(file, value, min(count, MAX_PAGES + 1) * size, most=(MAX_PAGES + 1) * size)
            letter = "Q" if size == 8 else "I"
            for (offset,) in struct.iter_unpack(f"{file.tiff.byteorder}{letter}", held[: len(held) // size * size]):
                if offset >= 8:
                    yield offset


def _value(
    file: tifffile.TiffFile, value: bytes, num_bytes: int, *, most: int = KIND_BYTES, is_apart: bool = False
) -> bytes:
    if num_bytes <= len(value) and not is_apart:
        return value[:num_bytes]
    if num_bytes > most:
        return value
    width = file.tiff.offsetsize if len(value) >= file.tiff.offsetsize else len(value)
    place = int.from_bytes(value[:width], "little" if file.tiff.byteorder == "<" else "big")
    if place >= file.filehandle.size:
        return value
    file.filehandle.seek(place)
    return bytes(file.filehandle.read(num_bytes))


def _refuse_ome(path: Path, text: str) -> None:
    """Raise where OME's description announces more planes than a file may have: room is made for each."""
    planes = 0
    with suppress(ElementTree.ParseError, ValueError):  # then tifffile does without it
        for element in ElementTree.fromstring(text).iter():
            name = str(element.tag).rpartition("}")[2]
            if name == "Pixels":
                sizes = (int(element.attrib.get(f"Size{axis}", 1)) for axis in "ZCT")
                planes += abs(next(sizes) * next(sizes) * next(sizes))
            elif name == "TiffData":
                planes += max(int(element.attrib.get(key, 0)) for key in ("NumPlanes", "PlaneCount"))
    if planes > MAX_PAGES:
        raise _too_many(path, f"{planes:,} planes by its description")


def _too_many(path: Path, told: str) -> UserError:
    return UserError(
        "data.image_too_large",
        what=f"The file {path} has {told}.",
        why="Finding its slices among them would take minutes, however small it is on the disk.",
        fix=f"{CUT} If it should be a plain image, the file is damaged.",
    )
