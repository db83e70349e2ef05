"""Sites that are to validate a model and are away, where a run goes on without them: all is compared by the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from engine.errors import UserError
from engine.federation.tasks import VALIDATE_STUDENT, SiteReply
from engine.runs.gates import read_gate
from engine.stages.context import RunContext
from engine.stages.federated_training import FederatedTraining
from engine.stages.generation import Generation
from engine.stages.generator_training import GeneratorTraining
from engine.stages.mutual_distillation import MutualDistillationStage
from engine.stages.validation import PooledValidation
from tests.integration import test_goes_on_without as without
from tests.integration.test_goes_on_without import SITES, Sick, config_of, context_of

STAYS, AWAY = SITES
VALIDATED = {"data.validation_fraction": 0.34, "data.images_per_site": 9}
sick = without.sick


def figures(dice: float, images: int) -> dict[str, float]:
    return {"val_dice": dice, "val_images": float(images), "val_loss": 9.0}


def test_who_is_away_counts_with_what_it_said_last() -> None:
    validation = PooledValidation()
    assert validation.pool({}, asked=["a"]) is None and validation.sites == ()
    assert validation.pool({"b": figures(0.9, 10), "c": {"wall_s": 1.0}}, asked=["a", "b", "c"]) == 0.9
    assert validation.pool({"a": figures(0.5, 30), "b": figures(0.1, 10)}, asked=["a", "b"]) == pytest.approx(0.4)
    again = PooledValidation(validation.state_dict())
    assert again.pool({"a": figures(0.9, 30)}, asked=["a", "b"]) == pytest.approx((27 + 1) / 40)
    assert again.pool({}, asked=["a"]) == 0.9, "who was not asked counts nothing"
    assert again.sites == ("b", "a")


class Curves(without.Recording):
    """Keeps curves, too."""

    def __init__(self) -> None:
        super().__init__()
        self.curves: dict[tuple[str, str | None], dict[int, float]] = {}

    def metric(self, name: str, value: float, *, step: int, site: str | None = None) -> None:
        self.curves.setdefault((name, site), {})[step] = value


def from_the(number: int, answers: list[SiteReply]) -> Callable[[SiteReply], SiteReply]:
    """Return an answer that keeps each reply in ``answers``, and fails from question ``number`` on, counted from 0."""

    def answer(reply: SiteReply) -> SiteReply:
        if len(answers) >= number:
            raise RuntimeError("the disk is gone")
        answers.append(reply)
        return reply

    return answer


def context_with_curves(folder: Path, **keys: object) -> tuple[RunContext, Curves]:
    context = context_of(config_of("skip", **VALIDATED | keys), folder)
    reporter = context.reporter = Curves()
    return context, reporter


def test_a_round_s_average_is_judged_by_those_that_are_there_and_what_the_others_said(
    sick: Sick, tmp_path: Path
) -> None:
    rounds = {"federation.rounds": 3, "federation.patience": 5, "federation.average_decay": 0.5}
    context, reporter = context_with_curves(tmp_path, **rounds)
    answers: list[SiteReply] = []
    sick.changes[(AWAY, VALIDATE_STUDENT)] = from_the(1, answers)
    FederatedTraining().run(context)
    (said,) = answers
    away, images = said.metrics["val_dice"], said.metrics["val_images"]
    stays, mean = (reporter.curves["val_dice", site] for site in (STAYS, None))
    others = context.description.num_validation[STAYS]
    assert reporter.curves["val_dice", AWAY] == {1: away} and sorted(mean) == sorted(stays) == [1, 2, 3]
    for number, dice in stays.items():
        assert mean[number] == pytest.approx((others * dice + images * away) / (others + images))
    assert [warning.split(". ")[0] for warning in reporter.warnings if "validate" in warning] == [
        f"{AWAY} does not validate the model of round {number}, and counts with what it said last" for number in (2, 3)
    ]


def distil(context: RunContext) -> None:
    for stage in (GeneratorTraining(), Generation()):
        stage.run(context)
    context.save_model(context.new_model("teacher"), "finetuned_teacher")
    MutualDistillationStage().run(context)


GATED = {"distillation.gate": "best", "distillation.teacher_check": "sites", "distillation.epochs": 2}


@pytest.mark.parametrize("answered", [0, 2])
def test_the_gate_compares_all_epochs_by_the_same_sites(answered: int, sick: Sick, tmp_path: Path) -> None:
    """Away from the first question on, a site judges no epoch; later, it counts with what it said last."""
    context, reporter = context_with_curves(tmp_path, **GATED)
    answers: list[SiteReply] = []
    sick.changes[(AWAY, VALIDATE_STUDENT)] = from_the(answered, answers)
    distil(context)
    record, (stays, mean) = read_gate(tmp_path), (reporter.curves["val_dice", site] for site in (STAYS, None))
    assert record is not None and record.dice == tuple(mean.values()) and sorted(mean) == [0, 1, 2]
    others = context.description.num_validation[STAYS]
    for epoch, dice in stays.items():
        known = [(dice, others), *((answer.metrics["val_dice"], others) for answer in answers[:1])]
        assert mean[epoch] == pytest.approx(sum(value * n for value, n in known) / sum(n for _, n in known))
    asked = sum(site == AWAY and task == VALIDATE_STUDENT for site, task, _ in sick.asked)
    if answered:
        assert record.teacher_dice == pytest.approx(
            (reporter.curves["teacher_val_dice", STAYS][0] + answers[1].metrics["val_dice"]) / 2
        )
        assert any(
            f"{AWAY} does not validate epoch 1 of distillation, and counts" in text for text in reporter.warnings
        )
    else:
        assert record.teacher_dice == reporter.curves["teacher_val_dice", STAYS][0]
        assert asked == 2, "as a judge, and when the student is delivered"
        assert any("judges no epoch. " in text for text in reporter.warnings)


def test_without_any_judge_the_gate_stops_and_goes_on_when_they_are_back(sick: Sick, tmp_path: Path) -> None:
    context, reporter = context_with_curves(tmp_path, **GATED)
    for site in SITES:
        sick.changes[(site, VALIDATE_STUDENT)] = from_the(3, [])  # epoch 0, the teacher, epoch 1
    with pytest.raises(UserError, match="No site has validated what distillation has made") as caught:
        distil(context)
    assert caught.value.code == "distillation.no_judge"
    assert sorted(reporter.curves["val_dice", None]) == [0, 1]
    sick.changes = {}
    MutualDistillationStage().run(context)
    assert sorted(reporter.curves["val_dice", None]) == [0, 1, 2]
    assert all(torch.isfinite(value).all() for value in context.load_model("student", "distilled_student").parameters())
