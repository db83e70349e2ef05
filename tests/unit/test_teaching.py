"""An image and its corrected mask join a site's folder: what is written, how it is read, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.cli import main
from engine.data import teaching
from engine.data.description import DatasetDescription
from engine.data.layout import scan_dataset
from engine.data.mask_storing import stored_masks
from engine.data.masks import MaskRule
from engine.errors import UserError
from tests.unit.data_world import DESCRIPTION, TWO_CLASSES, blob, picture, write_dataset, write_png

MASK = (blob() > 0).astype(np.uint8)
MASK[11, 15] = 1


def lesson(number: int = 1, *, patient: str = "p7", **masks: np.ndarray) -> teaching.Lesson:
    return teaching.Lesson(picture(number), masks or {"blob": MASK}, patient)


def below(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def teach(root: Path, site: str, taught: teaching.Lesson) -> teaching.Place:
    place = teaching.find_place(root, site, taught)
    teaching.write(place, taught)
    return place


def item_of(root: Path, place: teaching.Place):
    scan = scan_dataset(root)
    assert scan.problems == [], scan.problems
    return next(one for one in scan.items[place.site] if one.image == place.image)


def test_an_image_joins_a_site_and_the_real_reader_finds_it_with_its_patient(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "set")
    (root / "beta" / "meta.csv").write_text("group;file;age\np 7;img_0;50\n;img_1;\n;img_2.png;\n;img_3;")
    before = below(root)
    taught = lesson(patient="P  7")  # another spelling of one that is there
    place = teach(root, "beta", taught)
    after = below(root)
    new = set(after) - set(before)
    assert new == {f"beta/images/{taught.stem}.png", f"beta/masks/{taught.stem}.png"}
    assert {name for name in before if before[name] != after[name]} == {"beta/meta.csv"}
    assert after["beta/meta.csv"] == before["beta/meta.csv"] + f"\np 7;{taught.stem}.png;\n".encode()
    assert all((root / name).stat().st_mode & 0o077 == 0 for name in new)
    item = item_of(root, place)
    image, mask = item.read()
    assert np.array_equal(image, picture(1)) and np.array_equal(mask, MASK[None]) and item.patient == "p 7"
    assert item.group == next(one for one in scan_dataset(root).items["beta"] if one.name == "img_0").group
    assert place.num_images == 4 and not place.is_new_site
    assert main(["data", "check", str(root)]) == 0


def test_a_site_without_patients_gets_a_table_in_which_the_others_stay_unknown(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "set", count=2)
    place = teach(root, "alpha", lesson())
    told = (root / "alpha" / "meta.csv").read_text()
    assert told == f"file,group\nimg_0.png,\nimg_1.png,\n{place.image.name},p7\n"
    item_of(root, place)


def test_a_new_dataset_of_two_sites_is_one_that_a_run_takes(tmp_path: Path) -> None:
    root = tmp_path / "new"
    first = lesson(1, disc=MASK, cup=np.zeros_like(MASK))
    about = teaching.begin(root, name='Eyes "of" 2026 ä', modality="fundus photograph", classes=("disc", "cup"))
    teaching.write(teaching.place_of_new(root, "ward 1", first, about), first)
    for number, site, patient in ((2, "ward 1", "a"), (3, "ward 2", "b"), (4, "ward 2", "c")):
        teach(root, site, lesson(number, patient=patient, cup=MASK, disc=1 - MASK))
    scan = scan_dataset(root)
    assert scan.description == about and not scan.problems
    assert {site: [item.patient for item in items] for site, items in scan.items.items()}.keys() == {"ward 1", "ward 2"}
    item = next(one for one in scan.items["ward 2"] if one.patient == "c")
    image, planes = item.read()
    assert np.array_equal(image, picture(4)) and np.array_equal(planes, np.stack([1 - MASK, MASK]))
    assert main(["data", "check", str(root)]) == 0


def test_more_than_eight_bits_are_kept_whole(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "set")
    for values in (picture(1).astype(np.uint16) * 200, (picture(2) / np.float32(255)).astype(np.float32)):
        taught = teaching.Lesson(values, {"blob": MASK}, "p")
        place = teach(root, "alpha", taught)
        found = item_of(root, place).picture()
        assert place.image.suffix == ".npy" and found.dtype == values.dtype and np.array_equal(found, values)


@pytest.mark.parametrize(
    ("site", "taught", "code"),
    [
        ("../alpha", lesson(), "teach.site_name"),
        ("", lesson(), "teach.site_name"),
        ("__MACOSX", lesson(), "teach.site_name"),
        ("alpha.", lesson(), "teach.site_name"),
        ("alpha", lesson(patient=""), "teach.patient"),
        ("alpha", lesson(patient="a\nb"), "teach.patient"),
        ("alpha", lesson(patient="x" * 65), "teach.patient"),
        ("alpha", lesson(other=MASK), "teach.classes"),
        ("alpha", lesson(patient="known"), "teach.patient_elsewhere"),
    ],
)
def test_what_would_mislead_is_refused_and_nothing_is_written(
    tmp_path: Path, site: str, taught: teaching.Lesson, code: str
) -> None:
    root = write_dataset(tmp_path / "set")
    (root / "beta" / "meta.csv").write_text("file,group\nimg_0,Known\nimg_1,\nimg_2,\nimg_3,\n")
    before = below(root)
    with pytest.raises(UserError) as caught:
        teach(root, site, taught)
    assert caught.value.code == code and below(root) == before


def test_patients_of_sites_that_number_them_by_themselves_may_share_a_code(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "set", description=DESCRIPTION + 'group_scope = "site"\n')
    (root / "beta" / "meta.csv").write_text("file,group\nimg_0,p7\nimg_1,\nimg_2,\nimg_3,\n")
    assert item_of(root, teach(root, "alpha", lesson())).patient == "alpha/p7"
    assert teach(root, "beta", lesson(2, patient="P7")).patient == "p7"


def test_an_image_joins_once_and_nothing_is_written_over(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "set")
    place = teach(root, "alpha", lesson())
    before = below(root)
    with pytest.raises(UserError) as caught:
        teach(root, "alpha", lesson(patient="another"))
    assert caught.value.code == "teach.there"
    with pytest.raises(UserError) as caught:  # somebody was quicker
        teaching.write(place, lesson())
    assert caught.value.code == "teach.there" and below(root) == before


def test_a_failure_in_between_leaves_the_dataset_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_dataset(tmp_path / "set")
    taught = lesson()
    place = teaching.find_place(root, "delta", taught)
    before = below(root)

    def full(part: Path, path: Path) -> None:
        if path == place.image:
            raise OSError("no space left")
        path.hardlink_to(part)

    monkeypatch.setattr(teaching, "_name", full)
    with pytest.raises(OSError, match="no space"):
        teaching.write(place, taught)
    assert below(root) == before and not (root / "delta").exists()


def test_links_faults_other_layouts_and_other_ranges_are_refused(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "set")
    (root / "epsilon").symlink_to(tmp_path)
    (root / "beta" / "masks" / "img_0.png").unlink()
    with pytest.raises(UserError) as caught:
        teach(root, "alpha", lesson())
    assert caught.value.code.startswith("data.")
    ranged = write_dataset(tmp_path / "ranged", description=DESCRIPTION + "value_range = [0, 100]\n")
    with pytest.raises(UserError) as caught:
        teach(ranged, "alpha", lesson())
    assert caught.value.code == "teach.range"
    listed = write_dataset(tmp_path / "listed", description=DESCRIPTION + 'sites = ["alpha", "beta"]\n')
    with pytest.raises(UserError) as caught:
        teach(listed, "gamma", lesson())
    assert caught.value.code == "teach.site_unlisted"
    (tmp_path / "elsewhere").mkdir()
    linked = write_dataset(tmp_path / "linked", sites=("alpha", "beta"))
    (linked / "alpha" / "images").rename(linked / "pictures")
    (linked / "alpha" / "images").symlink_to(linked / "pictures")
    with pytest.raises(UserError):
        teach(linked, "alpha", lesson())
    with pytest.raises(UserError) as caught:
        teach(tmp_path / "elsewhere", "alpha", lesson())
    assert caught.value.code == "teach.layout"


def test_masks_are_stored_as_the_description_reads_them() -> None:
    disc, cup = np.array([[0, 1, 1]], np.uint8), np.array([[0, 0, 1]], np.uint8)

    def about(**more: object) -> DatasetDescription:
        return DatasetDescription(name="n", modality="m", classes=("disc", "cup"), **more)

    nested = about(mask_values={"disc": (128, 255), "cup": (255,)}, mask_background=(7, 0))
    (labels,) = stored_masks(nested, [disc, cup], num_files=1)
    assert labels.tolist() == [[7, 128, 255]]
    assert MaskRule.of(nested).planes([labels])[:, 0].tolist() == [[0, 1, 1], [0, 0, 1]]
    apart = about(mask_values={"disc": (1,), "cup": (2,)})
    with pytest.raises(UserError) as caught:  # no number is both
        stored_masks(apart, [disc, cup], num_files=1)
    assert caught.value.code == "teach.mask"
    assert [one.tolist() for one in stored_masks(about(mask_values=(255, 0)), [disc, cup], num_files=2)] == [
        [[255, 0, 0]],
        [[255, 255, 0]],
    ]
    with pytest.raises(UserError):
        stored_masks(about(mask_threshold=300), [disc, cup], num_files=2)


def test_a_label_map_and_levels_take_a_lesson(tmp_path: Path) -> None:
    root = tmp_path / "maps"
    for site in ("a", "b"):
        for number in range(2):
            write_png(root / site / "images" / f"{number}.png", picture(50 + number + 10 * (site == "b")))
            write_png(root / site / "masks" / f"{number}.png", (blob() > 0).astype(np.uint8) * 3)
    rule = "[mask_values]\ndisc = [3, 4]\ncup = [4]\n"
    (root / "dataset.toml").write_text(TWO_CLASSES + rule)
    place = teach(root, "a", lesson(disc=MASK, cup=MASK))
    assert len(place.masks) == 1 and item_of(root, place).planes().tolist() == [MASK.tolist(), MASK.tolist()]
