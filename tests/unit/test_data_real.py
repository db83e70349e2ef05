"""The real multi-site images: colonoscopy of six hospitals, and nuclei under four imaging conditions."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from engine.config import DataConfig
from engine.data.datasets import load_federation, partition_preview
from engine.data.validation import check_dataset

pytestmark = pytest.mark.data

REPOSITORY = Path(__file__).resolve().parents[2]


def real_data(name: str) -> Path:
    places = [Path(place) for place in [os.environ.get("DSFEDMED_DATA", "")] if place]
    places.append(REPOSITORY.parent / "shared" / "data")
    for place in places:
        if (place / name / "dataset.toml").is_file():
            return place / name
    pytest.skip(f"the real images of {name} are neither in DSFEDMED_DATA nor in ../shared/data")


@pytest.mark.parametrize(
    ("name", "held_out", "sites", "per_site", "normalise"),
    [
        ("polypgen", "C6_alexandria", 5, 70, "none"),
        ("nuclei_dsb2018", "fluo_696x520", 3, 90, "per_image"),
    ],
)
def test_real_images_load_and_are_sound(name: str, held_out: str, sites: int, per_site: int, normalise: str) -> None:
    root = real_data(name)
    config = DataConfig(source="folder", root=root, held_out=held_out, normalise=normalise, image_px=64)
    federation = load_federation(config, seed=1337)
    assert len(federation.sites) == sites and len(federation.test.test) == per_site
    for site in federation.sites.values():
        assert len(site.train) + len(site.validation) == per_site and len(site.validation) >= 0.1 * per_site
        assert not set(site.train.groups) & set(site.validation.groups)
    image, mask = federation.test.test.batch(range(8))
    assert image.shape == (8, 3, 64, 64) and np.isfinite(image).all() and 0 < mask.mean() < 0.9
    if normalise == "per_image":  # fluorescence is very dark as stored
        assert image.max(axis=(1, 2, 3)).min() == 1


def test_oslo_is_cut_between_its_patients() -> None:
    config = DataConfig(source="folder", root=real_data("polypgen"), held_out="C6_alexandria", image_px=64)
    site = load_federation(config, seed=1337).sites["C4_oslo"]
    assert len(set(site.train.groups) | set(site.validation.groups)) == 29
    assert not set(site.train.groups) & set(site.validation.groups)


def test_real_datasets_have_no_fault() -> None:
    for name in ("polypgen", "nuclei_dsb2018"):
        assert check_dataset(real_data(name)) == []


def test_the_preview_tells_the_sites_apart() -> None:
    config = DataConfig(source="folder", root=real_data("nuclei_dsb2018"), held_out="fluo_696x520", image_px=64)
    intensity = {preview.site: preview.mean_intensity for preview in partition_preview(load_federation(config, seed=1))}
    assert intensity["he_320x256"] > 0.5 > 0.1 > max(v for k, v in intensity.items() if k.startswith("fluo"))
