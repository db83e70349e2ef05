"""The supervised segmentation loss L_sup of Eq. 3 and Eq. 5."""

from __future__ import annotations

import torch
from torch.nn import functional


def pixel_loss(logits_BKhw: torch.Tensor, mask_BKhw: torch.Tensor, *, pos_weight: float) -> torch.Tensor:
    """Return binary cross-entropy with logits of each image, shape (B,), the mean over classes and pixels.

    ``mask_BKhw`` is {0, 1} of any dtype; foreground terms are multiplied by ``pos_weight`` (2 in the authors' code).
    Computed in float32 whatever autocast says.
    """
    weight = torch.tensor(pos_weight, device=logits_BKhw.device)
    loss_BKhw = functional.binary_cross_entropy_with_logits(
        logits_BKhw.float(), mask_BKhw.float(), pos_weight=weight, reduction="none"
    )
    return loss_BKhw.flatten(1).mean(dim=1)


def supervised_loss(
    logits_BKhw: torch.Tensor, mask_BKhw: torch.Tensor, *, pos_weight: float, dice_weight: float = 0.0
) -> torch.Tensor:
    """Return L_sup, a scalar: mean BCE-with-logits plus ``dice_weight`` times MONAI's soft Dice (0 in the paper)."""
    loss = pixel_loss(logits_BKhw, mask_BKhw, pos_weight=pos_weight).mean()
    if dice_weight:
        from monai.losses import DiceLoss  # here, because importing MONAI takes seconds

        loss = loss + dice_weight * DiceLoss(sigmoid=True, batch=True)(logits_BKhw.float(), mask_BKhw.float())
    return loss
