"""Distillation where its numbers run out: models that are quite sure, pools of one sample, masks of two classes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

from engine.config import DistillationConfig, RunConfig
from engine.distillation import features
from engine.distillation.choice import learnability
from engine.distillation.losses import directed_kl, reference_kl, symmetric_kl
from engine.distillation.mutual import LossReport, MutualDistillation
from engine.distillation.pool import decode_mask, encode_mask
from engine.distillation.scoring import PoolScorer
from engine.distillation.selection import num_selected, select_in_batch, select_pool, select_sampled, select_top_k
from engine.models.registry import build_model
from engine.seeding import numpy_generator
from tests.unit.test_distillation import _fine_tuning


def logit(value: float) -> torch.Tensor:
    return torch.full((1, 1, 1, 1), value)


@pytest.mark.parametrize("sure", [200.0, -200.0])
def test_a_model_that_is_sure_beyond_float32_costs_what_it_should(sure: float) -> None:
    """q is 1 (or 0) to the last bit: KL(q || 1/2) = log 2; the eps of 1e-8 keeps 0 log 0 at 0."""
    assert reference_kl(logit(0.0), logit(sure)).item() == pytest.approx(math.log(2), rel=1e-6)
    assert reference_kl(logit(sure), logit(sure)).item() == pytest.approx(0.0, abs=1e-6)
    # The other way round, p being 0 for what has probability 1/2: 1/2 log(1/2 / 1e-8) + 1/2 log(1/2 / 1).
    expected = 0.5 * math.log(0.5 / 1e-8) + 0.5 * math.log(0.5)
    assert reference_kl(logit(sure), logit(0.0)).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("measure", [symmetric_kl, directed_kl, reference_kl])
def test_a_temperature_of_two_halves_the_logits_and_weighs_four_times(measure) -> None:
    first, second = logit(1.0), logit(-3.0)
    hot = measure(first, second, temperature=2.0)
    torch.testing.assert_close(hot, 4 * measure(first / 2, second / 2))
    assert not torch.isclose(hot, measure(first, second), rtol=0.05)


@pytest.mark.parametrize(
    ("num_samples", "rate", "expected"),
    [(1, 0.5, 1), (1, 0.01, 1), (2, 0.5, 1), (4, 0.5, 2), (100, 0.001, 1), (10, 0.26, 3), (3, 1.0, 3)],
)
def test_the_nearest_whole_number_is_kept_and_at_least_one(num_samples: int, rate: float, expected: int) -> None:
    assert num_selected(num_samples, rate) == expected
    assert len(select_top_k(np.arange(float(num_samples)), rate=rate)) == expected


def test_the_in_batch_rule_rounds_down_and_takes_one_at_least() -> None:
    nothing = np.zeros(4)
    dispute = np.array([1.0, 3.0, 2.0, 0.0])
    for rate, expected in ((0.1, [1]), (0.49, [1]), (0.74, [1, 2]), (1.0, [1, 2, 0, 3])):
        assert select_in_batch(nothing, nothing, dispute, quantile=0.5, rate=rate).tolist() == expected


def test_ties_go_to_the_earlier_sample() -> None:
    assert select_top_k(np.array([1.0, 2.0, 1.0, 2.0, 1.0]), rate=0.6).tolist() == [0, 1, 3]


def test_each_selector_chooses_by_its_own_rule() -> None:
    scores = np.array([0.0, 5.0, 1.0, 4.0])

    def chosen(**settings: object) -> list[int]:
        config = DistillationConfig.model_validate(settings)
        return select_pool(scores, config=config, rng=numpy_generator(1, "x")).tolist()

    assert chosen(selector="top_k", selection_rate=0.5) == [1, 3]
    assert chosen(selector="top_k", selection_rate=1.0) == [0, 1, 2, 3]
    drawn = select_sampled(scores, rate=0.5, rng=numpy_generator(1, "x")).tolist()
    assert chosen(selector="sample", selection_rate=0.5) == drawn
    # Gumbel noise is -log(-log u) of uniform u: the two largest of s + g, by hand from the same stream.
    noise = numpy_generator(1, "x").gumbel(size=4)
    assert drawn == sorted(sorted(range(4), key=lambda index: -(scores[index] + noise[index]))[:2])


def test_equation_6_by_hand() -> None:
    """lambda = 0.25: 0.25 x (-0.8) + 0.75 x 0.4 = 0.1; the z-scores of (1, 3) are -1 and 1, of equal terms 0."""
    assert learnability(np.array([0.8]), np.array([0.4]), weight=0.25)[0] == pytest.approx(0.1)
    scaled = learnability(np.array([1.0, 3.0]), np.array([7.0, 7.0]), weight=0.25, scaling="zscore")
    assert scaled.tolist() == pytest.approx([0.25, -0.25])


def test_a_mask_picture_is_grey_for_one_class_and_red_green_for_two() -> None:
    mask = np.array([[[1, 0, 1]], [[0, 0, 1]]], np.uint8)
    two = encode_mask(mask)
    assert two.mode == "RGB" and np.asarray(two).tolist() == [[[255, 0, 0], [0, 0, 0], [255, 255, 0]]]
    one = encode_mask(mask[:1])
    assert one.mode == "L" and np.asarray(one).tolist() == [[255, 0, 255]]
    assert decode_mask(two, num_classes=2).tolist() == mask.tolist()
    grey = np.array([[0, 127, 128, 255]], np.uint8)  # as another program may have smoothed it: more than half is in
    assert decode_mask(Image.fromarray(grey), num_classes=1).tolist() == [[[0, 0, 1, 1]]]


def test_an_epoch_s_losses_are_the_means_of_its_steps() -> None:
    """Steps of (1, 2, 3) and (3, 4, 8), and one more of (2, 0, 1) in the next epoch."""
    loop = MutualDistillation.__new__(MutualDistillation)
    loop.config = DistillationConfig(average_decay=0.0)
    loop.epoch, loop.step, loop.selected, loop.picked = 4, 2, np.arange(3), [1]
    loop.reports = [LossReport(1.0, 2.0, 3.0), LossReport(3.0, 4.0, 8.0)]
    assert loop.end_epoch() == LossReport(2.0, 3.0, 5.5)
    assert (loop.epoch, loop.step, loop.selected, loop.picked) == (5, 0, None, [])
    loop.reports.append(LossReport(2.0, 0.0, 1.0))
    assert loop.end_epoch() == LossReport(2.0, 0.0, 1.0)


class Excited(torch.nn.Module):
    """A model whose logits are ten times as large while it trains, as none of ours: SAM's modes are alike."""

    def __init__(self, bias: float) -> None:
        super().__init__()
        self.image_encoder = torch.nn.Identity()
        self.bias = bias

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        return image[:, :1]

    def decode(self, features: torch.Tensor) -> torch.Tensor:
        return (features + self.bias) * (10.0 if self.training else 1.0)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.decode(self.encode(image))


