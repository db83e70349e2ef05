"""Stage: the sites train TinySAM together, and only its weights travel (Eq. 3-4)."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from engine.errors import UserError
from engine.federation.aggregation import make_private_aggregator
from engine.federation.checks import RoundChecks, how_large
from engine.federation.coded_rounds import CodedRounds
from engine.federation.participation import draw_participants
from engine.federation.rounds import QUORUM, Failure, RoundResult, quorum_of
from engine.federation.tasks import BEST_ROUND, TRAIN_STUDENT, VALIDATE_STUDENT, Arrays, Scalar, SiteReply
from engine.models.arrays import buffer_names, model_arrays
from engine.models.averaging import moved_mean
from engine.models.roles import model_name
from engine.models.sharing import check_averageable
from engine.models.state_keys import shared_parameters
from engine.stages.context import RunContext
from engine.stages.privacy_account import PrivacyAccount
from engine.stages.reply_files import Asked, ReplyFiles
from engine.stages.site_models import save_models
from engine.stages.site_progress import SiteProgress
from engine.stages.validation import PooledValidation

TOOK_PART = "took_part"
"""Curve of a site: 1 for a round whose average has its reply, 0 for one without it; nothing where it was not asked."""


class FederatedTraining:
    """FedAvg of the student for ``federation.rounds``, or until its validation Dice has stopped rising."""

    name = "federated_training"
    models = ("fedavg_student", "personal_student")
    """Names of what it makes: of all sites, and each site's own."""

    def run(self, context: RunContext) -> None:
        """Train and save ``fedavg_student``, and ``personal_student`` where sites keep parts of their own."""
        FederatedRounds(context, stage=self.name, model=context.new_model("student"), names=self.models).run()


