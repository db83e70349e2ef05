"""The terms of a sample's learnability (Eq. 7) and the table that remembers them over the epochs.

A sample is worth training on where SAM is reliable (small L_GT) and the two models still dispute it (large L_KL);
``engine.distillation.choice`` has Eq. 6.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.distillation.choice import Scaling, learnability, ranks_of
from engine.distillation.losses import symmetric_kl
from engine.models.objective import pixel_loss
from engine.types import SampleScore


@dataclass(frozen=True)
class SampleTerms:
    """The two terms of Eq. 7 for the images of a batch; float64 numpy, shape (B,)."""

    l_gt: np.ndarray
    """L_GT: SAM's pixel loss against the mask (BCE, without the Dice term that it may train with), >= 0."""
    l_kl: np.ndarray
    """L_KL: symmetric KL between SAM and TinySAM, >= 0. Like L_GT a mean over classes and pixels."""


def sample_terms(
    teacher_BKhw: Tensor, student_BKhw: Tensor, mask_BKhw: Tensor, *, pos_weight: float, temperature: float
) -> SampleTerms:
    """Return L_GT and L_KL (Eq. 7) of each image from both models' logits; no gradient."""
    with torch.no_grad():
        l_gt = pixel_loss(teacher_BKhw.detach(), mask_BKhw, pos_weight=pos_weight)
        l_kl = symmetric_kl(teacher_BKhw.detach(), student_BKhw.detach(), temperature=temperature)
    return SampleTerms(l_gt.double().cpu().numpy(), l_kl.double().cpu().numpy())


class ScoreTable:
    """L_GT and L_KL of every sample of the pool, with the epoch that each was last computed for (-1: not yet)."""

    def __init__(self, sample_ids: Sequence[str]) -> None:
        self.sample_ids = tuple(sample_ids)
        self.l_gt, self.l_kl = np.zeros(len(sample_ids)), np.zeros(len(sample_ids))
        self.scored_epoch = np.full(len(sample_ids), -1, dtype=np.int64)

    def update(self, indices: np.ndarray, terms: SampleTerms, *, epoch: int) -> None:
        """Replace the terms of the samples at ``indices`` (B,) by those computed for ``epoch``."""
        self.l_gt[indices] = terms.l_gt
        self.l_kl[indices] = terms.l_kl
        self.scored_epoch[indices] = epoch

    def scores(self, *, weight: float, scaling: Scaling) -> np.ndarray:
        """Return Eq. 6 for the whole pool, (N,)."""
        return learnability(self.l_gt, self.l_kl, weight=weight, scaling=scaling)

    def records(self, scores: np.ndarray, selected: np.ndarray, *, epoch: int) -> list[SampleScore]:
        """Return one stored record a sample; rank 1 is the most learnable, ties in pool order."""
        ranks = ranks_of(scores)
        chosen = np.zeros(len(scores), dtype=bool)
        chosen[selected] = True
        return [
            SampleScore(
                sample_id=sample_id,
                epoch=epoch,
                l_gt=float(self.l_gt[i]),
                l_kl=float(self.l_kl[i]),
                score=float(scores[i]),
                rank=int(ranks[i]),
                selected=bool(chosen[i]),
                fresh=bool(self.scored_epoch[i] == epoch),
            )
            for i, sample_id in enumerate(self.sample_ids)
        ]

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a checkpoint has to keep."""
        return {"l_gt": self.l_gt.copy(), "l_kl": self.l_kl.copy(), "scored_epoch": self.scored_epoch.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state made by :meth:`state_dict`."""
        self.l_gt, self.l_kl = np.array(state["l_gt"]), np.array(state["l_kl"])
        self.scored_epoch = np.array(state["scored_epoch"])
