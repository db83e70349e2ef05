"""The sites' models part by part, so that no algorithm has all of them in memory at once. Free of Flower and PyTorch.

Where a reply's arrays lie in a file, a part is read when its turn comes and forgotten after it: what the server needs
does not grow with the number of sites (an algorithm that compares all sites has a part of each, the smaller the more
sites there are). Numbers do not depend on the parts: every algorithm takes each weight by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, cast

import numpy as np

from engine.federation.tasks import Arrays

BLOCK = 1 << 17
"""Numbers in a part of one model: in float64 they stay in a core's cache while the sites are summed (ours)."""
BLOCK_OF_ALL = 1 << 23
"""Numbers in a part of all sites' models together, for those that compare them: 64 MB in float64 (ours)."""


class Flat(Protocol):
    """The numbers of an array in C order; ``numbers[start:stop]`` is a one-dimensional array."""

    def __getitem__(self, part: slice, /) -> np.ndarray:
        """Return the numbers of a part."""


class ReadInParts(Protocol):
    """Named arrays that need not be in memory, such as ``engine.runs.stored_arrays.StoredArrays``."""

    def flat(self, name: str) -> Flat:
        """Return an array for reading it in parts."""


def flat(arrays: Arrays, name: str) -> Flat:
    """Return one array of ``arrays`` for reading it in parts."""
    # Asked for by name: checking a protocol by isinstance takes longer than averaging a small array.
    return cast(ReadInParts, arrays).flat(name) if hasattr(arrays, "flat") else arrays[name].reshape(-1)


def parts(size: int, *, at_most: int) -> Iterator[slice]:
    """Cut ``size`` numbers into slices of nearly equal length, none longer than ``at_most``.

    Nearly equal, so that none has a single number where there are more: NumPy sums a single column of many sites in
    another order than several columns.
    """
    count = max(1, -(-size // at_most)) if size else 0
    for index in range(count):
        yield slice(index * size // count, (index + 1) * size // count)
