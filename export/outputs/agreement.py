"""How far a mask agrees with a reference: Dice, IoU, HD95 and surface Dice. Torch-free.

Shape legend: S, H and W slices, rows and columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from engine.evaluation.mask_dice import counts, dice

PERCENTILE = 95
SURFACE_TOLERANCE_PX = 2
"""How far outlines may lie apart and still agree, in the larger side of a pixel in its slice (ours): the spread of two
readers is not known for every organ, and one length in mm does not suit both a cell and a liver."""


@dataclass(frozen=True)
class Agreement:
    """One class against its reference.

    ``dice``, ``iou`` and ``surface_dice`` are in [0, 1]; two empty masks are 1. ``hd95`` is the distance of outlines
    that 95 % stay within, the larger of both ways, None where one is empty. ``surface_dice`` is the share of the pixels
    of both outlines that lie within ``surface_tolerance`` of the other (Nikolov et al., 2018; counted by pixels, as
    MONAI's ``compute_surface_dice`` does). Lengths are in the unit of the steps.
    """

    dice: float
    iou: float
    hd95: float | None
    surface_dice: float
    surface_tolerance: float


def agreement(mask_SHW: np.ndarray, reference_SHW: np.ndarray, *, steps: tuple[float, float, float]) -> Agreement:
    """Return the agreement of two boolean masks; ``steps`` are between slices, rows and columns."""
    shared, both = counts(mask_SHW, reference_SHW)
    tolerance = SURFACE_TOLERANCE_PX * max(steps[1:])
    hd95, surface_dice = _outlines(mask_SHW, reference_SHW, steps=steps, tolerance=tolerance)
    iou = shared / (both - shared) if both else 1.0
    return Agreement(dice(mask_SHW, reference_SHW), iou, hd95, surface_dice, tolerance)


def _outlines(
    one_SHW: np.ndarray, other_SHW: np.ndarray, *, steps: tuple[float, float, float], tolerance: float
) -> tuple[float | None, float]:
    """Return HD95 and surface Dice."""
    is_there = bool(one_SHW.any()), bool(other_SHW.any())
    if not all(is_there):
        return None, 0.0 if any(is_there) else 1.0
    box = ndimage.find_objects((one_SHW | other_SHW).astype(np.uint8))[0]
    axes = tuple(axis for axis in range(3) if one_SHW.shape[axis] > 1 or axis > 0)  # a single slice is flat
    flat = box if len(axes) == 3 else (0, *box[1:])
    outlines = [_outline(np.pad(mask[flat], 1)) for mask in (one_SHW, other_SHW)]
    spacing = [steps[axis] for axis in axes]
    ways, within, num_px = [], 0, 0
    for near, far in (outlines, outlines[::-1]):
        distances = ndimage.distance_transform_edt(~far, sampling=spacing)[near]
        ways.append(float(np.percentile(distances, PERCENTILE)))
        within += int(np.count_nonzero(distances <= tolerance))
        num_px += len(distances)
    return max(ways), within / num_px


def _outline(mask: np.ndarray) -> np.ndarray:
    return mask & ~ndimage.binary_erosion(mask)
