"""Classes without masks, masks that lie elsewhere, and what else a new dataset has wrong: each is told by name."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from engine.config import DataConfig
from engine.data.datasets import load_federation
from engine.data.first_read import read_everything
from engine.data.folders import read_folders
from engine.data.problems import Problem, faults_of, warnings_of
from engine.errors import UserError
from tests.unit.data_world import TWO_CLASSES, blob, picture, picture_at, write_dataset, write_png

LABEL_MAP = TWO_CLASSES + "mask_values = {disc = [1], cup = [2, 3]}\n"


def config(root: Path, **settings: object) -> DataConfig:
    return DataConfig(**{"source": "folder", "root": root, "image_px": 32, "validation_fraction": 0.25, **settings})


def problems_of(root: Path, **settings: object) -> list[Problem]:
    return list(read_folders(config(root, **settings), thorough=True).problems)


def label_map(tmp_path: Path, *, values: dict[str, tuple[int, ...]]) -> Path:
    """Write sites whose masks each hold the given values, in stripes."""
    root = write_dataset(tmp_path / "set", sites=tuple(values), description=LABEL_MAP)
    for site, stripes in values.items():
        for path in (root / site / "masks").iterdir():
            mask = np.zeros((12, 16), np.uint8)
            for row, value in enumerate(stripes):
                mask[2 * row + 1] = value
            write_png(path, mask)
    return root


def first_reading(root: Path, **settings: object) -> list[str]:
    return read_everything(load_federation(config(root, **settings), seed=1), on_image=lambda done, total: None)


def test_every_class_and_value_occurs(tmp_path: Path) -> None:
    root = label_map(tmp_path, values={"a": (1, 2), "b": (1, 2, 3), "c": (3, 1)})
    assert problems_of(root) == [] and first_reading(root) == []


def test_a_class_in_no_mask_is_a_fault_before_training(tmp_path: Path) -> None:
    root = label_map(tmp_path, values={"a": (1,), "b": (1,), "c": (1,)})
    (problem,) = problems_of(root)
    assert (problem.code, problem.weight) == ("data.class_nowhere", "fault") and "'cup'" in problem.what
    assert problems_of(root, classes=("disc",)) == [], "nobody asks for it"
    with pytest.raises(UserError, match="'cup' has no foreground") as caught:
        first_reading(root)
    assert caught.value.code == "data.class_nowhere"
    assert first_reading(root, classes=("disc",)) == []


@pytest.mark.parametrize("site", ["a", "c"])
def test_a_class_that_one_site_never_marks_is_a_warning(tmp_path: Path, site: str) -> None:
    root = label_map(tmp_path, values={**dict.fromkeys("abc", (1, 2, 3)), site: (1,)})
    (problem,) = problems_of(root)
    assert (problem.code, problem.weight, problem.site) == ("data.class_absent", "warning", site)
    assert "'cup'" in problem.what and "Dice 1" in problem.what
    (told,) = first_reading(root)
    assert told.startswith(problem.what)


def test_a_class_that_only_the_held_out_site_marks_is_a_fault(tmp_path: Path) -> None:
    root = label_map(tmp_path, values={"a": (1,), "b": (1,), "c": (1, 2, 3)})
    faults = faults_of(problems_of(root))
    assert [fault.code for fault in faults] == ["data.class_nowhere"] and "'c' is held out" in faults[0].what
    assert faults_of(problems_of(root, held_out="a")) == []
    with pytest.raises(UserError, match="the sites that train"):
        first_reading(root)


def test_a_declared_value_that_never_occurs_is_told(tmp_path: Path) -> None:
    (problem,) = problems_of(label_map(tmp_path, values=dict.fromkeys("abc", (1, 2))))
    assert (problem.code, problem.weight) == ("data.mask_value_unused", "warning")
    assert "'cup' the value(s) 3," in problem.what


def test_a_value_that_no_class_claims_is_a_fault_of_its_file(tmp_path: Path) -> None:
    root = label_map(tmp_path, values=dict.fromkeys("abc", (1, 2, 3)))
    write_png(root / "b" / "masks" / "img_2.png", blob(value=4))
    (problem,) = problems_of(root)
    assert (problem.code, problem.file) == ("data.mask_values", "b/masks/img_2.png") and "0, 4" in problem.what


def test_a_fault_in_the_second_class_names_its_file(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "set", description=TWO_CLASSES)
    for site in ("alpha", "beta", "gamma"):
        (root / site / "masks").rename(root / site / "disc")
        for number in range(4):
            write_png(root / site / "masks" / "cup" / f"img_{number}.png", blob())
        (root / site / "disc").rename(root / site / "masks" / "disc")
    write_png(root / "beta" / "masks" / "cup" / "img_1.png", blob(value=9))
    (root / "beta" / "masks" / "cup" / "img_2.png").write_bytes(b"\x89PNG")
    problems = sorted(problems_of(root), key=lambda problem: str(problem.file))
    assert [problem.file for problem in problems] == ["beta/masks/cup/img_1.png", "beta/masks/cup/img_2.png"]
    assert problems[0].code == "data.mask_values" and problems[0].what.count("img_1.png") == 1


def test_masks_that_are_all_foreground_are_told(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "set")
    for path in (root / "beta" / "masks").iterdir():
        write_png(path, np.full((12, 16), 255, np.uint8))
    (problem,) = problems_of(root)
    assert (problem.code, problem.weight, problem.site) == ("data.mask_full", "warning", "beta")


# ------------------------------------------------------------------------------------------ masks in patient space


def volumes(root: Path, *, mask_affine: np.ndarray | None = None, turn: bool = False, slices: int = 3) -> Path:
    """Write two sites of two CT volumes with masks; every image lies 5 mm off the origin, in LPS."""
    root.mkdir(parents=True)
    (root / "dataset.toml").write_text('name = "ct"\nmodality = "CT"\nclasses = ["liver"]\n')
    affine = np.diag([-1.0, -1.0, 2.0, 1.0])
    affine[:3, 3] = (5, 7, 11)
    for number, (site, name) in enumerate([("a", "a0"), ("a", "a1"), ("b", "b0"), ("b", "b1")]):
        voxels = np.random.default_rng(number).integers(-900, 0, (12, 10, 3)).astype(np.int16)
        voxels[2:5, 1:4, :] = 500
        mask = (voxels[..., :1].repeat(slices, axis=2) if slices != 3 else voxels) == 500
        stored, placed = mask.astype(np.uint8), affine if mask_affine is None else mask_affine
        if turn:  # the same mask, its voxels in the opposite order along two axes
            stored, placed = stored[::-1, ::-1], affine @ _flipped(stored.shape)
        for kind, array, where in (("images", voxels, affine), ("masks", stored, placed)):
            (root / site / kind).mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(array, where), root / site / kind / f"{name}.nii.gz")
    return root


def _flipped(shape: tuple[int, ...]) -> np.ndarray:
    matrix = np.diag([-1.0, -1.0, 1.0, 1.0])
    matrix[:2, 3] = (shape[0] - 1, shape[1] - 1)
    return matrix


@pytest.mark.parametrize("turn", [False, True])
def test_a_mask_on_the_images_voxels_in_any_order_lies_on_the_object(tmp_path: Path, turn: bool) -> None:
    root = volumes(tmp_path / "set", turn=turn)
    assert problems_of(root) == []
    for item in load_federation(config(root, validation_fraction=0.5), seed=1).test.test.items:
        image, mask = item.read()
        np.testing.assert_array_equal(mask[0] == 1, image[..., 0] > 0.9)


SHIFTED = np.diag([-1.0, -1.0, 2.0, 1.0])
SHIFTED[:3, 3] = (505, 7, 11)
COARSER = np.diag([-1.0, -1.0, 4.0, 1.0])
COARSER[:3, 3] = (5, 7, 11)


@pytest.mark.parametrize("where", [SHIFTED, COARSER, np.eye(4)], ids=["shifted", "coarser", "without geometry"])
def test_a_mask_that_lies_elsewhere_in_the_patient_is_a_fault(tmp_path: Path, where: np.ndarray) -> None:
    problems = problems_of(volumes(tmp_path / "set", mask_affine=where))
    files = [f"{site}/masks/{site}{k}.nii.gz" for site in "ab" for k in range(2)]
    assert [(problem.code, problem.file) for problem in problems] == [("data.mask_elsewhere", file) for file in files]
    with pytest.raises(UserError) as caught:
        load_federation(config(tmp_path / "set"), seed=1)
    assert caught.value.code == "data.mask_elsewhere"


def test_a_mask_with_other_slices_is_told_by_its_size(tmp_path: Path) -> None:
    problems = problems_of(volumes(tmp_path / "set", slices=4))
    assert {problem.code for problem in problems} == {"data.mask_size"} and len(problems) == 4
    assert "12 x 10 x 4 slices" in problems[0].what and "12 x 10 x 3 slices" in problems[0].what


def test_pictures_without_geometry_are_matched_by_their_rows(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "set")
    write_png(root / "beta" / "images" / "img_1.png", picture(3, height=16, width=12))
    (problem,) = problems_of(root)
    assert (problem.code, problem.file) == ("data.mask_size", "beta/masks/img_1.png")
    assert "12 x 16" in problem.what and "16 x 12" in problem.what


def test_warnings_and_faults_come_together(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "set")
    write_png(root / "beta" / "images" / "img_1.png", picture_at("beta", 0))
    (root / "alpha" / "masks" / "img_3.png").unlink()
    problems = problems_of(root)
    assert [problem.code for problem in faults_of(problems)] == ["data.mask_missing"]
    assert [problem.code for problem in warnings_of(problems)] == ["data.copied_image"]
