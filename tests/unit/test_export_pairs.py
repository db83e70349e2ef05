"""Two models on one volume: figures worked out by hand, each slice read once, and which models fit each other."""

from __future__ import annotations

import csv
import io
from collections.abc import Generator
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile
from volume_files import Told, manifest, told_pair, write_scan

from engine.data import nifti as nifti_reader
from engine.data.archives import Member
from engine.data.budget import at_most
from engine.errors import UserError
from export.cases import Segmented, find_cases, write_masks
from export.outputs.compared import pairs_csv
from export.pairs import Models, names_apart, together_steps


def finished(steps: Generator) -> tuple[list[tuple[int, int]], tuple[Segmented, ...]]:
    seen = []
    while True:
        try:
            seen.append(next(steps))
        except StopIteration as end:
            return seen, end.value


def together(models: Models, path: Path, **how: object) -> tuple[list[tuple[int, int]], tuple[Segmented, ...]]:
    (cases,) = models.cases(find_cases([Member(path, path.name)]))
    return finished(together_steps(models, cases, keeps=[lambda *_: None] * len(models), **how))  # type: ignore[arg-type]


def test_two_small_volumes_disagree_by_what_is_worked_out_by_hand(tmp_path: Path) -> None:
    """A voxel is 2 x 5 x 10 mm, 0.1 mL. At 0.5 the first finds 14 voxels, the second 11, both 8 of them."""
    models = told_pair()
    seen, found = together(models, write_scan(tmp_path / "scan.nii.gz"))
    assert seen == [(done, 8) for done in range(1, 9)], "four slices by each of two models"
    (organ,) = models.compared(found)
    assert organ.models == ("first", "second")
    assert [one.foreground_px for one in organ.figures] == [14, 11]
    assert [one.volume_ml for one in organ.figures] == pytest.approx([1.4, 1.1])
    assert organ.dice == pytest.approx(2 * 8 / 25) and organ.only_px == (6, 3) and organ.differing_px == 9
    assert organ.ml(organ.differing_px) == pytest.approx(0.9)
    first, second = csv.DictReader(io.StringIO(pairs_csv([organ])))
    assert (first["model"], first["other_model"], first["only_here_px"], first["only_here_ml"]) == (
        "first", "second", "6", "0.6"
    )  # fmt: skip
    assert (second["model"], second["volume_ml"], second["only_here_ml"]) == ("second", "1.1", "0.3")
    assert {row["dice_with_other"] for row in (first, second)} == {"0.64"}
    assert {(row["differing_px"], row["differing_ml"]) for row in (first, second)} == {("9", "0.9")}


@pytest.mark.parametrize(("percent", "only", "dice"), [
    (45, (0, 3), 2 * 14 / 31), (81, (0, 0), 1.0), (91, (0, 8), 0.0), (99, (0, 8), 0.0), (5, (0, 0), 1.0),
])  # fmt: skip
def test_a_threshold_changes_both_masks(tmp_path: Path, percent: int, only: tuple[int, int], dice: float) -> None:
    models = told_pair()
    _, found = together(models, write_scan(tmp_path / "scan.nii.gz"), percent=percent)
    (organ,) = models.compared(found)
    assert organ.only_px == only and organ.dice == pytest.approx(dice)


def test_two_empty_masks_are_the_same_and_a_stack_without_a_place_has_no_millilitres(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "stack.tif", np.zeros((3, 8, 8), np.uint8), photometric="minisblack")
    models = told_pair()
    _, found = together(models, tmp_path / "stack.tif")
    (organ,) = models.compared(found)
    assert (organ.dice, organ.differing_px, organ.ml(organ.differing_px)) == (1.0, 0, None)
    assert next(csv.DictReader(io.StringIO(pairs_csv([organ]))))["differing_ml"] == ""


def test_classes_are_compared_by_name_whatever_their_order_and_each_mask_keeps_its_own(tmp_path: Path) -> None:
    everything, core = {60: 80, 100: 90}, {100: 90}
    first = Told("first", everything, core, classes=("organ", "core"))
    second = Told("second", core, everything, classes=("core", "organ"))
    models = Models.of(first, second)  # type: ignore[arg-type]
    _, found = together(models, write_scan(tmp_path / "scan.nii.gz"))
    assert [(one.figures[1].class_name, one.dice) for one in models.compared(found)] == [("organ", 1.0), ("core", 1.0)]
    labels = [
        nibabel.load(write_masks(one, tmp_path, session=session)[0]).get_fdata()
        for one, session in zip(found, models.sessions, strict=True)
    ]
    assert [int((one == 2).sum()) for one in labels] == [8, 14], "label 2 is the class that each model calls second"


