"""Which pictures are the same although their files are not: encoded anew, resized or brightened. Torch-free.

Two steps. A perceptual hash (pHash: signs of the 64 lowest cosine frequencies of a 32 x 32 thumbnail, about their
median) finds candidates quickly, and the correlation of the thumbnails decides: the hash alone, at a distance that
catches every re-encoding, also calls neighbouring frames of an endoscopy copies. It is ours because the libraries take
8-bit pictures only, where fluorescence and CT keep their contrast in fewer levels than that rounds away; scipy has the
transform.

Measured on 780 images of ten sites (polypgen, nuclei_dsb2018) and 750 phantoms. Copies by JPEG at quality 50 to 90, at
0.5 and 0.95 of the size, in grey, at 0.7 to 1.2 of the brightness, with gamma or contrast 1.3: all found, correlated at
0.989 to 1 and at most 10 bits apart. Brightened by half, with much of it clipped: 4 of 5. Cut by 1 % all round: one in
two to ten. Of the 152,610 pairs of different files two are called copies, and they are: frames of polypgen under
another overlay (0.999, 0.993). Next come frames of one sequence at 0.974. Phantoms of different patients reach 0.958,
neighbouring slices of one 0.984; one patient's images are not compared at all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeGuard

import numpy as np
from PIL import Image
from scipy.fft import dctn

from engine.data.sources import FolderItem, Item

THUMBNAIL_PX = 32
MAX_BITS = 10
"""Bits of the hash in which a copy may differ (ours)."""
MIN_CORRELATION = 0.985
"""Correlation of thumbnails from which on two pictures are one (ours)."""
FLAT = 0.5 / 255
"""Standard deviation of a thumbnail, of the full range, below which a picture shows nothing that could be compared."""
VOLUME_SLICES = 5
"""Slices of a volume that stand for it, evenly spread."""
BLOCK = 1 << 22
"""Pairs that are compared at once."""


@dataclass(frozen=True)
class Fingerprint:
    """What is kept of a picture: its hash, and its thumbnail (1024,) float16 of mean 0 and length 1."""

    bits: int
    thumbnail: np.ndarray = field(compare=False)

    @classmethod
    def of(cls, image: np.ndarray) -> Fingerprint | None:
        """Return the fingerprint of (H, W, 3) uint8, uint16 or float32 in [0, 1]; None where it shows nothing."""
        top = np.iinfo(image.dtype).max if image.dtype.kind == "u" else 1
        grey = np.add(image[..., 0], image[..., 1], dtype=np.float32) + image[..., 2]  # six times as fast as mean()
        grey /= np.float32(3 * top)
        small = np.asarray(Image.fromarray(grey).resize((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BOX))
        if small.std() < FLAT:
            return None
        low = dctn(small, norm="ortho")[:8, :8].ravel()
        bits = int.from_bytes(np.packbits(low > np.median(low)).tobytes())
        centred = (small - small.mean()).ravel()
        return cls(bits, (centred / np.linalg.norm(centred)).astype(np.float16))

    def correlation(self, other: Fingerprint) -> float:
        """Return the correlation of the thumbnails, -1 to 1."""
        return float(self.thumbnail.astype(np.float32) @ other.thumbnail.astype(np.float32))


@dataclass(frozen=True)
class Shown:
    """An image file with the fingerprints of its picture, or of some slices of its volume."""

    item: FolderItem
    num_slices: int
    prints: tuple[Fingerprint | None, ...]

    @property
    def key(self) -> int | None:
        """Return the hash by which it is found: of the slice nearest to the middle that shows something."""
        middle = len(self.prints) // 2
        order = sorted(range(len(self.prints)), key=lambda k: abs(k - middle))
        return next((found.bits for k in order if (found := self.prints[k]) is not None), None)

    def shows(self, other: Shown) -> bool:
        """Return whether both are the same picture, or volumes that are the same in each compared slice."""
        return self.num_slices == other.num_slices and all(
            one is two if one is None or two is None else one.correlation(two) >= MIN_CORRELATION
            for one, two in zip(self.prints, other.prints, strict=True)
        )


class Sketchbook:
    """Collects the fingerprints of files while their images are read for another purpose, then finds the copies."""

    def __init__(self, items: Mapping[str, Sequence[Item]]) -> None:
        counts = Counter((item.site, item.image) for found in items.values() for item in found if _has_file(item))
        self._slices = {key: _spread(count) for key, count in counts.items()}
        self._counts = counts
        self._items: dict[tuple[str, Path], FolderItem] = {}
        self._drawn: dict[tuple[str, Path, int], Fingerprint | None] = {}

    def wants(self, item: Item) -> bool:
        """Return whether this picture or slice stands for its file."""
        return _has_file(item) and item.slice_index in self._slices[item.site, item.image]

    def draw(self, item: FolderItem, image: np.ndarray) -> None:
        """Keep the fingerprint of ``image``, (H, W, 3), where it is wanted."""
        if self.wants(item):
            self._items.setdefault((item.site, item.image), item)
            self._drawn[item.site, item.image, item.slice_index] = Fingerprint.of(image)

    def shown(self) -> list[Shown]:
        """Return the files of which everything wanted has been drawn (the others could not be read)."""
        return [
            Shown(item, self._counts[key], tuple(self._drawn[(*key, index)] for index in self._slices[key]))
            for key, item in self._items.items()
            if all((*key, index) in self._drawn for index in self._slices[key])
        ]


def near_copies(files: Sequence[Shown]) -> list[tuple[FolderItem, FolderItem]]:
    """Return the pairs of files that show the same picture, but those of one patient at one site."""
    return [
        (one.item, two.item)
        for one, two in _candidates([file for file in files if file.key is not None])
        if (one.item.site, one.item.group) != (two.item.site, two.item.group) and one.shows(two)
    ]


def _candidates(files: list[Shown]) -> Iterator[tuple[Shown, Shown]]:
    hashes = np.array([file.key for file in files], np.uint64)
    rows = max(1, BLOCK // max(1, len(files)))
    for start in range(0, len(files), rows):
        distance = np.bitwise_count(hashes[start : start + rows, None] ^ hashes[None, start:])
        for one, two in zip(*np.nonzero(distance <= MAX_BITS), strict=True):
            if one < two:
                yield files[start + one], files[start + two]


def _has_file(item: Item) -> TypeGuard[FolderItem]:
    return isinstance(item, FolderItem)


def _spread(count: int) -> tuple[int, ...]:
    return tuple(sorted({round(k) for k in np.linspace(0, count - 1, min(count, VOLUME_SLICES))}))
