"""The vertical cup-to-disc ratio of a fundus photograph, where a model finds a cup and a disc. Torch-free.

Shape legend: K classes, H and W rows and columns of the picture in its own pixels.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from export.outputs.pieces import largest_piece

CUP, DISC = {"cup"}, {"disc", "disk"}
OPTIC = {"optic", "the"}
"""Words that a class's name may have besides, in any case (ours)."""


@dataclass(frozen=True)
class Vertical:
    """What is told of cup or disc: the height of its largest piece, and the ratio of both heights.

    ``vertical_extent`` is in the unit of the step, None where the class is empty. ``cup_to_disc`` is None where the
    disc is, and 0 where there is a disc without a cup.
    """

    vertical_extent: float | None = None
    cup_to_disc: float | None = None


def verticals(masks_KHW: np.ndarray, classes: Sequence[str], *, row_step: float) -> list[Vertical]:
    """Return the vertical figures of each class; of all but cup and disc, and where one is no class, without any.

    ``row_step`` is the distance of two rows: 1 for pixels. The picture is taken as it stands, upright.
    """
    found = [Vertical()] * len(classes)
    cup, disc = (index_of(classes, names) for names in (CUP, DISC))
    if cup is None or disc is None:
        return found
    num_rows = {index: int(np.count_nonzero(largest_piece(masks_KHW[index]).any(axis=1))) for index in (cup, disc)}
    ratio = num_rows[cup] / num_rows[disc] if num_rows[disc] else None
    for index, rows in num_rows.items():
        found[index] = Vertical(rows * row_step if rows else None, ratio)
    return found


def index_of(classes: Sequence[str], names: set[str]) -> int | None:
    """Return the one class that is called so (``CUP`` or ``DISC``), None of none or several."""
    words = [set(re.findall(r"[a-z]+", name.lower())) - OPTIC for name in classes]
    found = [index for index, own in enumerate(words) if own and own <= names]
    return found[0] if len(found) == 1 else None
