"""Mutual distillation of SAM and TinySAM on the synthetic pool: one step, one epoch, the whole loop (Eq. 6-8).

The pool is scored before every choice (``engine.distillation.scoring``); the authors' in-batch rule chooses while it
trains, and is recorded with its training passes' terms. Every random choice is drawn from a stream named by epoch, so a
resumed loop equals an uninterrupted one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from engine.config import RunConfig
from engine.data.styles import restyle
from engine.data.transforms import mask_to_grid
from engine.distillation.choice import choose
from engine.distillation.features import KeptFeatures
from engine.distillation.learnability import ScoreTable, sample_terms
from engine.distillation.losses import directed_kl, feature_loss, reference_kl, symmetric_kl
from engine.distillation.scoring import PoolScorer
from engine.distillation.selection import select_in_batch
from engine.errors import UserError
from engine.models.averaging import moved_mean
from engine.models.execution import autocast, place_images, place_masks
from engine.models.levels import forward_levels, levels_loss, on_one_grid
from engine.models.objective import pixel_loss
from engine.models.tinysam import fix_attention_biases
from engine.seeding import numpy_generator
from engine.types import SampleScore


class Pool(Protocol):
    """The pairs that both models learn from: synthetic ones, or any set of images with masks."""

    @property
    def names(self) -> tuple[str, ...]:
        """Identifier of each pair, in pool order."""

    def __len__(self) -> int: ...

    def batch(self, indices: np.ndarray, *, rng: np.random.Generator | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return image_B3HW float32 [0, 1] and mask_BKHW uint8 {0, 1}; augmented only when rng is given."""


@dataclass(frozen=True)
class LossReport:
    """Mean losses of a step or an epoch: L_sup of SAM and of TinySAM, and the divergence between them."""

    teacher_loss: float
    student_loss: float
    divergence: float


Levels = tuple[Tensor, ...]
"""Logits of one model, the finest first; more than one with deep supervision alone."""


