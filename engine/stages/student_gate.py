"""The gate of distillation: the sites validate the student after every epoch, and the best is kept (ours).

Or they validate means of the student of before and the distilled one, and the nearest to the latter is kept. Or they
are asked for their figures alone, and the last epoch is kept whatever these say.

Figures alone come back; the unseen site and test images are never asked. Kinds ``candidate`` (a student, down) and
``checked_teacher`` (the foundation model, down, where ``distillation.teacher_check`` asks for it).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.config_distillation import MIXES
from engine.distillation.gate import BestStudent, farthest, mixed, pooled_dice
from engine.distillation.mutual import MutualDistillation
from engine.errors import UserError
from engine.federation.checks import RoundChecks
from engine.federation.tasks import ROLE, VALIDATE_STUDENT, Scalar
from engine.methods import catalogue
from engine.models.arrays import model_arrays
from engine.runs.gates import GATE_FILE, MIX_DICE, TEACHER_VAL_DICE, VAL_DICE, GateRecord
from engine.stages.context import RunContext
from engine.stages.files import write_json
from engine.stages.validation import PooledValidation
from engine.types import RunCancelled


class StudentGate:
    """Asks after each epoch of ``loop``, and knows what to keep. Its state is a part of the loop's checkpoint."""

    def __init__(self, context: RunContext, loop: MutualDistillation) -> None:
        self.context, self.loop = context, loop
        self.best = BestStudent(keeps_weights=context.config.distillation.gate != "watch")
        self.said = PooledValidation()
        self.teacher_dice: float | None = None

    def judge(self, *, save: Callable[[], None]) -> None:
        """Have the sites validate the student as it is after ``loop.epoch`` epochs, unless they have.

        Before the first epoch they validate the teacher, too, where that is asked for, and it is decided who learns
        from whom. A stop meanwhile saves the state before it passes on: asked again, the sites say the same.
        """
        if self.best.judged >= self.loop.epoch:
            return
        try:
            weights = self.loop.student_weights()
            figures = self._ask("student", _arrays(weights), number=self.loop.epoch, curve=VAL_DICE)
            dice = self.said.pool(figures, asked={*figures, *self.said.sites})
            if dice is not None:
                self.context.reporter.metric(VAL_DICE, dice, step=self.loop.epoch)
            if self.loop.epoch == 0 and self.context.config.distillation.teacher_check == "sites":
                self._check_teacher()
        except RunCancelled:
            save()
            raise
        self.best.judge(self.loop.epoch, dice=dice, weights=weights)
        save()

    def settle(self, *, began_with: str, model: str) -> None:
        """Give the loop's student the kept weights; say so in the log and in the run's folder."""
        self.best.settle(self.loop.student)
        record = GateRecord(
            began_with=began_with,
            model=model,
            kept_epoch=self.best.kept_epoch,
            dice=tuple(self.best.dice),
            teacher_dice=self.teacher_dice,
            student_listens=self.loop.student_listens,
        )
        self._tell(record)

    def _tell(self, record: GateRecord) -> None:
        write_json(self.context.run_dir / GATE_FILE, asdict(record))
        for sentence in record.sentences():
            self.context.reporter.log("info", sentence)

    def state_dict(self) -> dict[str, Any]:
        """Return the whole state, ready for a checkpoint."""
        return {"best": self.best.state_dict(), "said": self.said.state_dict(), "teacher_dice": self.teacher_dice}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state made by :meth:`state_dict`."""
        self.best.load_state_dict(state["best"])
        self.said = PooledValidation(state.get("said"))
        self.teacher_dice = state["teacher_dice"]

    def _check_teacher(self) -> None:
        figures = self._ask("teacher", model_arrays(self.loop.teacher), number=0, curve=TEACHER_VAL_DICE)
        self.teacher_dice = pooled_dice(figures.values())
        student_dice = self.said.pool({}, asked=figures)  # at the sites that have validated both
        if self.teacher_dice is None or student_dice is None:
            return
        self.context.reporter.metric(TEACHER_VAL_DICE, self.teacher_dice, step=0)
        self.loop.student_listens = self.teacher_dice >= student_dice
        names = catalogue.family_titles(self.context.config)
        alone = f"{names['student']} learns from the masks alone, not from {names['teacher']}"
        then = "they learn as configured" if self.loop.student_listens else alone
        self.context.reporter.log(
            "info",
            f"On the sites' validation images {names['teacher']} has Dice {self.teacher_dice:.3f} before distillation, "
            f"{names['student']} {student_dice:.3f}: {then}.",
        )

    def _ask(
        self, role: str, arrays: dict[str, np.ndarray], *, number: int, curve: str, step: int | None = None
    ) -> dict[str, Mapping[str, float]]:
        """Return what the sites with validation images say of a model; each site's Dice goes into a curve.

        ``number`` tells what is judged from all else that is; ``step`` is its place in the curve, where it is another.

        Where no site has any, nothing is sent, and nothing comes back. Who is away from the first epoch judges none:
        all epochs are compared by the same sites. Raises ``UserError`` ``distillation.no_judge`` where all are away.
        """
        num_validation = self.context.description.num_validation
        judges = self.said.sites or [site for site in self.context.sites.names if num_validation[site]]
        if not judges:
            return {}
        is_student = role == "student"
        settings: Mapping[str, Scalar] = {} if is_student else {ROLE: role}
        replies = self.context.sites.ask(
            VALIDATE_STUDENT,
            kind="candidate" if is_student else "checked_teacher",
            to=judges,
            arrays=arrays,
            settings=settings,
            round_number=number,
            apart=is_student,  # the delivered student has these numbers, too; the teacher has 0 for itself
            on_lack=self._on_lack,
            checks=RoundChecks(num_validation=num_validation, needed=("val_dice", "val_images")),
        )
        if not replies:
            raise UserError(
                "distillation.no_judge",
                what="No site has validated what distillation has made: all that have validation images have failed.",
                why="The gate keeps the epoch that does best on their images (distillation.gate = 'best').",
                fix="Mend the sites, then resume the run; or fork it with distillation.gate = 'off'.",
            )
        for site, reply in replies.items():
            at = number if step is None else step
            self.context.reporter.metric(curve, reply.metrics["val_dice"], step=at, site=site)
        return {site: reply.metrics for site, reply in replies.items()}

    def _on_lack(self, site: str, error: UserError) -> None:
        then = "counts with what it said last" if site in self.said.sites else "judges no epoch"
        epoch = self.loop.epoch
        line = f"{site} does not validate epoch {epoch} of distillation, and {then}. {error.what}"
        self.context.reporter.log("warning", line)


class StudentWatch(StudentGate):
    """Has every epoch's student judged and keeps the last, to the bit as without a gate (``gate = "watch"``)."""

    def settle(self, *, began_with: str, model: str) -> None:
        """Leave the loop's student as it is; say in the log and in the run's folder how the epochs did."""
        self._tell(
            GateRecord(
                began_with=began_with,
                model=model,
                kept_epoch=self.loop.epoch,
                dice=tuple(self.best.dice),
                teacher_dice=self.teacher_dice,
                student_listens=self.loop.student_listens,
                is_watched=True,
            )
        )


