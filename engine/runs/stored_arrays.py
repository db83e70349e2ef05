"""Arrays that stay in a checkpoint's file and are read piece by piece. Torch-free."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.errors import UserError


@dataclass(frozen=True)
class StoredArray:
    """One array's numbers in a file, in C order from byte ``offset`` on; ``array[start:stop]`` reads those numbers."""

    path: Path
    offset: int
    dtype: np.dtype
    shape: tuple[int, ...]

    def __getitem__(self, part: slice) -> np.ndarray:
        """Return the numbers of ``part``, a slice without a step, flat, in memory of their own.

        Raises ``UserError`` ``run.checkpoint_damaged`` where the file has become shorter, or is gone.
        """
        start, stop, _ = part.indices(math.prod(self.shape))
        count = max(0, stop - start)
        try:
            found = np.fromfile(self.path, self.dtype, count, offset=self.offset + start * self.dtype.itemsize)
        except OSError as error:
            raise _damaged(self.path, str(error)) from error
        if len(found) != count:
            raise _damaged(self.path, f"{count} numbers were expected, and {len(found)} are there")
        return found

    def whole(self) -> np.ndarray:
        """Return the array."""
        return self[:].reshape(self.shape)


class StoredArrays(Mapping[str, np.ndarray]):
    """Named arrays in a file: each is read when it is asked for, and nothing is kept.

    Parameters
    ----------
    path : Path
        A safetensors file.
    places : mapping
        The name of each array to (tensor of the file with its bytes, dtype as text, shape).
    """

    def __init__(self, path: Path, places: Mapping[str, tuple[str, str, tuple[int, ...]]]) -> None:
        self._path, self._places = path, places
        self._offsets = _offsets(path)

    def __getitem__(self, name: str) -> np.ndarray:
        return self.flat(name).whole()

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def flat(self, name: str) -> StoredArray:
        """Return an array for reading it in parts."""
        tensor, dtype, shape = self._places[name]
        return StoredArray(self._path, self._offsets[tensor], np.dtype(dtype), shape)


def _offsets(path: Path) -> dict[str, int]:
    """Return where the bytes of each tensor of a safetensors file begin: 8 bytes of length, a JSON header, the data."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    return {key: 8 + length + about["data_offsets"][0] for key, about in header.items() if key != "__metadata__"}


def _damaged(path: Path, problem: str) -> UserError:
    return UserError(
        "run.checkpoint_damaged",
        what=f"The checkpoint {path} has changed while the run was reading it: {problem}.",
        why="The run cannot go on from a state that is not exactly the one that was saved.",
        fix="Check the disk and resume: what the file held is asked for again.",
    )
