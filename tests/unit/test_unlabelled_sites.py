"""Sites without masks: images alone where the run says so, refused by name where it does not."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.config import parse_config
from engine.data.datasets import load_federation, load_site
from engine.data.first_read import read_everything
from engine.errors import UserError
from tests.unit.data_world import write_dataset


def config(root: Path, **data: Any):
    method = "samfed" if data.get("site_labels") == "ignored" else "fedtinysam"
    values = {"source": "folder", "root": str(root), "image_px": 32, "validation_fraction": 0.25, **data}
    return parse_config({"method": method, "data": values})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return three sites: alpha without masks, beta with masks of half of its images, gamma with all."""
    folder = write_dataset(tmp_path / "set", count=8)
    shutil.rmtree(folder / "alpha" / "masks")
    for number in range(0, 8, 2):
        (folder / "beta" / "masks" / f"img_{number}.png").unlink()
    return folder


def test_a_supervised_method_refuses_them_by_name_and_says_what_mends_it(root: Path) -> None:
    with pytest.raises(UserError, match="Site 'alpha' has no masks folder") as caught:
        load_federation(config(root).data, seed=1)
    assert "images/img_0.png has no mask" in caught.value.what and "samfed" in caught.value.fix


def test_images_without_masks_are_trained_on_and_those_with_one_measured(root: Path) -> None:
    federation = load_federation(config(root, site_labels="ignored").data, seed=1)
    alpha, beta = federation.sites["alpha"], federation.sites["beta"]
    assert (len(alpha.train), len(alpha.validation), len(beta.train)) == (6, 0, 6)
    assert all(item.has_mask for item in beta.validation.items)
    assert [len(federation.sites), federation.test.name, len(federation.test.test)] == [2, "gamma", 8]
    assert federation.test.test.batch([0])[1].any()
    read_everything(federation, on_image=lambda _done, _total: None)


def test_nobody_reads_a_mask_of_theirs_even_where_there_is_one(root: Path) -> None:
    beta = load_federation(config(root, site_labels="ignored").data, seed=1).sites["beta"].train
    labelled = load_federation(config(write_dataset(root.parent / "full", count=8)).data, seed=1).sites["beta"].train
    assert beta.names == labelled.names
    np.testing.assert_array_equal(beta.images([0, 3]), labelled.batch([0, 3])[0])
    for ask in (lambda: beta.batch([0]), lambda: beta.read_mask(0)):
        with pytest.raises(UserError, match="images of 'beta', which are without labels") as caught:
            ask()
        assert caught.value.code == "data.no_labels"


def test_the_held_out_site_needs_its_masks(root: Path) -> None:
    with pytest.raises(UserError, match="Site 'alpha' has no masks folder"):
        load_federation(config(root, site_labels="ignored", held_out="alpha").data, seed=1)


def test_a_deployed_site_alone_needs_masks_only_where_it_is_held_out(root: Path) -> None:
    data = config(root, site_labels="ignored").data
    alone = load_site(data, "alpha", root=root, held_out=False, seed=1)
    assert len(alone.sites["alpha"].train) == 6
    with pytest.raises(UserError, match="alpha"):
        load_site(data, "alpha", root=root, held_out=True, seed=1)


def test_a_mask_without_image_is_a_fault_all_the_same(root: Path) -> None:
    (root / "beta" / "images" / "img_1.png").unlink()
    with pytest.raises(UserError, match=r"img_1\.png belongs to no image"):
        load_federation(config(root, site_labels="ignored").data, seed=1)


def test_a_method_that_trains_on_masks_cannot_be_told_to_ignore_them(root: Path) -> None:
    for method in ("fedtinysam", "dsfedmed"):
        with pytest.raises(UserError, match=f"sites of '{method}' train on their masks"):
            parse_config({"method": method, "data": {"site_labels": "ignored"}})
    assert parse_config({"method": "samfed"}).data.site_labels == "ignored"
