"""Every bad dataset gets a clear error that names site and file; several faults come together."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.config import DataConfig
from engine.data.datasets import load_federation
from engine.data.problems import SHOWN, Problem, raise_problems
from engine.data.validation import check_dataset
from engine.errors import UserError
from tests.unit.data_world import (
    TWO_CLASSES,
    blob,
    picture,
    write_dataset,
    write_npy_layout,
    write_png,
    write_site,
)


def folder(root: Path, **settings: object) -> DataConfig:
    return DataConfig(source="folder", root=root, image_px=32, validation_fraction=0.25, **settings)


def image(root: Path) -> Path:
    return root / "beta" / "images" / "img_1.png"


def mask(root: Path) -> Path:
    return root / "beta" / "masks" / "img_1.png"


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def blank_masks(root: Path) -> None:
    for path in (root / "beta" / "masks").iterdir():
        write_png(path, blob() * 0)


def keep_images(root: Path, count: int) -> None:
    for kind in ("images", "masks"):
        for path in sorted((root / "beta" / kind).iterdir())[count:]:
            path.unlink()


def shared_patient(root: Path) -> None:
    for site in ("alpha", "beta"):
        (root / site / "meta.csv").write_text("file,group\nimg_0.png,p7\nimg_1.png,\n")


def meta(text: str) -> Callable[[Path], object]:
    return lambda root: (root / "beta" / "meta.csv").write_text(text)


STRUCTURE = [  # code, how the dataset is spoilt, words that the sentence holds; all seen at load
    ("data.mask_missing", lambda r: mask(r).unlink(), ("beta", "images/img_1.png")),
    ("data.image_missing", lambda r: image(r).unlink(), ("beta", "masks/img_1.png")),
    ("data.mask_size", lambda r: write_png(mask(r), blob(height=13)), ("beta", "img_1.png", "16 x 13", "16 x 12")),
    ("data.image_unreadable", lambda r: image(r).write_bytes(b"GIF89a"), ("beta", "img_1.png")),
    ("data.site_empty", lambda r: keep_images(r, 0), ("beta",)),
    ("data.site_one_image", lambda r: keep_images(r, 1), ("beta", "img_0")),
    ("data.site_no_foreground", blank_masks, ("beta",)),
    ("data.shared_patient", shared_patient, ("alpha", "beta", "p7")),
    (
        "data.duplicate_name",
        lambda r: Image.fromarray(picture(1)).save(image(r).with_suffix(".jpg")),
        ("beta", "images/img_1.jpg", "images/img_1.png"),
    ),
    ("data.format_unknown", lambda r: (r / "beta" / "images" / "notes.txt").write_text("?"), ("beta", "notes.txt")),
    ("data.class_folder_missing", lambda r: shutil.rmtree(r / "beta" / "masks"), ("beta", "masks")),
    ("data.class_unknown", lambda r: (r / "beta" / "masks" / "bolb").mkdir(), ("beta", "masks/bolb", "blob")),
    ("data.site_layout", lambda r: (r / "docs").mkdir(), ("docs", "images")),
    ("data.meta_unknown_file", meta("file,group\nimg_9.png,p1\n"), ("beta", "meta.csv", "img_9.png")),
    ("data.meta_invalid", meta("name,group\nimg_1.png,p1\n"), ("beta", "meta.csv", "'file'")),
    ("data.meta_invalid", meta("file,group\nimg_1.png,p1\nimg_1.png,p2\n"), ("beta", "img_1.png", "twice")),
    ("data.meta_invalid", meta("file,patient\nimg_1.png,p1\n"), ("beta", "'group'", "'patient'")),
    (
        "data.meta_invalid",
        lambda r: (r / "beta" / "meta.csv").write_bytes(b"file,group\nimg_1.png,M\xfcller\n"),
        ("beta", "UTF-8"),
    ),
]
PIXELS = [  # seen when the pixels are read
    ("data.image_unreadable", lambda r: truncate(image(r)), ("beta", "img_1.png")),
    ("data.image_unreadable", lambda r: truncate(mask(r)), ("beta", "masks/img_1.png")),
    ("data.mask_values", lambda r: write_png(mask(r), blob(value=7)), ("beta", "masks/img_1.png", "0, 7")),
]


@pytest.mark.parametrize(("code", "spoil", "words"), STRUCTURE + PIXELS, ids=lambda v: v if isinstance(v, str) else "")
def test_check_finds_the_fault_and_only_it(tmp_path: Path, code: str, spoil, words: tuple[str, ...]) -> None:
    root = write_dataset(tmp_path / "set")
    assert check_dataset(root) == []
    spoil(root)
    problems = check_dataset(root)
    assert {problem.code for problem in problems} == {code} | ({"data.class_folder_missing"} & _implied(code))
    text = " ".join(problem.what for problem in problems)
    assert all(word in text for word in words), text
    assert all(problem.fix for problem in problems)
    assert all(problem.site is not None for problem in problems)


def _implied(code: str) -> set[str]:
    # a misspelt class folder is also a missing one
    return {"data.class_folder_missing"} if code == "data.class_unknown" else set()


@pytest.mark.parametrize(("code", "spoil", "words"), STRUCTURE, ids=[case[0] for case in STRUCTURE])
def test_loading_refuses_faults_of_structure(tmp_path: Path, code: str, spoil, words: tuple[str, ...]) -> None:
    root = write_dataset(tmp_path / "set")
    spoil(root)
    with pytest.raises(UserError) as caught:
        load_federation(folder(root), seed=1)
    assert caught.value.code in (code, "data.several_faults")
    assert all(word in caught.value.what for word in words)


@pytest.mark.parametrize(("code", "spoil", "words"), PIXELS)
def test_a_batch_refuses_faults_of_pixels(tmp_path: Path, code: str, spoil, words: tuple[str, ...]) -> None:
    root = write_dataset(tmp_path / "set")
    spoil(root)
    federation = load_federation(folder(root), seed=1)
    with pytest.raises(UserError) as caught:
        for part in (federation.sites["beta"].train, federation.sites["beta"].validation):
            part.batch(range(len(part)))
    assert caught.value.code == code
    assert all(word in caught.value.what for word in words)
    with pytest.raises(UserError) as caught:
        load_federation(folder(root), seed=1, thorough=True)
    assert caught.value.code == code


def test_a_class_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "set", description=TWO_CLASSES, sites=("alpha",))
    for number in range(4):
        path = root / "alpha" / "masks" / f"img_{number}.png"
        (root / "alpha" / "masks" / "disc").mkdir(exist_ok=True)
        path.rename(root / "alpha" / "masks" / "disc" / path.name)
    (problem,) = check_dataset(root)
    assert problem.code == "data.class_folder_missing" and "masks/cup" in problem.what and "alpha" in problem.what


def test_a_dataset_without_root_description_or_sites(tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    (tmp_path / "siteless").mkdir()
    (tmp_path / "siteless" / "dataset.toml").write_text('name = "x"\nmodality = "y"\nclasses = ["z"]\n')
    for name, code in (
        ("nowhere", "data.root_missing"),
        ("bare", "data.description_missing"),
        ("siteless", "data.no_sites"),
    ):
        (problem,) = check_dataset(tmp_path / name)
        assert problem.code == code and name in problem.what
        with pytest.raises(UserError) as caught:
            load_federation(folder(tmp_path / name), seed=1)
        assert caught.value.code == code


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name = ", ("not valid TOML",)),
        ('name = "x"\nclasses = ["z"]\n', ("modality",)),
        ('name = "x"\nmodality = "y"\nclasses = []\n', ("classes",)),
        ('name = "x"\nmodality = "y"\nclasses = ["a", "a"]\n', ("differ",)),
        ('name = "x"\nmodality = "y"\nclasses = ["../a"]\n', ("classes",)),
        ('name = "x"\nmodality = "y"\nclasses = ["a"]\ncolour = 3\n', ("colour",)),
        ('name = "x"\nmodality = "y"\nclasses = ["a"]\nmask_values = [1, 1]\n', ("mask_values",)),
        ('name = "x"\nmodality = "y"\nclasses = ["a"]\nmask_values = {b = [1]}\n', ("mask_values",)),
        ('name = "x"\nmodality = "y"\nclasses = ["a"]\nmask_values = {a = [0]}\n', ("mask_background",)),
        ('name = "x"\nmodality = "y"\nclasses = ["a"]\nmask_values = [0, 2]\nmask_threshold = 3\n', ("exclude",)),
        ('name = "x"\nmodality = "y"\nclasses = ["a"]\nvalue_range = [5, 5]\n', ("value_range",)),
        ('name = "x"\nmodality = "y"\nclasses = ["a"]\nslice_axis = 4\n', ("slice_axis",)),
    ],
)
def test_a_bad_description_names_its_keys(tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    root = write_dataset(tmp_path / "set", description=text)
    (problem,) = check_dataset(root)
    assert problem.code == "data.description_invalid"
    assert "dataset.toml" in problem.what and all(word in problem.what for word in words), problem.what


@pytest.mark.parametrize(
    ("settings", "code", "word"),
    [
        ({"held_out": "delta"}, "data.held_out_unknown", "alpha, beta, gamma"),
        ({"sites": ("alpha", "delta")}, "data.site_unknown", "alpha, beta, gamma"),
        ({"sites": ("alpha",)}, "data.too_few_sites", "alpha"),
        ({"classes": ("bolb",)}, "data.class_unknown", "blob"),
    ],
)
def test_a_configuration_that_names_what_is_not_there(tmp_path: Path, settings: dict, code: str, word: str) -> None:
    root = write_dataset(tmp_path / "set")
    with pytest.raises(UserError) as caught:
        load_federation(folder(root, **settings), seed=1)
    assert caught.value.code == code and word in str(caught.value)


def test_phantoms_are_checked_alike() -> None:
    for settings, code in (
        ({"held_out": "nowhere"}, "data.held_out_unknown"),
        ({"sites": ("nowhere",)}, "data.site_unknown"),
        ({"classes": ("tail",)}, "data.class_unknown"),
        ({"images_per_site": 1}, "data.site_one_image"),
        ({"task": "dragons"}, "phantom.unknown_task"),
    ):
        with pytest.raises(UserError) as caught:
            load_federation(DataConfig(image_px=32, **settings), seed=1)
        assert caught.value.code == code


def test_a_site_of_one_patient_cannot_be_cut(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "set")
    write_site(root, "beta", groups=["p1"] * 4)
    with pytest.raises(UserError) as caught:
        load_federation(folder(root), seed=1)
    assert caught.value.code == "data.site_one_group" and "beta" in caught.value.what
    whole = load_federation(folder(root).model_copy(update={"validation_fraction": 0.0}), seed=1)
    assert len(whole.sites["beta"].train) == 4 and len(whole.sites["beta"].validation) == 0


def test_patients_numbered_by_each_site_are_told_apart_when_declared(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "set")
    shared_patient(root)
    description = root / "dataset.toml"
    description.write_text(description.read_text() + 'group_scope = "site"\n')
    assert check_dataset(root) == []


def test_blank_groups_share_no_patient(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "set")
    for site in ("alpha", "beta"):
        (root / site / "meta.csv").write_text("file,group\n" + "".join(f"img_{k}.png,\n" for k in range(4)))
    assert check_dataset(root) == []


def test_a_picture_that_lies_at_two_sites_is_found(tmp_path: Path) -> None:
    root, other = write_dataset(tmp_path / "set"), write_dataset(tmp_path / "other", sites=("delta",))
    shutil.copy(image(root), root / "gamma" / "images" / "img_3.png")
    (problem,) = check_dataset(root)
    assert problem.code == "data.shared_image"
    assert all(word in problem.what for word in ("img_1.png at 'beta'", "img_3.png at 'gamma'"))
    shutil.copy(
        root / "alpha" / "images" / "img_0.png", root / "alpha" / "images" / "img_2.png"
    )  # one site: its affair
    shutil.copy(root / "alpha" / "images" / "img_0.png", other / "delta" / "images" / "img_0.png")
    write_png(root / "gamma" / "images" / "img_3.png", picture(1))
    assert check_dataset(root) == []
    with pytest.raises(UserError) as caught:
        load_federation(folder(root, protocol="fixed-test", test_root=other), seed=1, thorough=True)
    assert caught.value.code == "data.shared_image" and "test set" in caught.value.what


def test_only_the_sites_that_take_part_are_checked(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "set")
    blank_masks(root)
    federation = load_federation(folder(root, sites=("alpha", "gamma")), seed=1)
    assert list(federation.sites) == ["alpha"] and federation.test.name == "gamma"


def test_faults_are_told_together(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "set", count=9)
    for site in ("alpha", "beta"):
        for number in range(6):
            (root / site / "masks" / f"img_{number}.png").unlink()
    truncate(root / "gamma" / "images" / "img_0.png")
    problems = check_dataset(root)
    assert len(problems) == 13
    assert problems[0].as_dict()["file"] == "alpha/images/img_0.png"
    with pytest.raises(UserError) as caught:
        load_federation(folder(root), seed=1, thorough=True)
    assert caught.value.code == "data.several_faults"
    assert caught.value.what.count("has no mask") == SHOWN and "And 3 more." in caught.value.what
    assert "13 fault(s)" in caught.value.why


def test_no_problems_raise_nothing_and_one_keeps_its_code() -> None:
    raise_problems([], dataset="x")
    with pytest.raises(UserError) as caught:
        raise_problems([Problem("data.a", "One.", "Mend."), Problem("data.a", "Two.", "Mend.")], dataset="x")
    assert (caught.value.code, caught.value.what, caught.value.fix) == ("data.a", "One. Two.", "Mend.")


def test_faults_of_the_npy_layout(tmp_path: Path) -> None:
    root = write_npy_layout(tmp_path / "npy")
    assert check_dataset(root) == []
    np.save(root / "a" / "label_npy" / "case_0.npy", np.full((8, 8, 1), 2, np.uint8))  # labels are cast, not binarised
    np.save(root / "a" / "label_npy" / "case_1.npy", np.zeros((8, 6, 1), np.uint8))
    (root / "b" / "val_label_npy" / "val_case_0.npy").unlink()
    (root / "b" / "data_npy" / "case_1.npy").write_bytes(b"\x93NUMPY")
    (root / "b" / "meta.csv").write_text("file,group\ncase_0.npy,p1\nval_case_0.npy,p1\n")
    codes = sorted(problem.code for problem in check_dataset(root))
    assert codes == [
        "data.image_unreadable",
        "data.mask_missing",
        "data.mask_size",
        "data.mask_values",
        "data.split_shares_patient",
    ]