class OneWhiteImage:
    """Red 1 everywhere, all of it foreground."""

    def __len__(self) -> int:
        return 1

    def batch(self, indices: np.ndarray, *, rng: np.random.Generator | None = None) -> tuple[np.ndarray, np.ndarray]:
        assert rng is None
        return np.ones((1, 3, 4, 4), np.float32), np.ones((1, 1, 4, 4), np.uint8)


def test_scores_are_those_of_models_that_do_not_train() -> None:
    """Logits 1 + 1 = 2 and 1 - 1 = 0: L_GT = -2 log sigmoid(2) with foreground weighed 2, L_KL = (s(2) - 1/2) x 2."""
    teacher, student = Excited(1.0).train(), Excited(-1.0).train()
    scorer = PoolScorer(
        teacher=teacher,
        student=student,
        pool=OneWhiteImage(),
        config=RunConfig(pos_weight=2.0),
        grid_px=4,
        device=torch.device("cpu"),
        fixed_features=None,
    )
    terms = scorer.score(epoch=0, on_batch=lambda: None)
    sigmoid = 1 / (1 + math.exp(-2.0))
    assert terms.l_gt.tolist() == pytest.approx([-2 * math.log(sigmoid)])
    assert terms.l_kl.tolist() == pytest.approx([(sigmoid - 0.5) * 2.0])


def test_features_are_kept_up_to_the_very_byte_of_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three images of 64 px at stride s: channels x (64 / s)² halves of two bytes each; another model keeps none."""
    model = build_model("tinysam", size="mini", seed=0)
    needed = 3 * 2 * model.mask_decoder.transformer_dim * (64 // model.feature_stride) ** 2
    monkeypatch.setattr(features, "BUDGET_BYTES", needed)
    assert features.features_fit(model, num_images=3, image_px=64)
    assert not features.features_fit(build_model("unet", size="mini", seed=0), num_images=3, image_px=64)
    monkeypatch.setattr(features, "BUDGET_BYTES", needed - 1)
    assert not features.features_fit(model, num_images=3, image_px=64)


def test_each_epoch_of_supervised_training_has_an_order_of_its_own_drawn_by_seed_stage_and_epoch():
    training = _fine_tuning(build_model("tinysam", size="mini", image_px=64, seed=5), epochs=2)
    orders = []
    for epoch in range(2):
        orders.append(np.concatenate(training.batches()))
        drawn = numpy_generator(training.config.seed, training.stage, "order", epoch).permutation(len(training.pool))
        np.testing.assert_array_equal(orders[-1], drawn)
        for indices in training.batches():
            training.train_step(indices)
        training.end_epoch()
    assert orders[0].tolist() != orders[1].tolist()