class StudentMix(StudentGate):
    """Judges the student of before and, at the end, means of it and the distilled one (``gate = "mix"``)."""

    def judge(self, *, save: Callable[[], None]) -> None:
        """Have the sites validate the student of before; epochs are not judged."""
        if self.loop.epoch == 0:
            super().judge(save=save)

    def settle(self, *, began_with: str, model: str) -> None:
        """Give the loop's student the kept mean; say so in the log and in the run's folder."""
        student, config = self.loop.student, self.context.config.distillation
        first = self.best.weights
        last = {name: torch.clone(value.detach().cpu()) for name, value in student.state_dict().items()}
        mixes: dict[float, float] = {}
        for place, share in enumerate(MIXES if first is not None else (), start=1):
            self.context.reporter.check_cancelled()
            assert first is not None
            weights = _arrays(mixed(first, last, share))
            percent = round(100 * share)
            figures = self._ask("student", weights, number=config.epochs + place, curve=MIX_DICE, step=percent)
            dice = self.said.pool(figures, asked={*figures, *self.said.sites})
            assert dice is not None, "those who have judged the first have said something"
            self.context.reporter.metric(MIX_DICE, dice, step=percent)
            mixes[share] = dice
        share = None
        if first is not None:
            share = farthest(mixes, first=self.best.dice[0], tolerance=config.gate_tolerance)
            student.load_state_dict(mixed(first, last, share) if share else first)
        self._tell(
            GateRecord(
                began_with=began_with,
                model=model,
                kept_epoch=0 if share == 0 else config.epochs,
                dice=tuple(self.best.dice),
                teacher_dice=self.teacher_dice,
                student_listens=self.loop.student_listens,
                share=share,
                mixes=tuple(mixes.items()),
                tolerance=config.gate_tolerance,
            )
        )


def _arrays(weights: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: np.array(value.detach().cpu().numpy()) for name, value in weights.items()}
