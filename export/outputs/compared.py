"""What two models' masks of one image or volume have in common, and what one has that the other has not. Torch-free.

Shape legend: K classes; S, H and W slices, rows and columns of the volume as it was read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np

from engine.data.volumes import SourceVolume
from export.outputs.measurements import Measurement, rows_csv, voxel_ml

COLUMNS = ("model", "other_model", "dice_with_other", "only_here_px", "only_here_ml", "differing_px", "differing_ml")
"""What a row of :func:`pairs_csv` has after the figures of a mask."""


@dataclass(frozen=True)
class Compared:
    """One class of one image or volume by two models.

    Attributes
    ----------
    models : what they are called.
    figures : of each one's mask.
    dice : of both masks, in [0, 1]; two empty ones are 1.
    only_px : pixels, or voxels, that are in the mask of the one and not of the other.
    voxel_ml : of one voxel, None where there is no volume.
    """

    models: tuple[str, str]
    figures: tuple[Measurement, Measurement]
    dice: float
    only_px: tuple[int, int]
    voxel_ml: float | None

    @property
    def differing_px(self) -> int:
        """Return how many pixels, or voxels, are in one mask and not in the other."""
        return sum(self.only_px)

    def ml(self, num_px: int) -> float | None:
        """Return what so many voxels are in millilitres, None where there is no volume."""
        return None if self.voxel_ml is None else num_px * self.voxel_ml


def compared(
    volume: SourceVolume,
    first_KSHW: Sequence[np.ndarray] | np.ndarray,
    second_KSHW: Sequence[np.ndarray] | np.ndarray,
    *,
    models: tuple[str, str],
    figures: Sequence[tuple[Measurement, Measurement]],
) -> list[Compared]:
    """Return two models' masks {0, 1} of one volume side by side, class by class; ``figures`` are those of both.

    Counted slice by slice: no array of a volume's size is made.
    """
    found = []
    for first_SHW, second_SHW, of_both in zip(first_KSHW, second_KSHW, figures, strict=True):
        shared = sum(
            int(np.count_nonzero(one_HW & other_HW)) for one_HW, other_HW in zip(first_SHW, second_SHW, strict=True)
        )
        sizes = [one.foreground_px for one in of_both]
        both = sum(sizes)
        dice = 2 * shared / both if both else 1.0
        found.append(Compared(models, of_both, dice, (sizes[0] - shared, sizes[1] - shared), voxel_ml(volume)))
    return found


def pairs_csv(pairs: Sequence[Compared]) -> str:
    """Return a table for spreadsheets: a row for each model, with its figures and what it has in common with the other.

    The columns of ``measurements.as_csv``, then ``COLUMNS``.
    """
    rows = []
    for pair in pairs:
        for at, figures in enumerate(pair.figures):
            common = (
                pair.models[at], pair.models[1 - at], pair.dice, pair.only_px[at], pair.ml(pair.only_px[at]),
                pair.differing_px, pair.ml(pair.differing_px),
            )  # fmt: skip
            rows.append(asdict(figures) | dict(zip(COLUMNS, common, strict=True)))
    return rows_csv(rows, columns=[*(field.name for field in fields(Measurement)), *COLUMNS])
