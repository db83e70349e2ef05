"""What a run gets to see: sites, splits, batches, protocols, and what stays hidden."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from engine.config import DataConfig, RunConfig
from engine.data.datasets import Federation, ImageSet, load_federation, mask_to_grid, partition_preview, pool_sets
from engine.data.phantoms import TASKS, render
from engine.data.phantoms import write_dataset as write_phantoms
from engine.data.readers import read_image
from engine.data.transforms import prepare_image
from engine.data.validation import check_dataset
from engine.errors import UserError
from engine.federation.connect import describe
from engine.federation.descriptions import check_unchanged
from tests.unit.data_world import (
    TWO_CLASSES,
    blob,
    picture,
    picture_at,
    write_dataset,
    write_npy_layout,
    write_png,
    write_site,
)


def folder(root: Path, **settings: object) -> DataConfig:
    return DataConfig(**{"source": "folder", "root": root, "image_px": 32, "validation_fraction": 0.25, **settings})


def everyone(federation: Federation) -> dict[str, list[tuple[str, str]]]:
    return {
        name: [(part, item) for part in ("train", "validation", "test") for item in getattr(site, part).names]
        for name, site in [*federation.sites.items(), ("test", federation.test)]
    }


# ----------------------------------------------------------------------------------------------- sites and splits


def test_the_held_out_site_is_in_no_training_and_no_validation(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "set")
    for held_out in ("alpha", "beta", "gamma", None):
        federation = load_federation(folder(root, held_out=held_out), seed=1)
        name = held_out or "gamma"  # the last one when left out
        assert federation.test.name == name and name not in federation.sites
        assert len(federation.test.train) == len(federation.test.validation) == 0
        assert len(federation.test.test) == 4
        seen = {item.image for site in federation.sites.values() for item in site.train.items + site.validation.items}
        assert not any(name in path.parts for path in seen)
        assert all(len(site.test) == 0 for site in federation.sites.values())


def test_a_held_out_site_joins_the_listed_ones(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "set")
    federation = load_federation(folder(root, sites=("beta", "alpha"), held_out="gamma"), seed=1)
    assert list(federation.sites) == ["alpha", "beta"] and federation.test.name == "gamma"


@pytest.mark.parametrize("seed", range(5))
def test_no_patient_is_on_both_sides(tmp_path: Path, seed: int) -> None:
    root = write_dataset(tmp_path / "set", sites=("beta", "gamma"))
    write_site(root, "alpha", count=12, groups=["p1", "p1", "p1", "p2", "p2", "", "", "p3", "p3", "p4", "p5", "p5"])
    site = load_federation(folder(root), seed=seed).sites["alpha"]
    assert not set(site.train.groups) & set(site.validation.groups)
    assert len(site.train) + len(site.validation) == 12
    assert {"p1", "p2", "alpha/img_5", "alpha/img_6"} <= set(site.train.groups) | set(site.validation.groups)


def test_equal_seeds_give_equal_splits_and_sites_do_not_depend_on_each_other(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "set", count=12)
    first, again = (everyone(load_federation(folder(root), seed=7)) for _ in range(2))
    assert first == again
    assert any(everyone(load_federation(folder(root), seed=seed)) != first for seed in range(3))
    alone = everyone(load_federation(folder(root, sites=("alpha", "gamma")), seed=7))
    assert alone["alpha"] == first["alpha"]


def test_fixed_test_set(tmp_path: Path) -> None:
    root, other = write_dataset(tmp_path / "set"), write_dataset(tmp_path / "other", sites=("beta",), count=1)
    with pytest.raises(UserError, match=r"'beta' and img_0\.png at 'test set toy, beta'") as caught:
        load_federation(folder(root, protocol="fixed-test", test_root=other), seed=1)
    assert caught.value.code == "data.shared_image"
    write_png(other / "beta" / "images" / "img_0.png", picture_at("other", 0))
    config = folder(root, protocol="fixed-test", test_root=other)
    federation = load_federation(config, seed=1)
    assert list(federation.sites) == ["alpha", "beta", "gamma"]
    assert federation.test.name == "beta_test" and federation.test.test.names == ("img_0",)
    assert len(federation.test.train) == len(federation.test.validation) == 0

    for change, code in (
        ({"test_root": root}, "data.test_is_training"),
        ({"test_root": tmp_path / "none"}, "data.root_missing"),
        ({"test_root": None}, "data.test_root_missing"),
    ):
        with pytest.raises(UserError) as caught:
            load_federation(config.model_copy(update=change), seed=1)
        assert caught.value.code == code
    (other / "beta" / "meta.csv").write_text("file,group\nimg_0.png,p1\n")
    (root / "alpha" / "meta.csv").write_text("file,group\nimg_2.png,p1\n")
    with pytest.raises(UserError) as caught:
        load_federation(config, seed=1)
    assert caught.value.code == "data.shared_patient" and "alpha" in caught.value.what and "beta" in caught.value.what
    (root / "alpha" / "meta.csv").unlink()
    (root / "beta" / "meta.csv").write_text("file,group\nimg_2.png,p1\n")
    for folder_of_set in (root, other):  # numbered by each hospital on its own, and beta is the same hospital
        description = (folder_of_set / "dataset.toml").read_text()
        (folder_of_set / "dataset.toml").write_text(description + 'group_scope = "site"\n')
    with pytest.raises(UserError, match="beta/p1") as caught:
        load_federation(config, seed=1)
    assert caught.value.code == "data.shared_patient"
    (other / "dataset.toml").write_text(TWO_CLASSES)
    (other / "beta" / "masks" / "disc").mkdir()
    (other / "beta" / "masks" / "img_0.png").rename(other / "beta" / "masks" / "disc" / "img_0.png")
    write_png(other / "beta" / "masks" / "cup" / "img_0.png", blob())
    with pytest.raises(UserError) as caught:
        load_federation(config, seed=1)
    assert caught.value.code == "data.classes_differ"


# ----------------------------------------------------------------------------------------------- batches


def test_a_batch_is_the_files_resized(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "set")
    test = load_federation(folder(root), seed=1).test.test
    image, mask = test.batch([2, 0])
    assert image.shape == (2, 3, 32, 32) and image.dtype == np.float32 and image.flags.c_contiguous
    assert mask.shape == (2, 1, 32, 32) and mask.dtype == np.uint8 and set(np.unique(mask)) == {0, 1}
    expected = np.asarray(Image.fromarray(picture_at("gamma", 2)).resize((32, 32), Image.Resampling.BILINEAR)) / 255
    np.testing.assert_allclose(image[0], expected.transpose(2, 0, 1), atol=1e-7)
    nearest = np.asarray(Image.fromarray(blob()).resize((32, 32), Image.Resampling.NEAREST)) > 0
    np.testing.assert_array_equal(mask[0, 0], nearest)
    np.testing.assert_array_equal(test.read_mask(2), mask[0])
    np.testing.assert_allclose(test.read_levels(2) / np.float32(255), image[0])


@pytest.mark.parametrize("mode", ["none", "per_image"])
@pytest.mark.parametrize("kind", ["rgb", "grey", "deep"])
def test_training_sees_what_the_served_model_sees(tmp_path: Path, mode: str, kind: str) -> None:
    root = write_dataset(tmp_path / "set")
    pixels = picture(0)
    stored = {"rgb": pixels, "grey": pixels[..., 0], "deep": pixels[..., 0].astype(np.uint16) * 20}[kind]
    path = write_png(root / "gamma" / "images" / "img_0.png", stored)
    batch, _ = load_federation(folder(root, normalise=mode), seed=1).test.test.batch([0])
    served = prepare_image(read_image(path)[0], 32, mode)
    np.testing.assert_array_equal(batch[0], served.transpose(2, 0, 1))


def test_only_a_generator_augments(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "set")
    for augment in ("none", "flips", "flips_colour"):
        test = load_federation(folder(root, augment=augment), seed=1).test.test
        plain, plain_mask = test.batch(range(4))
        same, _ = test.batch(range(4))
        np.testing.assert_array_equal(plain, same)
        changed = [test.batch(range(4), rng=np.random.default_rng(3)) for _ in range(2)]
        np.testing.assert_array_equal(changed[0][0], changed[1][0])
        assert np.array_equal(changed[0][0], plain) == (augment == "none")
        assert changed[0][0].min() >= 0 and changed[0][0].max() <= 1
        if augment == "flips":
            assert changed[0][1].sum() == plain_mask.sum()


def test_the_cache_keeps_to_its_budget_and_changes_nothing(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "set")
    free, tight, none = (
        load_federation(folder(root), seed=1, cache_bytes=budget).test.test for budget in (10**9, 7_000, 0)
    )
    batches = [[images.batch(range(4))[0] for _ in range(2)] for images in (free, tight, none)]
    for first, second in batches:
        np.testing.assert_array_equal(first, batches[0][0])
        np.testing.assert_array_equal(second, batches[0][0])
    one = 3 * 32 * 32 + 32 * 32 // 8
    assert (free.cache.used_bytes, tight.cache.used_bytes, none.cache.used_bytes) == (4 * one, 2 * one, 0)


def test_files_are_read_once_while_they_fit(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "set")
    images = load_federation(folder(root), seed=1).test.test
    before, _ = images.batch(range(4))
    for path in (root / "gamma").glob("*/*"):
        path.unlink()
    np.testing.assert_array_equal(images.batch(range(4))[0], before)


def test_classes_can_be_chosen_and_reordered(tmp_path: Path) -> None:
    config = DataConfig(task="fundus", images_per_site=4, image_px=64)
    both = load_federation(config, seed=1)
    cup = load_federation(config.model_copy(update={"classes": ("cup",)}), seed=1)
    turned = load_federation(config.model_copy(update={"classes": ("cup", "disc")}), seed=1)
    assert (both.classes, cup.classes, turned.classes) == (("disc", "cup"), ("cup",), ("cup", "disc"))
    mask = both.test.test.batch([0])[1]
    np.testing.assert_array_equal(cup.test.test.batch([0])[1], mask[:, 1:])
    np.testing.assert_array_equal(turned.test.test.batch([0])[1], mask[:, ::-1])
    assert (mask[:, 1] <= mask[:, 0]).all()  # the cup lies inside the disc


def test_sets_can_be_cut_and_pooled(tmp_path: Path) -> None:
    federation = load_federation(folder(write_dataset(tmp_path / "set")), seed=1)
    pooled = pool_sets([site.train for site in federation.sites.values()])
    assert isinstance(pooled, ImageSet) and len(pooled) == 6
    first = pooled.subset([5, 1])
    assert first.names == (pooled.names[5], pooled.names[1])
    np.testing.assert_array_equal(first.batch([1])[0], pooled.batch([1])[0])
    with pytest.raises(IndexError):
        pooled.batch([6])


# ----------------------------------------------------------------------------------------------- layouts


def test_phantoms_are_a_federation_and_equal_their_folder(tmp_path: Path) -> None:
    config = DataConfig(task="nuclei", images_per_site=3, image_px=64, validation_fraction=0.34)
    drawn = load_federation(config, seed=5)
    assert drawn.task == "nuclei" and drawn.modality == TASKS["nuclei"].modality
    assert sorted([*drawn.sites, drawn.test.name]) == sorted(TASKS["nuclei"].sites)
    write_phantoms("nuclei", tmp_path / "set", images_per_site=3, image_px=64, seed=5)
    assert check_dataset(tmp_path / "set") == []
    stored = load_federation(
        folder(tmp_path / "set", image_px=64, validation_fraction=0.34, held_out=drawn.test.name), seed=5
    )
    assert everyone(stored) == everyone(drawn)
    for ours, theirs in zip(drawn.test.test.batch(range(3)), stored.test.test.batch(range(3)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("task", sorted(TASKS))
def test_phantom_patients_are_known_without_drawing(task: str) -> None:
    federation = load_federation(DataConfig(task=task, images_per_site=5, image_px=32), seed=2)
    for item in federation.test.test.items:
        assert item.group == render(task, site=item.site, index=item.index, image_px=32, seed=2).group


@pytest.mark.parametrize(("channels", "classes"), [(1, ("foreground",)), (2, ("class_1", "class_2"))])
def test_the_authors_layout_keeps_its_own_split(tmp_path: Path, channels: int, classes: tuple[str, ...]) -> None:
    root = write_npy_layout(tmp_path / "npy", channels=channels)
    federation = load_federation(folder(root, validation_fraction=0.9, held_out="b"), seed=1)
    assert federation.classes == classes and federation.name == "npy"
    site = federation.sites["a"]
    assert site.train.names == ("case_0", "case_1", "case_2") and site.validation.names == ("val_case_0",)
    assert len(federation.test.test) == 4  # both halves of a site that is held out
    image, mask = site.train.batch([1])
    np.testing.assert_allclose(image[0], picture_at("a", 1, height=32, width=32).transpose(2, 0, 1) / 255, atol=1e-7)
    small = mask_to_grid(mask, 8)
    assert small.shape == (1, channels, 8, 8) and small[0, 0].sum() == 16 and small[0, 0, 1:5, 2:6].all()


def test_the_authors_layout_renames_data_to_label_in_file_names_too(tmp_path: Path) -> None:
    root = write_npy_layout(tmp_path / "npy")
    for site in ("a", "b"):
        for folder_name, name in (("data_npy", "data_0.npy"), ("label_npy", "label_0.npy")):
            (root / site / folder_name / "case_0.npy").rename(root / site / folder_name / name)
    assert check_dataset(root) == []


def test_the_authors_layout_without_a_split_is_cut_here(tmp_path: Path) -> None:
    root = write_npy_layout(tmp_path / "npy")
    for site in ("a", "b"):
        for name in ("val_data_npy", "val_label_npy"):
            for path in (root / site / name).iterdir():
                path.unlink()
            (root / site / name).rmdir()
    site = load_federation(folder(root, held_out="b"), seed=1).sites["a"]
    assert (len(site.train), len(site.validation)) == (2, 1)


def test_several_classes_and_mixed_formats(tmp_path: Path) -> None:
    root = tmp_path / "set"
    root.mkdir()
    (root / "dataset.toml").write_text(TWO_CLASSES)
    for site in ("alpha", "beta"):
        for k in range(2):
            write_png(root / site / "masks" / "disc" / f"i{k}.png", blob())
            (root / site / "masks" / "cup").mkdir(exist_ok=True)
            np.save(root / site / "masks" / "cup" / f"i{k}.npy", blob(value=1) * (np.arange(16) < 6))
        write_png(root / site / "images" / "i0.png", picture_at(site, 0))
        Image.fromarray(picture_at(site, 1)).save(root / site / "images" / "i1.jpg")
    assert check_dataset(root) == []
    _, mask = load_federation(folder(root), seed=1).test.test.batch([0, 1])
    assert mask.shape[1] == 2 and (mask[:, 1] <= mask[:, 0]).all() and 0 < mask[:, 1].sum() < mask[:, 0].sum()


def test_a_volume_is_one_patient(tmp_path: Path) -> None:
    root = tmp_path / "set"
    root.mkdir()
    (root / "dataset.toml").write_text('name = "mr"\nmodality = "MR"\nclasses = ["prostate"]\n')
    rng = np.random.default_rng(0)
    for site in ("alpha", "beta"):
        for kind in ("images", "masks"):
            (root / site / kind).mkdir(parents=True)
        for case in range(3):
            label = np.zeros((10, 8, 5), np.uint8)
            label[2:6, 2:5, 1:4] = 1
            voxels = (label.astype(np.int16) * 300 + rng.integers(0, 50, label.shape)).astype(np.int16)
            for kind, data in (("images", voxels), ("masks", label)):
                nibabel.save(
                    nibabel.Nifti1Image(data, np.diag([1, 1, 3, 1])), root / site / kind / f"case{case}.nii.gz"
                )
    assert check_dataset(root) == []
    federation = load_federation(folder(root), seed=1)
    site = federation.sites["alpha"]
    assert (len(site.train), len(site.validation)) == (10, 5)
    assert len(set(site.train.groups)) == 2 and not set(site.train.groups) & set(site.validation.groups)
    assert federation.test.test.names[:2] == ("case0.000", "case0.001")
    image, mask = federation.test.test.batch([0, 2])
    assert mask[0].sum() == 0 and mask[1].sum() > 0
    assert image[1][mask[1].repeat(3, 0) == 1].mean() > 0.8 > 0.3 > image[0].mean()


def test_hidden_files_and_listed_sites_only(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "set")
    (root / ".cache").mkdir()
    (root / "docs").mkdir()
    (root / "alpha" / "images" / ".DS_Store").write_bytes(b"")
    (root / "alpha" / "images" / "Thumbs.db").write_bytes(b"")
    description = root / "dataset.toml"
    description.write_text(description.read_text() + 'sites = ["alpha", "beta", "gamma"]\n')
    assert check_dataset(root) == []


# ----------------------------------------------------------------------------------------------- preview


def test_the_preview_counts_and_measures(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "set", count=80)
    for number in range(80):
        write_png(root / "alpha" / "images" / f"img_{number}.png", np.full((12, 16, 3), 51, np.uint8))
    previews = partition_preview(load_federation(folder(root), seed=1))
    assert [(p.site, p.role) for p in previews] == [("alpha", "source"), ("beta", "source"), ("gamma", "test")]
    alpha, beta, gamma = previews
    assert (alpha.num_train, alpha.num_validation, alpha.num_test, alpha.num_groups) == (60, 20, 0, 80)
    assert (gamma.num_train, gamma.num_validation, gamma.num_test) == (0, 0, 80)
    assert alpha.mean_intensity == pytest.approx(0.2)
    assert beta.mean_intensity == pytest.approx(0.5, abs=0.03)
    assert alpha.foreground_share["blob"] == pytest.approx(30 / (12 * 16), abs=0.03)
    assert alpha.extra["sampled_images"] == 64


def test_the_preview_does_not_normalise(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "set")
    for config in (folder(root), folder(root, normalise="per_image")):
        write_png(root / "gamma" / "images" / "img_0.png", (picture(0) // 8))
        federation = load_federation(config, seed=1)
        only = replace(federation, test=replace(federation.test, test=federation.test.test.subset([0])))
        assert partition_preview(only)[-1].mean_intensity == pytest.approx((picture(0) // 8).mean() / 255, abs=0.005)


def test_data_needs_no_torch() -> None:
    code = "import sys; import engine.data.datasets, engine.data.validation; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def run_on(data: DataConfig) -> RunConfig:
    return RunConfig(data=data, seed=1)


def test_data_that_changed_since_a_run_began_are_refused(tmp_path: Path) -> None:
    root, noted = write_dataset(tmp_path / "set"), tmp_path / "run" / "identity.json"
    for _ in range(2):
        check_unchanged(describe(run_on(folder(root))), noted)
    assert "img_" not in noted.read_text(), "file names may identify patients"
    moved = tmp_path / "elsewhere"
    root.rename(moved)
    check_unchanged(describe(run_on(folder(moved))), noted)
    for kind in ("images", "masks"):
        (moved / "alpha" / kind / "img_3.png").unlink()
    with pytest.raises(UserError, match="'alpha' are not those") as caught:
        check_unchanged(describe(run_on(folder(moved))), noted)
    assert caught.value.code == "run.data_changed"


def test_a_name_that_is_no_text_is_a_fault(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "set")
    (root / "alpha" / "images" / "t\udce9.png").write_bytes((root / "alpha" / "images" / "img_0.png").read_bytes())
    with pytest.raises(UserError, match="not valid UTF-8") as caught:
        load_federation(folder(root), seed=1)
    assert caught.value.code == "data.name_encoding"
    str(caught.value).encode()