class MutualDistillation:
    """Both models, both Adam optimisers, the score table and the position in the loop.

    Parameters
    ----------
    teacher, student : torch.nn.Module
        Foundation and light model on one device: SAM and TinySAM, or any two of this program. Where the grids of their
        logits differ, they are compared on the coarser one, and each is supervised on its own.
    pool : Pool
        The pairs.
    keep_features : callable
        Asked once for SAM's features of the pool, after the configuration's parts of SAM are frozen.
    """

    def __init__(
        self,
        *,
        teacher: torch.nn.Module,
        student: torch.nn.Module,
        pool: Pool,
        config: RunConfig,
        grid_px: int,
        device: torch.device,
        keep_features: Callable[[torch.nn.Module], KeptFeatures | None] = lambda _: None,
    ) -> None:
        self.teacher, self.student, self.pool = teacher, student, pool
        self.run_config, self.config = config, config.distillation
        self.grid_px, self.device = grid_px, device
        if self.config.freeze_teacher_encoder or self.config.mode == "reference":
            teacher.image_encoder.requires_grad_(False)
        if self.config.mode == "reference":
            fix_attention_biases(teacher)
            fix_attention_biases(student)
        if not self.config.mutual:
            teacher.requires_grad_(False)
        self.teacher_features = None if self.config.styles == "both" else keep_features(teacher)
        self.optimisers = {
            "teacher": _adam(teacher, self.config.teacher_learning_rate),
            "student": _adam(student, self.config.student_learning_rate),
        }
        self.epoch, self.step = 0, 0
        self.means: dict[str, dict[str, Tensor]] = {}
        self.reports: list[LossReport] = []
        self.selected: np.ndarray | None = None
        self.picked: list[int] = []
        self.student_listens = True
        """Whether the divergence teaches the student; else it moves the teacher alone, and the masks the student."""
        self.table = ScoreTable(pool.names)
        self.scorer = PoolScorer(
            teacher=teacher,
            student=student,
            pool=pool,
            config=config,
            grid_px=grid_px,
            device=device,
            fixed_features=self.teacher_features,
        )

    # -- one epoch ---------------------------------------------------------------------------------------------------

    def begin_epoch(self, *, on_batch: Callable[[], None]) -> list[SampleScore]:
        """Score as configured, choose this epoch's samples, and return a record of every sample's score.

        The epochs between two scorings choose by the last one; where every sample is chosen anyway there is but one. No
        record for the in-batch rule, which chooses while it trains: see :meth:`picked_records`.
        """
        is_due = self.config.selection_rate < 1 and self.epoch % self.config.scoring_interval == 0
        if not self._picks_in_batch and (is_due or (self.table.scored_epoch < 0).any()):
            everything = np.arange(len(self.pool))
            self.table.update(everything, self.scorer.score(epoch=self.epoch, on_batch=on_batch), epoch=self.epoch)
        table, seed = self.table, self.run_config.seed
        choice = choose(table.l_gt, table.l_kl, config=self.config, seed=seed, epoch=self.epoch)
        self.selected = choice.selected
        return [] if self._picks_in_batch else table.records(choice.scores, self.selected, epoch=self.epoch)

    def picked_records(self) -> list[SampleScore]:
        """Return the epoch's records of the in-batch rule, before :meth:`end_epoch`; none for the other selectors.

        The terms are those of the training passes that the rule chose by; selected are the samples that it picked.
        """
        if not self._picks_in_batch:
            return []
        scores = self.table.scores(weight=self.config.learnability_lambda, scaling=self.config.score_scaling)
        return self.table.records(scores, np.array(self.picked, dtype=np.int64), epoch=self.epoch)

    @property
    def _picks_in_batch(self) -> bool:
        return self.config.selector == "in_batch_quantile"

    def batches(self) -> list[np.ndarray]:
        """Return this epoch's batches of pool indices, shuffled by the epoch's own stream."""
        assert self.selected is not None, "begin_epoch comes first"
        rng = numpy_generator(self.run_config.seed, "distillation", "order", self.epoch)
        order = rng.permutation(self.selected)
        size = self.config.batch_size
        return [order[start : start + size] for start in range(0, len(order), size)]

    def end_epoch(self) -> LossReport:
        """Move on to the next epoch and return the mean losses of the one that ends."""
        means = np.mean([astuple(report) for report in self.reports], axis=0)
        self.epoch, self.step, self.selected, self.picked, self.reports = self.epoch + 1, 0, None, [], []
        if self.config.average_decay:
            for name, model in (("teacher", self.teacher), ("student", self.student)):
                self.means[name] = moved_mean(
                    self.means.get(name), model.state_dict(), decay=self.config.average_decay, count=self.epoch
                )
        return LossReport(*map(float, means))

    def student_weights(self) -> Mapping[str, Tensor]:
        """Return the state of the student that would go on if this epoch were the last; not a copy."""
        return self.means.get("student") or self.student.state_dict()

    def finish(self) -> None:
        """Give both models the moving mean of their weights, where one is kept."""
        for name, mean in self.means.items():
            getattr(self, name).load_state_dict(mean)

    def train_step(self, indices: np.ndarray) -> LossReport:
        """Take one joint optimiser step on the samples at ``indices`` (B,).

        paper: w (L_sup(SAM) + L_sup(Tiny)) + (1 - w) J, J the symmetric KL averaged over the batch; both models in
        train mode. reference: J is averaged over the in-batch selection only, and both models are in eval mode.
        """
        learns_statistics = self.config.mode == "paper"
        self.teacher.train(learns_statistics)
        self.student.train(learns_statistics)
        rng = numpy_generator(self.run_config.seed, "distillation", "augment", self.epoch, self.step)
        image_B3HW, mask_BKHW = self.pool.batch(indices, rng=rng)

        def mask_on(side_px: int) -> Tensor:
            return place_masks(mask_to_grid(mask_BKHW, side_px), self.device)

        seen = self._as_seen(image_B3HW)
        teacher_levels, student_levels, feature_term = self._forward(indices, *seen)
        supervised = {"pos_weight": self.run_config.pos_weight, "dice_weight": self.run_config.dice_weight}
        student_loss = levels_loss(student_levels, mask_on, **supervised)
        teacher_loss = levels_loss(teacher_levels, mask_on, **supervised)
        teacher_logits, student_logits = on_one_grid(teacher_levels[0], student_levels[0])
        mask = mask_on(student_logits.shape[-1])
        divergence, picked = self._divergence(teacher_logits, student_logits, mask)
        weight = self.config.supervision_weight
        loss = weight * student_loss + (1 - weight) * divergence + self.config.feature_weight * feature_term
        if self.config.mutual:
            loss = loss + weight * teacher_loss
        self._check_finite(loss, indices)
        self._update(loss)
        self.picked.extend(int(index) for index in indices[picked])
        if self._picks_in_batch:
            terms = sample_terms(
                teacher_logits,
                student_logits,
                mask,
                pos_weight=self.run_config.pos_weight,
                temperature=self.config.temperature,
            )
            self.table.update(indices, terms, epoch=self.epoch)
        self.step += 1
        losses = (float(value.detach()) for value in (teacher_loss, student_loss, divergence))
        self.reports.append(LossReport(*losses))
        return self.reports[-1]

    def _as_seen(self, image_B3HW: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return what the teacher and what the student is shown of a batch: in other styles where that is set."""
        plain = place_images(image_B3HW, self.device)
        if self.config.styles == "off":
            return plain, plain
        rng = numpy_generator(self.run_config.seed, "distillation", "styles", self.epoch, self.step)
        is_padded = self.run_config.data.fit == "letterbox"
        styled = place_images(restyle(image_B3HW, rng=rng, is_padded=is_padded), self.device)
        return (styled if self.config.styles == "both" else plain), styled

    def _forward(
        self, indices: np.ndarray, teacher_image: Tensor, student_image: Tensor
    ) -> tuple[Levels, Levels, Tensor]:
        """Return both models' logits, the finest first, and the feature term, 0 where it is off."""
        with autocast(self.device, self.run_config.precision):
            with torch.set_grad_enabled(self.config.mutual):
                if self.teacher_features is not None:
                    teacher_features = self.teacher_features.batch(indices)
                    teacher_levels = (self.teacher.decode(teacher_features),)
                elif self.config.feature_weight:
                    teacher_features = self.teacher.encode(teacher_image)
                    teacher_levels = (self.teacher.decode(teacher_features),)
                else:
                    teacher_levels = forward_levels(self.teacher, teacher_image)
            if not self.config.feature_weight:  # models need no encoder and decoder then
                return teacher_levels, forward_levels(self.student, student_image), student_image.new_zeros(())
            student_features = self.student.encode(student_image)
            learning = student_features if self.student_listens else student_features.detach()
            feature_term = feature_loss(learning, teacher_features)
            return teacher_levels, (self.student.decode(student_features),), feature_term

    def _divergence(self, teacher_logits: Tensor, student_logits: Tensor, mask: Tensor) -> tuple[Tensor, np.ndarray]:
        """Return the divergence of the batch and the rows of the batch that it is the mean of."""
        temperature, everything = self.config.temperature, np.arange(len(mask))
        if not self.student_listens:
            student_logits = student_logits.detach()
        if self._picks_in_batch:
            both = reference_kl(teacher_logits, student_logits, temperature=temperature) + reference_kl(
                student_logits, teacher_logits, temperature=temperature
            )
            chosen = select_in_batch(
                _numpy(pixel_loss(teacher_logits, mask, pos_weight=self.run_config.pos_weight)),
                _numpy(pixel_loss(student_logits, mask, pos_weight=self.run_config.pos_weight)),
                _numpy(both),
                quantile=self.config.reliable_quantile,
                rate=self.config.selection_rate,
            )
            return both[torch.from_numpy(chosen).to(both.device)].mean(), chosen
        if not self.student_listens:
            return directed_kl(student_logits, teacher_logits, temperature=temperature).mean(), everything
        if self.config.mutual:
            return symmetric_kl(teacher_logits, student_logits, temperature=temperature).mean(), everything
        return directed_kl(teacher_logits.detach(), student_logits, temperature=temperature).mean(), everything

    def _update(self, loss: Tensor) -> None:
        for optimiser in self.optimisers.values():
            if optimiser is not None:
                optimiser.zero_grad(set_to_none=True)
        loss.backward()
        for optimiser in self.optimisers.values():
            if optimiser is not None:
                optimiser.step()

    def _check_finite(self, loss: Tensor, indices: np.ndarray) -> None:
        if bool(torch.isfinite(loss.detach())):
            return
        names = ", ".join(self.pool.names[i] for i in indices)
        raise UserError(
            "training.nan",
            what=f"The distillation loss is not a number at epoch {self.epoch + 1}, step {self.step + 1} ({names}).",
            why="Weights updated by such a loss would be lost for good.",
            fix="Fork the run with lower distillation learning rates, or with precision 'fp32'.",
        )

    # -- state -------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return the whole state, ready for a checkpoint."""
        return {
            "epoch": self.epoch,
            "step": self.step,
            "selected": self.selected,
            "picked": list(self.picked),
            "reports": [astuple(report) for report in self.reports],
            "table": self.table.state_dict(),
            "scorer": self.scorer.state_dict(),
            "means": self.means,
            **({} if self.student_listens else {"student_listens": False}),
            "teacher": self.teacher.state_dict(),
            "student": self.student.state_dict(),
            "optimisers": {name: o.state_dict() for name, o in self.optimisers.items() if o is not None},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state made by :meth:`state_dict`."""
        self.epoch, self.step, self.selected = state["epoch"], state["step"], state["selected"]
        self.picked = list(state.get("picked", ()))  # absent from checkpoints of before it was kept
        self.reports = [LossReport(*values) for values in state["reports"]]
        if state["table"] is not None:  # None in checkpoints of before, and so is "scorer" absent from them
            self.table.load_state_dict(state["table"])
        if "scorer" in state:
            self.scorer.load_state_dict(state["scorer"])
        self.means = state["means"]
        self.student_listens = state.get("student_listens", True)
        self.teacher.load_state_dict(state["teacher"])
        self.student.load_state_dict(state["student"])
        for name, values in state["optimisers"].items():
            optimiser = self.optimisers[name]
            assert optimiser is not None
            optimiser.load_state_dict(values)


def _adam(model: torch.nn.Module, learning_rate: float) -> torch.optim.Adam | None:
    parameters = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.Adam(parameters, lr=learning_rate) if parameters else None


def _numpy(values: Tensor) -> np.ndarray:
    return values.detach().double().cpu().numpy()
