"""Supervised training of one model on a pool (Eq. 5), with its whole state in reach of a checkpoint."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.config import RunConfig
from engine.data.transforms import mask_to_grid
from engine.distillation.features import KeptFeatures
from engine.distillation.mutual import Pool
from engine.errors import UserError
from engine.models.execution import autocast, place_images, place_masks
from engine.models.levels import forward_levels, levels_loss
from engine.seeding import numpy_generator


class SupervisedTraining:
    """One model, its AdamW optimiser (Adam where nothing decays) and the position in the loop.

    Streams are named by ``stage`` and epoch.

    With ``features``, kept from the model's own frozen encoder, only the decoder runs.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        *,
        pool: Pool,
        config: RunConfig,
        stage: str,
        epochs: int,
        batch_size: int,
        learning_rate: float,
        weight_decay: float = 0.0,
        grid_px: int,
        device: torch.device,
        features: KeptFeatures | None = None,
    ) -> None:
        self.features = features
        self.model, self.pool, self.config, self.stage = model, pool, config, stage
        self.epochs, self.batch_size, self.grid_px, self.device = epochs, batch_size, grid_px, device
        trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        # without decay AdamW is Adam
        self.optimiser = torch.optim.AdamW(trainable, lr=learning_rate, weight_decay=weight_decay)
        self.epoch, self.step = 0, 0
        self.epoch_losses: list[float] = []

    def batches(self) -> list[np.ndarray]:
        """Return this epoch's batches of pool indices."""
        order = numpy_generator(self.config.seed, self.stage, "order", self.epoch).permutation(len(self.pool))
        return [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]

    def train_step(self, indices: np.ndarray) -> float:
        """Take one optimiser step on the samples at ``indices`` (B,) and return the loss."""
        self.model.train()
        rng = numpy_generator(self.config.seed, self.stage, "augment", self.epoch, self.step)
        image, mask = self.pool.batch(indices, rng=rng)

        def mask_on(side_px: int) -> Tensor:
            return place_masks(mask_to_grid(mask, side_px), self.device)

        with autocast(self.device, self.config.precision):
            if self.features is None:
                levels = forward_levels(self.model, place_images(image, self.device))
            else:
                levels = (self.model.decode(self.features.batch(indices)),)
        loss = levels_loss(levels, mask_on, pos_weight=self.config.pos_weight, dice_weight=self.config.dice_weight)
        if not bool(torch.isfinite(loss.detach())):
            place = f"epoch {self.epoch + 1}, step {self.step + 1}"
            names = ", ".join(self.pool.names[i] for i in indices)
            raise UserError(
                "training.nan",
                what=f"The loss of {self.stage} is not a number at {place} ({names}).",
                why="Weights updated by such a loss would be lost for good.",
                fix="Fork the run with a lower learning rate, or with precision 'fp32'.",
            )
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        self.step += 1
        self.epoch_losses.append(float(loss.detach()))
        return self.epoch_losses[-1]

    def end_epoch(self) -> float:
        """Move on to the next epoch and return the mean loss of the one that ends."""
        mean_loss = float(np.mean(self.epoch_losses))
        self.epoch, self.step, self.epoch_losses = self.epoch + 1, 0, []
        return mean_loss

    def state_dict(self) -> dict[str, Any]:
        """Return the whole state, ready for a checkpoint."""
        return {
            "epoch": self.epoch,
            "step": self.step,
            "epoch_losses": list(self.epoch_losses),
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state made by :meth:`state_dict`."""
        self.epoch, self.step = state["epoch"], state["step"]
        self.epoch_losses = list(state["epoch_losses"])
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
