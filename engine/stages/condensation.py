"""Rounds of sites whose students are of several kinds: predictions on the public set travel, and no weights.

A round: the server's predictions go down; each site learns from them where they are better than its own (fusion), then
from its own images, and sends its predictions up; the server's model learns from the best of them (condensation).
HSSF's regularity condensation and fusion, with fusion first (ours; our specification, methods.md 2.2).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from engine.data.public import PublicSet
from engine.data.transforms import mask_to_grid
from engine.distillation.regularity import condensed, public_logits, regularity_loss
from engine.errors import UserError
from engine.federation.checks import RoundChecks
from engine.federation.rounds import RoundResult, quorum_of
from engine.federation.tasks import TRAIN_FUSED, VALIDATE_STUDENT, Arrays, SiteReply
from engine.models.execution import autocast, place_images, place_masks
from engine.models.levels import forward_levels, levels_loss
from engine.models.randomness import named_randomness
from engine.models.sharing import SharedParameters
from engine.seeding import numpy_generator
from engine.stages.context import RunContext
from engine.stages.reply_files import ReplyFiles
from engine.stages.site_models import save_models

LOGITS = "logits"


class CondensationRounds:
    """The server's model, its AdamW and the position in the rounds, saved after each; replies as they come."""

    def __init__(
        self, context: RunContext, *, stage: str, model: nn.Module, public: PublicSet, names: tuple[str, str]
    ) -> None:
        self.context, self.stage, self.model, self.names = context, stage, model, names
        self.images = public.images
        self.config, self.semi = context.config.federation, context.config.samfed
        self.optimiser = torch.optim.AdamW(
            model.parameters(),
            lr=context.config.public.learning_rate,
            weight_decay=context.config.public.weight_decay,
        )
        self.round = 0
        state = context.checkpoints.load(stage)
        if state is not None:
            self.round = state["round"]
            model.load_state_dict(state["model"])
            self.optimiser.load_state_dict(state["optimiser"])
        self.replies = ReplyFiles(context)
        self.completed = self.replies.load(self.round + 1)
        if state is None and not self.completed:
            for warning in context.sites.read_everything(on_image=lambda _done, _total: None):
                context.reporter.log("warning", warning)

    def run(self) -> None:
        """Run the rounds that are missing, and save the server's model; each site's own stays with it."""
        sites = self.context.sites
        if self.round < self.config.rounds:
            sites.train_rounds(
                TRAIN_FUSED,
                kind="public_predictions",
                arrays=self._predictions(),
                rounds=self.config.rounds,
                start_round=self.round + 1,
                aggregate=self.condense,
                checks=RoundChecks(
                    num_examples=self.context.description.num_train,
                    num_validation=self.context.description.num_validation,
                    needed=("loss", "wall_s"),
                ),
                quorum=quorum_of(self.config, num_sites=len(sites.names)),
                retries=self.config.retries if self.config.on_failure == "retry" else 0,
                deadline_s=self.config.deadline_s,
                on_reply=self._on_reply,
                on_round=self._on_round,
                completed=self.completed,
                listener=self,
            )
        self.replies.clear()
        last = sites.ask(
            VALIDATE_STUDENT, kind="student", arrays={}, round_number=self.round, apart=True, on_lack=self._on_lack
        )
        self._tell_dice({site: reply.metrics for site, reply in last.items()})
        # Nothing of the models is shared: what goes to a site that measures its own is empty.
        everything_stays = SharedParameters(shared=(), own=tuple(self.model.state_dict()), is_personal=True)
        save_models(
            self.context, self.model, names=self.names, sharing=everything_stays, shared={}, round_number=self.round
        )

    def progress(self, site: str, round_number: int, step: int, total: int) -> None:
        """Hear how far a site is in its round."""
        self.context.reporter.progress(
            int(100 * (round_number - 1 + step / total)),
            100 * self.config.rounds,
            message=f"round {round_number} of {self.config.rounds}, {site}",
        )

    def metric(self, site: str, name: str, value: float, step: int) -> None:
        """Hear of a curve: a round has none of its own."""

    def condense(
        self, replies: Mapping[str, SiteReply], previous: Arrays, *, num_refused: int
    ) -> dict[str, np.ndarray]:
        """Train the server's model for ``fusion_epochs`` on the public set and the best prediction of each image.

        L_sup on the labels, and ``fusion_weight`` times KL(best || server) where a site's beats the server's own.
        Returns its predictions after that.
        """
        number, seed = self.round + 1, self.context.config.seed
        told = {site: np.asarray(replies[site].arrays[LOGITS]) for site in sorted(replies)}
        size = self.context.config.public.batch_size
        self.model.train()
        with named_randomness(seed, self.stage, number, "torch", device=self.context.device.type):
            for epoch in range(self.semi.fusion_epochs):
                order = numpy_generator(seed, self.stage, "order", number, epoch).permutation(len(self.images))
                losses = []
                for start in range(0, len(order), size):
                    losses.append(self._step(order[start : start + size], told))
                self.context.reporter.metric("loss", float(np.mean(losses)), step=number)
        return self._predictions()

    def _step(self, indices: np.ndarray, told: Mapping[str, np.ndarray]) -> float:
        config = self.context.config
        image, mask = self.images.batch(indices)

        def mask_on(side_px: int) -> Tensor:
            return place_masks(mask_to_grid(mask, side_px), self.context.device)

        with autocast(self.context.device, config.precision):
            levels = forward_levels(self.model, place_images(image, self.context.device))
        levels = tuple(one.float() for one in levels)
        logits, mask_BKhw = levels[0], mask_on(levels[0].shape[-1])
        sites = [torch.from_numpy(said[indices]).float().to(self.context.device) for said in told.values()]
        best, teaches = condensed(logits, sites, mask_BKhw, least_accuracy=self.semi.condensation_accuracy)
        loss = levels_loss(levels, mask_on, pos_weight=config.pos_weight, dice_weight=config.dice_weight)
        learnt = regularity_loss(best, logits, teaches, temperature=self.semi.fusion_temperature)
        loss = loss + self.semi.fusion_weight * learnt
        if not bool(torch.isfinite(loss.detach())):
            raise UserError(
                "training.nan",
                what=f"The loss of the server's model is not a number in round {self.round + 1}.",
                why="Weights updated by such a loss would be lost for good.",
                fix="Fork the run with a lower public.learning_rate, or with precision 'fp32'.",
            )
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        return float(loss.detach())

    def _predictions(self) -> dict[str, np.ndarray]:
        config = self.context.config

        def forward(image_B3HW: np.ndarray) -> Tensor:
            with autocast(self.context.device, config.precision):
                return self.model(place_images(image_B3HW, self.context.device)).float()

        size, grid_px = config.public.batch_size, self.context.grid_px
        return {LOGITS: public_logits(self.model, self.images, batch_size=size, grid_px=grid_px, forward=forward)}

    def _on_reply(self, round_number: int, site: str, reply: SiteReply) -> SiteReply:
        for name in ("loss", "wall_s"):
            self.context.reporter.metric(name, reply.metrics[name], step=round_number, site=site)
        return self.replies.save(round_number, site, reply)

    def _on_round(self, result: RoundResult) -> None:
        self._tell_dice(result.metrics)
        self.round = result.round
        state: dict[str, Any] = {
            "round": self.round,
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }
        self.context.checkpoints.save(self.stage, state)
        self.replies.clear()

    def _on_lack(self, site: str, error: UserError) -> None:
        line = f"{site} does not say what its model's validation Dice is after round {self.round}."
        self.context.reporter.log("warning", f"{line} {error.what}")

    def _tell_dice(self, metrics: Mapping[str, Mapping[str, float]]) -> None:
        """Record the validation Dice of the sites' own models as they were after ``self.round``."""
        for site, values in metrics.items():
            if "val_dice" in values:
                self.context.reporter.metric("val_dice", values["val_dice"], step=self.round, site=site)
