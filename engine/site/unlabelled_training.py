"""A site's local training without labels: the public set, and its own images by what SAM and its model say of them.

SAM-Fed, our specification (methods.md 2.3): L = L_sup(public) + a_u L_unl + a_s L_SAM + a_f L_fed.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from engine.config import RunConfig
from engine.data.augmentation import Change, move
from engine.data.imagesets import ImageSet
from engine.data.transforms import mask_to_grid
from engine.data.views import two_views
from engine.distillation.agreement import (
    Target,
    agree,
    own_labels,
    pixel_divergence,
    ramp,
    resized_logits,
    target_loss,
)
from engine.models.execution import Placement
from engine.models.levels import forward_levels, levels_loss
from engine.models.randomness import named_randomness
from engine.seeding import numpy_generator
from engine.site.local_training import not_finite
from engine.site.optimiser_files import load_optimiser, save_optimiser


def public_loss(
    model: nn.Module, image_B3HW: np.ndarray, mask_BKHW: np.ndarray, *, config: RunConfig, placement: Placement
) -> tuple[Tensor, Tensor]:
    """Return L_sup of labelled images (over all levels of a model with deep supervision) and logits_BKhw float32."""
    with placement.autocast():
        levels = forward_levels(model, placement.batch(image_B3HW))
    levels = tuple(logits.float() for logits in levels)

    def mask_on(side_px: int) -> Tensor:
        return torch.from_numpy(mask_to_grid(mask_BKHW, side_px)).to(placement.device)

    loss = levels_loss(levels, mask_on, pos_weight=config.pos_weight, dice_weight=config.dice_weight)
    return loss, levels[0]


@dataclass(frozen=True, kw_only=True)
class UnlabelledTraining:
    """One site's round. ``teacher`` are SAM's logits (N, K, h, w) of the plain images; None where it teaches nothing.

    The order of the images, their views and the public batches are the streams ("unlabelled", site, round, epoch);
    dropout draws from ("unlabelled", site, round, "torch"). So a round that is run again gives the same weights.
    """

    images: ImageSet
    public: ImageSet
    teacher: np.ndarray | None
    config: RunConfig
    site: str
    round_number: int
    placement: Placement
    check_cancelled: Callable[[], None]
    on_step: Callable[[int, int], None] = field(default=lambda _done, _total: None)

    def run(self, model: nn.Module, *, state_dir: Path) -> float:
        """Train ``model``, which has the weights to begin with, for the local epochs; return the mean loss of a step.

        AdamW's state is read from ``state_dir`` (the newest from before this round) and written there at the end.
        Raises ``UserError`` ``federation.loss_not_finite``.
        """
        part = self.config.federation
        # What the model was when the round began teaches it: the model of all sites, where sites share one.
        received = copy.deepcopy(model).eval().requires_grad_(False) if self.config.samfed.global_weight else None
        decay = self.config.public.weight_decay
        optimiser = torch.optim.AdamW(model.parameters(), lr=part.learning_rate, weight_decay=decay)
        load_optimiser(optimiser, model=model, folder=state_dir, round_number=self.round_number)
        total = part.local_epochs * math.ceil(len(self.images) / part.batch_size)
        names = ("unlabelled", self.site, self.round_number)
        summed, step = 0.0, 0
        with named_randomness(self.config.seed, *names, "torch", device=self.placement.device):
            for epoch in range(part.local_epochs):
                rng = numpy_generator(self.config.seed, *names, epoch)
                for indices, public in self._batches(rng):
                    self.check_cancelled()
                    step += 1
                    optimiser.zero_grad(set_to_none=True)
                    loss = self.loss(model, indices, public=public, received=received, rng=rng)
                    value = float(loss.detach())
                    if not math.isfinite(value):
                        raise not_finite(value, site=self.site, round_number=self.round_number, step=step)
                    loss.backward()
                    optimiser.step()
                    summed += value
                    self.on_step(step, total)
        save_optimiser(optimiser, model=model, folder=state_dir, round_number=self.round_number)
        return summed / total

    def loss(
        self,
        model: nn.Module,
        indices: np.ndarray,
        *,
        public: np.ndarray,
        received: nn.Module | None,
        rng: np.random.Generator,
    ) -> Tensor:
        """Return L of a batch of the site's images and one of the public set; ``rng`` draws the views."""
        semi = self.config.samfed
        public_image, public_mask = self.public.batch(public, rng=rng)
        weak, strong, changes = two_views(self.images, indices, rng=rng, noise=semi.noise)
        weak_logits = self._forward(model.eval(), weak, grad=False)
        model.train()
        logits = self._forward(model, strong)
        grid_px = logits.shape[-1]
        teacher = self._teacher(indices, changes, grid_px=grid_px)
        target = self._target(weak_logits, teacher, indices, changes)
        loss = public_loss(model, public_image, public_mask, config=self.config, placement=self.placement)[0]
        growing = ramp(self.round_number, rounds=semi.ramp_rounds)
        loss = loss + semi.unlabelled_weight * growing * target_loss(logits, target)
        warmth = semi.temperature
        if semi.teacher_weight and teacher is not None:
            told = pixel_divergence(teacher, logits, weight_BKhw=target.weight_BKhw, temperature=warmth)
            loss = loss + semi.teacher_weight * told
        if received is not None:
            before = self._forward(received, weak, grad=False)
            loss = loss + semi.global_weight * pixel_divergence(before, logits, temperature=warmth)
        return loss

    def _target(
        self, weak_BKhw: Tensor, teacher_BKhw: Tensor | None, indices: np.ndarray, changes: list[Change]
    ) -> Target:
        semi, local = self.config.samfed, weak_BKhw.sigmoid()
        if semi.pseudo_labels == "truth":
            masks = [move(self.images.read_mask(int(i)), change) for i, change in zip(indices, changes, strict=True)]
            label = torch.from_numpy(mask_to_grid(np.stack(masks), weak_BKhw.shape[-1])).to(local)
            return Target(label, torch.ones_like(label))
        if semi.pseudo_labels in ("own", "confident"):
            return own_labels(local, threshold=semi.threshold if semi.pseudo_labels == "confident" else None)
        assert teacher_BKhw is not None
        soft = semi.pseudo_labels == "soft"
        return agree(teacher_BKhw.sigmoid(), local, threshold=semi.threshold, soft=soft)

    def _teacher(self, indices: np.ndarray, changes: list[Change], *, grid_px: int) -> Tensor | None:
        """Return SAM's logits of the views, on the model's grid: those of the plain images, moved as these were."""
        if self.teacher is None:
            return None
        moved = [
            np.ascontiguousarray(move(self.teacher[int(i)], change)) for i, change in zip(indices, changes, strict=True)
        ]
        logits = torch.from_numpy(np.stack(moved)).float().to(self.placement.device)
        return resized_logits(logits, grid_px)

    def _forward(self, model: nn.Module, image_B3HW: np.ndarray, *, grad: bool = True) -> Tensor:
        with torch.set_grad_enabled(grad), self.placement.autocast():
            return model(self.placement.batch(image_B3HW)).float()

    def _batches(self, rng: np.random.Generator) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the indices of each batch, and of a public batch of the same size beside it, round and round."""
        size = self.config.federation.batch_size
        order = rng.permutation(len(self.images))
        rounds = -(-len(order) // len(self.public)) + 1
        beside = np.concatenate([rng.permutation(len(self.public)) for _ in range(rounds)])
        for start in range(0, len(order), size):
            indices = order[start : start + size]
            yield indices, beside[start : start + len(indices)]
