"""Measures against worked examples and independent formulas; evaluation on a real mini model."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from monai.metrics import DiceMetric
from torch import nn

from engine.config import EvaluationConfig
from engine.errors import UserError
from engine.evaluation import measures
from engine.evaluation.bootstrap import mean_interval
from engine.evaluation.segmentation import evaluate_model, resize_logits
from engine.evaluation.tables import format_table, rows_as_json
from engine.models.registry import build_model
from engine.seeding import numpy_generator, torch_generator
from engine.types import EvaluationRow

CPU = torch.device("cpu")


class ArrayImages:
    """A set of images held in memory, with the interface of ``ImageSet``."""

    def __init__(self, image_N3HW: np.ndarray, mask_NKHW: np.ndarray, *, groups: tuple[str, ...] | None = None) -> None:
        self.image_N3HW, self.mask_NKHW = image_N3HW, mask_NKHW
        self.names = tuple(f"image_{index}" for index in range(len(image_N3HW)))
        self.groups = groups or self.names

    def __len__(self) -> int:
        return len(self.names)

    def batch(self, indices: list[int]) -> tuple[np.ndarray, np.ndarray]:
        return self.image_N3HW[indices], self.mask_NKHW[indices]

    def content(self, indices: list[int]) -> np.ndarray:
        return np.ones((len(indices), 1, *self.mask_NKHW.shape[2:]), np.uint8)


class FirstChannels(nn.Module):
    """A model whose logits are the first K channels of the image at stride 2, times ten minus five."""

    def __init__(self, num_classes: int = 1) -> None:
        super().__init__()
        self.num_classes = num_classes

    def forward(self, image_B3HW: torch.Tensor) -> torch.Tensor:
        return image_B3HW[:, : self.num_classes, ::2, ::2] * 10 - 5


def masks(*rows: str) -> torch.Tensor:
    """Return a boolean mask (1, 1, h, w) drawn with '#'."""
    return torch.tensor([[[[pixel == "#" for pixel in row] for row in rows]]])


OVERLAP_TABLE = [
    # predicted, true, dice, iou
    (masks("##..", "##.."), masks("##..", "##.."), 1.0, 1.0),
    (masks("##..", "##.."), masks(".##.", ".##."), 0.5, 1 / 3),
    (masks("##..", "...."), masks("..##", "...."), 0.0, 0.0),
    (masks("....", "...."), masks("....", "...."), 1.0, 1.0),
    (masks("....", "...."), masks("#...", "...."), 0.0, 0.0),
    (masks("#...", "...."), masks("....", "...."), 0.0, 0.0),
]


@pytest.mark.parametrize(("predicted", "true", "dice", "iou"), OVERLAP_TABLE)
def test_overlap(predicted: torch.Tensor, true: torch.Tensor, dice: float, iou: float) -> None:
    overlap = measures.measure_overlap(predicted, true)
    assert overlap.dice().item() == pytest.approx(dice)
    assert overlap.iou().item() == pytest.approx(iou)


def test_dice_equals_monai_on_random_masks() -> None:
    generator = torch_generator(3, "masks")
    predicted = torch.rand(6, 2, 20, 24, generator=generator) > 0.4
    true = torch.rand(6, 2, 20, 24, generator=generator) > 0.6
    expected = DiceMetric(reduction="none")(predicted.float(), true.float())
    assert torch.allclose(measures.dice(predicted, true), expected.double(), atol=1e-6)


def test_five_thresholds_cut_raw_logits_with_the_authors_smoothing() -> None:
    # One foreground pixel; logits of the four pixels lie between the cuts .1 .3 .5 .7 .9.
    logits = torch.tensor([[[[1.0, 0.2], [0.6, -3.0]]]])
    true = masks("#.", "..")
    # Cut .1: 3 pixels predicted; .3 and .5: 2; .7 and .9: only the true one.
    dice = [(2 + 1e-4) / (n + 1 + 1e-4) for n in (3, 2, 2, 1, 1)]
    iou = [(1 + 1e-6) / (n + 1e-6) for n in (3, 2, 2, 1, 1)]
    found_dice, found_iou = measures.five_thresholds(logits, true)
    assert found_dice.item() == pytest.approx(np.mean(dice), abs=1e-12)
    assert found_iou.item() == pytest.approx(np.mean(iou), abs=1e-12)
    empty = torch.full((1, 1, 4, 4), -1.0)
    assert [value.item() for value in measures.five_thresholds(empty, empty > 0)] == [1.0, 1.0]


def test_hd95_is_the_shift_of_a_square_and_undefined_when_empty() -> None:
    square = torch.zeros(1, 1, 40, 40, dtype=torch.bool)
    square[..., 5:25, 5:25] = True
    shifted = square.roll(7, dims=3)
    both = torch.cat([square, torch.zeros_like(square)])
    assert measures.hd95_px(both, torch.cat([shifted, shifted])) == [[7.0], [None]]
    assert measures.hd95_px(square, square) == [[0.0]]
    nothing = torch.zeros_like(square)
    assert measures.hd95_px(nothing, nothing) == [[None]]


def test_bootstrap_of_single_images_agrees_with_the_normal_interval() -> None:
    values = numpy_generator(1, "values").normal(0.7, 0.1, size=400)
    low, high = mean_interval(values, num_samples=4000, rng=numpy_generator(1, "bootstrap"))
    half = 1.96 * values.std() / math.sqrt(400)
    assert low == pytest.approx(values.mean() - half, abs=0.002)
    assert high == pytest.approx(values.mean() + half, abs=0.002)


def test_bootstrap_of_patients_is_wider_than_of_their_images() -> None:
    patient_means = numpy_generator(2, "patients").normal(0.7, 0.1, size=20)
    values = np.repeat(patient_means, 10)
    groups = [f"patient {index // 10}" for index in range(200)]
    alone = mean_interval(values, num_samples=2000, rng=numpy_generator(2, "bootstrap"))
    grouped = mean_interval(values, groups=groups, num_samples=2000, rng=numpy_generator(2, "bootstrap"))
    assert grouped[1] - grouped[0] == pytest.approx(math.sqrt(10) * (alone[1] - alone[0]), rel=0.1)


def test_bootstrap_treats_nameless_images_as_alone_and_one_patient_has_no_interval() -> None:
    values = [0.1, 0.5, 0.9, 0.6]
    without = mean_interval(values, num_samples=500, rng=numpy_generator(3, "bootstrap"))
    nameless = mean_interval(values, groups=["", "", "", ""], num_samples=500, rng=numpy_generator(3, "bootstrap"))
    one_patient = mean_interval(values, groups=["a"] * 4, num_samples=500, rng=numpy_generator(3, "bootstrap"))
    assert nameless == without
    assert one_patient is None


def known_images() -> tuple[ArrayImages, np.ndarray]:
    """Return three 8-pixel images whose two classes are half right, all right and empty."""
    mask = np.zeros((3, 2, 8, 8), dtype=np.uint8)
    mask[0, :, :, :4] = 1
    mask[1, :, 2:6, 2:6] = 1
    image = np.concatenate([mask, mask[:, :1]], axis=1).astype(np.float32)
    image[0, 1] = 0
    image[0, 1, :4, :4] = 1
    return ArrayImages(image, mask, groups=("p1", "p1", "p2")), mask


def test_evaluate_model_on_known_predictions() -> None:
    images, _ = known_images()
    rows, records = evaluate_model(
        FirstChannels(2),
        images,
        classes=("disc", "cup"),
        model_name="distilled_student",
        site="site_d",
        split="test",
        config=EvaluationConfig(batch_size=2, bootstrap_samples=50),
        seed=5,
        device=CPU,
    )
    by_class = {row.class_name: row for row in rows}
    assert list(by_class) == ["disc", "cup", "mean"]
    assert (by_class["disc"].dice, by_class["disc"].iou, by_class["disc"].hd95_px) == (1.0, 1.0, 0.0)
    # The first image's cup has half of its pixels: Dice 2/3, IoU 1/2. The third image is empty-empty.
    assert by_class["cup"].dice == pytest.approx((2 / 3 + 1 + 1) / 3)
    assert by_class["cup"].iou == pytest.approx((1 / 2 + 1 + 1) / 3)
    assert by_class["mean"].dice == pytest.approx((by_class["disc"].dice + by_class["cup"].dice) / 2)
    assert all(row.num_images == 3 and row.dice_low <= row.dice <= row.dice_high for row in rows)
    cup = [record for record in records if record["class_name"] == "cup"]
    assert [record["name"] for record in cup] == ["image_0", "image_1", "image_2"]
    assert [(record["predicted_px"], record["true_px"]) for record in cup] == [(4, 8), (4, 4), (0, 0)]
    assert cup[2]["hd95_px"] is None
    assert json.loads(json.dumps(records)) == records


def test_mask_px_scores_on_the_asked_grid() -> None:
    images, mask = known_images()
    _, records = evaluate_model(
        FirstChannels(2),
        images,
        classes=("disc", "cup"),
        model_name="m",
        site="s",
        split="test",
        config=EvaluationConfig(mask_px=16),
        seed=5,
        device=CPU,
    )
    disc = next(record for record in records if record["class_name"] == "disc")
    assert disc["true_px"] == 4 * mask[0, 0].sum()
    assert disc["dice"] == pytest.approx(1.0)
    assert disc["predicted_px"] == disc["true_px"]


def test_resize_logits_leaves_an_equal_grid_untouched() -> None:
    logits = torch.rand(1, 1, 6, 6)
    assert resize_logits(logits, side_px=6) is logits
    assert resize_logits(logits, side_px=12).shape == (1, 1, 12, 12)


def random_images(count: int, *, image_px: int = 128, classes: int = 1) -> ArrayImages:
    rng = numpy_generator(11, "images")
    image = rng.random((count, 3, image_px, image_px), dtype=np.float32)
    mask = (rng.random((count, classes, image_px, image_px)) > 0.5).astype(np.uint8)
    return ArrayImages(image, mask)


def test_evaluation_is_repeatable_independent_of_batches_and_leaves_the_modes() -> None:
    model = build_model("tinysam", size="mini", num_classes=1, image_px=64, seed=4)
    model.train()
    model.image_encoder.eval()
    modes = [module.training for module in model.modules()]
    images = random_images(5, image_px=64)

    def evaluate(batch_size: int) -> tuple[list[EvaluationRow], list[dict]]:
        return evaluate_model(
            model,
            images,
            classes=("cell",),
            model_name="m",
            site="s",
            split="validation",
            config=EvaluationConfig(batch_size=batch_size, bootstrap_samples=100),
            seed=7,
            device=CPU,
            precision="fp32",
        )

    first, again, one_by_one = evaluate(4), evaluate(4), evaluate(1)
    assert first == again
    assert [row.dice for row in one_by_one[0]] == pytest.approx([row.dice for row in first[0]], abs=1e-3)
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.grad is None for parameter in model.parameters())


def test_evaluation_asks_for_cancellation_before_each_batch() -> None:
    asked = []
    images, _ = known_images()
    evaluate_model(
        FirstChannels(2),
        images,
        classes=("a", "b"),
        model_name="m",
        site="s",
        split="test",
        config=EvaluationConfig(batch_size=2, bootstrap_samples=10),
        seed=0,
        device=CPU,
        check_cancelled=lambda: asked.append(1),
    )
    assert len(asked) == 2


@pytest.mark.parametrize("code", ["evaluation.empty", "evaluation.classes", "evaluation.not_finite"])
def test_impossible_evaluations_are_refused(code: str) -> None:
    images, _ = known_images()
    classes: tuple[str, ...] = ("a", "b")
    if code == "evaluation.empty":
        images = ArrayImages(images.image_N3HW[:0], images.mask_NKHW[:0])
    elif code == "evaluation.classes":
        classes = ("a",)
    else:
        images.image_N3HW[1, 0, 0, 0] = np.nan
    with pytest.raises(UserError) as caught:
        evaluate_model(
            FirstChannels(2),
            images,
            classes=classes,
            model_name="m",
            site="s",
            split="test",
            config=EvaluationConfig(),
            seed=0,
            device=CPU,
        )
    assert caught.value.code == code


def sample_rows() -> list[EvaluationRow]:
    return [
        EvaluationRow("distilled_student", "site_d", "test", "cup", 12, 0.81234, 0.7, 0.9, 0.7, 0.8, 0.69, None),
        EvaluationRow("a_new_method", "site_d", "test", "disc", 3, 0.5, 0.5, 0.5, 0.4, 0.5, 0.4, 3.26),
    ]


def test_table_styles_carry_the_same_cells() -> None:
    text = format_table(sample_rows())
    markdown = format_table(sample_rows(), style="markdown")
    lines = markdown.splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert set(lines[1]) <= set("|-: ")
    for cell in ("TinySAM, mutually distilled", "0.812 [0.700, 0.900]", "a_new_method", " 3.3"):
        assert cell in text
        assert cell in markdown
    assert lines[2].rstrip("| ").endswith("-")


def test_rows_as_json_round_trip() -> None:
    rows = sample_rows()
    assert [EvaluationRow(**value) for value in json.loads(json.dumps(rows_as_json(rows)))] == rows
