"""The loop that every pre-training shares: a budget of steps or minutes, a moving average, checkpoints, a history."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from engine.errors import UserError
from engine.generation.optimiser import optimiser_state, restore_optimiser
from engine.runs.checkpoint import CheckpointStore

SAVE_EVERY_S = 60.0
LOG_EVERY = 50
WARM_UP_STEPS = 50
FINAL_RATE = 0.02
"""Share of the learning rate that is left at the end of the cosine."""


@dataclass(frozen=True)
class Budget:
    """When to stop: after ``steps`` optimiser steps, or after ``minutes`` of training over all resumptions.

    With ``steps`` the result is a function of the seed and the machine's arithmetic; with ``minutes`` the learning
    rate follows the clock, so that whatever time there is ends with a finished schedule.
    """

    steps: int | None = None
    minutes: float | None = None

    def progress(self, *, step: int, wall_s: float) -> float:
        """Return how much of the budget is spent, 0 to 1."""
        shares = [0.0]
        if self.steps is not None:
            shares.append(step / self.steps)
        if self.minutes is not None:
            shares.append(wall_s / (60.0 * self.minutes))
        return min(1.0, max(shares))


class Recipe(Protocol):
    """What is particular to one pre-training."""

    name: str
    model: nn.Module
    """Every parameter of it that requires a gradient is trained."""
    learning_rate: float
    weight_decay: float
    ema_decay: float

    def loss(self, step: int) -> Tensor:
        """Return the scalar loss of training step ``step``; all randomness comes from ``step``'s own generators."""

    def evaluate(self) -> dict[str, float]:
        """Return measures of the averaged weights on held-out phantoms."""


@dataclass
class History:
    """What a pre-training has done so far; kept in its checkpoint and told in the model card."""

    step: int = 0
    wall_s: float = 0.0
    losses: list[float] = field(default_factory=list)
    """Mean loss of each ``LOG_EVERY`` steps."""
    measures: dict[str, float] = field(default_factory=dict)


def pretrain(
    recipe: Recipe,
    *,
    budget: Budget,
    folder: Path,
    resume: bool,
    identity: str = "",
    save_every_s: float = SAVE_EVERY_S,
    evaluate_every_s: float = 300.0,
    log: Callable[[str], None] = print,
) -> History:
    """Train ``recipe.model`` until ``budget`` is spent, and leave the averaged weights in it.

    A checkpoint is written every ``save_every_s`` seconds; with ``resume`` the last one is taken up. ``identity`` names
    what the weights depend on beside the recipe (seeds, corpus, frozen parts).

    Raises
    ------
    UserError
        ``pretrain.diverged``: the loss is no longer a number; names the step. ``run.checkpoint_foreign``: the
        checkpoint to go on from has another identity.
    """
    run = _Run(recipe, identity=identity, budget=budget, folder=folder, resume=resume, log=log)
    last_save = last_evaluation = time.monotonic()
    while run.progress < 1.0:
        run.step()
        now = time.monotonic()
        if now - last_save > save_every_s:
            run.save()
            last_save = time.monotonic()
        if now - last_evaluation > evaluate_every_s:
            run.evaluate()
            last_evaluation = time.monotonic()
    run.evaluate()
    run.save()
    run.average.copy_into(recipe.model)
    return run.history


class MovingAverage:
    """Exponential moving average of a model's floating state (parameters and buffers), with a warm start."""

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        self._decay = decay
        self.tensors = {key: value.detach().clone() for key, value in _floating(model)}

    @torch.no_grad()
    def update(self, model: nn.Module, *, step: int) -> None:
        """Move towards ``model``; early steps move faster, so that the random start is forgotten."""
        decay = min(self._decay, (step + 1) / (step + 10))
        values = [value.detach() for _, value in _floating(model)]
        torch._foreach_lerp_(list(self.tensors.values()), values, 1.0 - decay)

    @torch.no_grad()
    def copy_into(self, model: nn.Module) -> None:
        """Set ``model`` to the average."""
        for key, value in _floating(model):
            value.copy_(self.tensors[key])

    @torch.no_grad()
    def swap(self, model: nn.Module) -> None:
        """Exchange the model's weights and the average, so that a second call restores both."""
        for key, value in _floating(model):
            current = value.detach().clone()
            value.copy_(self.tensors[key])
            self.tensors[key] = current


