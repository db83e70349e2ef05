"""Overlap and distance measures of binary masks, one value an image and class.

Shape legend: B images, K classes, h and w the side of the scored grid in pixels.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

LOGIT_THRESHOLDS = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Where the authors' code cuts: raw logits, i.e. probabilities .525 .574 .622 .668 .711 (``sam_utils.py:1070``)."""
DICE_SMOOTHING = 1e-4
IOU_SMOOTHING = 1e-6


@dataclass(frozen=True, eq=False)
class Overlap:
    """How many pixels two masks share and have, each (B, K) float64 on the CPU: exact counts."""

    shared_BK: Tensor
    predicted_BK: Tensor
    true_BK: Tensor

    def dice(self, *, smoothing: float = 0.0) -> Tensor:
        """Return Dice (B, K), float64 in [0, 1]: (2 |P and G| + s) / (|P| + |G| + s); both empty is 1."""
        return _ratio(2 * self.shared_BK, self.predicted_BK + self.true_BK, smoothing=smoothing)

    def iou(self, *, smoothing: float = 0.0) -> Tensor:
        """Return intersection over union (B, K), float64 in [0, 1], smoothed in the same way; both empty is 1."""
        return _ratio(self.shared_BK, self.predicted_BK + self.true_BK - self.shared_BK, smoothing=smoothing)


def measure_overlap(predicted_BKhw: Tensor, true_BKhw: Tensor) -> Overlap:
    """Return the overlap of boolean masks (B, K, h, w)."""
    shared_BKhw = predicted_BKhw & true_BKhw
    return Overlap(_count(shared_BKhw), _count(predicted_BKhw), _count(true_BKhw))


def dice(predicted_BKhw: Tensor, true_BKhw: Tensor) -> Tensor:
    """Return Dice (B, K), float64 in [0, 1], of boolean masks; both empty is 1."""
    return measure_overlap(predicted_BKhw, true_BKhw).dice()


def five_thresholds(logits_BKhw: Tensor, true_BKhw: Tensor) -> tuple[Tensor, Tensor]:
    """Return Dice and IoU (B, K), float64, as the authors measure: means over five cuts of raw logits (methods 1.7)."""
    overlaps = [measure_overlap(logits_BKhw > cut, true_BKhw) for cut in LOGIT_THRESHOLDS]
    dice_TBK = torch.stack([overlap.dice(smoothing=DICE_SMOOTHING) for overlap in overlaps])
    iou_TBK = torch.stack([overlap.iou(smoothing=IOU_SMOOTHING) for overlap in overlaps])
    return dice_TBK.mean(dim=0), iou_TBK.mean(dim=0)


def hd95_px(predicted_BKhw: Tensor, true_BKhw: Tensor) -> list[list[float | None]]:
    """Return the symmetric 95 % Hausdorff distance between mask outlines, in pixels of the grid, as B lists of K.

    MONAI's ``compute_hausdorff_distance(percentile=95)``. None where either mask is empty: no distance exists there.
    """
    from monai.metrics import compute_hausdorff_distance  # here, because importing MONAI takes seconds

    with warnings.catch_warnings():
        # MONAI warns about every empty mask, here an expected case with its own value, and about its own calls.
        warnings.simplefilter("ignore", FutureWarning)
        warnings.filterwarnings("ignore", message=".*(all 0|nan/inf).*")
        distance_BK = compute_hausdorff_distance(
            predicted_BKhw.cpu().float(), true_BKhw.cpu().float(), include_background=True, percentile=95
        )
    return [[value if math.isfinite(value) else None for value in row] for row in distance_BK.tolist()]


def penalised_px(distance_px: float | None, *, predicted_px: float, true_px: float, diagonal_px: float) -> float:
    """Return the HD95 with which challenges rank: a distance where there is one, else the worst or the best.

    A structure that was missed, and one that was found where there is none, cost the image's diagonal; two empty masks
    agree and cost nothing (as BraTS 2018 and later score it, there with a fixed diagonal).
    """
    if distance_px is not None:
        return distance_px
    return diagonal_px if (predicted_px > 0) != (true_px > 0) else 0.0


def _count(mask_BKhw: Tensor) -> Tensor:
    # 32-bit sums of a flat view are twice as fast on a CPU as count_nonzero, and exact up to 2^31 pixels.
    return mask_BKhw.flatten(2).sum(dim=-1, dtype=torch.int32).cpu().double()


def _ratio(numerator_BK: Tensor, denominator_BK: Tensor, *, smoothing: float) -> Tensor:
    """Return (a + s) / (b + s), and 1 where b is zero: two empty masks agree."""
    both_empty_BK = denominator_BK == 0
    safe_BK = denominator_BK.masked_fill(both_empty_BK, 1.0)
    return ((numerator_BK + smoothing) / (safe_BK + smoothing)).masked_fill(both_empty_BK, 1.0)
