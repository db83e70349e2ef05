"""A second decoder for a finished student, which answers clicks. The student itself stays as it is.

The paper's student is trained without prompts: a click says nothing to it. Here a copy of its decoder and prompt
encoder learns, on features of the student's frozen encoder, from clicks on what the student gets wrong on synthetic
pairs and clicks on what is to go (ours; after SAM, arXiv 2304.02643, and RITM, arXiv 2102.06583). No site is
asked.

Shape legend: B images, K classes, C features, h = w the decoder's grid.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from engine.data.transforms import mask_to_grid
from engine.distillation.features import Images
from engine.distillation.simulated_prompts import simulate
from engine.errors import UserError
from engine.models.execution import Precision, autocast
from engine.models.objective import supervised_loss
from engine.models.segmenter import Segmenter
from engine.seeding import numpy_generator

BATCH, LEARNING_RATE = 8, 1e-3
MOST_IMAGES = 400
"""Synthetic pairs that are learnt from, evenly from all of them (ours): their features are in memory."""
NEAR_WEIGHT = 3.0
"""Of what is around the prompts, in the loss (ours)."""
FALLING_SHARE = 0.4
"""Of the steps, at the end, over which the step size falls to a twentieth (ours)."""


@dataclass(frozen=True)
class Teaching:
    """How a decoder learns to answer prompts."""

    steps: int
    seed: int
    pos_weight: float
    dice_weight: float
    device: torch.device
    precision: Precision
    on_step: Callable[[int], None] = lambda step: None
    """Is told each step before it is taken, and may raise."""


def teach_prompts(student: Segmenter, pairs: Images, teaching: Teaching) -> Segmenter:
    """Return a copy of ``student``, in eval mode, whose decoder answers prompts; its encoder is the student's.

    Equal arguments give equal weights on one machine; the process's own random state is neither read nor changed.
    Raises ``UserError`` ``training.nan``.
    """
    model = copy.deepcopy(student).to(teaching.device).eval()
    model.image_encoder.requires_grad_(False)
    count = min(MOST_IMAGES, len(pairs))
    chosen = np.arange(count) * len(pairs) // count
    features, logits, masks = _answers(model, pairs, chosen, teaching)
    learning = [p for part in (model.prompt_encoder, model.mask_decoder, model.seg1) if part for p in part.parameters()]
    for parameter in learning:
        parameter.requires_grad_(True)
    optimiser = torch.optim.Adam(learning, lr=LEARNING_RATE)
    for step in range(teaching.steps):
        teaching.on_step(step)
        left = (teaching.steps - step) / (FALLING_SHARE * teaching.steps)
        for group in optimiser.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, max(0.05, left))
        rng = numpy_generator(teaching.seed, "prompts", step)
        rows = rng.choice(count, size=min(BATCH, count), replace=False)
        simulated = simulate(logits[rows], masks[rows], stride=model.mask_stride, rng=rng)
        prompts, target_B1hw = simulated.prompts.to(teaching.device), simulated.target_B1hw.to(teaching.device)
        with autocast(teaching.device, teaching.precision):
            answered_BKhw = model.decode(features[rows].to(teaching.device, torch.float32), prompts=prompts).float()
        answered_B1hw = answered_BKhw[torch.arange(len(rows)), simulated.class_B.to(teaching.device)][:, None]
        loss = supervised_loss(
            answered_B1hw, target_B1hw, pos_weight=teaching.pos_weight, dice_weight=teaching.dice_weight
        ) + NEAR_WEIGHT * _near(answered_B1hw, target_B1hw, simulated.near_B1hw.to(teaching.device))
        if not bool(torch.isfinite(loss.detach())):
            raise UserError(
                "training.nan",
                what=f"The loss of the decoder that takes prompts is not a number at step {step + 1}.",
                why="Weights updated by such a loss would be lost for good.",
                fix="Fork the run with export.prompt_steps = 0, or with precision 'fp32'.",
            )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    return model.requires_grad_(False)


def _answers(
    model: Segmenter, pairs: Images, chosen: np.ndarray, teaching: Teaching
) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """Return features (N, C, h', w'), logits without prompts and masks (N, K, h, w) of the chosen pairs."""
    features, logits, masks = [], [], []
    with torch.no_grad(), autocast(teaching.device, teaching.precision):
        for start in range(0, len(chosen), BATCH):
            teaching.on_step(0)
            image_B3HW, mask_BKHW = pairs.batch(chosen[start : start + BATCH])
            features_BChw = model.encode(torch.from_numpy(image_B3HW).to(teaching.device))
            logits.append(model.decode(features_BChw).float().cpu().numpy())
            features.append(features_BChw.to("cpu", torch.float16))
            masks.append(mask_to_grid(mask_BKHW, logits[-1].shape[-1]))
    return torch.cat(features), np.concatenate(logits), np.concatenate(masks)


def _near(logits_B1hw: Tensor, target_B1hw: Tensor, near_B1hw: Tensor) -> Tensor:
    """Return the mean loss of the pixels around the prompts: one of eighty nuclei is a small part of an image."""
    loss_B1hw = functional.binary_cross_entropy_with_logits(logits_B1hw, target_B1hw, reduction="none")
    weight_B1hw = near_B1hw.to(loss_B1hw.dtype)
    sums_B = (loss_B1hw * weight_B1hw).flatten(1).sum(dim=1)
    return (sums_B / weight_B1hw.flatten(1).sum(dim=1).clamp(min=1)).mean()
