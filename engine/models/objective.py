"""The supervised segmentation loss L_sup of Eq. 3 and Eq. 5."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional


@dataclass(frozen=True)
class Objective:
    """The weights of L_sup: foreground pixels in BCE, and the soft Dice term (0 in the paper)."""

    pos_weight: float = 2.0
    dice_weight: float = 0.0


def at_least_float32(values: torch.Tensor) -> torch.Tensor:
    """Return ``values`` in float32, or in float64 where they are so already: losses are not taken in half precision."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def pixel_loss(logits_BKhw: torch.Tensor, mask_BKhw: torch.Tensor, *, pos_weight: float) -> torch.Tensor:
    """Return binary cross-entropy with logits of each image, shape (B,), the mean over classes and pixels.

    ``mask_BKhw`` is {0, 1} of any dtype; foreground terms are multiplied by ``pos_weight`` (2 in the authors' code).
    Computed in float32 at least, whatever autocast says.
    """
    logits_BKhw = at_least_float32(logits_BKhw)
    weight = logits_BKhw.new_tensor(pos_weight)
    loss_BKhw = functional.binary_cross_entropy_with_logits(
        logits_BKhw, mask_BKhw.to(logits_BKhw.dtype), pos_weight=weight, reduction="none"
    )
    return loss_BKhw.flatten(1).mean(dim=1)


def supervised_loss(
    logits_BKhw: torch.Tensor, mask_BKhw: torch.Tensor, *, pos_weight: float, dice_weight: float = 0.0
) -> torch.Tensor:
    """Return L_sup, a scalar: mean BCE-with-logits plus ``dice_weight`` times MONAI's soft Dice (0 in the paper)."""
    loss = pixel_loss(logits_BKhw, mask_BKhw, pos_weight=pos_weight).mean()
    if dice_weight:
        from monai.losses import DiceLoss  # here, because importing MONAI takes seconds

        logits_BKhw = at_least_float32(logits_BKhw)
        loss = loss + dice_weight * DiceLoss(sigmoid=True, batch=True)(logits_BKhw, mask_BKhw.to(logits_BKhw.dtype))
    return loss
