"""Datasets that the form offers by name, and whom it offers them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from app import dataset_folders
from app.access import LOCAL, Visitor
from app.settings import Settings
from app.studio import Studio
from engine.data.phantoms import write_dataset as write_phantoms
from tests.unit.data_world import write_dataset

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
