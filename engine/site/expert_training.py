"""Decoupled global-local fine-tuning at a site, its second step (pFedSAM, our specification): the experts learn.

What the sites share has learnt before, with the experts bypassed. Here it is frozen and, still without the experts, the
teacher; what learns are the site's gates and experts. Nothing of it crosses.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from engine.config import RunConfig
from engine.data.transforms import mask_to_grid
from engine.distillation.losses import directed_kl
from engine.models.execution import Placement
from engine.models.experts import balance_loss, bypassed_experts, collected_gates, expert_parameters
from engine.models.objective import Objective, supervised_loss
from engine.models.randomness import named_randomness
from engine.site.local_training import (
    ADAM_BETAS,
    ImageSource,
    OnStep,
    drawn_batches,
    not_finite,
)
from engine.site.optimiser_files import load_optimiser, save_optimiser

OPTIMISER = "adam_experts"


def train_experts(
    model: nn.Module,
    image_set: ImageSource,
    *,
    config: RunConfig,
    objective: Objective,
    seed: int,
    site: str,
    round_number: int,
    state_dir: Path,
    placement: Placement,
    check_cancelled: Callable[[], None],
    on_step: OnStep,
) -> float:
    """Run ``experts.epochs`` of Adam on the experts alone and return the mean of what is minimised over images:

    L_sup(f(x; theta_g, theta_l), y) + beta T^2 KL(p_global || p_personal) + w balance, with pixel-wise Bernoulli p.

    The batch order is the stream ("federation", site, round, "experts", epoch); step size and batch are those of
    ``federation``. Adam's state is a site's file of its own. ``UserError`` ``federation.loss_not_finite`` as in
    ``train_site``.
    """
    epochs, batch_size = config.experts.epochs, config.federation.batch_size
    optimiser = torch.optim.Adam(model.parameters(), lr=config.federation.learning_rate, betas=ADAM_BETAS)
    load_optimiser(optimiser, model=model, folder=state_dir, round_number=round_number, files=OPTIMISER)
    total_steps, summed = epochs * math.ceil(len(image_set) / batch_size), 0.0
    stream = ("federation", site, round_number, "experts")
    model.train()
    with named_randomness(seed, *stream, "torch", device=placement.device), _only_experts_learn(model):
        batches = drawn_batches(image_set, epochs=epochs, batch_size=batch_size, seed=seed, stream=stream)
        for step, (image_B3HW, mask_BKHW) in enumerate(batches, start=1):
            check_cancelled()
            optimiser.zero_grad(set_to_none=True)  # what is frozen has no gradient, and Adam leaves it alone
            loss = _loss(
                model, image_B3HW, mask_BKHW=mask_BKHW, config=config, objective=objective, placement=placement
            )
            value = float(loss.detach())
            if not math.isfinite(value):
                raise not_finite(value, site=site, round_number=round_number, step=step)
            loss.backward()
            optimiser.step()
            summed += value * len(image_B3HW)
            on_step(step, total_steps)
    save_optimiser(optimiser, model=model, folder=state_dir, round_number=round_number, files=OPTIMISER)
    return summed / (len(image_set) * epochs)


def _loss(
    model: nn.Module,
    image_B3HW: np.ndarray,
    *,
    mask_BKHW: np.ndarray,
    config: RunConfig,
    objective: Objective,
    placement: Placement,
) -> Tensor:
    experts, image = config.experts, placement.batch(image_B3HW)
    with placement.autocast(), collected_gates(model) as gates:
        personal_BKhw = model(image).float()
    mask_BKhw = torch.from_numpy(mask_to_grid(mask_BKHW, personal_BKhw.shape[-1])).to(placement.device)
    weights = {"pos_weight": objective.pos_weight, "dice_weight": objective.dice_weight}
    loss = supervised_loss(personal_BKhw, mask_BKhw, **weights)
    if experts.distillation_weight:
        with torch.no_grad(), placement.autocast(), bypassed_experts(model):
            global_BKhw = model(image).float()
        divergence_B = directed_kl(global_BKhw, personal_BKhw, temperature=experts.temperature)
        loss = loss + experts.distillation_weight * divergence_B.mean()
    return loss + experts.balance_weight * balance_loss(gates) if experts.balance_weight else loss


@contextmanager
def _only_experts_learn(model: nn.Module) -> Iterator[None]:
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    for parameter in expert_parameters(model):
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
