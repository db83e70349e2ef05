"""Eq. 7 for the whole pool before every choice: both models as they are then, in eval mode, on plain images.

``exact`` runs both models in full. ``reuse`` saves most of the dear part, SAM's image encoder: its features of the pool
are kept, ``refresh_fraction`` of them are renewed before each choice, oldest first, and both decoders and all of
TinySAM run on every sample. Older scores are of no use: on phantoms, exact scores of two epochs in a row rank the pool
alike by 0.6 only (Spearman), for what was trained on is disputed less afterwards. SAM's features change slowly: with
15 % of them renewed each time the ranks agree by more than 0.9 (``python -m bench.scoring``).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.config import RunConfig
from engine.data.transforms import mask_to_grid
from engine.distillation.features import Images, KeptFeatures, encoder_is_frozen, features_fit
from engine.distillation.learnability import SampleTerms, sample_terms
from engine.models.execution import autocast, place_images, place_masks
from engine.models.levels import on_one_grid
from engine.models.segmenter import Segmenter

BATCHES_AT_ONCE = 2
"""A pass without gradients holds that many training batches (ours)."""


class PoolScorer:
    """Scores ``pool`` with ``teacher`` and ``student`` as they are at each call.

    ``fixed_features``, where training has them, are taken as they are: those of a frozen encoder never age.
    """

    def __init__(
        self,
        *,
        teacher: torch.nn.Module,
        student: torch.nn.Module,
        pool: Images,
        config: RunConfig,
        grid_px: int,
        device: torch.device,
        fixed_features: KeptFeatures | None,
    ) -> None:
        self.teacher, self.student, self.pool, self.config = teacher, student, pool, config
        self.grid_px, self.device = grid_px, device
        self.batch_size = BATCHES_AT_ONCE * config.distillation.batch_size
        self.features = fixed_features
        self.feature_epoch = np.full(len(pool), -1, dtype=np.int64)
        """Epoch of the encoder behind each sample's kept features; -1 where there are none."""

    def score(self, *, epoch: int, on_batch: Callable[[], None]) -> SampleTerms:
        """Return L_GT and L_KL of every sample, in pool order; ``epoch`` is the one that is about to begin."""
        self.teacher.eval()
        self.student.eval()
        self._renew_features(epoch, on_batch=on_batch)
        parts = []
        for start in range(0, len(self.pool), self.batch_size):
            on_batch()
            parts.append(self._score_batch(np.arange(start, min(start + self.batch_size, len(self.pool)))))
        return SampleTerms(np.concatenate([p.l_gt for p in parts]), np.concatenate([p.l_kl for p in parts]))

    def _renew_features(self, epoch: int, *, on_batch: Callable[[], None]) -> None:
        part, count = self.config.distillation, len(self.pool)
        if self.features is None:
            fit = features_fit(self.teacher, num_images=count, image_px=self.config.data.image_px)
            if part.scoring == "exact" or not fit:
                return
            self.features = self._keep(on_batch=on_batch)
            self.feature_epoch[:] = epoch
        elif not encoder_is_frozen(self.teacher):
            oldest = np.argsort(self.feature_epoch, kind="stable")[: math.ceil(part.refresh_fraction * count)]
            self.features.renew(np.sort(oldest), on_batch=on_batch)
            self.feature_epoch[oldest] = epoch

    def _keep(self, *, on_batch: Callable[[], None], values_NChw: Tensor | None = None) -> KeptFeatures:
        assert isinstance(self.teacher, Segmenter), "features_fit holds for no other model"
        return KeptFeatures(
            self.teacher,
            self.pool,
            batch_size=self.batch_size,
            device=self.device,
            precision=self.config.precision,
            on_batch=on_batch,
            values_NChw=values_NChw,
        )

    @torch.no_grad()
    def _score_batch(self, indices: np.ndarray) -> SampleTerms:
        image, mask = self.pool.batch(indices)
        image_B3HW = place_images(image, self.device)
        with autocast(self.device, self.config.precision):
            if self.features is None:
                teacher_logits = self.teacher(image_B3HW)
            else:
                teacher_logits = self.teacher.decode(self.features.batch(indices))
            teacher_logits, student_logits = on_one_grid(teacher_logits, self.student(image_B3HW))
        return sample_terms(
            teacher_logits,
            student_logits,
            place_masks(mask_to_grid(mask, teacher_logits.shape[-1]), self.device),
            pos_weight=self.config.pos_weight,
            temperature=self.config.distillation.temperature,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed stage cannot work out again: the features of encoders that are no more."""
        can_age = not encoder_is_frozen(self.teacher)
        values = self.features.values_NChw if self.features is not None and can_age else None
        return {"features": values, "feature_epoch": self.feature_epoch.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state made by :meth:`state_dict`."""
        self.feature_epoch = np.array(state["feature_epoch"])
        if state["features"] is not None:
            self.features = self._keep(on_batch=lambda: None, values_NChw=state["features"])
