"""Samples that a person has left out: distillation is what it would be if they had never been drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engine.config import DistillationConfig, RunConfig
from engine.distillation.exclusion import without
from engine.distillation.mutual import MutualDistillation
from engine.errors import UserError
from engine.models.registry import build_model
from engine.seeding import numpy_generator
from engine.types import SampleScore


class ToyPool:
    """Random pictures with a bright square each."""

    def __init__(self, numbers: list[int]) -> None:
        rng = numpy_generator(3, "toy pool")
        image_6chw, corners = rng.uniform(0, 0.3, size=(6, 3, 64, 64)), rng.integers(0, 32, size=(6, 2))
        mask_61hw = np.zeros((6, 1, 64, 64), dtype=np.uint8)
        for number, (y, x) in enumerate(corners):
            mask_61hw[number, 0, y : y + 32, x : x + 32] = 1
        self.image = (image_6chw + 0.6 * mask_61hw).astype(np.float32)[numbers]
        self.mask = mask_61hw[numbers]
        self.names = tuple(f"a/{number}" for number in numbers)

    def __len__(self) -> int:
        return len(self.names)

    def batch(self, indices, *, rng=None):
        return self.image[indices], self.mask[indices]


def trained(pool, *, excluded: tuple[str, ...], **settings) -> tuple[dict[str, torch.Tensor], list[SampleScore]]:
    """Return the student after two epochs, and every score that was told."""
    chosen = DistillationConfig(epochs=2, batch_size=2, excluded_samples=excluded, **settings)
    models = {name: build_model(name, size="mini", image_px=64, seed=5) for name in ("sam", "tinysam")}
    loop = MutualDistillation(
        teacher=models["sam"],
        student=models["tinysam"],
        pool=without(pool, excluded),
        config=RunConfig(distillation=chosen),
        grid_px=64 // models["tinysam"].mask_stride,
        device=torch.device("cpu"),
    )
    told = []
    for _ in range(2):
        told += loop.begin_epoch(on_batch=lambda: None)
        for indices in loop.batches():
            loop.train_step(indices)
        told += loop.picked_records()
        loop.end_epoch()
    return loop.student.state_dict(), told


@pytest.mark.parametrize(
    "settings", [{"selection_rate": 0.5}, {"mode": "reference", "selector": "in_batch_quantile"}], ids=["pool", "batch"]
)
def test_it_is_as_if_they_had_never_been_drawn(settings) -> None:
    weights, told = trained(ToyPool([0, 1, 2, 3, 4, 5]), excluded=("a/4", "a/1"), **settings)
    expected, expected_told = trained(ToyPool([0, 2, 3, 5]), excluded=(), **settings)
    assert all(torch.equal(weights[name], expected[name]) for name in expected) and told == expected_told
    assert {score.sample_id for score in told} == {"a/0", "a/2", "a/3", "a/5"}
    other, _ = trained(ToyPool([0, 1, 2, 3, 4, 5]), excluded=(), **settings)
    assert any(not torch.equal(other[name], expected[name]) for name in expected)


def test_each_pair_keeps_its_name_and_none_is_the_very_pool() -> None:
    pool = ToyPool([0, 1, 2, 3])
    part = without(pool, ["a/2"])
    assert part.names == ("a/0", "a/1", "a/3") and len(part) == 3
    image, mask = part.batch(np.array([2, 0]))
    assert (image == pool.image[[3, 0]]).all() and (mask == pool.mask[[3, 0]]).all()
    assert without(pool, ()) is pool


def test_an_unknown_sample_and_nothing_left_are_refused() -> None:
    pool = ToyPool([0, 1])
    with pytest.raises(UserError, match=r"no sample of this run is b/0, b/1, b/2, b/3, b/4 and 2 more\.") as caught:
        without(pool, [f"b/{number}" for number in range(7)])
    assert caught.value.code == "distillation.no_such_sample"
    with pytest.raises(UserError, match="all 2 samples") as caught:
        without(pool, ["a/0", "a/1"])
    assert caught.value.code == "distillation.nothing_left"
