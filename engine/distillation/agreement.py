"""What a site's model learns from an unlabelled image: SAM's and its own prediction, pixel by pixel (SAM-Fed).

Our specification (methods.md 2.3, points 4 and 5): no full text and no code of SAM-Fed (arXiv 2511.14302) were found.

Shape legend: B images, K classes, h and w rows and columns of the model's grid. Probabilities are float in (0, 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from engine.models.objective import at_least_float32

EPS = 1e-6
"""Probabilities are kept this far from 0 and 1 where their logit is taken (ours)."""


@dataclass(frozen=True)
class Target:
    """What a pixel is taught: ``label_BKhw`` in [0, 1], and with which ``weight_BKhw`` in [0, 1]; no gradient."""

    label_BKhw: Tensor
    weight_BKhw: Tensor


def confidence(probability: Tensor) -> Tensor:
    """Return max(p, 1 - p), elementwise."""
    return torch.maximum(probability, 1 - probability)


def agree(teacher_BKhw: Tensor, local_BKhw: Tensor, *, threshold: float, soft: bool = False) -> Target:
    """Return what SAM's and the site's own probabilities make of each pixel together.

    Where both say the same (p > 0.5 or not), its label is theirs and its weight 1. Else the label is that of the more
    confident one (SAM's where both are equally so), and the weight that confidence where it is at least ``threshold``,
    else 0. With ``soft`` the label is (c_T p_T + c_c p_c) / (c_T + c_c), the weights are the same.
    """
    teacher, local = at_least_float32(teacher_BKhw), at_least_float32(local_BKhw)
    of_teacher, of_local = confidence(teacher), confidence(local)
    same = (teacher > 0.5) == (local > 0.5)
    surer = torch.maximum(of_teacher, of_local)
    weight = torch.where(same, 1.0, torch.where(surer >= threshold, surer, 0.0))
    if soft:
        return Target((of_teacher * teacher + of_local * local) / (of_teacher + of_local), weight)
    picked = torch.where(of_teacher >= of_local, teacher, local)
    return Target((picked > 0.5).to(weight.dtype), weight)


def own_labels(local_BKhw: Tensor, *, threshold: float | None = None) -> Target:
    """Return the model's own labels: of every pixel with weight 1, or of those of confidence ``threshold`` or more."""
    local = at_least_float32(local_BKhw)
    sure = torch.ones_like(local) if threshold is None else (confidence(local) >= threshold).to(local.dtype)
    return Target((local > 0.5).to(local.dtype), sure)


def target_loss(logits_BKhw: Tensor, target: Target) -> Tensor:
    """Return sum(W BCE) / max(1, sum W) + weighted soft Dice, a scalar; 0 with a gradient of 0 where every W is 0.

    The soft Dice loss is 1 - (2 sum W p y + 1) / (sum W p + sum W y + 1) of each image and class, its mean over those
    that have any weight.
    """
    logits, weight, label = at_least_float32(logits_BKhw), target.weight_BKhw, target.label_BKhw
    entropy = functional.binary_cross_entropy_with_logits(logits, label, reduction="none")
    loss = (weight * entropy).sum() / weight.sum().clamp(min=1.0)
    p = logits.sigmoid()
    overlap_BK = (weight * p * label).flatten(2).sum(dim=2)
    areas_BK = (weight * p).flatten(2).sum(dim=2) + (weight * label).flatten(2).sum(dim=2)
    known_BK = (weight.flatten(2).sum(dim=2) > 0).to(p.dtype)
    dice_BK = 1 - (2 * overlap_BK + 1) / (areas_BK + 1)
    return loss + (known_BK * dice_BK).sum() / known_BK.sum().clamp(min=1.0)


def pixel_divergence(
    taught_BKhw: Tensor, logits_BKhw: Tensor, *, weight_BKhw: Tensor | None = None, temperature: float = 1.0
) -> Tensor:
    """Return T^2 times the weighted mean of the Bernoulli KL(p_taught || p) over pixels, a scalar; both are logits.

    The mean is sum(W KL) / max(1, sum W); every pixel weighs 1 without weights. No gradient runs into ``taught_BKhw``.
    """
    taught = at_least_float32(taught_BKhw).detach() / temperature
    logits = at_least_float32(logits_BKhw) / temperature
    log_sigmoid = functional.logsigmoid
    divergence = taught.sigmoid() * (log_sigmoid(taught) - log_sigmoid(logits)) + (-taught).sigmoid() * (
        log_sigmoid(-taught) - log_sigmoid(-logits)
    )
    weight = torch.ones_like(divergence) if weight_BKhw is None else weight_BKhw
    return temperature**2 * (weight * divergence).sum() / weight.sum().clamp(min=1.0)


def resized_logits(logits_BKhw: Tensor, grid_px: int) -> Tensor:
    """Return logits on another square grid: the probabilities are resized, bilinear, and their logits taken."""
    if logits_BKhw.shape[-1] == grid_px:
        return logits_BKhw
    probability = at_least_float32(logits_BKhw).sigmoid()
    resized = functional.interpolate(probability, size=(grid_px, grid_px), mode="bilinear", align_corners=False)
    return torch.logit(resized, eps=EPS)


def ramp(round_number: int, *, rounds: int) -> float:
    """Return exp(-5 (1 - t)^2) with t = min(1, round / rounds), the sigmoid ramp-up (Laine & Aila 2017); 1 without."""
    if rounds == 0:
        return 1.0
    t = min(1.0, round_number / rounds)
    return float(torch.exp(torch.tensor(-5.0 * (1.0 - t) ** 2, dtype=torch.float64)))
