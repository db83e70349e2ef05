"""A mask that a visitor has of an answered picture: read on the picture's own grid, to compare the answer with.

Shape legend: K classes, H and W the image's side in pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from app import reference_text as words
from engine.data.budget import at_most
from engine.errors import UserError

if TYPE_CHECKING:
    from app.studio import Studio
    from export.outputs.references import Geometry

MIB = 2**20


@dataclass(frozen=True)
class Place:
    """Where an answered picture is in its file: its geometry, read when it is asked for, and its slice, from 0.

    ``geometry`` is None of a picture that is no file of the visitor's: its pixels alone decide.
    """

    geometry: Callable[[], Geometry] | None = None
    number: int = 0
    num_slices: int = 1
    slice_axis: int = 2


@dataclass(frozen=True, eq=False)
class Reference:
    """A visitor's mask: where its file lies, and its planes (K, H, W) packed to bits; None of one that does not fit."""

    path: str
    name: str
    size_hw: tuple[int, int]
    bits: np.ndarray | None

    @property
    def num_bytes(self) -> int:
        """Return what it takes."""
        return 0 if self.bits is None else self.bits.nbytes

    def plane(self, index: int) -> np.ndarray | None:
        """Return the mask of one class, (H, W) bool; None where it does not fit."""
        height, width = self.size_hw
        return None if self.bits is None else np.unpackbits(self.bits[index], axis=1, count=width)[:height].astype(bool)


def read(studio: Studio, path: Path, place: Place, *, size_hw: tuple[int, int], num_classes: int) -> Reference:
    """Return a visitor's mask on the picture's grid.

    Raises ``UserError`` as ``export.outputs.references.read_slice``, with the file's own name, and as mend what can be
    done here.
    """
    from export.outputs.references import read_slice, unplaced

    name = studio.uploads.name_of(path)
    try:
        with at_most(studio.settings.max_read_mb * MIB):
            where = {"slice_axis": place.slice_axis, "num_slices": place.num_slices}
            like = place.geometry() if place.geometry else unplaced(*size_hw)
            planes_KHW = read_slice(path, like, place.number, num_classes=num_classes, **where)
    except UserError as error:
        what = error.what.replace(str(path), name)
        raise UserError(error.code, what=what, why=error.why, fix=words.FIX) from error
    return Reference(str(path), name, size_hw, np.packbits(planes_KHW > 0, axis=2))


def refused(path: str) -> Reference:
    """Return what is remembered of a mask that does not fit: it is not read again for the same picture."""
    return Reference(path, "", (0, 0), None)
