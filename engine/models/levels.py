"""Deep supervision: logits at several resolutions, and one loss of all of them. Models without it have one level."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.nn import functional

from engine.models.objective import supervised_loss
from engine.models.plain_unet import PlainUNet


def forward_levels(model: nn.Module, image_B3HW: Tensor) -> tuple[Tensor, ...]:
    """Return the logits (B, K, h, w) that ``model`` is trained on, the finest first; in eval mode that one alone."""
    if isinstance(model, PlainUNet) and model.training:
        return model.forward_levels(image_B3HW)
    return (model(image_B3HW),)


def on_one_grid(first_BKHW: Tensor, second_BKHW: Tensor) -> tuple[Tensor, Tensor]:
    """Return both logits on the coarser grid of the two, as means over its cells (ours); as they are where equal."""
    side = min(first_BKHW.shape[-1], second_BKHW.shape[-1])
    first, second = (
        logits if logits.shape[-1] == side else functional.adaptive_avg_pool2d(logits, side)
        for logits in (first_BKHW, second_BKHW)
    )
    return first, second


def level_weights(num_levels: int) -> tuple[float, ...]:
    """Return nnU-Net's weights: each level half of the finer one's, 1 in all. Four: 8/15, 4/15, 2/15, 1/15."""
    halves = [0.5**level for level in range(num_levels)]
    return tuple(half / sum(halves) for half in halves)


def levels_loss(
    levels: Sequence[Tensor], mask_on: Callable[[int], Tensor], *, pos_weight: float, dice_weight: float
) -> Tensor:
    """Return the weighted sum of L_sup over ``levels``; ``mask_on(side)`` is the mask (B, K, side, side)."""
    losses = [
        supervised_loss(logits, mask_on(logits.shape[-1]), pos_weight=pos_weight, dice_weight=dice_weight)
        for logits in levels
    ]
    if len(losses) == 1:
        return losses[0]
    weights = level_weights(len(losses))
    return sum((weight * loss for weight, loss in zip(weights[1:], losses[1:], strict=True)), weights[0] * losses[0])
