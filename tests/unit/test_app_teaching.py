"""The page keeps an answered image and its corrected mask for training: who may, where, and what is said first."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from app import answers, dataset_uploads, examples, teaching
from app.access import LOCAL, Visitor
from app.dataset_folders import offered
from app.settings import REPOSITORY, Settings
from app.strokes import Stroke
from app.studio import Studio
from app.tabs.segment_answers import SHOWN, Handlers
from app.teaching import Wish
from engine.cli import main
from engine.config import parse_config
from engine.data.layout import scan_dataset
from engine.errors import UserError
from tests.unit.data_world import DESCRIPTION, write_dataset

MODEL = "shipped/nuclei_cpu"
ANNA, BEN = Visitor("user:anna", "anna", "operator"), Visitor("user:ben", "ben", "operator")
NUCLEI = DESCRIPTION.replace('["blob"]', '["nucleus"]')


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    models = tmp_path_factory.mktemp("models") / "models"
    shutil.copytree(REPOSITORY / "assets" / "models", models)
    roots = (tmp_path_factory.mktemp("in"),)
    settings = Settings(home=tmp_path_factory.mktemp("home"), models_dir=models, allowed_roots=roots)
    return Studio(settings)


@pytest.fixture(scope="module")
def shown(served: Studio) -> list[answers.Shown]:
    """Four examples that were answered; a square of the first one was painted by hand."""
    found = [
        dict(zip(SHOWN, Handlers(served).answer_example(MODEL, "whole", n), strict=True))["result"] for n in range(4)
    ]
    stroke = Stroke("brush", 0, 21, np.array([[30, 40]], "<i4").tobytes())
    return [replace(found[0], corrections=(stroke,)), *found[1:]]


@pytest.fixture
def studio(served: Studio, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Studio:
    """The page with no datasets yet, as others reach it."""
    monkeypatch.setattr(served, "mode", "sign-in")
    fresh = served.settings.model_copy(update={"home": tmp_path / "home", "datasets_mb": 3})
    monkeypatch.setattr(served, "datasets", dataset_uploads.DatasetUploads(served.store, fresh))
    (tmp_path / "home").mkdir()
    return served


def wish(dataset: object = "", *, name: str = "Our nuclei", site: str = "ward", patient: str = "p1") -> Wish:
    return Wish.of(str(dataset), name, site, f" {patient} ")


def refused(studio: Studio, shown: answers.Shown | None, one: Wish, *, by: Visitor = ANNA) -> str:
    """Return the code with which a wish is refused, before anything is written and when it is to be."""
    codes = set()
    for act in (teaching.ask, teaching.keep):
        with pytest.raises(UserError) as caught:
            act(studio, shown, one, percent=50, by=by)
        codes.add(caught.value.code)
    assert len(codes) == 1
    return codes.pop()


def test_corrected_images_make_a_dataset_that_a_run_reads(
    studio: Studio, shown: list[answers.Shown], capsys: pytest.CaptureFixture[str]
) -> None:
    asked = teaching.ask(studio, shown[0], wish(), percent=50, by=ANNA)
    assert "a new dataset “Our nuclei”" in asked and "ward/images/taught_" in asked and "corrected once" in asked
    assert ".png, p1" in asked and "two images at each of two sites" in asked
    assert not studio.datasets.folder.exists(), "nothing is written before it is confirmed"
    kept = teaching.keep(studio, shown[0], wish(), percent=50, by=ANNA)
    assert kept.root.parent == studio.datasets.folder and "has 1 image now" in kept.said
    for number, site, patient in ((1, "ward", "p1"), (2, "clinic", "q"), (3, "clinic", "q2")):
        teaching.keep(studio, shown[number], wish(kept.root, site=site, patient=patient), percent=50, by=ANNA)
    assert "The site has 2 images." in teaching.ask(
        studio, replace(shown[0], corrections=()), wish(kept.root, site="clinic", patient="r"), percent=50, by=ANNA
    )
    scan = scan_dataset(kept.root)
    assert scan.problems == [] and scan.description.classes == ("nucleus",)
    first = next(one for one in scan.items["ward"] if one.image.name in asked)
    image, mask = first.read()
    assert np.array_equal(image, examples.image(studio, MODEL, 0))
    by_model = studio.answers.get(shown[0].key).kept.plane(0) >= 0  # type: ignore[union-attr]
    rows, columns = np.indices(by_model.shape)
    disc = (rows - 30) ** 2 + (columns - 40) ** 2 <= 10.5**2
    assert np.array_equal(mask[0] > 0, by_model | disc) and disc.sum() > (by_model & disc).sum()
    assert {one.group for one in scan.items["ward"]} == {"p1"}, "both on one side of every split"
    assert main(["data", "check", str(kept.root)]) == 0, capsys.readouterr().out
    config = parse_config({"data": {"source": "folder", "root": str(kept.root)}})
    assert studio.permissions.check_config(ANNA, config) == config
    labels = [label for label, path in offered(studio, by=ANNA)[0] if path == str(kept.root)]
    assert labels == ["Our nuclei (4 images, 2 sites)"]


def test_an_image_joins_a_dataset_below_an_allowed_folder(studio: Studio, shown: list[answers.Shown]) -> None:
    root = write_dataset(studio.settings.allowed_roots[0] / "set", description=NUCLEI)
    assert str(root) in {path for _, path in teaching.choices(studio, by=ANNA)}
    asked = teaching.ask(studio, shown[0], wish(root, site="beta"), percent=50, by=ANNA)
    assert "“toy” (folder set)" in asked and str(root) not in asked and "The site has 4 images." in asked
    kept = teaching.keep(studio, shown[0], wish(root, site="beta"), percent=50, by=ANNA)
    assert kept.root == root and len(scan_dataset(root).items["beta"]) == 5
    assert main(["data", "check", str(root)]) == 0
    assert refused(studio, shown[0], wish(root, site="beta")) == "teach.there"
    run = studio.store.create_run(parse_config({"data": {"source": "folder", "root": str(root)}}))
    assert refused(studio, shown[1], wish(root, site="beta")) == "app.teach_in_use"
    studio.store.set_status(run.run_id, "cancelled")
    teaching.ask(studio, shown[1], wish(root, site="beta"), percent=50, by=ANNA)


def test_others_datasets_unknown_ones_and_expired_answers_are_refused(
    studio: Studio, shown: list[answers.Shown], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = teaching.keep(studio, shown[0], wish(), percent=50, by=ANNA)
    assert refused(studio, shown[1], wish(kept.root), by=BEN) == "app.teach_others"
    outside = write_dataset(tmp_path / "outside", description=NUCLEI)
    for unknown in (outside, "set", "/nowhere", "\0", kept.root / ".." / ".." / ".."):
        assert refused(studio, shown[1], wish(unknown)) == "app.teach_unknown"
    assert refused(studio, None, wish()) == refused(studio, replace(shown[0], key="x"), wish()) == "app.teach_gone"
    blobs = write_dataset(studio.settings.allowed_roots[0] / "blobs")
    assert refused(studio, shown[1], wish(blobs)) == "teach.classes"
    for name, code in (("", "app.teach_name"), ("a\nb", "app.teach_name"), ('"', "app.teach_name")):
        assert refused(studio, shown[1], wish(name=name)) == code
    assert refused(studio, shown[1], wish(site="../up")) == "teach.site_name"
    assert refused(studio, shown[1], wish(patient="")) == "teach.patient"
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert refused(studio, shown[1], wish(blobs)) == "app.teach_locked"
    assert [path.name for path in studio.datasets.folder.iterdir()] == [kept.root.name]


def test_who_may_only_look_and_a_full_budget_are_refused(studio: Studio, shown: list[answers.Shown]) -> None:
    assert refused(studio, shown[0], wish(), by=Visitor("v", "v", "viewer")) == "app.viewer"
    assert refused(studio, shown[0], wish(), by=Visitor("visitor:1", "a visitor", "demo")) == "app.teach_who"
    studio.datasets.folder.mkdir()
    (studio.datasets.folder / "filling.png").write_bytes(b"\0" * (3 * 2**20 - 1000))
    with pytest.raises(UserError) as caught:
        teaching.keep(studio, shown[0], wish(), percent=50, by=ANNA)
    assert caught.value.code == "app.datasets_full"
    assert [path.name for path in studio.datasets.folder.iterdir()] == ["filling.png"]


def test_what_was_taught_is_not_swept_away(studio: Studio, shown: list[answers.Shown]) -> None:
    root = teaching.keep(studio, shown[0], wish(), percent=50, by=LOCAL).root
    os.utime(root, (0, 0))
    studio.datasets.sweep(now=time.time())
    assert (root / "dataset.toml").exists()
