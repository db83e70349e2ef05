"""Steps of distillation and of fine-tuning beside their formulas: losses and new weights, mode by mode.

The expected side is ``independent_arithmetic``; the engine's side takes two steps, for Adam's first is the gradient's
sign alone and would hide a wrong weight.
"""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.config import DistillationConfig, RunConfig
from engine.data.styles import apply_style, draw_style
from engine.distillation.mutual import MutualDistillation
from engine.distillation.supervised import SupervisedTraining
from engine.seeding import numpy_generator
from tests.unit import independent_arithmetic as by_hand
from tests.unit.tiny_models import make_pair

CPU = torch.device("cpu")
PX = 32


class Squares:
    """Eight noisy images with a bright square each; ``batch`` with a generator returns other images than without."""

    names = tuple(f"s{i}" for i in range(8))

    def __init__(self, *, num_classes: int = 1) -> None:
        rng = numpy_generator(11, "squares")
        self.image = rng.uniform(0, 0.4, size=(8, 3, PX, PX)).astype(np.float32)
        self.mask = np.zeros((8, num_classes, PX, PX), dtype=np.uint8)
        for i in range(8):
            for k in range(num_classes):
                y, x = rng.integers(0, PX // 2, size=2)
                self.mask[i, k, y : y + PX // (2 + k), x : x + PX // (2 + k)] = 1
        self.image += self.mask.max(axis=1, keepdims=True) * np.float32(0.5)

    def __len__(self) -> int:
        return 8

    def batch(self, indices, *, rng=None):
        if rng is None:
            return self.image[indices], self.mask[indices]
        return np.ascontiguousarray(self.image[indices][..., ::-1]), np.ascontiguousarray(self.mask[indices][..., ::-1])


def make_loop(config: RunConfig, *, num_classes: int = 1, kept: bool = False, **options) -> MutualDistillation:
    teacher, student = make_pair(num_classes=num_classes, kept=kept)
    pool = Squares(num_classes=num_classes)
    grid_px = PX // student.mask_stride
    return MutualDistillation(
        teacher=teacher, student=student, pool=pool, config=config, grid_px=grid_px, device=CPU, **options
    )


def on_grid(mask: np.ndarray, grid_px: int) -> Tensor:
    """Every pixel's own value where the grid is as fine, else that of the middle of each cell."""
    step = mask.shape[-1] // grid_px
    return torch.from_numpy(mask[..., step // 2 :: step, step // 2 :: step].copy()).double()


def supervised(logits: Tensor, mask: Tensor, config: RunConfig) -> Tensor:
    loss = by_hand.cross_entropy(logits, mask, pos_weight=config.pos_weight).mean()
    return loss + config.dice_weight * by_hand.soft_dice_loss(logits, mask) if config.dice_weight else loss


@torch.no_grad()
def picked_by_the_authors(teacher: Tensor, student: Tensor, mask: Tensor, config: RunConfig) -> list[int]:
    """Reliable: both losses at or below their 0.7 quantile. Of these the most disputed half of the batch."""
    losses = [
        by_hand.cross_entropy(x, mask, pos_weight=config.pos_weight).mean(dim=(1, 2, 3)) for x in (teacher, student)
    ]
    limits = [by_hand.linear_quantile(loss, 0.7) for loss in losses]
    dispute = (
        (by_hand.bernoulli_kl(teacher, student, temperature=1) + by_hand.bernoulli_kl(student, teacher, temperature=1))
        .mean(dim=(1, 2, 3))
        .tolist()
    )
    rows = range(len(mask))
    reliable = [i for i in rows if all(loss[i] <= limit for loss, limit in zip(losses, limits, strict=True))]
    order = sorted(rows, key=lambda i: (i not in reliable, -dispute[i]))
    return order[: len(mask) // 2]


def expected_step(teacher, student, image: Tensor, mask: Tensor, config: RunConfig) -> tuple[Tensor, list[float]]:
    """Return the loss with its graph, and [L_sup(SAM), L_sup(Tiny), divergence], from the formulas of methods 1.3."""
    part = config.distillation
    reference, w = part.mode == "reference", part.supervision_weight
    for model in (teacher, student):
        model.eval() if reference else model.train()
    features = teacher.image_encoder(image)
    teacher_logits, student_features = teacher.decode(features), student.image_encoder(image)
    student_logits = student.decode(student_features)
    if not part.mutual:
        features, teacher_logits = features.detach(), teacher_logits.detach()
    of_teacher, of_student = supervised(teacher_logits, mask, config), supervised(student_logits, mask, config)
    forward = by_hand.bernoulli_kl(teacher_logits, student_logits, temperature=part.temperature)
    backward = by_hand.bernoulli_kl(student_logits, teacher_logits, temperature=part.temperature)
    if part.selector == "in_batch_quantile":
        rows = picked_by_the_authors(teacher_logits, student_logits, mask, config)
        divergence = forward[rows].mean() + backward[rows].mean()
    else:
        divergence = forward.mean() + backward.mean() if part.mutual else forward.mean()
    loss = w * of_student + (1 - w) * divergence
    if part.mutual:
        loss = loss + w * of_teacher
    loss = loss + part.feature_weight * ((student_features - features) ** 2).double().mean()
    return loss, [float(x.detach()) for x in (of_teacher, of_student, divergence)]


CASES = {
    # name: (classes, student.batch_norm kept, settings of distillation, settings of the run)
    "paper": (1, False, {}, {}),
    "paper, two classes": (2, False, {}, {}),
    "w and T": (1, False, {"supervision_weight": 0.6, "temperature": 2.5}, {}),
    "learning rates": (1, False, {"student_learning_rate": 3e-4, "teacher_learning_rate": 2e-4}, {}),
    "pos_weight": (1, False, {}, {"pos_weight": 4.0}),
    "dice": (2, False, {}, {"dice_weight": 0.7}),
    "feature term": (1, False, {"feature_weight": 0.3}, {}),
    "frozen encoder": (1, False, {"freeze_teacher_encoder": True}, {}),
    "frozen encoder, feature term": (1, False, {"freeze_teacher_encoder": True, "feature_weight": 0.3}, {}),
    "statistics kept": (1, True, {}, {}),
    "one-way": (1, False, {"mutual": False, "supervision_weight": 0.3}, {}),
    "one-way, two classes, T, feature term": (
        2,
        False,
        {"mutual": False, "temperature": 2.0, "feature_weight": 0.3, "supervision_weight": 0.3},
        {},
    ),
    "reference": (1, False, {"mode": "reference", "selector": "in_batch_quantile"}, {}),
    "reference, two classes": (2, False, {"mode": "reference", "selector": "in_batch_quantile"}, {}),
    "reference, statistics kept": (1, True, {"mode": "reference", "selector": "in_batch_quantile"}, {}),
    "in-batch rule in paper mode": (1, False, {"selector": "in_batch_quantile", "supervision_weight": 0.5}, {}),
}


@pytest.mark.parametrize("case", CASES)
def test_two_steps_of_distillation_are_those_of_the_formulas(case):
    num_classes, kept, changes, run = CASES[case]
    config = RunConfig(precision="fp32", **run, distillation=DistillationConfig(batch_size=4, **changes))
    loop = make_loop(config, num_classes=num_classes, kept=kept)
    teacher, student = copy.deepcopy(loop.teacher), copy.deepcopy(loop.student)
    part = config.distillation
    teacher.requires_grad_(part.mutual)
    student.requires_grad_(True)
    if part.mode == "reference" or part.freeze_teacher_encoder:
        teacher.image_encoder.requires_grad_(False)
    if part.mode == "reference":
        for name, parameter in student.named_parameters():
            parameter.requires_grad_("attention_biases" not in name)
    adams = {
        "teacher": by_hand.Adam(teacher, learning_rate=part.teacher_learning_rate),
        "student": by_hand.Adam(student, learning_rate=part.student_learning_rate),
    }
    pool = Squares(num_classes=num_classes)
    for indices in (np.array([0, 3, 5, 6]), np.array([7, 1, 2, 4])):
        image, mask = pool.batch(indices, rng=numpy_generator(1, "any"))  # training sees what augmentation makes
        loss, parts = expected_step(teacher, student, torch.from_numpy(image), on_grid(mask, loop.grid_px), config)
        grads = {"teacher": by_hand.gradients(loss, teacher), "student": by_hand.gradients(loss, student)}
        report = loop.train_step(indices)
        got = [report.teacher_loss, report.student_loss, report.divergence]
        assert got == pytest.approx(parts, rel=2e-4)
        for name, adam in adams.items():
            adam.step(grads[name])
    counted = by_hand.assert_same_weights(loop.student, student, adams["student"])
    assert counted > 10_000
    counted = by_hand.assert_same_weights(loop.teacher, teacher, adams["teacher"])
    assert counted > (10_000 if part.mutual else -1)


def run_epoch(loop: MutualDistillation) -> None:
    loop.begin_epoch(on_batch=lambda: None)
    for indices in loop.batches():
        loop.train_step(indices)
    loop.end_epoch()


@pytest.mark.parametrize(
    ("mode", "kept", "statistics_move", "biases_move"),
    [
        ("reference", False, False, False),
        ("reference", True, False, False),
        ("paper", False, True, True),
        ("paper", True, False, True),
    ],
)
def test_what_an_epoch_moves(mode, kept, statistics_move, biases_move):
    """Reference mode trains in eval mode (methods 1.10, item 4): statistics and attention biases keep their bits."""
    changes = {"mode": mode, "selector": "in_batch_quantile" if mode == "reference" else "top_k"}
    loop = make_loop(RunConfig(distillation=DistillationConfig(batch_size=4, **changes)), kept=kept)
    before = {
        name: {k: v.clone() for k, v in getattr(loop, name).state_dict().items()} for name in ("teacher", "student")
    }
    run_epoch(loop)
    moved = {
        name: {k for k, v in getattr(loop, name).state_dict().items() if not torch.equal(v, before[name][k])}
        for name in before
    }
    statistics = {k for k in before["student"] if k.endswith(("running_mean", "running_var", "num_batches_tracked"))}
    biases = {k for k in before["student"] if "attention_biases" in k}
    assert len(statistics) > 10 and len(biases) > 1
    assert statistics & moved["student"] == (statistics if statistics_move else set())
    assert biases & moved["student"] == (biases if biases_move else set())
    still = {k for k in before["student"] if k.startswith(("prompt_encoder", "mask_decoder.iou_prediction_head"))}
    unused = {k for k in before["student"] if "hypernetworks_mlps" in k and ".0.layers" not in k}
    others = before["student"].keys() - statistics - biases - still - unused
    assert others - moved["student"] == set(), "everything else that a mask depends on learns"
    encoder = {k for k in before["teacher"] if k.startswith("image_encoder")}
    assert encoder & moved["teacher"] == (set() if mode == "reference" else encoder)
    assert any(k.startswith("mask_decoder") for k in moved["teacher"])


@pytest.mark.parametrize("num_classes", [1, 2])
@pytest.mark.parametrize("dice_weight", [0.0, 0.5])
def test_two_steps_of_fine_tuning_are_those_of_the_formulas(num_classes, dice_weight):
    config = RunConfig(precision="fp32", pos_weight=3.0, dice_weight=dice_weight)
    model, _ = make_pair(num_classes=num_classes)
    expected = copy.deepcopy(model)
    pool = Squares(num_classes=num_classes)
    training = SupervisedTraining(
        model, pool=pool, config=config, stage="any", epochs=3, batch_size=4, learning_rate=2e-4, grid_px=16, device=CPU
    )
    adam = by_hand.Adam(expected, learning_rate=2e-4)
    for indices in (np.array([0, 3, 5, 6]), np.array([7, 1, 2, 4])):
        image, mask = pool.batch(indices, rng=numpy_generator(1, "any"))
        loss = supervised(expected.train()(torch.from_numpy(image)), on_grid(mask, 16), config)
        adam.step(by_hand.gradients(loss, expected))
        assert training.train_step(indices) == pytest.approx(float(loss.detach()), rel=2e-4)
    assert by_hand.assert_same_weights(model, expected, adam) > 10_000


@pytest.mark.parametrize("styles", ["off", "student", "both"])
def test_styles_are_seen_by_whom_they_are_set_for(styles: str) -> None:
    """The student alone in a style, or both in the same; masks and who learns stay as they are."""
    config = RunConfig(distillation={"styles": styles, "batch_size": 4, "selection_rate": 1.0}, seed=3)
    loop = make_loop(config)
    seen: dict[str, Tensor] = {}
    for name in ("teacher", "student"):
        getattr(loop, name).register_forward_pre_hook(lambda _, given, name=name: seen.update({name: given[0]}))
    loop.begin_epoch(on_batch=lambda: None)
    seen.clear()
    loop.train_step(np.arange(4))
    plain = torch.from_numpy(loop.pool.batch(np.arange(4), rng=np.random.default_rng(0))[0])
    rng = numpy_generator(3, "distillation", "styles", 0, 0)
    styled = torch.from_numpy(np.stack([apply_style(i, draw_style(rng), rng=rng) for i in plain.numpy()]))
    expected = {"off": (plain, plain), "student": (plain, styled), "both": (styled, styled)}[styles]
    assert not torch.equal(plain, styled)
    assert torch.equal(seen["teacher"], expected[0]) and torch.equal(seen["student"], expected[1])


def test_the_authors_mode_has_no_styles() -> None:
    with pytest.raises(ValueError, match="styles 'student' changes what the authors' code does"):
        DistillationConfig(mode="reference", selector="in_batch_quantile", styles="student")
