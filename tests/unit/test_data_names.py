"""Names as people, Macs and Windows leave them: litter is no data, and spellings of one name belong together."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest

from engine.config import DataConfig
from engine.data.datasets import load_federation
from engine.data.layout import dataset_sites, scan_dataset
from engine.data.names import child, folded, is_litter, visible_files
from engine.data.problems import Problem
from engine.data.validation import check_dataset
from engine.errors import UserError
from tests.unit.data_world import TWO_CLASSES, blob, picture_at, write_dataset, write_png

APPLE_DOUBLE = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        "
LITTER = (
    "._img_0.png",
    ".DS_Store",
    "Thumbs.db",
    "thumbs.DB",
    "desktop.ini",
    "Icon\r",
    "__MACOSX/._img_0.png",
    "__macosx/img_9.png",
    ".hidden/img_8.png",
    ".Trashes/img_7.png",
    "@eaDir/img_0.png",
    "$RECYCLE.BIN/img_5.png",
    "System Volume Information/x.png",
)


def scatter(folder: Path) -> None:
    """Write what operating systems leave behind into ``folder``; none of it is an image."""
    for name in LITTER:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(APPLE_DOUBLE)


def problems_of(root: Path) -> list[Problem]:
    return scan_dataset(root).problems


def test_litter_is_read_nowhere(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "set")
    (root / "dataset.toml").write_text(TWO_CLASSES, encoding="utf-8")
    for site in ("alpha", "beta", "gamma"):
        (root / site / "masks").rename(root / site / "disc")
        (root / site / "masks").mkdir()
        (root / site / "disc").rename(root / site / "masks" / "disc")
        for number in range(4):
            write_png(root / site / "masks" / "cup" / f"img_{number}.png", blob())
    for folder in (root, *(path for path in root.rglob("*") if path.is_dir())):
        scatter(folder)
    assert dataset_sites(root) == ["alpha", "beta", "gamma"]
    assert problems_of(root) == [] and check_dataset(root) == []
    assert len(scan_dataset(root).items["alpha"]) == 4


def test_files_below_a_folder_without_the_litter(tmp_path: Path) -> None:
    (tmp_path / ".root" / "b").mkdir(parents=True)
    for name in ("b/2.png", "1.png"):
        (tmp_path / ".root" / name).write_bytes(b"")
    for folder in (tmp_path / ".root", tmp_path / ".root" / "b"):
        scatter(folder)
    (tmp_path / ".root" / "b" / "loop").symlink_to(tmp_path / ".root")
    os.mkfifo(tmp_path / ".root" / "pipe.png")
    found = [path.relative_to(tmp_path / ".root").as_posix() for path in visible_files(tmp_path / ".root")]
    assert found == ["1.png", "b/2.png"]
    assert not is_litter(tmp_path / ".root" / "1.png")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("P1", "p1"),
        (" p1 ", "p1"),
        ("p\u00a01", "p 1"),
        ("caf\u00e9", "cafe\u0301"),
        ("STRASSE", "stra\u00dfe"),
        ("\u1e9e", "\u00df"),
        ("\u0390", "\u03b9\u0308\u0301"),
    ],
)
def test_spellings_of_one_name(one: str, other: str) -> None:
    assert folded(one) == folded(other)


def test_names_that_differ() -> None:
    assert len({folded(name) for name in ("p1", "p01", "p10", "p-1", "p1.png")}) == 5


def test_a_child_in_its_own_spelling_comes_first(tmp_path: Path) -> None:
    assert child(tmp_path, "images") is None and child(tmp_path / "none", "images") is None
    (tmp_path / "Images").mkdir()
    assert child(tmp_path, "images") == tmp_path / "Images"
    (tmp_path / "images").mkdir()
    assert child(tmp_path, "images") == tmp_path / "images"


def test_an_image_and_its_mask_may_differ_in_case_and_accents_form(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "set")
    composed, taken_apart = (unicodedata.normalize(form, "Köln é") for form in ("NFC", "NFD"))
    (root / "beta" / "images" / "img_0.png").rename(root / "beta" / "images" / f"{taken_apart}.png")
    (root / "beta" / "masks" / "img_0.png").rename(root / "beta" / "masks" / f"{composed}.png")
    (root / "beta" / "masks" / "img_1.png").rename(root / "beta" / "masks" / "IMG_1.PNG")
    (root / "beta" / "masks").rename(root / "beta" / "Masks")
    (root / "gamma" / "images").rename(root / "gamma" / "IMAGES")
    (root / "dataset.toml").rename(root / "Dataset.TOML")
    scan = scan_dataset(root)
    assert scan.problems == []
    assert {item.name for item in scan.items["beta"]} == {composed, "img_1", "img_2", "img_3"}
    by_name = {item.name: item.masks[0].name for item in scan.items["beta"]}
    assert by_name[composed] == f"{composed}.png" and by_name["img_1"] == "IMG_1.PNG"
    assert len(scan.items["gamma"]) == 4


def test_a_class_folder_in_another_spelling(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "set", sites=("alpha", "beta"), description=TWO_CLASSES)
    for site in ("alpha", "beta"):
        (root / site / "masks").rename(root / site / "old")
        for name in ("Disc", "cup"):
            for number in range(4):
                write_png(root / site / "masks" / name / f"img_{number}.png", blob())
    assert problems_of(root) == []
    write_png(root / "beta" / "masks" / "img_0.png", blob())
    (problem,) = problems_of(root)
    assert (problem.code, problem.weight, problem.file) == ("data.mask_not_read", "warning", "beta/masks/img_0.png")


@pytest.mark.parametrize("name", ["images", "masks", "masks/disc", "meta.csv"])
def test_a_folder_that_is_there_in_two_spellings_is_told(tmp_path: Path, name: str) -> None:
    root = write_dataset(tmp_path / "set", sites=("alpha", "beta"), description=TWO_CLASSES)
    for site in ("alpha", "beta"):
        (root / site / "masks").rename(root / site / "old")
        for kind in ("disc", "cup"):
            for number in range(4):
                write_png(root / site / "masks" / kind / f"img_{number}.png", blob())
    one = root / "beta" / name
    other = one.with_name(one.name.capitalize())
    if name == "meta.csv":  # unpacked from two disks into one folder
        for path in (one, other):
            path.write_text("file,group\n" + "".join(f"img_{number},p{number}\n" for number in range(4)))
    else:
        other.mkdir()
    (problem,) = problems_of(root)
    assert (problem.code, problem.weight, problem.site) == ("data.folder_name_twice", "fault", "beta")
    assert f"{other.relative_to(root / 'beta').as_posix()} and {name} are one name" in problem.what


@pytest.mark.parametrize("other", ["IMG_1.png", "Img_1.PNG", "img_1.jpeg"])
def test_names_that_are_one_on_other_disks_are_refused(tmp_path: Path, other: str) -> None:
    root = write_dataset(tmp_path / "set")
    write_png(root / "beta" / "images" / other, picture_at("beta", 9))
    (problem,) = check_dataset(root)
    assert problem.code == "data.duplicate_name" and problem.site == "beta"
    assert other in problem.what and "images/img_1.png" in problem.what
    assert ("Windows and macOS" in problem.what) == (not other.startswith("img_1"))


def test_sites_that_are_one_on_other_disks_are_refused(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "set", sites=("alpha", "Alpha", "beta"))
    (problem,) = check_dataset(root)
    assert problem.code == "data.site_name_twice" and "'Alpha' and 'alpha'" in problem.what


def test_listed_sites_may_be_spelt_otherwise(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "set", sites=("alpha", "Beta", "gamma"))
    with (root / "dataset.toml").open("a") as stream:
        stream.write('sites = ["Alpha", "beta"]\n')
    assert dataset_sites(root) == ["Beta", "alpha"]
    assert check_dataset(root) == []


def test_files_that_nobody_would_read_are_told(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "set")
    for name in ("images/old/a.png", "images/old/deeper/b.png", "images/notes/readme.txt"):
        write_png(root / "beta" / name, blob()) if name.endswith("png") else (
            root / "beta" / "images" / "notes"
        ).mkdir()
    (root / "meta.csv").write_text("file,group\nimg_0.png,p1\n")
    nested, misplaced = sorted(problems_of(root), key=lambda problem: problem.code, reverse=True)
    assert (nested.code, nested.weight, nested.file) == ("data.nested_folder", "warning", "beta/images/old")
    assert "2 file(s)" in nested.what
    assert (misplaced.code, misplaced.weight) == ("data.meta_misplaced", "warning")
    assert check_dataset(root) == [], "warnings are no faults"


def outside(tmp_path: Path) -> Path:
    secret = write_png(tmp_path / "elsewhere" / "secret.png", picture_at("elsewhere", 1))
    write_dataset(tmp_path / "elsewhere" / "set", sites=("delta",))
    return secret


@pytest.mark.parametrize(
    "place", ["beta/images/img_1.png", "beta/masks/img_1.png", "beta/images", "beta/masks", "beta"]
)
def test_a_link_that_leaves_the_dataset_is_refused(tmp_path: Path, place: str) -> None:
    secret = outside(tmp_path)
    root = write_dataset(tmp_path / "set")
    (root / place).rename(tmp_path / "moved")
    (root / place).symlink_to(secret if place.endswith("png") else tmp_path / "elsewhere" / "set" / "delta")
    problems = check_dataset(root)
    links = [problem for problem in problems if problem.code == "data.link_outside"]
    assert [problem.file for problem in links] == [place], problems
    assert not {problem.code for problem in problems} - {"data.link_outside", "data.mask_missing", "data.image_missing"}
    with pytest.raises(UserError, match="leaves the dataset"):
        load_federation(DataConfig(source="folder", root=root, image_px=32), seed=1)


@pytest.mark.parametrize("name", ["dataset.toml", "beta/meta.csv"])
def test_a_table_or_description_is_not_read_through_a_link_either(tmp_path: Path, name: str) -> None:
    root = write_dataset(tmp_path / "set")
    secret = tmp_path / "secret"
    secret.write_text("root:x:0:0\n")
    (root / name).unlink(missing_ok=True)
    (root / name).symlink_to(secret)
    (problem,) = check_dataset(root)
    assert problem.code == "data.link_outside" and "root:x" not in str(problem)


def test_links_inside_a_dataset_and_to_it_are_followed(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "set")
    (root / ".store").mkdir()
    image = root / "beta" / "images" / "img_1.png"
    image.rename(root / ".store" / "blob")
    image.symlink_to("../../.store/blob")
    (tmp_path / "link").symlink_to(root)
    assert check_dataset(tmp_path / "link") == []


def test_what_is_no_file_is_told_before_it_is_opened(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "set")
    os.mkfifo(root / "beta" / "images" / "pipe.png")
    (root / "gamma" / "images" / "gone.png").symlink_to("nowhere.png")
    assert {(problem.code, problem.file) for problem in check_dataset(root)} == {
        ("data.no_file", "beta/images/pipe.png"),
        ("data.link_broken", "gamma/images/gone.png"),
    }


def test_masks_under_names_of_their_own_are_told_how_to_be_renamed(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "set", count=11)
    masks = root / "beta" / "masks"
    for number in range(11):
        (masks / f"img_{number}.png").rename(masks / (f"img_{number}_mask.png" if number else "Mask_img_0.PNG"))
    fixes = {problem.file: problem.fix for problem in check_dataset(root) if problem.code == "data.mask_missing"}
    assert "Rename the mask img_1_mask.png to img_1.png" in fixes["beta/images/img_1.png"]
    assert "Rename the mask Mask_img_0.PNG to img_0.png" in fixes["beta/images/img_0.png"]


def test_a_site_says_what_it_has_instead(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "set")
    (root / "beta" / "masks").rename(root / "beta" / "labels")
    (root / "gamma" / "images").rename(root / "gamma" / "imgs")
    assert [problem.what for problem in check_dataset(root)] == [
        "Site 'beta' has no masks folder (it has images, labels).",
        "Site 'gamma' has no images folder (it has imgs, masks).",
    ]
