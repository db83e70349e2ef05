"""Overlap and distance measures of binary masks, one value an image and class.

Shape legend: B images, K classes, h and w the side of the scored grid in pixels.
"""

from __future__ import annotations

import math
import warnings

import torch
from monai.metrics import compute_hausdorff_distance
from torch import Tensor

LOGIT_THRESHOLDS = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Where the authors' code cuts: raw logits, i.e. probabilities .525 .574 .622 .668 .711 (``sam_utils.py:1070``)."""
DICE_SMOOTHING = 1e-4
IOU_SMOOTHING = 1e-6


def dice(predicted_BKhw: Tensor, true_BKhw: Tensor, *, smoothing: float = 0.0) -> Tensor:
    """Return Dice (B, K), float64 in [0, 1], of boolean masks: (2 |P and G| + s) / (|P| + |G| + s); both empty is 1."""
    overlap_BK, sizes_BK = _overlap_and_sizes(predicted_BKhw, true_BKhw)
    return _ratio(2 * overlap_BK, sizes_BK, smoothing=smoothing)


def iou(predicted_BKhw: Tensor, true_BKhw: Tensor, *, smoothing: float = 0.0) -> Tensor:
    """Return intersection over union (B, K), float64 in [0, 1], of boolean masks; both empty is 1."""
    overlap_BK, sizes_BK = _overlap_and_sizes(predicted_BKhw, true_BKhw)
    return _ratio(overlap_BK, sizes_BK - overlap_BK, smoothing=smoothing)


def dice_five_thresholds(logits_BKhw: Tensor, true_BKhw: Tensor) -> Tensor:
    """Return (B, K), float64: Dice as in the authors' code, the mean over five cuts of the raw logits (methods 1.7)."""
    cuts = [dice(logits_BKhw > cut, true_BKhw, smoothing=DICE_SMOOTHING) for cut in LOGIT_THRESHOLDS]
    return torch.stack(cuts).mean(dim=0)


def iou_five_thresholds(logits_BKhw: Tensor, true_BKhw: Tensor) -> Tensor:
    """Return (B, K), float64: IoU as in the authors' code, the mean over five cuts of the raw logits (methods 1.7)."""
    cuts = [iou(logits_BKhw > cut, true_BKhw, smoothing=IOU_SMOOTHING) for cut in LOGIT_THRESHOLDS]
    return torch.stack(cuts).mean(dim=0)


def hd95_px(predicted_BKhw: Tensor, true_BKhw: Tensor) -> list[list[float | None]]:
    """Return the symmetric 95 % Hausdorff distance between mask outlines, in pixels of the grid, as B lists of K.

    MONAI's ``compute_hausdorff_distance(percentile=95)``. None where either mask is empty: no distance exists there.
    """
    with warnings.catch_warnings():
        # MONAI warns about every empty mask, here an expected case with its own value, and about its own calls.
        warnings.simplefilter("ignore", FutureWarning)
        warnings.filterwarnings("ignore", message=".*(all 0|nan/inf).*")
        distance_BK = compute_hausdorff_distance(
            predicted_BKhw.cpu().float(), true_BKhw.cpu().float(), include_background=True, percentile=95
        )
    return [[value if math.isfinite(value) else None for value in row] for row in distance_BK.tolist()]


def _overlap_and_sizes(predicted_BKhw: Tensor, true_BKhw: Tensor) -> tuple[Tensor, Tensor]:
    """Return pixel counts (B, K) of the intersection, and of both masks together, in float64 (exact)."""
    overlap_BK = (predicted_BKhw & true_BKhw).sum(dim=(2, 3))
    sizes_BK = predicted_BKhw.sum(dim=(2, 3)) + true_BKhw.sum(dim=(2, 3))
    return overlap_BK.cpu().double(), sizes_BK.cpu().double()


def _ratio(numerator_BK: Tensor, denominator_BK: Tensor, *, smoothing: float) -> Tensor:
    """Return (a + s) / (b + s), and 1 where b is zero: two empty masks agree."""
    both_empty_BK = denominator_BK == 0
    safe_BK = denominator_BK.masked_fill(both_empty_BK, 1.0)
    return ((numerator_BK + smoothing) / (safe_BK + smoothing)).masked_fill(both_empty_BK, 1.0)
