"""The gate of distillation by hand: which epoch is kept, how sites weigh, who learns from whom, what the plan says."""

from __future__ import annotations

import copy
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from engine.config import DistillationConfig, RunConfig, parse_config
from engine.distillation.gate import BestStudent, farthest, mixed, pooled_dice
from engine.errors import UserError
from engine.planning.gate_costs import gate_bytes, gate_disk, gate_seconds
from engine.runs.gates import GATE_FILE, GateRecord, best_epoch, read_gate
from engine.seeding import numpy_generator
from tests.unit import independent_arithmetic as by_hand
from tests.unit.test_distillation_step import Squares, make_loop, on_grid, supervised


def site(dice: float, images: int) -> dict[str, float]:
    return {"val_dice": dice, "val_images": float(images), "val_loss": 9.0}


@pytest.mark.parametrize(
    ("sites", "expected"),
    [
        ([site(0.5, 10), site(0.8, 30)], (5 + 24) / 40),  # by images, not by sites: that would be 0.65
        ([site(0.2, 1), {"wall_s": 1.0}], 0.2),  # a site without validation images counts nothing
        ([{"wall_s": 1.0}], None),
        ([], None),
    ],
)
def test_sites_weigh_by_their_validation_images(sites: list[dict[str, float]], expected: float | None) -> None:
    assert pooled_dice(sites) == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize(
    ("dice", "kept"),
    [
        ((0.5, 0.6, 0.7, 0.65), 2),
        ((0.5, 0.7, 0.6, 0.7), 1),  # equal ones: the earlier
        ((0.5, 0.5, 0.5), 0),  # as good is not better: FedAvg's stays
        ((0.5, 0.4, 0.3), 0),
        ((0.5,), 0),
        ((0.1, 0.2, 0.3), 2),
    ],
)
def test_the_best_epoch_is_kept_and_of_equal_ones_the_earlier(dice: tuple[float, ...], kept: int) -> None:
    best, student = BestStudent(), nn.Linear(1, 1)
    for epoch, value in enumerate(dice):
        nn.init.constant_(student.weight, float(epoch))
        best.judge(epoch, dice=value, weights=student.state_dict())
    assert best.kept_epoch == kept == best_epoch(dict(enumerate(dice)))
    best.settle(student)
    assert student.weight.item() == kept, "the weights of that epoch, not those that training has moved on to"
    again = BestStudent()
    again.load_state_dict(best.state_dict())
    assert (again.kept_epoch, again.dice, again.judged) == (kept, list(dice), len(dice) - 1)


def test_where_nobody_can_judge_the_last_epoch_is_kept() -> None:
    best, student = BestStudent(), nn.Linear(1, 1)
    for epoch in range(3):
        nn.init.constant_(student.weight, float(epoch))
        best.judge(epoch, dice=None, weights=student.state_dict())
    best.settle(student)
    assert (best.kept_epoch, student.weight.item()) == (2, 2.0)
    assert "No site has validation images" in GateRecord("fedavg_student", "distilled_student", 2, ()).sentences()[0]
    assert best_epoch({}) is None


def test_the_record_says_what_came_of_it(tmp_path: Path) -> None:
    worse = GateRecord("fedavg_student", "distilled_student", 0, (0.5, 0.4, 0.45))
    assert worse.sentences() == (
        "Distillation did not help; FedAvg's model is kept (validation Dice 0.500; the best epoch has 0.450).",
    )
    better = GateRecord("fedavg_student", "distilled_student", 2, (0.5, 0.4, 0.6), 0.3, student_listens=False)
    said = better.sentences()
    assert said[0] == "Epoch 2 of distillation is kept: validation Dice 0.600, 0.500 before it."
    assert "had 0.300 there before distillation, the student 0.500" in said[1] and "masks alone" in said[1]
    assert read_gate(tmp_path) is None
    path = tmp_path / GATE_FILE
    path.parent.mkdir()
    path.write_text(json.dumps({**better.__dict__}))
    assert read_gate(tmp_path) == better
    path.write_text("[1]")
    with pytest.raises(UserError, match="cannot be read"):
        read_gate(tmp_path)


def test_a_mean_of_weights_is_that_of_each_entry_and_counters_are_the_lasts() -> None:
    """A quarter of the way from (1, -2) to (5, 2) is (2, -1)."""
    first = {"weight": torch.tensor([1.0, -2.0]), "num_batches": torch.tensor(3)}
    last = {"weight": torch.tensor([5.0, 2.0]), "num_batches": torch.tensor(9)}
    assert mixed(first, last, 0.25)["weight"].tolist() == [2.0, -1.0] and mixed(first, last, 0.25)["num_batches"] == 9
    assert torch.equal(mixed(first, last, 1.0)["weight"], last["weight"])


@pytest.mark.parametrize(("tolerance", "share"), [(0.0, 0.25), (0.01, 0.5), (0.02, 0.75), (0.3, 1.0), (0.009, 0.25)])
def test_the_nearest_to_the_distilled_that_the_sites_allow_is_kept(tolerance: float, share: float) -> None:
    """0.80 before; a mean that is better than before does not keep out one that goes further."""
    dice = {0.25: 0.81, 0.5: 0.79, 0.75: 0.7801, 1.0: 0.7}
    assert farthest(dice, first=0.8, tolerance=tolerance) == share
    assert farthest({0.25: 0.7, 1.0: 0.6}, first=0.8, tolerance=tolerance) == (0.0 if tolerance < 0.3 else 1.0)