class FederatedRounds:
    """The position in the rounds: everything that a checkpoint holds, and the callbacks that keep it current.

    The state is written when a round is over, each reply when it comes: a round costs as many models as it has sites,
    and its new average (with the moving mean and the best model where the configuration has them).

    Which model patience judges: the one that would go on. Without a moving mean that is each round's average, which
    the sites validate when they receive it, a round later. With one it is the mean, and they are asked for its Dice
    after every round: one more model down for each site and round. Where a round asks some of the sites, these are
    all who judge.

    Parameters
    ----------
    model
        With the weights that the first round begins with.
    names
        Of the models that are saved: of all sites, and each site's own.
    task
        What a site does in a round with what all share; it replies with the same arrays.
    """

    def __init__(
        self, context: RunContext, *, stage: str, model: nn.Module, names: tuple[str, str], task: str = TRAIN_STUDENT
    ) -> None:
        self.context, self.stage, self.names, self.task = context, stage, names, task
        self.config = context.config.federation
        self.sites = context.sites.names
        self.num_asked = self.config.num_asked(len(self.sites))
        self.asked = self.sites
        self.model = model
        self.judges_mean = self.config.patience is not None and self.config.average_decay > 0
        self.round = 0
        check_averageable(self.config)
        self.sharing = shared_parameters(self.model, self.config, name=model_name(context.config, "student"))
        self.arrays: Arrays = self.sharing.of(model_arrays(self.model))
        self.best: dict[str, Any] = {"round": 0, "dice": -1.0, "arrays": None}
        self.validation = PooledValidation()
        self.mean: dict[str, Tensor] | None = None
        self.stopped = False
        self.patient_since = 0
        self.settings: dict[str, Scalar] = {}
        self.replies = ReplyFiles(context)
        buffers = buffer_names(self.model)
        counts = context.description.num_train
        self.aggregator = make_private_aggregator(context.config, buffers=buffers, num_examples=counts)
        privacy, self.account = context.config.privacy, PrivacyAccount(context)
        self.checks = RoundChecks(
            num_examples=counts,
            num_validation=context.description.num_validation,
            buffers=buffers,
            needed=("loss", "wall_s"),
            update_limit=self.config.update_norm_limit,
            refuses_large=self.config.large_updates == "refuse",
            clip_norm=privacy.clip_norm if privacy.mechanism == "central" else None,
        )
        self.coding = CodedRounds.of(self.config, buffers=buffers) if self.arrays else None
        state = context.checkpoints.load(stage)
        if state is not None:
            self._restore(state)
        if self.sharing.own and self.config.patience is not None:
            self.settings[BEST_ROUND] = self.best["round"]  # what belongs to the best round stays at the sites
        self.completed = self.replies.load(self.round + 1)
        self.side_by_side = SiteProgress()
        for site in self.completed:
            self.side_by_side.answered(site, self.round + 1)
        if state is None and not self.completed:
            for warning in context.sites.read_everything(on_image=self._on_image):
                context.reporter.log("warning", warning)

    def run(self) -> None:
        """Run the rounds that are missing, validate the last average, and save the model."""
        if not self.stopped:
            with self._drawn_anew():
                self.context.sites.train_rounds(
                    self.task,
                    kind="student",
                    arrays=self.arrays,
                    rounds=self.config.rounds,
                    start_round=self.round + 1,
                    aggregate=self.aggregator.aggregate,
                    checks=self.checks,
                    coding=self.coding,
                    quorum=quorum_of(self.config, num_sites=self.num_asked),
                    choose=self._choose if self.config.participation < 1 else None,
                    retries=self.config.retries if self.config.on_failure == "retry" else 0,
                    deadline_s=self.config.deadline_s,
                    on_failure=self._on_failure,
                    on_reply=self._on_reply,
                    on_round=self._on_round,
                    completed=self.completed,
                    settings=self.settings,
                    listener=self,
                )
        self.replies.clear()  # of the last round, where the process was killed between its state and this
        if not self.judges_mean:
            # The last average has been sent to nobody yet. Asked again after an interruption, it has the same answer.
            self._judge(self._validate(self.arrays), arrays=self.arrays)
        self.account.tell()
        shared, number = self._best_or_last()
        save_models(
            self.context, self.model, names=self.names, sharing=self.sharing, shared=shared, round_number=number
        )

    def _choose(self, round_number: int, present: Callable[[], list[str]]) -> tuple[str, ...]:
        """Return the sites that a round asks: those that it asked before it was interrupted, or a new draw.

        Where too few of them have answered, a round that goes on keeps those who have, and draws the others anew.
        """
        noted = self.replies.asked(round_number)
        if noted is None or noted.failed:
            answered = [] if noted is None else [site for site in noted.sites if site in self.completed]
            there = self.sites if self.config.on_failure == "stop" else present()
            self._check_present({*there, *answered}, round_number=round_number)
            drawn = draw_participants(
                [site for site in there if site not in answered],
                count=self.num_asked - len(answered),
                seed=self.context.config.seed,
                round_number=round_number,
                draw=0 if noted is None else noted.draw + 1,
            )
            if noted is not None:
                what = f"Round {round_number} had too few replies and is drawn anew: {', '.join(drawn)}"
                kept = f"; {', '.join(answered)} answered before" if answered else ""
                self.context.reporter.log("info", f"{what}{kept}.")
            noted = Asked(tuple(sorted([*answered, *drawn])), 0 if noted is None else noted.draw + 1)
            self.replies.note_asked(round_number, noted)
        self.asked = noted.sites
        return noted.sites

    @contextmanager
    def _drawn_anew(self) -> Iterator[None]:
        """Note where a round that asks some of the sites ends without a quorum: going on, it may ask others."""
        try:
            yield
        except UserError as error:
            noted = self.replies.asked(self.round + 1) if error.code == QUORUM else None
            if noted is not None:
                self.replies.note_asked(self.round + 1, replace(noted, failed=True))
            raise

    def _check_present(self, sites: Collection[str], *, round_number: int) -> None:
        """Refuse to draw from too few: what is noted of a draw would hold when the others are back."""
        needed = quorum_of(self.config, num_sites=self.num_asked) or 1
        if len(sites) < needed:
            raise UserError(
                "federation.site_absent",
                what=f"Round {round_number} needs {needed} sites; connected: {', '.join(sorted(sites)) or 'none'}.",
                why="The sites of a round are drawn from those that are there.",
                fix="Ask the missing sites to start their program (site up), then resume the run.",
            )

    def _best_or_last(self) -> tuple[Arrays, int]:
        """Return what goes on of the shared arrays, and the round whose they are."""
        log = partial(self.context.reporter.log, "info")
        what = "moving mean of the averages" if self.config.average_decay else "average"
        if self.best["arrays"] is not None:
            log(f"The student of round {self.best['round']} goes on (of {self.round} rounds): the {what}.")
            return self.best["arrays"], self.best["round"]
        if self.mean is not None:
            log(f"The moving mean of the averages of {self.round} rounds goes on.")
            return {name: value.numpy() for name, value in self.mean.items()}, self.round
        log(f"The student of round {self.round} goes on (of {self.round} rounds).")
        return self.arrays, self.round

    def _validate(self, arrays: Arrays) -> dict[str, Mapping[str, float]]:
        replies = self.context.sites.ask(
            VALIDATE_STUDENT,
            kind="student",
            to=self.asked,
            arrays=arrays,
            round_number=self.round,
            apart=True,
            on_lack=self._on_lack,
            checks=RoundChecks(num_validation=self.checks.num_validation),
        )
        return {site: reply.metrics for site, reply in replies.items()}

    def _on_lack(self, site: str, error: UserError) -> None:
        line = f"{site} does not validate the model of round {self.round}, and counts with what it said last."
        self.context.reporter.log("warning", f"{line} {error.what}")

    def _on_image(self, done: int, total: int) -> None:
        steps = 100 * self.config.rounds * self.num_asked
        self.context.reporter.progress(0, steps, message=f"reading the images: {done} of {total}")

    def progress(self, site: str, round_number: int, step: int, total: int) -> None:
        """Hear how far a site is in its round."""
        done = self.side_by_side.done(site, round_number, step / total)
        self.context.reporter.progress(
            int(100 * ((round_number - 1) * self.num_asked + done)),
            100 * self.config.rounds * self.num_asked,
            message=f"round {round_number} of {self.config.rounds}, {site}",
        )

    def metric(self, site: str, name: str, value: float, step: int) -> None:
        """Hear of a curve: a round has none of its own."""

    def _on_reply(self, round_number: int, site: str, reply: SiteReply) -> SiteReply:
        for name in (name for name in ("loss", "personal_loss", "wall_s") if name in reply.metrics):
            self.context.reporter.metric(name, reply.metrics[name], step=round_number, site=site)
        self.side_by_side.answered(site, round_number)
        return self.replies.save(round_number, site, reply)

    def _on_failure(self, failure: Failure) -> None:
        what = f"asked again, attempt {failure.attempt}" if failure.attempt else "the round goes on without it"
        line = f"Round {failure.round}, {failure.site}: {what}. {failure.error.what}"
        self.context.reporter.log("warning", line)

    def _tell_large(self, round_number: int, site: str, ratio: float) -> None:
        """Name a site whose update counts and yet is far larger than the others', once there are others to say so."""
        what = "is shortened" if self.config.large_updates == "clip" else "counts as it is"
        line = f"Round {round_number}, {site}: its update is {how_large(ratio)}, and {what} (federation.large_updates)."
        self.context.reporter.log("warning", line)

    def _on_round(self, result: RoundResult) -> bool:
        for site, ratio in result.large.items():
            if math.isfinite(ratio):  # it is not where the others do not move at all
                self._tell_large(result.round, site, ratio)
        if not self.judges_mean:
            judged = self.arrays if self.coding is None else self.coding.received(self.arrays)
            self._judge(result.metrics, arrays=judged)
        self.round, self.arrays = result.round, result.arrays
        self.account.add(result)
        if self.config.on_failure == "skip" or self.config.participation < 1:
            for site in self.asked:
                took_part = float(site in result.metrics)
                self.context.reporter.metric(TOOK_PART, took_part, step=result.round, site=site)
        if self.config.average_decay:
            current = {name: torch.from_numpy(np.asarray(array)) for name, array in self.arrays.items()}
            self.mean = moved_mean(self.mean, current, decay=self.config.average_decay, count=self.round)
        judged_round = self.round - 1
        if self.judges_mean:
            assert self.mean is not None
            mean = {name: value.numpy() for name, value in self.mean.items()}
            self._judge(self._validate(mean), arrays=mean)
            judged_round = self.round
        waited = judged_round - max(self.best["round"], self.patient_since)
        scored = self.best["dice"] >= 0  # without validation images no round is, and patience has no effect
        self.stopped = self.config.patience is not None and scored and waited >= self.config.patience
        self._save()
        self.replies.clear()
        return self.stopped

    def _judge(self, metrics: Mapping[str, Mapping[str, float]], *, arrays: Arrays) -> None:
        """Record the sites' validation Dice of ``arrays``, the model of ``self.round``, and keep the best.

        The mean is over validation images, whichever question it came with.
        """
        mean_dice = self.validation.pool(metrics, asked=self.asked)
        scored = {site: values["val_dice"] for site, values in metrics.items() if "val_dice" in values}
        if not scored or mean_dice is None:
            return
        for site, dice in scored.items():
            self.context.reporter.metric("val_dice", dice, step=self.round, site=site)
        self.context.reporter.metric("val_dice", mean_dice, step=self.round)
        if mean_dice > self.best["dice"]:
            kept = arrays if self.config.patience is not None else None
            self.best = {"round": self.round, "dice": mean_dice, "arrays": kept}
            if BEST_ROUND in self.settings:
                self.settings[BEST_ROUND] = self.round

    def _save(self) -> None:
        state = {
            "round": self.round,
            "arrays": dict(self.arrays),
            "best": self.best,
            "validation": self.validation.state_dict(),
            "mean": self.mean,
            "aggregator": self.aggregator.state(),
            "privacy": self.account.state(),
            "stopped": self.stopped,
            "patient_since": self.patient_since,
            "asked": self.asked,
            "rounds": self.config.rounds,
        }
        if self.coding is not None:
            state["coding"] = self.coding.state()
        self.context.checkpoints.save(self.stage, state)

    def _restore(self, state: dict[str, Any]) -> None:
        self.round, self.arrays, self.best = state["round"], state["arrays"], state["best"]
        if self.config.patience is None:
            self.best = {**self.best, "arrays": None}  # older states hold it all the same
        self.validation = PooledValidation(state.get("validation"))
        self.mean = state["mean"]
        self.asked = state.get("asked", self.sites)
        self.aggregator.restore(state.get("aggregator", {}))
        self.account.restore(state.get("privacy", {}))
        if self.coding is not None:
            self.coding.restore(state.get("coding", {}))
        self.stopped = state["stopped"] and self.config.patience is not None
        self.patient_since = state.get("patient_since", 0)
        if self.stopped and self.config.rounds > state.get("rounds", self.config.rounds):
            # Somebody wants more rounds than patience has allowed: it begins anew.
            self.stopped, self.patient_since = False, self.round
