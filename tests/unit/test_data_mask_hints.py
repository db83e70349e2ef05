"""What a person is told whose masks lie, or are called, otherwise than they should be."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from engine.data.layout import scan_dataset
from engine.data.mask_names import meant_masks
from engine.data.problems import Problem
from engine.data.validation import check_dataset
from tests.patience import slowness
from tests.unit.data_medical_files import save_nifti
from tests.unit.data_world import TWO_CLASSES, blob, picture, write_dataset, write_png


def label_map(*values: int) -> np.ndarray:
    mask = np.zeros((12, 16), np.uint8)
    for row, value in enumerate(values):
        mask[row] = value
    return mask


def with_label_maps(root: Path, description: str, *values: int) -> Path:
    write_dataset(root, description=description, sites=("alpha",))
    for path in (root / "alpha" / "masks").iterdir():
        write_png(path, label_map(*values))
    return root


def the_problem(root: Path) -> Problem:
    (problem,) = scan_dataset(root).problems
    assert problem.code == "data.class_folder_missing" and problem.site == "alpha"
    return problem


def test_a_label_map_without_its_values_is_told_both_mends(tmp_path: Path) -> None:
    root = with_label_maps(tmp_path / "set", TWO_CLASSES, 0, 85, 170)
    problem = the_problem(root)
    assert problem.what == (
        "At site 'alpha' 4 mask(s) lie in masks itself, which has no folders for the classes 'disc', 'cup', and "
        "dataset.toml does not say which numbers mean them (img_0.png holds 0, 85, 170)."
    )
    assert "add mask_values = {disc = [85], cup = [170]} to dataset.toml, with" in problem.fix
    assert "else put one mask for each image and class into masks/<class>/." in problem.fix
    (root / "dataset.toml").write_text(TWO_CLASSES + "mask_values = {disc = [85], cup = [170]}\n")
    assert check_dataset(root) == []


@pytest.mark.parametrize(
    ("values", "told", "line"),
    [
        ((0, 3), " (img_0.png holds 0, 3).", "{disc = […], cup = […]}"),
        (tuple(range(10)), "0, 1, 2, 3, 4, 5, 6, 7, … (10 different)).", "{disc = […], cup = […]}"),
    ],
)
def test_other_values_than_classes_are_told_as_they_are(tmp_path: Path, values: tuple, told: str, line: str) -> None:
    problem = the_problem(with_label_maps(tmp_path / "set", TWO_CLASSES, *values))
    assert problem.what.endswith(told) and f"mask_values = {line}" in problem.fix


def test_names_of_classes_are_written_as_toml_wants_them(tmp_path: Path) -> None:
    description = TWO_CLASSES.replace('"cup"', '"optic cup"') + "mask_threshold = 100\n"
    problem = the_problem(with_label_maps(tmp_path / "set", description, 0, 1, 2))
    assert '{disc = [1], "optic cup" = [2]} to dataset.toml in the place of mask_threshold' in problem.fix


def test_numbers_of_a_volume_are_those_of_its_middle(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "set", description=TWO_CLASSES, sites=())
    labels = np.zeros((6, 5, 9), np.uint8)
    labels[0, :2, 4] = 1, 2
    for folder in ("images", "masks"):
        (root / "alpha" / folder).mkdir(parents=True)
        save_nifti(root / "alpha" / folder / "a.nii.gz", labels)
    assert "(a.nii.gz holds 0, 1, 2)" in the_problem(root).what


@pytest.mark.parametrize("kind", ["damaged", "coloured", "outside"])
def test_masks_that_give_no_numbers_are_told_without(tmp_path: Path, kind: str) -> None:
    root = with_label_maps(tmp_path / "set", TWO_CLASSES, 0, 1, 2)
    path = root / "alpha" / "masks" / "img_0.png"
    if kind == "damaged":
        path.write_bytes(path.read_bytes()[:60])
    elif kind == "coloured":
        write_png(path, picture(1))
    else:
        path.unlink()
        path.symlink_to(write_png(tmp_path / "secret.png", label_map(0, 77)))
    problem = the_problem(root)
    assert problem.what.endswith("which numbers mean them.") and "{disc = […], cup = […]}" in problem.fix


def test_a_folder_beside_label_maps_is_told_to_be_in_the_way(tmp_path: Path) -> None:
    values = TWO_CLASSES + "mask_values = {disc = [1], cup = [2]}\n"
    root = with_label_maps(tmp_path / "set", values, 0, 1, 2)
    write_png(root / "alpha" / "masks" / "old" / "img_0.png", blob())
    unknown, missing = scan_dataset(root).problems
    assert unknown.code == "data.class_unknown" and "masks/old" in unknown.what
    assert "mask_values is not used" in missing.what and "Take the folders out of masks" in missing.fix


def test_a_class_folder_among_others_is_missing_as_before(tmp_path: Path) -> None:
    root = with_label_maps(tmp_path / "set", TWO_CLASSES, 0, 1)
    write_png(root / "alpha" / "masks" / "disc" / "img_0.png", blob())
    assert the_problem(root).what == "Site 'alpha' has no folder masks/cup for the class 'cup'."


# --------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("c_0000", "c"),  # nnU-Net: the number of a channel
        ("case_00_0000", "case_00"),
        ("img_0", "mask_0"),
        ("image001", "mask1"),
        ("isic_0012", "isic_0012_segmentation"),
        ("isic_0012.orig", "gt-isic_0012"),
        ("0.ome", "0"),
        ("0", "0.ome"),
        ("br_7_flair", "br_7"),
        ("image", "mask"),
        ("é 1", "maske_é 1"),
    ],
)
def test_names_of_one_pair(image: str, mask: str) -> None:
    others = {"img_77", "77_x"}
    assert meant_masks({image, *others}, {mask, "85", "z_85"}) == {image: mask}


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        ({"img_1"}, {"img_10"}),
        ({"img_1"}, {"mask_2"}),
        ({"patient_a"}, {"patient_b"}),
        ({"c_0000", "c_0001"}, {"c"}),  # of two channels nobody knows which
        ({"a_1"}, {"a_1_disc", "a_1_cup"}),
        ({"img_1", "img_01"}, {"mask_1"}),
        ({"image", "img"}, {"mask"}),
        ({"+"}, {"a_1"}),
    ],
)
def test_names_that_say_nothing_or_too_much(images: set[str], masks: set[str]) -> None:
    assert meant_masks(images, masks) == {}


def test_the_nearest_of_several_names_is_meant() -> None:
    assert meant_masks({"a", "a_1"}, {"a_mask", "a_1_mask"}) == {"a": "a_mask", "a_1": "a_1_mask"}


def test_many_names_are_compared_at_once() -> None:
    many = range(10_000)
    started = time.process_time()
    found = meant_masks([f"case_{k}_0000" for k in many], [f"case_{k}" for k in many])
    assert len(found) == 10_000 and found["case_12_0000"] == "case_12"
    signs = ["-" * (k % 100) + "+" * (k // 100) for k in many]
    assert meant_masks([f"x_{k}" for k in many], [f"x{some}" for some in signs]) == {}
    assert meant_masks([f".{some}" for some in signs], signs) == {}
    assert time.process_time() - started < 2 * slowness()


def test_a_mask_of_another_name_is_told_how_to_be_renamed_and_stays_unpaired(tmp_path: Path) -> None:
    root = tmp_path / "set"
    write_dataset(root, sites=("alpha",), count=3)
    for folder, old, new in (
        ("images", "img_0.png", "c_0000.png"),
        ("masks", "img_0.png", "c.png"),
        ("masks", "img_1.png", "mask_1.PNG"),
        ("images", "img_2.png", "d.ome.png"),
        ("masks", "img_2.png", "D.png"),
    ):
        (root / "alpha" / folder / old).rename(root / "alpha" / folder / new)
    problems = scan_dataset(root).problems
    assert {problem.file: problem.fix for problem in problems if problem.code == "data.mask_missing"} == {
        "alpha/images/c_0000.png": "Rename the mask c.png to c_0000.png, if it is meant.",
        "alpha/images/img_1.png": "Rename the mask mask_1.PNG to img_1.png, if it is meant.",
        "alpha/images/d.ome.png": "Rename the mask D.png to d.ome.png, if it is meant.",
    }
    assert {problem.code for problem in problems} == {"data.mask_missing", "data.image_missing"}
    assert all(item.masks == () for items in scan_dataset(root).items.values() for item in items)