def test_the_record_of_a_mean_says_which_and_what_it_costs(tmp_path: Path) -> None:
    mixes = ((0.25, 0.51), (0.5, 0.495), (0.75, 0.47), (1.0, 0.4))
    kept = GateRecord("fedavg_student", "distilled_student", 4, (0.5,), share=0.5, mixes=mixes, tolerance=0.01)
    assert kept.sentences() == (
        "The mean of FedAvg's model and the distilled one, 50% the latter, is kept: validation Dice 0.495, 0.500 "
        "before distillation. Nearer to the distilled one it is more than 0.01 below 0.500.",
    )
    whole = replace(kept, share=1.0, mixes=((1.0, 0.505),))
    assert whole.sentences() == ("The distilled student is kept: validation Dice 0.505, 0.500 before distillation.",)
    none = replace(kept, share=0.0, kept_epoch=0)
    assert none.keeps_the_first and none.sentences()[0].startswith("FedAvg's model is kept: on the way")
    path = tmp_path / GATE_FILE
    path.parent.mkdir()
    path.write_text(json.dumps(asdict(kept)))
    assert read_gate(tmp_path) == kept


def test_a_student_that_does_not_listen_learns_from_masks_and_the_teacher_from_it() -> None:
    """Student: w L_sup. Teacher: w L_sup + (1 - w) KL(student || teacher), the student's logits held."""
    config = RunConfig(
        precision="fp32",
        distillation=DistillationConfig(batch_size=4, supervision_weight=0.4, temperature=1.5, feature_weight=0.3),
    )
    loop = make_loop(config)
    loop.student_listens = False
    teacher, student = copy.deepcopy(loop.teacher), copy.deepcopy(loop.student)
    part, pool = config.distillation, Squares()
    adams = {
        "teacher": by_hand.Adam(teacher, learning_rate=part.teacher_learning_rate),
        "student": by_hand.Adam(student, learning_rate=part.student_learning_rate),
    }
    for indices in (np.array([0, 3, 5, 6]), np.array([7, 1, 2, 4])):
        image, mask = pool.batch(indices, rng=numpy_generator(1, "any"))
        image_B3HW, mask_BKhw = torch.from_numpy(image), on_grid(mask, loop.grid_px)
        teacher.train(), student.train()
        features, own = teacher.image_encoder(image_B3HW), student.image_encoder(image_B3HW)
        logits, held = teacher.decode(features), student.decode(own)
        of_student = part.supervision_weight * supervised(held, mask_BKhw, config)
        towards = by_hand.bernoulli_kl(held.detach(), logits, temperature=part.temperature).mean()
        of_teacher = part.supervision_weight * supervised(logits, mask_BKhw, config)
        of_teacher = of_teacher + (1 - part.supervision_weight) * towards
        of_teacher = of_teacher + part.feature_weight * ((own.detach() - features) ** 2).double().mean()
        grads = {"teacher": by_hand.gradients(of_teacher, teacher), "student": by_hand.gradients(of_student, student)}
        assert loop.train_step(indices).divergence == pytest.approx(float(towards.detach()), rel=2e-4)
        for name, adam in adams.items():
            adam.step(grads[name])
    assert by_hand.assert_same_weights(loop.student, student, adams["student"]) > 10_000
    assert by_hand.assert_same_weights(loop.teacher, teacher, adams["teacher"]) > 10_000
    assert loop.state_dict()["student_listens"] is False


def test_a_loop_of_before_has_the_state_that_it_had() -> None:
    loop = make_loop(RunConfig(distillation=DistillationConfig(batch_size=4)))
    assert "student_listens" not in loop.state_dict()
    loop.load_state_dict(loop.state_dict())
    assert loop.student_listens


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({"teacher_check": "sites"}, "gate is 'off'"),
        ({"gate": "best", "batch_norm_statistics": "sites"}, "batch_norm_statistics"),
        (
            {"gate": "best", "teacher_check": "sites", "mode": "reference", "selector": "in_batch_quantile"},
            "mode is 'reference'",
        ),
    ],
)
def test_what_contradicts_the_gate_is_refused(part: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        parse_config({"distillation": part})


def test_the_gate_is_off_unless_asked_for_and_the_plan_counts_it() -> None:
    from engine.planning.costs import MODELS
    from tests.unit.test_planning import workload

    assert RunConfig().distillation.gate == "off" and RunConfig().distillation.teacher_check == "off"
    state, teacher = MODELS["tinysam", "mini"].state_bytes, MODELS["sam", "mini"].state_bytes
    off, gated, checked = (
        workload({"distillation": part})
        for part in ({}, {"gate": "best", "epochs": 4}, {"gate": "best", "teacher_check": "sites", "epochs": 4})
    )
    assert gate_bytes(off) == {} and gate_seconds(off) == 0
    assert gate_bytes(gated) == {("down", "candidate"): 5 * state}  # before, and after each of four epochs
    assert gate_bytes(checked) == {("down", "candidate"): 5 * state, ("down", "checked_teacher"): teacher}
    assert gate_bytes(workload({"distillation": {"gate": "mix", "epochs": 9}})) == {("down", "candidate"): 5 * state}
    watched = workload({"distillation": {"gate": "watch", "epochs": 4}})
    assert gate_bytes(watched) == gate_bytes(gated) and gate_disk(watched) == 0
    validated = sum(found.num_validation for found in gated.sources)
    assert gate_seconds(gated) == pytest.approx(5 * validated * gated.pass_s(gated.student))
    assert gate_seconds(checked) - gate_seconds(gated) == pytest.approx(validated * gated.pass_s(gated.teacher))
