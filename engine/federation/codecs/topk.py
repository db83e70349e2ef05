"""Step ``topk``: of each array's update the entries that are largest in magnitude; the others wait (error feedback).

After Aji and Heafield 2017 (arXiv 1704.05021) and Stich et al. 2018 (arXiv 1809.07599).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from engine.federation.codecs.layout import CodedFault, Part


@dataclass(frozen=True)
class TopK:
    """``share`` of each array's entries, one at least.

    Where they are is told by a bit for each entry of the array, or by 32 bits for each that goes: whichever is shorter,
    so that it follows from the sizes. Nothing tells it where all go.
    """

    share: float

    def num_kept(self, size: int) -> int:
        """Return how many of ``size`` entries go: share * size, rounded up."""
        # 0.1 * 30 is 3.0000000000000004.
        return min(size, max(1, math.ceil(self.share * size - 1e-9)))

    def part(self, size: int) -> Part:
        """Return what says where the entries of an array of ``size`` are."""
        kept = self.num_kept(size)
        if kept == size:
            return Part("uint8", 0)
        bits = Part("uint8", -(-size // 8))
        return bits if bits.num_bytes <= 4 * kept else Part("uint32", kept)

    def choose(self, update: np.ndarray) -> np.ndarray:
        """Return the places int64 (k,), ascending, of the largest of finite float32 (n,); of equal ones the first."""
        size, kept = len(update), self.num_kept(len(update))
        if kept == size:
            return np.arange(size)
        magnitudes = np.abs(update)
        least = np.partition(magnitudes, size - kept)[size - kept]
        larger = np.flatnonzero(magnitudes > least)
        equal = np.flatnonzero(magnitudes == least)[: kept - len(larger)]
        return np.sort(np.concatenate([larger, equal]))

    def write(self, places: np.ndarray, *, size: int) -> np.ndarray:
        """Return ascending places as :meth:`part` says."""
        part = self.part(size)
        if part.dtype == "uint32":
            return places.astype(np.uint32)
        chosen = np.zeros(size if part.count else 0, np.uint8)
        chosen[places if part.count else []] = 1
        return np.packbits(chosen)

    def read(self, written: np.ndarray, *, size: int) -> np.ndarray:
        """Return the places int64 (k,), ascending; :class:`CodedFault` for any that :meth:`write` does not write."""
        part, kept = self.part(size), self.num_kept(size)
        if not part.count:
            return np.arange(size)
        if part.dtype == "uint32":
            places = written.astype(np.int64)
            if places[-1] >= size:
                raise CodedFault(f"it has a place {places[-1]} in an array of {size} numbers")
            if (np.diff(places) <= 0).any():
                raise CodedFault("it has places that are not in ascending order, or one twice")
            return places
        places = np.flatnonzero(np.unpackbits(written))
        if len(places) != kept or places[-1] >= size:
            raise CodedFault(f"it marks {len(places)} places for {kept} numbers of {size}")
        return places