class _Run:
    def __init__(
        self, recipe: Recipe, *, identity: str, budget: Budget, folder: Path, resume: bool, log: Callable[[str], None]
    ) -> None:
        self.recipe, self.budget, self.log = recipe, budget, log
        self.parameters = [parameter for parameter in recipe.model.parameters() if parameter.requires_grad]
        self.optimiser = make_optimiser(recipe)
        self.average = MovingAverage(recipe.model, decay=recipe.ema_decay)
        self.history = History()
        self.store = CheckpointStore(folder, f"{recipe.name} {identity}".strip(), warn=log)
        self._recent: list[float] = []
        if resume and (state := self.store.load("pretraining")) is not None:
            self._restore(state)
            log(f"{recipe.name}: resumed at step {self.history.step}")

    @property
    def progress(self) -> float:
        return self.budget.progress(step=self.history.step, wall_s=self.history.wall_s)

    def step(self) -> None:
        started = time.monotonic()
        rate = self.recipe.learning_rate * _rate_factor(self.history.step, progress=self.progress)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.recipe.model.train()
        loss = self.recipe.loss(self.history.step)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise UserError(
                "pretrain.diverged",
                what=f"The loss of {self.recipe.name} is {value} at step {self.history.step}.",
                why="Weights trained on such a loss are worthless.",
                fix="Resume from the last checkpoint with a smaller learning rate.",
            )
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.average.update(self.recipe.model, step=self.history.step)
        self.history.step += 1
        self.history.wall_s += time.monotonic() - started
        self._note(value)

    def evaluate(self) -> None:
        self.average.swap(self.recipe.model)
        self.recipe.model.eval()
        with torch.no_grad():
            self.history.measures = self.recipe.evaluate()
        self.average.swap(self.recipe.model)
        shown = ", ".join(f"{key} {value:.4f}" for key, value in self.history.measures.items())
        self.log(f"{self.recipe.name}: step {self.history.step}, held out: {shown}")

    def save(self) -> None:
        self.store.save(
            "pretraining",
            {
                "model": dict(self.recipe.model.state_dict()),
                "average": self.average.tensors,
                "optimiser": optimiser_state(self.optimiser),
                "step": self.history.step,
                "wall_s": self.history.wall_s,
                "losses": self.history.losses,
                "measures": self.history.measures,
            },
        )

    def _restore(self, state: dict[str, Any]) -> None:
        self.recipe.model.load_state_dict(state["model"])
        self.average.tensors = dict(state["average"])
        restore_optimiser(self.optimiser, state["optimiser"])
        self.history = History(state["step"], state["wall_s"], list(state["losses"]), dict(state["measures"]))

    def _note(self, value: float) -> None:
        self._recent.append(value)
        if self.history.step % LOG_EVERY == 0:
            mean = sum(self._recent) / len(self._recent)
            self._recent.clear()
            self.history.losses.append(mean)
            self.log(
                f"{self.recipe.name}: step {self.history.step}, loss {mean:.5f}, {self.history.wall_s:.0f} s, "
                f"{100 * self.progress:.1f} %"
            )


def make_optimiser(recipe: Recipe) -> torch.optim.AdamW:
    """Return AdamW with weight decay on matrices and kernels only, the usual choice for transformers."""
    trained = [parameter for parameter in recipe.model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trained if parameter.ndim >= 2], "weight_decay": recipe.weight_decay},
        {"params": [parameter for parameter in trained if parameter.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.99), foreach=True)


def _rate_factor(step: int, *, progress: float) -> float:
    cosine = FINAL_RATE + (1.0 - FINAL_RATE) * 0.5 * (1.0 + math.cos(math.pi * progress))
    return min(1.0, (step + 1) / WARM_UP_STEPS) * cosine


def _floating(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for key, value in model.state_dict().items():
        if value.is_floating_point():
            yield key, value
