"""A folder of nnU-Net becomes a dataset on the page: whose, where it lies, what is said, and when it is over."""

from __future__ import annotations

import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app import data_conversion, dataset_uploads, watched
from app.access import LOCAL
from app.data_conversion import Converted
from app.settings import Settings
from app.studio import Studio
from app.tabs import data_step
from engine.config import RunConfig
from engine.data.found_folders import holds_foreign
from engine.data.layout import scan_dataset
from engine.errors import UserError
from tests.patience import wait
from tests.unit.data_world import blob, picture_at, write_dataset, write_nnunet
from tests.unit.test_app_data_step import OPERATOR, STRANGER, VIEWER, handler


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[Studio]:
    studio = Studio(Settings(home=tmp_path / "home"))
    yield studio
    studio.store.close()


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Return a folder with two datasets of nnU-Net."""
    write_nnunet(tmp_path / "raw" / "Dataset001_North")
    write_nnunet(tmp_path / "raw" / "Dataset002_South", count=2)
    return tmp_path / "raw"


def of(root: Path) -> dict[str, Any]:
    return {"data": {"source": "folder", "root": str(root)}}


def test_each_dataset_becomes_a_site_with_its_own_images_and_masks(studio: Studio, raw: Path) -> None:
    assert holds_foreign(raw) and holds_foreign(raw / "Dataset001_North") and not holds_foreign(raw.parent)
    *said, made = data_conversion.steps(studio, of(raw), by=LOCAL)
    assert isinstance(made, Converted) and made.is_whole and all(isinstance(one, str) for one in said)
    assert made.folder.parent == studio.datasets.folder and made.folder.name.startswith("prepared_")
    assert made.folder.stat().st_mode & 0o077 == 0, "as an uploaded one, it is its owner's alone"
    assert "5 images of 2 sites" in made.said
    scan = scan_dataset(made.folder)
    assert {site: len(items) for site, items in scan.items.items()} == {"Dataset001_North": 3, "Dataset002_South": 2}
    assert scan.description.classes == ("blob",) and scan.description.modality == "microscopy"
    item = next(one for one in scan.items["Dataset002_South"] if one.name == "case_1")
    assert (np.asarray(Image.open(item.image)) == picture_at("Dataset002_South", 1)).all()
    (again,) = [one for one in data_conversion.steps(studio, of(raw), by=LOCAL) if isinstance(one, Converted)]
    assert again.folder == made.folder, "the same files give the same dataset, made once"
    Image.fromarray(picture_at("new", 1)).save(raw / "Dataset002_South" / "imagesTr" / "case_1_0000.png")
    *_, changed = data_conversion.steps(studio, of(raw), by=LOCAL)
    assert isinstance(changed, Converted) and changed.folder != made.folder


def test_what_is_left_out_is_named(studio: Studio, raw: Path) -> None:
    (raw / "Dataset001_North" / "labelsTr" / "case_1.png").unlink()
    *_, made = data_conversion.steps(studio, of(raw), by=LOCAL)
    assert isinstance(made, Converted) and not made.is_whole
    assert "4 images of 2 sites" in made.said and "<li>Left out:" in made.said and "case_1" in made.said


def test_who_may_not_look_at_a_folder_converts_none(tmp_path: Path, raw: Path) -> None:
    settings = Settings(home=tmp_path / "home", allowed_roots=(tmp_path / "allowed",), access="demo")
    studio = Studio(settings)
    try:
        for visitor in (STRANGER, VIEWER):
            with pytest.raises(UserError):
                list(data_conversion.steps(studio, of(raw), by=visitor))
        with pytest.raises(UserError) as caught:
            list(data_conversion.steps(studio, of(raw), by=OPERATOR))
        assert caught.value.code == "app.path_refused", caught.value
        assert not studio.datasets.folder.exists() or not any(studio.datasets.folder.iterdir())
    finally:
        studio.store.close()


def test_it_stops_where_datasets_take_too_much_and_another_classes(
    studio: Studio, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset_uploads, "COUNT_EVERY_S", -1.0)
    studio.datasets._settings = Settings(home=studio.settings.home, datasets_mb=1)
    counted = iter([[], [], [("a", 2**20, 0)]])
    real = dataset_uploads._files
    monkeypatch.setattr(dataset_uploads, "_files", lambda f: next(counted) if f == studio.datasets.folder else real(f))
    with pytest.raises(UserError) as caught:
        list(data_conversion.steps(studio, of(raw), by=LOCAL))
    assert caught.value.code == "app.datasets_full"
    monkeypatch.undo()
    about = raw / "Dataset002_South" / "dataset.json"
    about.write_text(about.read_text().replace('"blob"', '"spot"'))
    with pytest.raises(UserError) as caught:
        list(data_conversion.steps(studio, of(raw), by=LOCAL))
    assert "its classes (spot) are not those of another one" in caught.value.what


def test_one_that_is_left_is_over_and_the_next_goes_on_there(
    studio: Studio, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Left after two of five images, the next call writes the other three alone."""
    going_on, over = threading.Event(), threading.Event()
    told: list[int] = []
    convert = studio.datasets.convert

    def slow(source: Path, *, on_step: Any) -> Any:
        def step(done: int, total: int) -> None:
            told.append(done)
            if done == 2 and not going_on.is_set():
                assert going_on.wait(60)
            on_step(done, total)

        try:
            return convert(source, on_step=step)
        finally:
            over.set()

    monkeypatch.setattr(studio.datasets, "convert", slow)
    monkeypatch.setattr(watched, "TOLD_EVERY_S", 0.01)
    steps = data_conversion.steps(studio, of(raw), by=LOCAL)
    next(steps)
    wait(lambda: 2 in told)
    steps.close()  # type: ignore[attr-defined]
    going_on.set()
    assert over.wait(60) and max(told) == 2
    (work,) = studio.datasets.folder.glob(".prepared_*.preparing")
    written = {path: path.stat().st_mtime_ns for path in work.rglob("*.png")}
    assert len(written) == 4, "two images and their masks"
    *_, made = data_conversion.steps(studio, of(raw), by=LOCAL)
    assert isinstance(made, Converted) and "5 images" in made.said and not work.exists()
    kept = {path.stat().st_mtime_ns for path in made.folder.rglob("*.png")}
    assert set(written.values()) <= kept


