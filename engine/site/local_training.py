"""What a site does with the student in a round: local epochs on its own images (Eq. 3), and its own validation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from engine.config import FederationConfig
from engine.data.transforms import mask_to_grid
from engine.errors import UserError
from engine.models.execution import Placement
from engine.models.levels import forward_levels, levels_loss
from engine.models.objective import Objective
from engine.models.randomness import named_randomness
from engine.seeding import numpy_generator
from engine.site.optimiser_files import load_optimiser, save_optimiser

ADAM_BETAS = (0.9, 0.999)
"""[C FL:417-421]"""
_DICE_SMOOTH = 1e-4
"""The authors' smoothing: an empty prediction of an empty mask scores 1 [C sam_utils.py:501-538]."""


class ImageSource(Protocol):
    """The part of ``engine.data.datasets.ImageSet`` that training needs."""

    def __len__(self) -> int:
        """Return the number of images."""

    def batch(self, indices: np.ndarray, *, rng: np.random.Generator | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return (image_B3HW float32 in [0, 1], mask_BKHW uint8), augmented only when ``rng`` is given."""

    def content(self, indices: np.ndarray) -> np.ndarray:
        """Return where the images are picture and not padding, uint8 (B, 1, H, W) in {0, 1}."""


@dataclass(frozen=True)
class ValidationScore:
    """A model on a site's validation images: mean Dice at probability 0.5 and mean L_sup, both over images."""

    dice: float
    loss: float


OnStep = Callable[[int, int], None]


def train_site(
    model: nn.Module,
    image_set: ImageSource,
    *,
    config: FederationConfig,
    objective: Objective,
    seed: int,
    site: str,
    round_number: int,
    state_dir: Path,
    placement: Placement,
    check_cancelled: Callable[[], None],
    on_step: OnStep | None = None,
) -> float:
    """Run ``config.local_epochs`` of Adam on L_sup (Eq. 3) and return the mean loss over images and epochs.

    ``model`` comes with the weights that the site received. With ``config.proximal_mu`` what is minimised has
    mu/2 |theta - theta_received|^2 beside L_sup (FedProx, Li et al. 2020, arXiv 1812.06127); the loss told is L_sup.

    The batch order is the stream ("federation", site, round, epoch) and dropout draws from ("federation", site,
    round, "torch"), so a round that is run again, in another process or after a kill, gives the same weights. Adam's
    state is read from ``state_dir`` (the newest from before this round) and written there at the end.
    ``on_step(step, total)`` is told each step of the round, after ``check_cancelled``.

    Raises
    ------
    UserError
        ``federation.loss_not_finite``, with site, round and step.
    """
    optimiser = torch.optim.Adam(model.parameters(), lr=config.learning_rate, betas=ADAM_BETAS)
    load_optimiser(optimiser, model=model, folder=state_dir, round_number=round_number)
    total_steps = config.local_epochs * math.ceil(len(image_set) / config.batch_size)
    summed = 0.0
    received = [parameter.detach().clone() for parameter in model.parameters() if config.proximal_mu]
    model.train()
    stream = ("federation", site, round_number)
    with named_randomness(seed, *stream, "torch", device=placement.device):
        batches = drawn_batches(
            image_set, epochs=config.local_epochs, batch_size=config.batch_size, seed=seed, stream=stream
        )
        for step, (image_B3HW, mask_BKHW) in enumerate(batches, start=1):
            check_cancelled()
            optimiser.zero_grad(set_to_none=True)
            loss = _loss(model, image_B3HW, mask_BKHW=mask_BKHW, objective=objective, placement=placement)[0]
            value = float(loss.detach())
            if not math.isfinite(value):
                raise not_finite(value, site=site, round_number=round_number, step=step)
            loss.backward()
            if config.proximal_mu:
                _add_proximal_gradient(model, received, mu=config.proximal_mu)
            optimiser.step()
            summed += value * len(image_B3HW)
            if on_step is not None:
                on_step(step, total_steps)
    save_optimiser(optimiser, model=model, folder=state_dir, round_number=round_number)
    return summed / (len(image_set) * config.local_epochs)


@torch.no_grad()
def evaluate_site(
    model: nn.Module,
    image_set: ImageSource,
    *,
    batch_size: int,
    objective: Objective,
    placement: Placement,
    check_cancelled: Callable[[], None],
) -> ValidationScore | None:
    """Return Dice at p = 0.5 on the decoder's grid (mean over classes, then images) and L_sup; None without images.

    Dice is of the picture alone; L_sup is training's, padding included.
    """
    model.eval()
    dice: list[Tensor] = []
    summed = 0.0
    for start in range(0, len(image_set), batch_size):
        check_cancelled()
        indices = np.arange(start, min(start + batch_size, len(image_set)))
        image_B3HW, mask_BKHW = image_set.batch(indices)
        loss, logits_BKhw, mask_BKhw = _loss(
            model, image_B3HW, mask_BKHW=mask_BKHW, objective=objective, placement=placement
        )
        summed += float(loss) * len(image_B3HW)
        content_B1hw = torch.from_numpy(mask_to_grid(image_set.content(indices), logits_BKhw.shape[-1])) > 0
        content_B1hw = content_B1hw.to(logits_BKhw.device)
        dice.append(_dice_per_image((logits_BKhw > 0) & content_B1hw, mask_BKhw > 0).cpu())
    if not dice:
        return None
    return ValidationScore(float(torch.cat(dice).mean()), summed / len(image_set))


def drawn_batches(
    image_set: ImageSource, *, epochs: int, batch_size: int, seed: int, stream: tuple[str | int, ...]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (image_B3HW, mask_BKHW) of all images in each epoch, in the order of the stream (*stream, epoch)."""
    for epoch in range(epochs):
        rng = numpy_generator(seed, *stream, epoch)
        order = rng.permutation(len(image_set))
        for start in range(0, len(order), batch_size):
            yield image_set.batch(order[start : start + batch_size], rng=rng)


def _loss(
    model: nn.Module, image_B3HW: np.ndarray, *, mask_BKHW: np.ndarray, objective: Objective, placement: Placement
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (L_sup, logits_BKhw, mask_BKhw on their grid); L_sup of all levels of a model with deep supervision."""

    def mask_on(side_px: int) -> Tensor:
        return torch.from_numpy(mask_to_grid(mask_BKHW, side_px)).to(placement.device)

    with placement.autocast():
        levels = [logits_BKhw.float() for logits_BKhw in forward_levels(model, placement.batch(image_B3HW))]
    loss = levels_loss(levels, mask_on, pos_weight=objective.pos_weight, dice_weight=objective.dice_weight)
    return loss, levels[0], mask_on(levels[0].shape[-1])


@torch.no_grad()
def _add_proximal_gradient(model: nn.Module, received: list[Tensor], *, mu: float) -> None:
    """Add mu (theta - theta_received), the gradient of FedProx's term mu/2 |theta - theta_received|^2."""
    for parameter, start in zip(model.parameters(), received, strict=True):
        if parameter.grad is not None:  # one that has no gradient stays where it was
            parameter.grad.add_(parameter - start, alpha=mu)


def _dice_per_image(predicted_BKhw: Tensor, mask_BKhw: Tensor) -> Tensor:
    overlap_BK = (predicted_BKhw & mask_BKhw).flatten(2).sum(dim=2, dtype=torch.float64)
    areas_BK = predicted_BKhw.flatten(2).sum(dim=2) + mask_BKhw.flatten(2).sum(dim=2)
    return ((2 * overlap_BK + _DICE_SMOOTH) / (areas_BK + _DICE_SMOOTH)).mean(dim=1)


def not_finite(value: float, *, site: str, round_number: int, step: int) -> UserError:
    """Return the error of a loss that is no number."""
    return UserError(
        "federation.loss_not_finite",
        what=f"The loss at site {site} is {value} in round {round_number}, step {step}.",
        why="Weights trained on it would spoil the model of all sites.",
        fix="Lower federation.learning_rate, or use precision fp32; then look at that site's images.",
    )