def test_models_that_cannot_be_compared_are_named_with_what_they_find(tmp_path: Path) -> None:
    one, other = Told("liver model", {}), Told("lung model", {}, classes=("lung",))
    with pytest.raises(UserError, match="liver model finds organ; lung model finds lung") as caught:
        Models.of(one, other)  # type: ignore[arg-type]
    assert caught.value.code == "compare.classes"
    across = Models.of(one, Told("other", {}, axis=0))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="liver model across axis 2 and other across axis 0") as caught:
        together(across, write_scan(tmp_path / "scan.nii.gz"))
    assert caught.value.code == "compare.slices"
    tifffile.imwrite(tmp_path / "stack.tif", np.zeros((2, 8, 8), np.uint8), photometric="minisblack")
    together(across, tmp_path / "stack.tif")  # pages are pages, whatever the axis


def test_what_is_foreign_to_the_second_model_is_refused_by_its_name_before_more_than_a_slice(tmp_path: Path) -> None:
    models = told_pair()
    models.sessions[1].manifest = models.sessions[1].manifest.model_copy(update={"modality": "fundus photographs"})
    path = write_scan(tmp_path / "scan.nii.gz")
    (cases,) = models.cases(find_cases([Member(path, path.name)]))
    steps = together_steps(models, cases, keeps=[lambda *_: None] * 2)
    assert next(steps) == (1, 8)
    with pytest.raises(UserError, match=r"^second: A NIfTI file holds a scanner's images") as caught:
        next(steps)
    assert caught.value.code == "image.foreign"
    _, found = together(models, path, anyway=True)
    assert [bool(one.unlike) for one in found] == [False, True]
    assert [one.stem for one in found] == ["scan", "scan_second_unlike_training"]


def test_a_volume_is_inflated_once_for_both_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    reader = nifti_reader.read_volume
    monkeypatch.setattr(nifti_reader, "read_volume", lambda path: read.append(path) or reader(path))
    with at_most(2**20):  # where nothing is kept for the next visitor
        together(told_pair(), write_scan(tmp_path / "scan.nii.gz"))
    assert len(read) == 1


def test_masks_of_both_models_share_the_limit(tmp_path: Path) -> None:
    """120 voxels of 30 classes take 3,600 bytes by one model, twice that by two: 5,000 are enough for one."""
    classes = tuple(f"class {number}" for number in range(30))
    one, other = (Told(name, *[{}] * 30, classes=classes) for name in ("one", "other"))
    path = write_scan(tmp_path / "scan.nii")
    with at_most(5_000):
        together(Models.of(one), path)  # type: ignore[arg-type]
        with pytest.raises(UserError, match="30 classes by 2 models take 0 MiB") as caught:
            together(Models.of(one, other), path)  # type: ignore[arg-type]
    assert caught.value.code == "volume.too_large"


def test_two_models_of_one_name_are_told_apart_by_role_or_run() -> None:
    about = manifest().model_copy(update={"name": "liver", "run_id": "r1"})
    teacher = about.model_copy(update={"model": about.model.model_copy(update={"role": "distilled_teacher"})})
    other_run = about.model_copy(update={"run_id": "r2"})
    role = about.model.role
    assert names_apart(about, about.model_copy(update={"name": "lung"})) == ("liver", "lung")
    assert names_apart(about, teacher) == (f"liver {role}", "liver distilled_teacher")
    assert names_apart(about, other_run) == ("liver r1", "liver r2")
    assert names_apart(about, about) == ("liver (first)", "liver (second)")


def test_files_of_the_second_model_have_its_name_and_never_that_of_another_image() -> None:
    files = [Member(Path(f"/x/{name}"), name) for name in ("a.png", "a_second.png")]
    assert [[case.stem for case in both] for both in told_pair().cases(find_cases(files))] == [
        ["a", "a_second_2"], ["a_second", "a_second_second"]
    ]  # fmt: skip