def test_a_look_offers_it_and_the_page_puts_the_new_folder_into_the_form(
    studio: Studio, raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look, keys = handler(studio)
    monkeypatch.setattr(data_step, "visitor_of", lambda _request: LOCAL)
    given: dict[str, Any] = RunConfig().model_dump(mode="json")
    flat = {key: given[key.split(".")[0]][key.split(".")[1]] if "." in key else given[key] for key in keys}
    for root, offers in ((raw, True), (write_dataset(tmp_path / "set"), False), (tmp_path / "none", False)):
        *_, last = look(None, *(flat | {"data.source": "folder", "data.root": str(root)}).values())
        assert last[1]["visible"] is offers
        assert ("puts that folder into the form" in last[3]) is offers and "data prepare" not in last[3]


def test_a_zip_of_several_is_unpacked_as_one_folder_of_sites(studio: Studio, raw: Path, tmp_path: Path) -> None:
    archive = tmp_path / "raw.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        for file in sorted(raw.rglob("*.*")):
            opened.write(file, file.relative_to(tmp_path).as_posix())
    root = studio.datasets.take(archive, name="raw.zip")
    assert root.name == "raw" and holds_foreign(root)
    *_, made = data_conversion.steps(studio, of(root), by=LOCAL)
    assert isinstance(made, Converted) and "2 sites" in made.said
    mask = next(made.folder.rglob("masks/case_0.png"))
    assert (np.asarray(Image.open(mask)) == blob(value=1)).all()
