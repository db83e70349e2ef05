"""What a message's bytes are, worked out from names, types and shapes that both sides know: nothing of it is sent."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

CODED_DTYPE = "float32"
"""Parameters are of this type; anything else stays as it is."""


class CodedFault(ValueError):
    """A piece that no site and no server of ours writes; the text says what is wrong with "it"."""


@dataclass(frozen=True)
class ArraySpec:
    """One array of the model; ``is_coded`` where lossy steps may touch it (a float32 parameter)."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    is_coded: bool

    @property
    def size(self) -> int:
        """Numbers in it."""
        return math.prod(self.shape)

    @property
    def num_channels(self) -> int:
        """Output channels: the first side of a weight; 1 of a vector, whose numbers are alike."""
        return max(1, self.shape[0]) if len(self.shape) > 1 else 1


@dataclass(frozen=True)
class Part:
    """A run of numbers of one type in a message."""

    dtype: str
    count: int

    @property
    def itemsize(self) -> int:
        """Bytes of one number."""
        return np.dtype(self.dtype).itemsize

    @property
    def num_bytes(self) -> int:
        """Bytes of all."""
        return self.count * self.itemsize


def specs_of(arrays: Mapping[str, np.ndarray], *, buffers: Collection[str]) -> tuple[ArraySpec, ...]:
    """Return the specs of a model's arrays in the order of their names; ``buffers`` are those that are no parameters.

    Of the arrays only type and shape are read.
    """
    return tuple(
        ArraySpec(
            name,
            str(arrays[name].dtype),
            tuple(arrays[name].shape),
            is_coded=name not in buffers and str(arrays[name].dtype) == CODED_DTYPE,
        )
        for name in sorted(arrays)
    )


def join(arrays: Sequence[np.ndarray], *, shuffled: bool) -> bytes:
    """Return the bytes of flat ``arrays``: those of wide numbers first, else in the order given.

    ``shuffled``: of all numbers of one width first the first bytes, then the second ones and so on. Signs and
    exponents, which are alike, then lie side by side, and a packer finds them.
    """
    pieces = []
    for width, indices in _groups([array.itemsize for array in arrays]):
        data = b"".join(np.ascontiguousarray(arrays[index]).tobytes() for index in indices)
        pieces.append(np.frombuffer(data, np.uint8).reshape(-1, width).T.tobytes() if shuffled else data)
    return b"".join(pieces)


def split(data: bytes | memoryview, parts: Sequence[Part], *, shuffled: bool) -> list[np.ndarray]:
    """Return the arrays that :func:`join` has joined, flat and read-only; ``data`` must have exactly their bytes."""
    found: dict[int, np.ndarray] = {}
    at = 0
    for width, indices in _groups([part.itemsize for part in parts]):
        num_bytes = sum(parts[index].num_bytes for index in indices)
        group = np.frombuffer(data, np.uint8, count=num_bytes, offset=at)
        group = group.reshape(width, -1).T.reshape(-1) if shuffled and width > 1 else group
        at, start = at + num_bytes, 0
        for index in indices:
            stop = start + parts[index].num_bytes
            found[index] = group[start:stop].view(parts[index].dtype)
            start = stop
    return [found[index] for index in range(len(parts))]


def _groups(widths: Sequence[int]) -> list[tuple[int, list[int]]]:
    """Return (bytes of a number, indices of what has such), the widest first."""
    return [
        (width, [index for index, other in enumerate(widths) if other == width])
        for width in sorted(set(widths), reverse=True)
    ]
