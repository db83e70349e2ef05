"""A decoder that is taught clicks: where they are drawn, what they ask for, and that the student stays as it is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from engine.distillation import simulated_prompts
from engine.distillation.prompt_decoder import Teaching, teach_prompts
from engine.distillation.simulated_prompts import innermost, simulate
from engine.models.prompts import PADDING_LABEL
from engine.models.registry import build_model
from engine.models.segmenter import Segmenter

IMAGE_PX, STRIDE = 64, 4


class Pairs:
    """Six images of a bright square on black, with its mask."""

    def __len__(self) -> int:
        return 6

    def batch(self, indices: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return images (B, 3, H, W) float32 and masks (B, 1, H, W) uint8."""
        masks = np.zeros((len(indices), 1, IMAGE_PX, IMAGE_PX), np.uint8)
        for row, index in enumerate(indices):
            masks[row, 0, 8 : 32 + 4 * index, 8:40] = 1
        return masks.repeat(3, axis=1).astype(np.float32), masks


def plane(rows: slice, columns: slice) -> np.ndarray:
    found = np.zeros((1, 1, 16, 16), np.float32)
    found[0, 0, rows, columns] = 1
    return found


@pytest.mark.parametrize("is_missed", [True, False])
def test_a_click_is_in_the_middle_of_what_is_wrong_with_its_sign(
    is_missed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simulated_prompts, "REMOVED_SHARE", 0.0)
    monkeypatch.setattr(simulated_prompts, "MISSED_SHARE", 0.0)
    square, nothing = plane(slice(4, 9), slice(6, 11)), plane(slice(0), slice(0))
    found, true = (nothing, square) if is_missed else (square, nothing)
    drawn = simulate(8 * found - 4, true.astype(np.uint8), stride=STRIDE, rng=np.random.default_rng(1))
    # The square's middle cell is (x, y) = (8, 6): its centre is pixel 8.5 * 4 - 0.5.
    assert drawn.prompts.points_BN2[0, 0].tolist() == [33.5, 25.5]
    assert drawn.prompts.labels_BN[0].tolist() == [int(is_missed), PADDING_LABEL, PADDING_LABEL]
    assert np.array_equal(drawn.target_B1hw.numpy(), true)
    near = drawn.near_B1hw[0, 0].numpy()
    assert near[4:9, 6:11].all() and near[0:13, 2:15].all() and near.sum() == 13 * 13, "3 + a quarter of 5 around it"


def test_one_that_is_hidden_is_asked_for_and_one_that_is_to_go_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    square = plane(slice(4, 9), slice(6, 11))
    monkeypatch.setattr(simulated_prompts, "REMOVED_SHARE", 0.0)
    monkeypatch.setattr(simulated_prompts, "MISSED_SHARE", 1.0)
    hidden = simulate(8 * square - 4, square.astype(np.uint8), stride=STRIDE, rng=np.random.default_rng(1))
    assert hidden.prompts.labels_BN[0, 0] == 1 and np.array_equal(hidden.target_B1hw.numpy(), square)
    monkeypatch.setattr(simulated_prompts, "REMOVED_SHARE", 1.0)
    gone = simulate(8 * square - 4, square.astype(np.uint8), stride=STRIDE, rng=np.random.default_rng(1))
    assert gone.prompts.labels_BN[0, 0] == 0 and not gone.target_B1hw.any()
    assert not torch.equal(hidden.prompts.mask_B1HW, gone.prompts.mask_B1HW), "it is hidden"


def test_the_innermost_cell_is_furthest_from_the_border() -> None:
    region = np.zeros((8, 8), bool)
    region[1:6, 2:7] = True
    region[5, 2:7] = False  # five columns by four rows: rows 2 and 3 are the middle ones, the first of them counts
    assert innermost(region).tolist() == [3.0, 2.0]


def test_the_student_stays_as_it_is_and_the_same_seed_teaches_the_same() -> None:
    student = build_model("tinysam", size="mini", num_classes=1, image_px=IMAGE_PX, seed=1)
    assert isinstance(student, Segmenter)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    state = torch.random.get_rng_state()

    def taught(seed: int) -> dict[str, torch.Tensor]:
        about = {"pos_weight": 2.0, "dice_weight": 1.0, "device": torch.device("cpu"), "precision": "fp32"}
        return teach_prompts(student, Pairs(), Teaching(steps=3, seed=seed, **about)).state_dict()

    one, again, other = taught(5), taught(5), taught(6)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    assert all(torch.equal(value, again[name]) for name, value in one.items())
    changed = {name.partition(".")[0] for name, value in one.items() if not torch.equal(value, before[name])}
    assert "mask_decoder" in changed and "image_encoder" not in changed
    assert any(not torch.equal(value, other[name]) for name, value in one.items()), "the seed draws the clicks"
