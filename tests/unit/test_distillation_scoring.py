"""What the pool is scored with before every choice, beside Eq. 6-7 written out on the models as they are then."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from engine.config import DistillationConfig, RunConfig
from engine.distillation.features import KeptFeatures
from engine.distillation.mutual import MutualDistillation
from tests.unit import independent_arithmetic as by_hand
from tests.unit.test_distillation_step import CPU, Squares, make_loop, on_grid


def no_check() -> None:
    pass


def train_epoch(loop: MutualDistillation) -> None:
    for indices in loop.batches():
        loop.train_step(indices)
    loop.end_epoch()


@torch.no_grad()
def terms_by_hand(loop: MutualDistillation, *, num_classes: int = 1, temperature: float = 1.0, pos_weight: float = 2.0):
    """L_GT and L_KL of every pair: eval mode, images as they are, means over classes and pixels."""
    pool = Squares(num_classes=num_classes)
    image, mask = torch.from_numpy(pool.image), on_grid(pool.mask, loop.grid_px)
    teacher, student = loop.teacher.eval()(image), loop.student.eval()(image)
    l_gt = by_hand.cross_entropy(teacher, mask, pos_weight=pos_weight).mean(dim=(1, 2, 3))
    both = by_hand.bernoulli_kl(teacher, student, temperature=temperature)
    both = both + by_hand.bernoulli_kl(student, teacher, temperature=temperature)
    return l_gt.numpy(), both.mean(dim=(1, 2, 3)).numpy()


@pytest.mark.parametrize("scoring", ["exact", "reuse"])
@pytest.mark.parametrize(
    ("num_classes", "kept", "temperature", "pos_weight"), [(1, False, 1.0, 2.0), (2, True, 2.0, 3.0)]
)
def test_every_epoch_begins_with_the_scores_of_the_models_as_they_are(
    scoring, num_classes, kept, temperature, pos_weight
):
    """With all of SAM's features renewed ``reuse`` is ``exact``; training's own passes leave no trace in either."""
    part = DistillationConfig(
        batch_size=3,
        epochs=3,
        scoring=scoring,
        refresh_fraction=1.0,
        temperature=temperature,
        learnability_lambda=0.3,
        student_learning_rate=3e-3,
        teacher_learning_rate=3e-3,
    )
    config = RunConfig(precision="fp32", pos_weight=pos_weight, distillation=part)
    loop = make_loop(config, num_classes=num_classes, kept=kept)
    seen = []
    for epoch in range(3):
        l_gt, l_kl = terms_by_hand(loop, num_classes=num_classes, temperature=temperature, pos_weight=pos_weight)
        scores = -0.3 * l_gt + 0.7 * l_kl
        records = loop.begin_epoch(on_batch=no_check)
        tolerance = 1e-5 if scoring == "exact" else 5e-3  # kept features are float16
        np.testing.assert_allclose([r.l_gt for r in records], l_gt, rtol=tolerance)
        np.testing.assert_allclose([r.l_kl for r in records], l_kl, rtol=tolerance, atol=tolerance * l_kl.max())
        np.testing.assert_allclose([r.score for r in records], scores, atol=tolerance * np.abs(scores).max())
        assert all(r.fresh and r.epoch == epoch for r in records)
        assert loop.selected.tolist() == sorted(np.argsort(-np.array([r.score for r in records]))[:4])
        seen.append(scores)
        train_epoch(loop)
    assert all(np.abs(new - old).max() > 3e-3 for old, new in pairwise(seen)), "they have moved"


def test_sam_s_features_are_renewed_in_turn_and_everything_else_at_once():
    part = DistillationConfig(batch_size=4, epochs=4, refresh_fraction=0.25, teacher_learning_rate=3e-3)
    loop = make_loop(RunConfig(precision="fp32", distillation=part))
    pool = Squares()
    expected = None
    for epoch in range(4):
        with torch.no_grad():
            now = loop.teacher.eval().encode(torch.from_numpy(pool.image))
        turn = {0: range(8), 1: (0, 1), 2: (2, 3), 3: (4, 5)}[epoch]
        expected = now.clone() if expected is None else expected
        expected[list(turn)] = now[list(turn)]
        loop.begin_epoch(on_batch=no_check)
        features = loop.scorer.features.batch(np.arange(8))
        torch.testing.assert_close(features, expected, rtol=2e-3, atol=2e-3)
        with torch.no_grad():
            logits = loop.teacher.decode(features)
        l_gt = by_hand.cross_entropy(logits, on_grid(pool.mask, loop.grid_px), pos_weight=2.0).mean(dim=(1, 2, 3))
        np.testing.assert_allclose(loop.table.l_gt, l_gt.numpy(), rtol=1e-5)
        train_epoch(loop)
    assert loop.scorer.feature_epoch.tolist() == [1, 1, 2, 2, 3, 3, 0, 0]


def test_the_features_of_a_frozen_encoder_are_worked_out_once():
    part = DistillationConfig(batch_size=4, epochs=3, freeze_teacher_encoder=True)
    loop = make_loop(RunConfig(precision="fp32", distillation=part))
    calls = []
    for _ in range(2):
        loop.begin_epoch(on_batch=lambda: calls.append(1))
        train_epoch(loop)
    assert len(calls) == 3  # one batch of eight: features once, scores twice
    assert loop.scorer.state_dict()["features"] is None, "a resumed stage works them out again"


def test_features_that_training_keeps_are_those_that_scores_use():
    part = DistillationConfig(batch_size=4, epochs=2, freeze_teacher_encoder=True, scoring="exact")
    made = []

    def keep(model: torch.nn.Module) -> KeptFeatures:
        made.append(KeptFeatures(model, Squares(), batch_size=4, device=CPU, precision="fp32", on_batch=no_check))
        return made[-1]

    loop = make_loop(RunConfig(precision="fp32", distillation=part), keep_features=keep)
    loop.begin_epoch(on_batch=no_check)
    assert loop.scorer.features is loop.teacher_features is made[0]


def test_where_features_do_not_fit_both_models_run_in_full(monkeypatch):
    monkeypatch.setattr("engine.distillation.features.BUDGET_BYTES", 100)
    loop = make_loop(RunConfig(precision="fp32", distillation=DistillationConfig(batch_size=4, epochs=2)))
    for _ in range(2):
        l_gt, _ = terms_by_hand(loop)
        loop.begin_epoch(on_batch=no_check)
        np.testing.assert_allclose(loop.table.l_gt, l_gt, rtol=1e-5)
        train_epoch(loop)
    assert loop.scorer.features is None


def test_where_everything_is_chosen_only_the_first_epoch_is_scored():
    part = DistillationConfig(batch_size=4, epochs=2, selection_rate=1.0)
    loop = make_loop(RunConfig(precision="fp32", distillation=part))
    first = loop.begin_epoch(on_batch=no_check)
    train_epoch(loop)
    second = loop.begin_epoch(on_batch=no_check)
    assert [r.score for r in first] == [r.score for r in second]
    assert all(r.fresh for r in first) and not any(r.fresh for r in second)
    assert loop.selected.tolist() == list(range(8))


def test_epochs_between_two_scorings_train_on_the_last_choice():
    part = DistillationConfig(batch_size=4, epochs=4, scoring_interval=2, student_learning_rate=3e-3)
    loop = make_loop(RunConfig(precision="fp32", distillation=part))
    chosen, scores, fresh = [], [], []
    for _ in range(4):
        records = loop.begin_epoch(on_batch=no_check)
        chosen.append(loop.selected.tolist())
        scores.append([r.score for r in records])
        fresh.append({r.fresh for r in records})
        train_epoch(loop)
    assert scores[0] == scores[1] != scores[2] == scores[3]
    assert chosen[0] == chosen[1] and chosen[2] == chosen[3]
    assert fresh == [{True}, {False}, {True}, {False}]


def test_a_resumed_loop_has_the_features_of_encoders_that_are_no_more():
    part = DistillationConfig(batch_size=4, epochs=4, refresh_fraction=0.25, teacher_learning_rate=3e-3)
    config = RunConfig(precision="fp32", distillation=part)
    whole, first, second = (make_loop(config) for _ in range(3))
    for loop in (whole, first):
        for _ in range(2):
            loop.begin_epoch(on_batch=no_check)
            train_epoch(loop)
    second.load_state_dict(first.state_dict())
    for loop in (whole, second):
        loop.begin_epoch(on_batch=no_check)
    assert torch.equal(whole.scorer.features.values_NChw, second.scorer.features.values_NChw)
    np.testing.assert_array_equal(whole.table.l_gt, second.table.l_gt)
    assert whole.scorer.feature_epoch.tolist() == second.scorer.feature_epoch.tolist() == [1, 1, 2, 2, 0, 0, 0, 0]


def test_a_checkpoint_from_before_features_were_kept_goes_on():
    config = RunConfig(precision="fp32", distillation=DistillationConfig(batch_size=4, epochs=2))
    first, second = make_loop(config), make_loop(config)
    first.begin_epoch(on_batch=no_check)
    first.train_step(first.batches()[0])
    state = first.state_dict()
    del state["scorer"]
    second.load_state_dict(state)
    assert second.batches()[0].tolist() == first.batches()[0].tolist()
    second.end_epoch()
    second.begin_epoch(on_batch=no_check)
    assert (second.table.scored_epoch == 1).all()
