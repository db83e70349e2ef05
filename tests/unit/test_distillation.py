"""Learnability, selection, divergences and the mutual loop, on real models at toy size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.config import DistillationConfig, RunConfig
from engine.distillation.choice import learnability
from engine.distillation.features import KeptFeatures, may_keep_features
from engine.distillation.learnability import SampleTerms, ScoreTable, sample_terms
from engine.distillation.losses import directed_kl, reference_kl, symmetric_kl
from engine.distillation.mutual import MutualDistillation
from engine.distillation.selection import select_in_batch, select_pool, select_sampled, select_top_k
from engine.distillation.supervised import SupervisedTraining
from engine.errors import UserError
from engine.models.averaging import moved_mean
from engine.models.registry import build_model
from engine.seeding import numpy_generator, torch_generator

CPU = torch.device("cpu")


class ToyPool:
    """Eight random images with a bright square each; the same interface as the real pools.

    ``augmented`` images, those of a batch with a generator, are flipped and brightened by its draws.
    """

    names = tuple(f"s{i}" for i in range(8))

    def __init__(self, *, image_px: int = 64, augmented: bool = False) -> None:
        rng = numpy_generator(3, "toy pool")
        self.augmented = augmented
        self.image = rng.uniform(0, 0.3, size=(8, 3, image_px, image_px)).astype(np.float32)
        self.mask = np.zeros((8, 1, image_px, image_px), dtype=np.uint8)
        for i in range(8):
            y, x = rng.integers(0, image_px // 2, size=2)
            self.mask[i, 0, y : y + image_px // 2, x : x + image_px // 2] = 1
        self.image += self.mask * 0.6

    def __len__(self) -> int:
        return 8

    def batch(self, indices, *, rng=None):
        if rng is None or not self.augmented:
            return self.image[indices], self.mask[indices]
        side = slice(None, None, int(rng.choice([-1, 1])))
        image = self.image[indices][..., side] + rng.uniform(0, 0.2, size=(len(indices), 1, 1, 1))
        return image.astype(np.float32), np.ascontiguousarray(self.mask[indices][..., side])


def _config(**distillation) -> RunConfig:
    return RunConfig(distillation=DistillationConfig(**{"epochs": 2, "batch_size": 4, **distillation}))


def _loop(config: RunConfig, *, augmented: bool = False, **kwargs) -> MutualDistillation:
    models = {name: build_model(name, size="mini", image_px=64, seed=5) for name in ("sam", "tinysam")}
    return MutualDistillation(
        teacher=models["sam"],
        student=models["tinysam"],
        pool=ToyPool(augmented=augmented),
        config=config,
        grid_px=64 // models["tinysam"].mask_stride,
        device=CPU,
        **kwargs,
    )


def _no_check() -> None:
    pass


def _train(loop: MutualDistillation, *, epochs: int) -> None:
    while loop.epoch < epochs:
        if loop.selected is None:
            loop.begin_epoch(on_batch=_no_check)
        for indices in loop.batches()[loop.step :]:
            loop.train_step(indices)
        loop.end_epoch()


def _equal(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    return all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_symmetric_kl_is_the_sum_of_both_directions(temperature):
    generator = torch_generator(1, "kl")
    first = torch.randn(3, 2, 5, 5, generator=generator) * 3  # (B=3, K=2, 5, 5)
    second = torch.randn(3, 2, 5, 5, generator=generator) * 3
    both = directed_kl(first, second, temperature=temperature) + directed_kl(second, first, temperature=temperature)
    torch.testing.assert_close(symmetric_kl(first, second, temperature=temperature), both, rtol=1e-4, atol=1e-5)
    reference = reference_kl(first, second, temperature=temperature) + reference_kl(
        second, first, temperature=temperature
    )
    torch.testing.assert_close(symmetric_kl(first, second, temperature=temperature), reference, rtol=1e-3, atol=1e-4)


def test_reference_kl_is_second_against_first():
    first, second = torch.zeros(1, 1, 1, 1), torch.full((1, 1, 1, 1), 2.0)
    p, q = 0.5, float(torch.sigmoid(torch.tensor(2.0)))
    expected = q * np.log(q / p) + (1 - q) * np.log((1 - q) / (1 - p))
    assert reference_kl(first, second).item() == pytest.approx(expected, rel=1e-5)
    assert directed_kl(second, first).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("measure", [symmetric_kl, directed_kl, reference_kl])
def test_a_divergence_weighs_the_same_for_one_class_and_for_two(measure):
    first = torch.randn(3, 1, 4, 4, generator=torch_generator(4, "a"))
    second = torch.randn(3, 1, 4, 4, generator=torch_generator(4, "b"))
    twice = measure(first.repeat(1, 2, 1, 1), second.repeat(1, 2, 1, 1))  # the same class twice: nothing new to learn
    torch.testing.assert_close(twice, measure(first, second))
    other = measure(second, first * 2)
    of_both = measure(torch.cat([first, second], dim=1), torch.cat([second, first * 2], dim=1))
    torch.testing.assert_close(of_both, (measure(first, second) + other) / 2)


def test_both_directions_send_gradient_into_both_models():
    first = torch.randn(2, 1, 3, 3, generator=torch_generator(2, "a"), requires_grad=True)
    second = torch.randn(2, 1, 3, 3, generator=torch_generator(2, "b"), requires_grad=True)
    symmetric_kl(first, second).sum().backward()
    assert first.grad.abs().min() > 0
    assert second.grad.abs().min() > 0


def test_symmetric_kl_is_finite_for_extreme_logits():
    first, second = torch.full((1, 1, 2, 2), 80.0), torch.full((1, 1, 2, 2), -80.0)
    assert symmetric_kl(first, second).item() == pytest.approx(160.0)


@pytest.mark.parametrize(
    ("weight", "best"),
    [
        (1.0, 0),  # reliability alone: the smallest L_GT
        (0.0, 2),  # dispute alone: the largest L_KL
        (0.5, 2),
    ],
)
def test_learnability_is_equation_6(weight, best):
    l_gt, l_kl = np.array([0.1, 0.5, 0.4]), np.array([0.0, 0.2, 0.9])
    scores = learnability(l_gt, l_kl, weight=weight)
    np.testing.assert_allclose(scores, -weight * l_gt + (1 - weight) * l_kl)
    assert scores.argmax() == best


def test_zscore_makes_both_terms_weigh_alike():
    l_gt, l_kl = np.array([1.0, 2.0, 3.0]), np.array([1e3, 3e3, 2e3])
    scaled = learnability(l_gt, l_kl, weight=0.5, scaling="zscore")
    again = learnability(l_gt * 100, l_kl, weight=0.5, scaling="zscore")
    np.testing.assert_allclose(scaled, again)
    assert np.isfinite(learnability(np.ones(3), l_kl, weight=0.5, scaling="zscore")).all()


def test_sample_terms_use_the_teacher_alone_for_l_gt():
    mask = torch.ones(2, 1, 4, 4)
    sure = torch.full((2, 1, 4, 4), 6.0)
    unsure = torch.zeros(2, 1, 4, 4)
    reliable = sample_terms(sure, unsure, mask, pos_weight=2.0, temperature=1.0)
    unreliable = sample_terms(unsure, sure, mask, pos_weight=2.0, temperature=1.0)
    assert (reliable.l_gt < unreliable.l_gt).all()
    np.testing.assert_allclose(reliable.l_kl, unreliable.l_kl)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=40), st.floats(0.05, 1.0))
def test_top_k_keeps_the_best_share(values, rate):
    scores = np.array(values)
    chosen = select_top_k(scores, rate=rate)
    rejected = np.setdiff1d(np.arange(len(scores)), chosen)
    assert len(chosen) == max(1, round(rate * len(scores)))
    if len(rejected):
        assert scores[chosen].min() >= scores[rejected].max()


def test_sampling_follows_exp_s():
    scores = np.log(np.array([1.0, 2.0, 5.0]))
    rng = numpy_generator(9, "draws")
    counts = np.zeros(3)
    for _ in range(4000):
        counts[select_sampled(scores, rate=0.34, rng=rng)] += 1
    np.testing.assert_allclose(counts / 4000, [1 / 8, 2 / 8, 5 / 8], atol=0.03)


@pytest.mark.parametrize(
    ("teacher", "student", "divergence", "expected"),
    [
        # the sample of largest dispute (3) is unreliable for the teacher
        ([0.1, 0.1, 0.1, 9.0], [0.1, 0.1, 0.1, 0.1], [1.0, 3.0, 2.0, 9.0], [1, 2]),
        # samples 1 and 2 dispute most, but each is unreliable for one of the two
        ([0.1, 0.2, 0.9, 0.8], [0.1, 0.9, 0.2, 0.8], [1.0, 5.0, 4.0, 3.0], [0, 3]),
    ],
)
def test_in_batch_rule_of_the_authors(teacher, student, divergence, expected):
    chosen = select_in_batch(*map(np.array, (teacher, student, divergence)), quantile=0.7, rate=0.5)
    assert sorted(chosen) == expected


def test_in_batch_rule_takes_unreliable_samples_only_to_fill_up():
    teacher, student = np.array([0.1, 0.9, 0.9, 0.9]), np.array([0.1, 0.9, 0.9, 0.9])
    chosen = select_in_batch(teacher, student, np.array([0.0, 3.0, 2.0, 1.0]), quantile=0.2, rate=0.5)
    assert chosen[0] == 0
    assert len(chosen) == 2


def test_score_table_ranks_and_marks_what_is_fresh():
    table = ScoreTable(("a", "b", "c"))
    table.update(np.arange(3), SampleTerms(np.array([0.1, 0.2, 0.3]), np.array([1.0, 3.0, 2.0])), epoch=4)
    table.update(np.array([0]), SampleTerms(np.array([0.0]), np.array([9.0])), epoch=5)
    scores = table.scores(weight=0.5, scaling="raw")
    records = table.records(scores, np.array([0, 1]), epoch=5)
    assert [r.rank for r in records] == [1, 2, 3]
    assert [r.selected for r in records] == [True, True, False]
    assert [r.fresh for r in records] == [True, False, False]


@pytest.mark.parametrize("scoring", ["reuse", "exact"])
def test_an_epoch_trains_on_the_selected_half_and_changes_both_models(scoring):
    loop = _loop(_config(scoring=scoring))
    before = {k: v.clone() for k, v in loop.teacher.state_dict().items()}
    student_before = {k: v.clone() for k, v in loop.student.state_dict().items()}
    records = loop.begin_epoch(on_batch=_no_check)
    assert sum(record.selected for record in records) == 4
    assert sorted(np.concatenate(loop.batches()).tolist()) == sorted(loop.selected.tolist())
    _train(loop, epochs=1)
    assert any(not torch.equal(v, before[k]) for k, v in loop.teacher.state_dict().items())
    assert any(not torch.equal(v, student_before[k]) for k, v in loop.student.state_dict().items())


def test_reference_mode_freezes_the_teacher_encoder_and_sees_the_whole_pool():
    loop = _loop(_config(mode="reference", selector="in_batch_quantile"))
    encoder = {k: v.clone() for k, v in loop.teacher.image_encoder.state_dict().items()}
    assert loop.begin_epoch(on_batch=_no_check) == []
    assert len(loop.selected) == 8
    for indices in loop.batches():
        loop.train_step(indices)
    records = loop.picked_records()
    assert sum(record.selected for record in records) == 4, "two of each batch of four"
    assert all(record.fresh for record in records) and len(records) == 8
    loop.end_epoch()
    assert loop.picked == []
    assert all(torch.equal(v, encoder[k]) for k, v in loop.teacher.image_encoder.state_dict().items())


def test_one_way_distillation_leaves_the_teacher_alone():
    loop = _loop(_config(mutual=False))
    before = {k: v.clone() for k, v in loop.teacher.state_dict().items()}
    _train(loop, epochs=1)
    assert all(torch.equal(v, before[k]) for k, v in loop.teacher.state_dict().items())


@pytest.mark.parametrize(
    ("augmented", "changes"),
    [
        (True, {"selection_rate": 1.0}),
        (False, {"selection_rate": 0.75, "batch_size": 3, "refresh_fraction": 0.3}),
        (True, {"selection_rate": 0.75, "batch_size": 3, "scoring": "exact"}),
        (True, {"mode": "reference", "selector": "in_batch_quantile"}),
    ],
)
def test_resumed_in_the_middle_of_an_epoch_is_bit_equal(augmented, changes):
    config = _config(**changes)
    whole = _loop(config, augmented=augmented)
    _train(whole, epochs=2)
    first = _loop(config, augmented=augmented)
    first.begin_epoch(on_batch=_no_check)
    first.train_step(first.batches()[0])
    second = _loop(config, augmented=augmented)
    second.load_state_dict(first.state_dict())
    _train(second, epochs=2)
    assert _equal(whole.student, second.student)
    assert _equal(whole.teacher, second.teacher)
    np.testing.assert_array_equal(whole.table.l_kl, second.table.l_kl)
    assert (whole.table.l_kl > 0).all()


def test_nan_loss_names_the_sample():
    loop = _loop(_config())
    loop.begin_epoch(on_batch=_no_check)
    with torch.no_grad():
        next(loop.student.parameters()).fill_(float("nan"))
    with pytest.raises(UserError, match="not a number at epoch 1, step 1") as caught:
        loop.train_step(loop.batches()[0])
    assert caught.value.code == "training.nan"


def _fine_tuning(model: torch.nn.Module, *, augmented: bool = False, epochs: int) -> SupervisedTraining:
    return SupervisedTraining(
        model,
        pool=ToyPool(augmented=augmented),
        config=RunConfig(seed=1),
        stage="foundation_finetuning",
        epochs=epochs,
        batch_size=4,
        learning_rate=1e-3,
        grid_px=64 // model.mask_stride,
        device=CPU,
    )


def test_fine_tuning_on_augmented_images_resumes_bit_equal():
    models = [build_model("sam", size="mini", image_px=64, seed=5) for _ in range(3)]
    whole, first, second = (_fine_tuning(model, augmented=True, epochs=2) for model in models)

    def go_on(training: SupervisedTraining) -> None:
        while training.epoch < 2:
            for indices in training.batches()[training.step :]:
                training.train_step(indices)
            training.end_epoch()

    go_on(whole)
    first.train_step(first.batches()[0])
    second.load_state_dict(first.state_dict())
    go_on(second)
    assert _equal(whole.model, second.model)
    assert not _equal(whole.model, first.model)


def test_supervised_training_learns_and_names_what_is_not_a_number():
    model = build_model("tinysam", size="mini", image_px=64, seed=5)
    training = _fine_tuning(model, epochs=6)
    means = []
    while training.epoch < 6:
        losses = [training.train_step(indices) for indices in training.batches()]
        means.append(training.end_epoch())
        assert len(losses) > 1 and means[-1] == pytest.approx(sum(losses) / len(losses))
    assert means[-1] < 0.7 * means[0]
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(UserError, match=f"epoch 7, step 1 .*{ToyPool().names[3]}") as caught:
        training.train_step(np.array([3, 5]))
    assert caught.value.code == "training.nan"


def test_pool_selection_of_rate_one_is_everything():
    config = DistillationConfig(selection_rate=1.0)
    chosen = select_pool(np.arange(5.0), config=config, rng=numpy_generator(1, "x"))
    assert chosen.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("changes", [{"freeze_teacher_encoder": True}, {"mutual": False}])
def test_kept_features_give_what_the_encoder_gives(changes):
    def keep(model: torch.nn.Module) -> KeptFeatures:
        return KeptFeatures(model, ToyPool(), batch_size=4, device=CPU, precision="fp32", on_batch=_no_check)

    config = RunConfig(precision="fp32", distillation=DistillationConfig(epochs=2, batch_size=4, **changes))
    plain, kept = _loop(config), _loop(config, keep_features=keep)
    for loop in (plain, kept):
        _train(loop, epochs=1)
    for key, value in plain.student.state_dict().items():
        assert torch.allclose(kept.student.state_dict()[key], value, atol=1e-3), key


def test_features_are_kept_only_where_they_cannot_change():
    model = build_model("sam", size="mini", image_px=64, seed=5)
    ask = {"num_images": 8, "image_px": 64}
    assert not may_keep_features(model, augment="none", **ask), "the encoder still learns"
    model.image_encoder.requires_grad_(False)
    assert may_keep_features(model, augment="none", **ask)
    assert not may_keep_features(model, augment="flips", **ask)
    assert not may_keep_features(model, augment="none", num_images=10**9, image_px=64), "beyond the memory's budget"


def test_a_moving_mean_is_plain_at_first_and_then_forgets():
    """0, 6, 12, 18 have the mean 9; with d = 0.75 the fifth value, 1, moves it by a quarter: 9 + (1 - 9) / 4 = 7."""
    mean, steps = None, torch.tensor(3)
    for count, value in enumerate((0.0, 6.0, 12.0, 18.0, 1.0), start=1):
        current = {"weight": torch.tensor([value]), "batches": steps + count}
        mean = moved_mean(mean, current, decay=0.75, count=count)
    assert mean["weight"].item() == pytest.approx(7.0)
    assert mean["batches"].item() == 8, "integers are the last ones"


def test_the_moving_mean_is_kept_and_resumes():
    config = _config(average_decay=0.5, selection_rate=1.0)
    whole, first, second = _loop(config), _loop(config), _loop(config)
    states = []
    for epoch in (1, 2, 3):
        _train(whole, epochs=epoch)
        states.append({key: value.clone() for key, value in whole.student.state_dict().items()})
    _train(first, epochs=1)
    second.load_state_dict(first.state_dict())
    _train(second, epochs=3)
    whole.finish()
    second.finish()
    assert _equal(whole.student, second.student) and _equal(whole.teacher, second.teacher)
    key = "mask_decoder.iou_token.weight"
    expected = (states[0][key] + states[1][key]) / 4 + states[2][key] / 2
    assert torch.allclose(whole.student.state_dict()[key], expected, atol=1e-6)
