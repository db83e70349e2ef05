"""Datasets that the form offers by name, and those that operators upload: who may, how much, and for how long."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from app import dataset_folders, dataset_uploads
from app.access import LOCAL, Visitor
from app.settings import Settings
from app.studio import Studio
from engine.config import parse_config
from engine.data.phantoms import write_dataset as write_phantoms
from engine.errors import UserError
from tests.unit.data_world import write_dataset
from tests.unit.test_data_dataset_archives import zipped

OPERATOR = Visitor("user:anna", "anna", "operator")
STRANGER = Visitor("visitor:1", "a visitor", "demo")
VIEWER = Visitor("v", "v", "viewer")


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Studio]:
    """Give a page that others can reach, with one allowed folder."""
    made = Studio(Settings(home=tmp_path / "home", allowed_roots=(tmp_path / "in",), access="demo"))
    yield made
    made.store.close()


def test_operators_are_offered_what_lies_below_the_allowed_folders(shared: Studio, tmp_path: Path) -> None:
    inside = write_dataset(tmp_path / "in" / "deep" / "toy")
    write_dataset(tmp_path / "out" / "secret")
    choices, said = dataset_folders.offered(shared, by=OPERATOR)
    assert choices == [("in/deep/toy (12 images, 3 sites)", str(inside))] and said
    for visitor in (STRANGER, VIEWER):
        assert dataset_folders.offered(shared, by=visitor)[0] == []


def test_a_page_of_this_machine_alone_offers_what_lies_below_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    studio = Studio(Settings(home=tmp_path / "home"))
    choices, said = dataset_folders.offered(studio, by=LOCAL)
    assert choices == [] and "here" in said
    write_phantoms("polyp", tmp_path / "here" / "phantoms", images_per_site=1, image_px=32)
    assert dataset_folders.offered(studio, by=LOCAL)[0][0][0] == "here/phantoms (4 images, 4 sites)"
    studio.store.close()


def test_an_upload_becomes_a_folder_that_runs_may_name(shared: Studio, tmp_path: Path) -> None:
    path = zipped(tmp_path / "polyps of dr who.zip", write_dataset(tmp_path / "set"), below="polyps/")
    found = dataset_folders.take(shared, str(path), by=OPERATOR)
    assert found is not None and found.name == "polyps" and "who" not in str(found.parent)
    assert found.parent.parent == tmp_path / "home" / "datasets"
    config = parse_config({"data": {"source": "folder", "root": str(found)}})
    assert shared.permissions.check_config(OPERATOR, config) == config
    assert shared.sites("folder", None, str(found), by=OPERATOR) == ("alpha", "beta", "gamma")
    assert str(found) in [value for _, value in dataset_folders.offered(shared, by=OPERATOR)[0]]
    with pytest.raises(UserError):
        shared.permissions.check_config(STRANGER, config)
    assert "home" not in shared.told(f"{found}/x")


@pytest.mark.parametrize(("by", "code"), [(STRANGER, "app.upload_who"), (VIEWER, "app.viewer")])
def test_nobody_else_uploads_a_dataset(shared: Studio, tmp_path: Path, by: Visitor, code: str) -> None:
    path = zipped(tmp_path / "set.zip", write_dataset(tmp_path / "set"))
    with pytest.raises(UserError) as caught:
        dataset_folders.take(shared, str(path), by=by)
    assert caught.value.code == code and not (tmp_path / "home" / "datasets").exists()
    assert dataset_folders.take(shared, None, by=OPERATOR) is None


def test_uploads_are_bounded_together_and_a_refusal_names_the_file_as_it_came(
    shared: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_dataset(tmp_path / "set")
    path = zipped(tmp_path / "set.zip", root)
    (root / "alpha" / "images" / "large.png").write_bytes(b"\0" * 2**20)
    large = zipped(tmp_path / "large.zip", root)
    monkeypatch.setattr(shared.uploads, "name_of", lambda path: f"my {path.name}")
    tight = shared.settings.model_copy(update={"datasets_mb": 1})
    monkeypatch.setattr(shared, "datasets", dataset_uploads.DatasetUploads(shared.store, tight))
    with pytest.raises(UserError, match=r"my large\.zip holds") as caught:
        dataset_folders.take(shared, str(large), by=OPERATOR)
    assert caught.value.code == "archive.too_large" and str(tmp_path) not in caught.value.what
    dataset_folders.take(shared, str(path), by=OPERATOR)
    (tmp_path / "home" / "datasets" / "filling.png").write_bytes(b"\0" * 2**20)
    with pytest.raises(UserError) as caught:
        dataset_folders.take(shared, str(path), by=OPERATOR)
    assert caught.value.code == "app.datasets_full"


def test_an_old_dataset_goes_when_no_run_names_it(shared: Studio, tmp_path: Path) -> None:
    path = zipped(tmp_path / "set.zip", write_dataset(tmp_path / "set"), below="toy/")
    named, left, new = (dataset_folders.take(shared, str(path), by=OPERATOR) for _ in range(3))
    assert named and left and new
    run = shared.store.create_run(parse_config({"data": {"source": "folder", "root": str(named)}}))
    shared.datasets.sweep()
    assert named.exists() and left.exists() and new.exists()
    days = shared.settings.dataset_days
    for folder in (named.parent, left.parent):
        at = time.time() - (days + 1) * dataset_uploads.DAY_S
        os.utime(folder, (at, at))
    shared.datasets.sweep()
    assert named.exists() and not left.exists() and new.exists()
    shared.store.set_status(run.run_id, "cancelled")
    shared.store.delete(run.run_id)
    shared.datasets.sweep()
    assert not named.exists() and new.exists()
