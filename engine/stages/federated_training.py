"""Stage: the sites train TinySAM together, and only its weights travel (Eq. 3-4)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.data.first_read import read_everything
from engine.federation.aggregation import federated_average
from engine.federation.client_app import build_client_app
from engine.federation.grid import InProcessGrid
from engine.federation.rounds import RoundResult, call_once, run_rounds
from engine.federation.student_task import (
    EVALUATE_TASK,
    TRAIN_TASK,
    buffer_names,
    load_arrays,
    make_student_tasks,
    model_arrays,
)
from engine.federation.tasks import Arrays, SiteReply
from engine.models.averaging import moved_mean
from engine.stages.context import RunContext


class FederatedTraining:
    """FedAvg of the student for ``federation.rounds``, or until its validation Dice has stopped rising."""

    name = "federated_training"
    describe = "Every site trains TinySAM on its own images; the server averages the weights."

    def run(self, context: RunContext) -> None:
        """Train and save ``fedavg_student``."""
        _Training(context, stage=self.name).run()


class _Training:
    """The position in the rounds: everything that a checkpoint holds, and the callbacks that keep it current."""

    def __init__(self, context: RunContext, *, stage: str) -> None:
        self.context, self.stage = context, stage
        self.config = context.config.federation
        self.sites = tuple(context.federation.sites)
        self.model = context.new_model("student")
        self.round = 0
        self.arrays: Arrays = model_arrays(self.model)
        self.completed: dict[str, SiteReply] = {}
        self.best: dict[str, Any] = {"round": 0, "dice": -1.0, "arrays": self.arrays}
        self.mean: dict[str, Tensor] | None = None
        self.stopped = False
        self.patient_since = 0
        state = context.checkpoints.load(stage)
        if state is None:
            read_everything(context.federation, on_image=self._on_image)
        else:
            self._restore(state)

    def run(self) -> None:
        """Run the rounds that are missing, validate the last average, and save the model."""
        grid = InProcessGrid(build_client_app(self._tasks()), sites=self.sites)
        reporter = self.context.reporter
        shared: dict[str, Any] = {
            "sites": self.sites,
            "on_traffic": reporter.traffic,
            "check_cancelled": reporter.check_cancelled,
        }
        if not self.stopped:
            run_rounds(
                grid,
                arrays=self.arrays,
                rounds=self.config.rounds,
                start_round=self.round + 1,
                task=TRAIN_TASK,
                aggregate=partial(
                    federated_average,
                    rounded_weights=self.config.aggregation_weights == "rounded",
                    average_buffers=self.config.average_buffers,
                    buffers=buffer_names(self.model),
                ),
                on_reply=self._on_reply,
                on_round=self._on_round,
                completed=self.completed,
                **shared,
            )
        # The last average has been sent to nobody yet, so its validation is one more question. Asked again after an
        # interruption, it has the same answer.
        replies = call_once(
            grid, task=EVALUATE_TASK, kind="student", arrays=self.arrays, round_number=self.round + 1, **shared
        )
        self._judge({site: reply.metrics for site, reply in replies.items()})
        if self.mean is not None:
            self.model.load_state_dict(self.mean)
            reporter.log("info", f"The moving mean of the averages of {self.round} rounds goes on.")
        else:
            judged = self.config.patience is not None and self.best["dice"] >= 0
            chosen = self.best if judged else {"round": self.round, "arrays": self.arrays}
            load_arrays(self.model, chosen["arrays"])
            reporter.log("info", f"The student of round {chosen['round']} goes on (of {self.round} rounds).")
        self.context.save_model(self.model, "fedavg_student")

    def _tasks(self) -> dict[str, Any]:
        context, sites = self.context, self.context.federation.sites
        return make_student_tasks(
            lambda: context.new_model("student"),
            train={name: site.train for name, site in sites.items()},
            validation={name: site.validation for name, site in sites.items()},
            config=self.config,
            objective=context.objective,
            seed=context.config.seed,
            state_root=context.run_dir / "sites",
            placement=context.placement,
            check_cancelled=context.reporter.check_cancelled,
            on_step=self._on_step,
        )

    def _on_image(self, done: int, total: int) -> None:
        steps = 100 * self.config.rounds * len(self.sites)
        self.context.reporter.progress(0, steps, message=f"reading the images: {done} of {total}")

    def _on_step(self, site: str, round_number: int, step: int, total: int) -> None:
        place = self.sites.index(site) + step / total
        self.context.reporter.progress(
            int(100 * ((round_number - 1) * len(self.sites) + place)),
            100 * self.config.rounds * len(self.sites),
            message=f"round {round_number} of {self.config.rounds}, {site}",
        )

    def _on_reply(self, round_number: int, site: str, reply: SiteReply) -> None:
        for name in ("loss", "wall_s"):
            self.context.reporter.metric(name, reply.metrics[name], step=round_number, site=site)
        self.completed[site] = reply
        self._save()

    def _on_round(self, result: RoundResult) -> bool:
        self._judge(result.metrics)
        self.round, self.arrays, self.completed = result.round, result.arrays, {}
        if self.config.average_decay:
            current = {name: torch.from_numpy(np.asarray(array)) for name, array in self.arrays.items()}
            self.mean = moved_mean(self.mean, current, decay=self.config.average_decay, count=self.round)
        waited = self.round - 1 - max(self.best["round"], self.patient_since)
        scored = self.best["dice"] >= 0  # without validation images no round is, and patience has no effect
        self.stopped = self.config.patience is not None and scored and waited >= self.config.patience
        self._save()
        return self.stopped

    def _judge(self, metrics: Mapping[str, Mapping[str, float]]) -> None:
        """Record the validation Dice of the average that the sites were sent (``self.arrays``), and keep the best.

        The mean is over validation images, whichever question it came with.
        """
        scored = {site: values for site, values in metrics.items() if "val_dice" in values}
        if not scored:
            return
        for site, values in scored.items():
            self.context.reporter.metric("val_dice", values["val_dice"], step=self.round, site=site)
        dice, weights = zip(*((values["val_dice"], values["val_images"]) for values in scored.values()), strict=True)
        mean_dice = float(np.average(dice, weights=weights))
        self.context.reporter.metric("val_dice", mean_dice, step=self.round)
        if mean_dice > self.best["dice"]:
            self.best = {"round": self.round, "dice": mean_dice, "arrays": self.arrays}

    def _save(self) -> None:
        replies = {
            site: {"arrays": dict(reply.arrays), "metrics": dict(reply.metrics), "num_examples": reply.num_examples}
            for site, reply in self.completed.items()
        }
        state = {
            "round": self.round,
            "arrays": dict(self.arrays),
            "completed": replies,
            "best": {**self.best, "arrays": dict(self.best["arrays"])},
            "mean": self.mean,
            "stopped": self.stopped,
            "patient_since": self.patient_since,
            "rounds": self.config.rounds,
        }
        self.context.checkpoints.save(self.stage, state)

    def _restore(self, state: dict[str, Any]) -> None:
        self.round, self.arrays, self.best = state["round"], state["arrays"], state["best"]
        self.mean = state["mean"]
        self.completed = {site: SiteReply(**reply) for site, reply in state["completed"].items()}
        self.stopped = state["stopped"] and self.config.patience is not None
        self.patient_since = state.get("patient_since", 0)
        if self.stopped and self.config.rounds > state.get("rounds", self.config.rounds):
            # Somebody wants more rounds than patience has allowed: it begins anew.
            self.stopped, self.patient_since = False, self.round
