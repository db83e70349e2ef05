"""Mutual distillation of any two models: what they are compared on, and a step of each pair against its equation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.config import parse_config
from engine.distillation.mutual import MutualDistillation
from engine.models.adapters import build_msa
from engine.models.levels import on_one_grid
from engine.models.plain_unet import PlainUNet, PlainUNetPreset
from engine.models.sam import build_sam
from engine.models.tinysam import build_tinysam
from engine.models.unet import UNet, UNetPreset
from tests.unit.tiny_models import SAM, TINYSAM

PX = 32
TEACHERS = {
    "sam": lambda: build_sam(SAM, num_classes=1, image_px=PX),
    "msa": lambda: build_msa(SAM, num_classes=1, image_px=PX),
}
STUDENTS = {
    "tinysam": lambda: build_tinysam(TINYSAM, num_classes=1, image_px=PX),
    "unet": lambda: UNet(UNetPreset((4, 8, 8), 1, PX), num_classes=1, image_px=PX),
    "nnunet": lambda: PlainUNet(PlainUNetPreset(4, 8, PX), num_classes=1, image_px=PX),
}


class Pairs:
    """Four images with masks."""

    names = ("a", "b", "c", "d")

    def __init__(self) -> None:
        rng = np.random.default_rng(3)
        self.image = rng.random((4, 3, PX, PX), dtype=np.float32)
        self.mask = (rng.random((4, 1, PX, PX)) > 0.6).astype(np.uint8)

    def __len__(self) -> int:
        return 4

    def batch(self, indices: np.ndarray, *, rng: Any = None) -> tuple[np.ndarray, np.ndarray]:
        return self.image[indices], self.mask[indices]


def made(build: Any) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return build()


def bce(logits: Tensor, mask: Tensor) -> Tensor:
    step = mask.shape[-1] // logits.shape[-1]
    target = mask[:, :, step // 2 :: step, step // 2 :: step].float()
    return (2 * target * functional.softplus(-logits) + (1 - target) * functional.softplus(logits)).mean()


def test_logits_are_compared_on_the_coarser_grid_as_means() -> None:
    fine, coarse = torch.arange(16.0).reshape(1, 1, 4, 4), torch.zeros(1, 1, 2, 2)
    brought, same = on_one_grid(fine, coarse)
    assert brought.flatten().tolist() == [2.5, 4.5, 10.5, 12.5] and same is coarse
    assert on_one_grid(coarse, fine)[1].equal(brought)
    assert on_one_grid(fine, fine) == (fine, fine)


@pytest.mark.parametrize("student_name", STUDENTS)
@pytest.mark.parametrize("teacher_name", TEACHERS)
def test_a_step_of_any_pair_is_that_of_the_equation(teacher_name: str, student_name: str) -> None:
    config = parse_config(
        {"precision": "fp32", "distillation": {"batch_size": 2, "supervision_weight": 0.8, "selection_rate": 0.5}}
    )
    pool, models = Pairs(), (made(TEACHERS[teacher_name]), made(STUDENTS[student_name]))
    teacher, student = models
    before = [{name: p.clone() for name, p in model.named_parameters()} for model in models]
    loop = MutualDistillation(
        teacher=teacher, student=student, pool=pool, config=config, grid_px=PX, device=torch.device("cpu")
    )
    records = loop.begin_epoch(on_batch=lambda: None)
    assert len(records) == 4 and sum(record.selected for record in records) == 2
    indices = np.array([0, 2])
    image, mask = (torch.from_numpy(part) for part in pool.batch(indices))
    with torch.no_grad():
        twins = (made(TEACHERS[teacher_name]).train(), made(STUDENTS[student_name]).train())
        p = twins[0](image)
        levels = twins[1].forward_levels(image) if student_name == "nnunet" else (twins[1](image),)
        q = functional.avg_pool2d(levels[0], levels[0].shape[-1] // p.shape[-1])
        kl = ((p.sigmoid() - q.sigmoid()) * (p - q)).mean()
        halves = [0.5**level for level in range(len(levels))]
        student_loss = sum(h * bce(level, mask) for h, level in zip(halves, levels, strict=True)) / sum(halves)
        teacher_loss = bce(p, mask)
    report = loop.train_step(indices)
    expected = [float(teacher_loss), float(student_loss), float(kl)]
    assert [report.teacher_loss, report.student_loss, report.divergence] == pytest.approx(expected, rel=1e-4)
    moved = [
        {name for name, p in model.named_parameters() if not torch.equal(p, old[name])}
        for model, old in zip(models, before, strict=True)
    ]
    assert moved[1] and all(".adapter." in n or n.startswith("mask_decoder.") for n in moved[0]) == (
        teacher_name == "msa"
    )
