"""The public labelled set: what it is read from, how it crosses, whose it must not be; and the views of an image."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.config import parse_config
from engine.data.augmentation import move
from engine.data.datasets import load_federation
from engine.data.public import load_public, refuse_shared
from engine.data.public_arrays import digests_in, pack_public, unpack_public
from engine.data.views import two_views
from engine.errors import UserError
from engine.federation.connect import describe
from engine.seeding import numpy_generator
from tests.unit.data_world import write_dataset, write_site


def config(root: Path, public: Path | None, **data: Any):
    values = {"source": "folder", "root": str(root), "image_px": 32, "validation_fraction": 0.25, **data}
    return parse_config(
        {"method": "samfed", "data": {**values, "public_root": None if public is None else str(public)}}
    )


@pytest.fixture
def sites(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "sites", count=4)


@pytest.fixture
def public(tmp_path: Path) -> Path:
    root = write_dataset(tmp_path / "public", sites=("open_a", "open_b"), count=3)
    write_site(root, "open_b", count=3, groups=["P7", "P8", "P9"])
    return root


@pytest.mark.parametrize("fit", ["squash", "letterbox"])
@pytest.mark.parametrize("normalise", ["none", "per_image"])
def test_images_and_masks_come_out_as_they_went_in(sites: Path, public: Path, fit: str, normalise: str) -> None:
    settings = config(sites, public, fit=fit, normalise=normalise)
    there = load_public(settings.data, seed=1).images
    arrays = pack_public(load_public(settings.data, seed=1))
    here = unpack_public(arrays, config=settings.data, num_classes=1)
    assert len(there) == len(here) == 6
    for one, two in zip(there.batch(np.arange(6)), here.batch(np.arange(6)), strict=True):
        np.testing.assert_array_equal(one, two)
    assert here.batch([0])[1].any()


def test_digests_are_of_patients_and_files_alone(sites: Path, public: Path) -> None:
    arrays = pack_public(load_public(config(sites, public).data, seed=1))
    expected = sorted(hashlib.sha256(name).digest() for name in (b"p7", b"p8", b"p9"))
    assert [row.tobytes() for row in arrays["patients"]] == expected
    files = sorted(hashlib.sha256(path.read_bytes()).digest() for path in public.glob("*/images/*"))
    assert [row.tobytes() for row in arrays["files"]] == files


def test_without_a_folder_phantoms_are_drawn_and_real_images_refused(sites: Path) -> None:
    with pytest.raises(UserError, match=r"data\.public_root names none") as caught:
        load_public(config(sites, None).data, seed=1)
    assert caught.value.code == "data.public_missing"
    drawn = parse_config({"method": "samfed", "data": {"task": "nuclei", "image_px": 32, "public_images": 2}}).data
    one, other = (load_public(drawn, seed=seed).images.batch([0, 1])[0] for seed in (1, 2))
    assert one.shape == (2, 3, 32, 32) and not np.array_equal(one, other)


def test_a_folder_of_the_sites_is_no_public_set(sites: Path, tmp_path: Path) -> None:
    for folder in (sites, sites / "alpha", tmp_path):
        with pytest.raises(UserError, match=r"data\.root") as caught:
            load_public(config(sites, folder).data, seed=1)
        assert caught.value.code == "data.public_is_private"


@pytest.mark.parametrize("site", ["alpha", "gamma"])
def test_a_public_set_with_a_file_of_a_site_is_refused_by_the_plan(sites: Path, public: Path, site: str) -> None:
    shutil.copy(sites / site / "images" / "img_2.png", public / "open_a" / "images" / "img_2.png")
    with pytest.raises(UserError, match=f"1 image file.*img_2.png.* of site '{site}'") as caught:
        describe(config(sites, public))
    assert caught.value.code == "data.public_shared" and site in caught.value.fix


def test_a_public_set_with_a_patient_of_a_site_is_refused_in_any_spelling(sites: Path, public: Path) -> None:
    write_site(sites, "beta", count=4, groups=["Q1", "p8", "Q2", "Q3"])
    settings = config(sites, public)
    digests = digests_in(pack_public(load_public(settings.data, seed=1)))
    federation = load_federation(settings.data, seed=1)
    refuse_shared(federation.sites["alpha"].train.items, site="alpha", public=digests)
    beta = federation.sites["beta"]
    with pytest.raises(UserError, match=r"1 patient\(s\) \(p8\) of site 'beta'"):
        refuse_shared([*beta.train.items, *beta.validation.items], site="beta", public=digests)


def test_both_views_have_one_geometry_and_only_the_strong_one_other_tones(sites: Path, public: Path) -> None:
    settings = config(sites, public, fit="letterbox")
    images = load_federation(settings.data, seed=1).sites["alpha"].train
    plain, rng = images.images([0, 1, 2]), numpy_generator(3, "views")
    weak, strong, changes = two_views(images, np.array([0, 1, 2]), rng=rng, noise=0.0)
    content = images.content([0, 1, 2])
    for slot, change in enumerate(changes):
        np.testing.assert_array_equal(weak[slot], move(plain[slot], change))
        inside = np.broadcast_to(move(content[slot], change), weak[slot].shape) > 0
        assert not strong[slot][~inside].any() and (strong[slot] != weak[slot])[inside].mean() > 0.5
        assert np.corrcoef(strong[slot][inside], weak[slot][inside])[0, 1] > 0.8  # the same places
    noisy = two_views(images, np.array([0, 1, 2]), rng=numpy_generator(3, "views"), noise=0.1)
    np.testing.assert_array_equal(noisy[0][0], weak[0])
    assert np.abs(noisy[1][0] - strong[0]).max() > 0.01 and noisy[1].min() >= 0 and noisy[1].max() <= 1
