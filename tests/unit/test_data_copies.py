"""One picture under several names: found whatever its file, and never on both sides of a split."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter

from engine.config import DataConfig
from engine.data.copies import equal_files, file_digest
from engine.data.datasets import Federation, load_federation
from engine.data.fingerprints import Fingerprint, Shown, Sketchbook, near_copies
from engine.data.first_read import read_everything
from engine.data.folders import read_folders
from engine.data.layout import scan_dataset
from engine.data.phantoms import TASKS, render
from engine.data.problems import Problem
from engine.data.validation import check_dataset
from engine.errors import UserError
from tests.unit.data_world import blob, picture_at, write_dataset, write_npy_layout, write_png


def config(root: Path, **settings: object) -> DataConfig:
    return DataConfig(**{"source": "folder", "root": root, "image_px": 32, "validation_fraction": 0.25, **settings})


def problems_of(root: Path, **settings: object) -> list[Problem]:
    return list(read_folders(config(root, **settings), thorough=True).problems)


def scene(number: int, *, px: int = 160) -> Image.Image:
    """Return a smooth picture with objects, unlike that of any other number: noise would not survive resizing."""
    return Image.fromarray(render("polyp", site="tower_hd", index=number, image_px=px, seed=5).image)


def scenes(root: Path, *, count: int = 4, groups: dict[str, str] | None = None) -> Path:
    """Write three sites of ``count`` different scenes each."""
    write_dataset(root, count=0)
    for at, site in enumerate(("alpha", "beta", "gamma")):
        for number in range(count):
            write_png(root / site / "images" / f"img_{number}.png", np.asarray(scene(10 * at + number)))
            write_png(root / site / "masks" / f"img_{number}.png", blob(height=160, width=160))
        rows = "".join(f"img_{number},{(groups or {}).get(f'{site}/{number}', '')}\n" for number in range(count))
        (root / site / "meta.csv").write_text(f"file,group\n{rows}")
    return root


def replace_by(root: Path, place: str, image: Image.Image, **options: object) -> None:
    """Put ``image`` in the place of a picture, with a mask of its size."""
    site, name = place.split("/")
    (root / site / "images" / f"img_{name}.png").unlink()
    image.save(root / site / "images" / f"img_{name}.{options.pop('ending', 'png')}", **options)  # type: ignore[arg-type]
    write_png(root / site / "masks" / f"img_{name}.png", blob(height=image.height, width=image.width))


def resized(image: Image.Image, factor: float) -> Image.Image:
    return image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.BICUBIC)


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "saved again": lambda image: image,
    "smaller": lambda image: resized(image, 0.96),
    "larger": lambda image: resized(image, 1.05),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.1),
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.8),
    "grey": lambda image: image.convert("L"),
    "with alpha": lambda image: image.convert("RGBA"),
    "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(1)),
    "all of it": lambda image: ImageEnhance.Brightness(resized(image, 0.97)).enhance(1.1),
}


@pytest.mark.parametrize("how", COPIES)
def test_a_copy_in_another_file_is_a_warning_at_one_site_and_a_fault_at_two(tmp_path: Path, how: str) -> None:
    copy = COPIES[how](scene(11))
    root = scenes(tmp_path / "set")
    assert problems_of(root) == []
    ending = "png" if copy.mode == "RGBA" else "jpg"
    options = {"quality": 90} if ending == "jpg" else {"compress_level": 1}
    replace_by(root, "beta/3", copy, ending=ending, **options)
    (problem,) = problems_of(root)
    assert (problem.code, problem.weight, problem.site) == ("data.near_copy", "warning", "beta")
    assert "img_1.png" in problem.what and f"img_3.{ending}" in problem.what
    for name in ("images", "masks"):
        for path in (root / "beta" / name).glob("img_3.*"):
            shutil.move(path, root / "gamma" / name / f"other{path.suffix}")
    (root / "beta" / "meta.csv").unlink()
    faults = [problem for problem in problems_of(root) if problem.weight == "fault"]
    assert [problem.code for problem in faults] == ["data.shared_image"]
    assert "img_1.png at 'beta'" in faults[0].what and f"other.{ending} at 'gamma'" in faults[0].what
    with pytest.raises(UserError, match="at two sites"):
        read_everything(load_federation(config(root, image_px=64), seed=1), on_image=lambda done, total: None)


def test_a_patients_own_pictures_are_not_compared(tmp_path: Path) -> None:
    root = scenes(tmp_path / "set", groups={"beta/1": "p1", "beta/3": "P1 "})
    replace_by(root, "beta/3", resized(scene(11), 0.97))
    assert [problem.code for problem in problems_of(root)] == ["data.patient_spelling"]


def test_a_first_reading_tells_a_copy_only_where_it_is_validated_on(tmp_path: Path) -> None:
    root = scenes(tmp_path / "set")
    replace_by(root, "beta/3", scene(11), ending="jpg", quality=90)
    told = {}
    for seed in range(6):
        federation = load_federation(config(root, image_px=64), seed=seed)
        validated = set(federation.sites["beta"].validation.names)
        told[len(validated & {"img_1", "img_3"})] = read_everything(federation, on_image=lambda done, total: None)
    assert told[0] == [] and len(told[1]) == 1 and "img_3.jpg" in told[1][0]


def test_different_pictures_are_not_called_copies() -> None:
    prints = [
        Fingerprint.of(render(task, site=TASKS[task].sites[0], index=index, image_px=64, seed=3).image)
        for task in ("fundus", "polyp", "skin", "nuclei")
        for index in range(6)
    ]
    assert None not in prints
    assert max(one.correlation(two) for k, one in enumerate(prints) for two in prints[:k]) < 0.97


def test_depth_does_not_matter_and_a_flat_picture_shows_nothing() -> None:
    eight = np.asarray(scene(0))
    sixteen, unit = eight.astype(np.uint16) * 257, eight.astype(np.float32) / 255
    one, two, three = (Fingerprint.of(image) for image in (eight, sixteen, unit))
    assert one == two == three and one.correlation(two) == pytest.approx(1, abs=1e-3)
    inverse = Fingerprint.of(255 - eight)
    assert one.correlation(inverse) == pytest.approx(-1, abs=1e-3)
    assert Fingerprint.of(np.full((20, 30, 3), 90, np.uint8)) is None


def test_a_volume_is_a_copy_only_if_all_its_slices_are(tmp_path: Path) -> None:
    (item,) = scan_dataset(write_dataset(tmp_path / "set", sites=("a", "b"), count=1)).items["a"]
    slices = [Fingerprint.of(np.asarray(scene(k))) for k in range(3)]
    flat = Fingerprint.of(np.zeros((8, 8, 3), np.uint8))

    def volume(site: str, *prints: Fingerprint | None, num_slices: int = 9) -> Shown:
        return Shown(replace(item, site=site, group=site), num_slices, prints)

    whole = volume("a", flat, *slices[:2])
    assert whole.key == slices[0].bits
    assert near_copies([whole, volume("b", flat, *slices[:2])])
    for other in (
        volume("b", flat, slices[0], slices[2]),
        volume("b", slices[2], *slices[:2]),
        volume("b", flat, *slices[:2], num_slices=10),
        volume("a", flat, *slices[:2]),
        volume("b", flat, flat, flat),
    ):
        assert near_copies([whole, other]) == []


def test_every_pair_is_compared_across_blocks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("engine.data.fingerprints.BLOCK", 4)
    (item,) = scan_dataset(write_dataset(tmp_path / "set", sites=("a", "b"), count=1)).items["a"]
    prints = [Fingerprint.of(np.asarray(scene(k))) for k in (0, 1, 2, 1, 3, 0)]
    shown = [Shown(replace(item, name=str(k), group=str(k)), 1, (one,)) for k, one in enumerate(prints)]
    assert {(one.name, two.name) for one, two in near_copies(shown)} == {("0", "5"), ("1", "3")}


def test_only_some_slices_of_a_volume_are_drawn(tmp_path: Path) -> None:
    (item,) = scan_dataset(write_dataset(tmp_path / "set", sites=("a", "b"), count=1)).items["a"]
    slices = [replace(item, slice_index=k) for k in range(21)]
    book = Sketchbook({"a": slices})
    assert [one.slice_index for one in slices if book.wants(one)] == [0, 5, 10, 15, 20]
    for one in slices[:20]:
        book.draw(one, np.asarray(scene(0)))
    assert book.shown() == []
    book.draw(slices[20], np.asarray(scene(0)))
    assert [(file.num_slices, len(file.prints)) for file in book.shown()] == [(21, 5)]


# ------------------------------------------------------------------------------------------------ equal files


def test_equal_files_are_found_by_their_content(tmp_path: Path) -> None:
    whole = os.urandom(100_000)
    contents = {
        "a": whole,
        "b": whole,
        "c": whole[:-1] + b"x",
        "d": whole[:50_001] + b"y" + whole[50_002:],
        "e": b"",
        "f": b"",
    }
    contents["g"] = whole + b"z"
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    assert [[path.name for path in same] for same in equal_files(tmp_path.iterdir())] == [["a", "b"], ["e", "f"]]


def test_a_digest_is_of_the_file_as_it_is_now(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"one")
    before = file_digest(path)
    path.write_bytes(b"three")
    assert file_digest(path) != before


def test_files_of_one_length_are_told_apart_by_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abc":  # as uncompressed images are
        (tmp_path / name).write_bytes(os.urandom(1_000_000))

    def refuse(*_: object) -> None:
        raise AssertionError("a whole file was read")

    monkeypatch.setattr("engine.data.copies.hashlib.file_digest", refuse)
    assert equal_files(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------- one group, one side of a split


def copies_at_one_site(root: Path) -> Path:
    write_dataset(root, sites=("a", "b"), count=3)
    for number in range(3):
        for kind in ("images", "masks"):
            shutil.copy(root / "a" / kind / "img_0.png", root / "a" / kind / f"copy{number}.png")
    return root


def test_copies_at_one_site_are_told_and_stay_together(tmp_path: Path) -> None:
    root = copies_at_one_site(tmp_path / "set")
    (problem,) = problems_of(root)
    assert (problem.code, problem.weight, problem.site) == ("data.copied_image", "warning", "a")
    assert "4 files" in problem.what and "copy0.png, copy1.png, copy2.png, img_0.png" in problem.what
    assert "masks differ" not in problem.what
    for seed in range(10):
        site = load_federation(config(root), seed=seed).sites["a"]
        sides = [{"copy0", "copy1", "copy2", "img_0"} & set(part.names) for part in (site.train, site.validation)]
        assert sorted(map(len, sides)) == [0, 4]
        assert len(site.train) + len(site.validation) == 6


def test_copies_bring_their_patients_together_and_differing_masks_are_told(tmp_path: Path) -> None:
    root = copies_at_one_site(tmp_path / "set")
    (root / "a" / "meta.csv").write_text("file,group\ncopy0,p2\nimg_1,p2\ncopy1,p1\nimg_2,p3\ncopy2,\nimg_0,\n")
    write_png(root / "a" / "masks" / "copy1.png", blob()[::-1].copy())
    (problem,) = problems_of(root)
    assert "under the patients 'p1', 'p2'" in problem.what and "masks differ" in problem.what
    groups = {item.name: item.group for item in scan_dataset(root).items["a"]}
    assert groups == {**dict.fromkeys(("copy0", "copy1", "copy2", "img_0", "img_1"), "p1"), "img_2": "p3"}
    (root / "b" / "meta.csv").write_text("file,group\nimg_0,p2\nimg_1,\nimg_2,\n")
    assert [problem.code for problem in check_dataset(root)] == ["data.shared_patient"], "p2, joined with p1 or not"


def test_empty_pictures_are_no_copies(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "set")
    for place in ("alpha/images/img_0", "alpha/images/img_1", "beta/images/img_0"):
        write_png(root / f"{place}.png", np.zeros((12, 16, 3), np.uint8))
    assert problems_of(root) == []
    assert len({item.group for item in scan_dataset(root).items["alpha"]}) == 4


def test_a_copy_on_both_sides_of_the_authors_split_is_a_fault(tmp_path: Path) -> None:
    root = write_npy_layout(tmp_path / "npy")
    shutil.copy(root / "a" / "data_npy" / "case_1.npy", root / "a" / "val_data_npy" / "val_case_0.npy")
    (problem,) = check_dataset(root)
    assert problem.code == "data.split_shares_image" and "case_1, val_case_0" in problem.what


# ------------------------------------------------------------------------------------------------- nothing in common


def world(root: Path) -> Path:
    """Write three sites with patients of one and several images, copies, and both spellings of one patient."""
    write_dataset(root, count=0)
    for site in ("alpha", "beta", "gamma"):
        for number in range(12):
            write_png(root / site / "images" / f"i{number}.png", picture_at(site, number))
            write_png(root / site / "masks" / f"i{number}.png", blob())
        shutil.copy(root / site / "images" / "i3.png", root / site / "images" / "i11.png")
        owners = ["p1", "P1", "p2", "p2", "p3", "", "", "p4", "p4", "p4", "p5", ""]
        rows = "".join(f"i{k}.png,{owner and site + owner}\n" for k, owner in enumerate(owners))
        (root / site / "meta.csv").write_text(f"file,group\n{rows}")
    return root


def in_common(federation: Federation) -> list[tuple[str, str, str]]:
    """Return what two parts of a federation share, by file, patient or content; worked out from the disk."""
    parts = [(f"{name} {part}", getattr(site, part)) for name, site in federation.sites.items() for part in PARTS]
    parts.append(("test", federation.test.test))
    kinds: dict[str, Callable[[object], object]] = {
        "file": lambda item: item.image,  # type: ignore[attr-defined]
        "patient": lambda item: (item.patient or str(item.image)).casefold(),  # type: ignore[attr-defined]
        "content": lambda item: item.image.read_bytes(),  # type: ignore[attr-defined]
    }
    return [
        (kind, one, two)
        for kind, key in kinds.items()
        for k, (one, first) in enumerate(parts)
        for two, second in parts[:k]
        if {key(item) for item in first.items} & {key(item) for item in second.items}
    ]


PARTS = ("train", "validation")


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("protocol", ["leave-one-site-out", "fixed-test"])
def test_train_validation_and_test_have_nothing_in_common(tmp_path: Path, protocol: str, seed: int) -> None:
    root, settings = world(tmp_path / "set"), {}
    if protocol == "fixed-test":
        other = write_dataset(tmp_path / "other", sites=("delta", "epsilon"), count=3)
        settings = {"protocol": protocol, "test_root": other}
    federation = load_federation(config(root, **settings), seed=seed)
    assert in_common(federation) == []
    assert len(federation.sites) == (2 if protocol == "leave-one-site-out" else 3)
    for site in federation.sites.values():
        assert len(site.train) + len(site.validation) == 12 and len(site.validation) >= 1
    assert len(federation.test.test) == (12 if protocol == "leave-one-site-out" else 6)


@pytest.mark.parametrize("what", ["file", "patient"])
def test_a_test_set_that_shares_anything_is_refused(tmp_path: Path, what: str) -> None:
    root, other = world(tmp_path / "set"), write_dataset(tmp_path / "other", sites=("delta",), count=3)
    if what == "file":
        shutil.copy(root / "beta" / "images" / "i5.png", other / "delta" / "images" / "img_1.png")
    else:
        (other / "delta" / "meta.csv").write_text("file,group\nimg_1,BETAp4\nimg_0,\nimg_2,\n")
    with pytest.raises(UserError) as caught:
        load_federation(config(root, protocol="fixed-test", test_root=other), seed=1)
    assert caught.value.code == {"file": "data.shared_image", "patient": "data.shared_patient"}[what]
