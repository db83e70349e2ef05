"""Agreement with a reference: distances and surfaces worked out by hand, and as torch's libraries have them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from monai.metrics import compute_surface_dice
from PIL import Image

from engine.data.geometry import Geometry
from engine.data.readers import image_info
from engine.errors import UserError
from engine.evaluation.measures import hd95_px
from export.outputs.agreement import agreement
from export.outputs.references import read_slice


def test_distances_are_those_of_the_evaluation() -> None:
    rng = np.random.default_rng(8)
    one, other = np.zeros((2, 1, 30, 40), bool)
    one[0, 5:20, 6:22], other[0, 8:26, 3:30] = True, True
    other ^= (rng.random(other.shape) > 0.97) & other
    expected = hd95_px(torch.from_numpy(one[None]), torch.from_numpy(other[None]))[0][0]
    found = agreement(one, other, steps=(1, 1, 1))
    assert found.hd95 == pytest.approx(expected)
    assert agreement(one, other, steps=(9, 2, 2)).hd95 == pytest.approx(2 * expected)
    shared = int((one & other).sum())
    assert found.dice == pytest.approx(2 * shared / (int(one.sum()) + int(other.sum())))
    apart = np.zeros((2, 4, 3, 3), bool)
    apart[0, 0], apart[1, 2] = True, True  # two slices apart
    assert agreement(apart[0], apart[1], steps=(2.5, 1, 1)).hd95 == pytest.approx(5)


def test_of_empty_masks_nothing_is_measured_but_that_they_agree() -> None:
    one = np.zeros((1, 5, 5), bool)
    one[0, 2, 2] = True
    nothing = {"iou": 0.0, "dice": 0.0, "hd95": None, "surface_dice": 0.0, "surface_tolerance": 2}
    assert asdict(agreement(one, one & False, steps=(1, 1, 1))) == nothing
    assert asdict(agreement(one & False, one, steps=(1, 1, 1))) == nothing
    both = agreement(one & False, one & False, steps=(1, 1, 1))
    assert (both.dice, both.iou, both.hd95, both.surface_dice) == (1.0, 1.0, None, 1.0)


@pytest.mark.parametrize(("shift", "steps", "expected", "tolerance"), [
    (0, (1, 1, 1), 1.0, 2), (2, (1, 1, 1), 1.0, 2), (2, (1, 1, 0.5), 1.0, 2),
    # 4 columns of 1 mm apart: each outline has 6 + 6 pixels; the pixels of rows lie on the other's rows for 2 of 6
    (4, (1, 1, 1), None, 2),
    # pixels of 3 x 1 mm: two of the larger side are 6 mm, more than 4 columns
    (4, (1, 3, 1), 1.0, 6),
])  # fmt: skip
def test_a_surface_agrees_within_two_pixels(shift: int, steps: tuple, expected: float | None, tolerance: float) -> None:
    """Two bars of 2 rows and 6 columns, all of them outline, ``shift`` columns apart."""
    one, other = np.zeros((2, 1, 9, 24), bool)
    one[0, 3:5, 5:11], other[0, 3:5, 5 + shift : 11 + shift] = True, True
    found = agreement(one, other, steps=steps)
    # shift 4: columns 5..10 and 9..14. Of 6 columns 7..10 are within 2 of column 9 on; 4 of 6, both ways
    assert found.surface_dice == pytest.approx(4 / 6 if expected is None else expected)
    assert found.surface_tolerance == tolerance


def test_surface_dice_is_that_of_monai() -> None:
    rng = np.random.default_rng(4)
    one, other = (rng.random((2, 1, 40, 50)) > 0.5).astype(bool)
    one[0, 8:30, 6:32], other[0, 10:36, 3:30] = True, True
    for spacing in ((1.0, 1.0), (0.5, 1.25)):
        given = [torch.from_numpy(mask[None].astype(np.float32)) for mask in (one, other)]
        expected = compute_surface_dice(*given, class_thresholds=[2 * max(spacing)], include_background=True,
                                        spacing=spacing)  # fmt: skip
        assert agreement(one, other, steps=(1, *spacing)).surface_dice == pytest.approx(float(expected))
    cubes = np.zeros((2, 9, 20, 20), bool)
    cubes[0, 2:6, 4:12, 5:15], cubes[1, 3:8, 8:17, 5:18] = True, True
    given = [torch.from_numpy(mask[None, None].astype(np.float32)) for mask in cubes]
    expected = compute_surface_dice(*given, class_thresholds=[4.0], include_background=True, spacing=(3.0, 2.0, 1.0))
    assert agreement(*cubes, steps=(3, 2, 1)).surface_dice == pytest.approx(float(expected))


LIKE = Geometry(height_px=4, width_px=6, num_slices=1)


def read(path: Path, *, like: Geometry = LIKE, number: int = 0, slices: int = 1, classes: int = 1) -> np.ndarray:
    return read_slice(path, like, number, slice_axis=2, num_slices=slices, num_classes=classes)


def test_a_slice_of_a_reference_has_a_plane_a_class(tmp_path: Path) -> None:
    labels = np.zeros((3, 4, 6), np.uint8)
    labels[1, 0, 0], labels[1, 3, 5] = 1, 2
    tifffile.imwrite(tmp_path / "labels.tif", labels, photometric="minisblack")
    like = image_info(tmp_path / "labels.tif")
    found = read(tmp_path / "labels.tif", like=like, number=1, slices=3, classes=2)
    assert np.argwhere(found).tolist() == [[0, 0, 0], [1, 3, 5]]
    assert read(tmp_path / "labels.tif", like=like, number=1, slices=3)[0].sum() == 2
    with pytest.raises(UserError, match="3 slices of 6 x 4 pixels, the image 1 of 6 x 4") as caught:
        read(tmp_path / "labels.tif")
    assert caught.value.code == "reference.shape"


def test_a_reference_that_does_not_fit_is_refused_with_both_sizes(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((6, 4), np.uint8)).save(tmp_path / "turned.png")
    with pytest.raises(UserError, match="1 slices of 4 x 6 pixels, the image 1 of 6 x 4") as caught:
        read(tmp_path / "turned.png")
    assert caught.value.code == "reference.shape"
    with pytest.raises(UserError, match="the image 5 of 6 x 4"):
        read(tmp_path / "turned.png", number=4, slices=5)
    Image.fromarray(np.full((4, 6), 7, np.uint8)).save(tmp_path / "seven.png")
    with pytest.raises(UserError) as caught:
        read(tmp_path / "seven.png", classes=2)
    assert caught.value.code == "reference.values"
