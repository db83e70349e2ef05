"""SAM-Fed's agreement and losses, and HSSF's condensation and fusion, by values that were worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.distillation.agreement import (
    Target,
    agree,
    own_labels,
    pixel_divergence,
    ramp,
    resized_logits,
    target_loss,
)
from engine.distillation.regularity import condensed, fusion_loss, pixel_accuracy, regularity_loss


def row(*values: float) -> Tensor:
    """Return (1, 1, 1, w)."""
    return torch.tensor(values, dtype=torch.float64).reshape(1, 1, 1, -1)


def logit(p: float) -> float:
    return math.log(p / (1 - p))


@pytest.mark.parametrize(
    ("teacher", "local", "label", "weight"),
    [
        (0.9, 0.9, 1, 1),  # the same
        (0.6, 0.55, 1, 1),  # both unsure, of one opinion
        (0.2, 0.4, 0, 1),
        (0.95, 0.1, 1, 0.95),  # opposed, SAM surer
        (0.3, 0.99, 1, 0.99),  # opposed, the site's model surer
        (0.85, 0.02, 0, 0.98),
        (0.7, 0.4, 1, 0),  # opposed, both unsure
        (0.8, 0.45, 1, 0.8),  # exactly tau
    ],
)
def test_agreement_by_hand(teacher: float, local: float, label: float, weight: float) -> None:
    found = agree(row(teacher), row(local), threshold=0.8)
    assert found.label_BKhw.item() == label
    assert found.weight_BKhw.item() == pytest.approx(weight)


def test_identical_predictions_weigh_one_everywhere_and_say_what_sam_says() -> None:
    p = torch.rand(2, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    found = agree(p, p, threshold=0.8)
    assert torch.equal(found.weight_BKhw, torch.ones_like(p)) and torch.equal(found.label_BKhw, (p > 0.5).float())


def test_a_soft_label_is_the_mean_by_confidence() -> None:
    found = agree(row(0.9), row(0.4), threshold=0.8, soft=True)
    assert found.label_BKhw.item() == pytest.approx((0.9 * 0.9 + 0.6 * 0.4) / 1.5)
    assert found.weight_BKhw.item() == pytest.approx(0.9)


def test_own_labels_are_all_or_the_confident_ones() -> None:
    p = row(0.96, 0.94, 0.05, 0.5)
    assert own_labels(p).label_BKhw.flatten().tolist() == [1, 1, 0, 0]
    assert own_labels(p).weight_BKhw.flatten().tolist() == [1, 1, 1, 1]
    assert own_labels(p, threshold=0.95).weight_BKhw.flatten().tolist() == [1, 0, 1, 0]


def test_the_loss_by_hand() -> None:
    logits = row(logit(0.8), logit(0.3), logit(0.6))
    target = Target(row(1, 0, 1), row(1, 0.9, 0))
    entropy = (-math.log(0.8) - 0.9 * math.log(0.7)) / 1.9
    overlap, areas = 0.8, (0.8 + 0.9 * 0.3) + 1.0
    assert target_loss(logits, target).item() == pytest.approx(entropy + 1 - (2 * overlap + 1) / (areas + 1))


def test_unsure_and_opposed_teaches_nothing_and_is_no_nan() -> None:
    logits = row(0.4, -0.2).requires_grad_()
    target = agree(row(0.7, 0.3), row(0.4, 0.6), threshold=0.8)
    loss = target_loss(logits, target)
    loss = loss + pixel_divergence(row(3.0, -3.0), logits, weight_BKhw=target.weight_BKhw)
    loss.backward()
    assert loss.item() == 0 and logits.grad is not None and not logits.grad.any()


def test_an_image_without_weight_takes_nothing_from_the_others_dice() -> None:
    known, unknown = Target(row(1), row(1)), Target(row(1), row(0))
    both = Target(torch.cat([row(1), row(1)]), torch.cat([row(1), row(0)]))
    logits = row(0.3)
    assert target_loss(torch.cat([logits, logits]), both).item() == pytest.approx(target_loss(logits, known).item())
    assert target_loss(logits, unknown).item() == 0


def test_divergence_by_hand_with_weights_and_temperature() -> None:
    def kl(p: float, q: float) -> float:
        return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))

    taught, logits = row(2 * logit(0.9), 2 * logit(0.2)), row(2 * logit(0.6), 2 * logit(0.5)).requires_grad_()
    found = pixel_divergence(taught.requires_grad_(), logits, temperature=2.0)
    assert found.item() == pytest.approx(4 * (kl(0.9, 0.6) + kl(0.2, 0.5)) / 2)
    weighted = pixel_divergence(taught, logits, weight_BKhw=row(1, 0.5), temperature=2.0)
    assert weighted.item() == pytest.approx(4 * (kl(0.9, 0.6) + 0.5 * kl(0.2, 0.5)) / 1.5)
    found.backward()
    assert taught.grad is None and logits.grad is not None


def test_another_grid_is_reached_by_probabilities() -> None:
    fine = torch.tensor([[logit(0.9), logit(0.5)], [logit(0.3), logit(0.1)]]).reshape(1, 1, 2, 2)
    assert resized_logits(fine, 1).sigmoid().item() == pytest.approx(0.45, abs=1e-6)
    assert resized_logits(fine, 2) is fine


def test_the_ramp_grows_to_one() -> None:
    found = [ramp(number, rounds=4) for number in (1, 2, 4, 9)]
    assert found == pytest.approx([math.exp(-5 * 0.75**2), math.exp(-5 * 0.5**2), 1, 1])
    assert ramp(1, rounds=0) == 1


MASK = torch.tensor([1, 1, 0, 0]).reshape(1, 1, 1, 4)
RIGHT = {4: row(2, 2, -2, -2), 3: row(2, -2, -2, -2), 2: row(-2, -2, -2, -2), 1: row(-2, -2, 2, -2)}
"""Logits by how many of four pixels are right."""


def test_accuracy_is_of_pixels() -> None:
    assert [pixel_accuracy(logits, MASK).item() for logits in RIGHT.values()] == [1, 0.75, 0.5, 0.25]


@pytest.mark.parametrize(
    ("server", "sites", "picked", "teaches"),
    [
        (2, [4, 3], 4, True),
        (2, [3, 1], 2, False),  # 0.75 is not above 0.75
        (4, [4, 2], 4, False),  # no better than the server
        (1, [2, 2], 1, False),  # better, and not good enough
        (3, [1, 4], 4, True),
    ],
)
def test_the_best_of_the_sites_is_condensed(server: int, sites: list[int], picked: int, teaches: bool) -> None:
    best, teaches_B = condensed(RIGHT[server], [RIGHT[k] for k in sites], MASK, least_accuracy=0.75)
    assert torch.equal(best, RIGHT[picked]) and teaches_B.tolist() == [teaches]


def test_each_image_has_its_own_best() -> None:
    masks, server = torch.cat([MASK, MASK]), torch.cat([RIGHT[4], RIGHT[1]])
    best, teaches = condensed(server, [torch.cat([RIGHT[2], RIGHT[4]])], masks, least_accuracy=0.75)
    assert torch.equal(best, torch.cat([RIGHT[4], RIGHT[4]])) and teaches.tolist() == [False, True]


def test_only_images_on_which_the_teacher_is_better_teach() -> None:
    logits, taught = torch.cat([RIGHT[2], RIGHT[4]]), torch.cat([RIGHT[4], RIGHT[3]])
    masks = torch.cat([MASK, MASK])
    p, q = 1 / (1 + math.exp(-1)), 1 / (1 + math.exp(1))  # of 2 and -2 at T = 2
    one_pixel = p * math.log(p / q) + q * math.log(q / p)
    expected = 4 * (2 * one_pixel / 4) / 2  # T^2, two of four pixels differ, one of two images teaches
    assert fusion_loss(taught, logits, masks, temperature=2.0).item() == pytest.approx(expected)
    assert regularity_loss(taught, logits, torch.tensor([False, False]), temperature=2.0).item() == 0


def test_hssf_s_weight_is_ours_times_two_temperatures_squared() -> None:
    """10 times HSSF's KL: two channels by softmax of (z, -z) / 2 at T = 2, element mean, no T^2."""
    taught, logits = row(1.3, -0.4), row(-0.7, 0.9)
    p, q = (torch.softmax(torch.cat([z / 2, -z / 2], dim=1) / 2, dim=1) for z in (taught, logits))
    theirs = 10 * (p * (p / q).log()).mean()
    ours = 1.25 * regularity_loss(taught, logits, torch.tensor([True]), temperature=2.0)
    assert ours.item() == pytest.approx(theirs.item()) and np.isfinite(ours.item())
