"""Who takes what away from the page, what each file holds, and where it lies."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from pathlib import Path

import pytest
from compared_world import compared, write
from runs_world import finished_run

from app import run_files, take_away_text
from app.access import Visitor
from app.settings import Settings
from app.studio import Studio
from engine.config import load_config
from engine.errors import UserError

OPERATOR = Visitor("user:a", "a", "operator")
LOCAL_KINDS = ("html", "json", "images", "ledger", "egress", "settings", "log")


def test_only_who_may_change_a_run_takes_all_of_it_from_the_page(tmp_path: Path) -> None:
    studio = Studio(Settings(home=tmp_path / "home"))
    run_id = finished_run(studio.store)
    viewer = Visitor("user:b", "b", "viewer")
    path = run_files.make(studio, run_id, "zip", by=OPERATOR)
    assert path.name == f"{run_id}.zip" and zipfile.is_zipfile(path)
    assert path.is_relative_to(studio.scratch.path) and path.parent.parent == studio.scratch.path
    owner, stranger = Visitor("visitor:a", "a visitor", "demo"), Visitor("visitor:b", "a visitor", "demo")
    studio.store.update_run(run_id, started_by=owner.key)
    assert run_files.make(studio, run_id, "zip", by=owner) != path
    for visitor in (viewer, stranger):
        for kind in set(take_away_text.KINDS) - set(take_away_text.READ):
            with pytest.raises(UserError):
                run_files.make(studio, run_id, kind, by=visitor)
        assert [kind for _, kind in run_files.offered(studio, run_id, by=visitor)] == list(take_away_text.READ)
    assert [kind for _, kind in run_files.offered(studio, run_id, by=owner)] == list(take_away_text.KINDS)
    assert len(list(studio.scratch.path.rglob(f"{run_id}*"))) == 2


def test_a_viewer_takes_what_the_page_shows_and_the_same_file_lies_there_once(tmp_path: Path) -> None:
    studio = Studio(Settings(home=tmp_path / "home", access="read-only"))
    run_id, viewer = finished_run(studio.store), Visitor("user:b", "b", "viewer")
    write(studio.store, run_id, "run_report.json", {"seed": 1337})
    there = [kind for kind in take_away_text.READ if kind != "images"]  # of which this run keeps none
    for kind in there:
        made = [run_files.make(studio, run_id, kind, by=viewer) for _ in range(3)]
        assert len(set(made)) == 1 and made[0].stat().st_size > 0
        assert len(made[0].parent.name) == 64 and made[0].parent.parent == studio.scratch.path
    assert len([path for path in studio.scratch.path.rglob(f"*{run_id}*")]) == len(there)
    with pytest.raises(UserError, match="no run"):
        run_files.make(studio, "000000-000000-0000", "html", by=viewer)


def test_each_file_holds_what_it_is_called(tmp_path: Path) -> None:
    studio = Studio(Settings(home=tmp_path / "home"))
    run_id = compared(studio.store, "=1+1", {("test", "z"): [0.5, 0.75]})
    write(studio.store, run_id, "run_report.json", {"seed": 1337})
    studio.store.write_log(run_id, "warning", "It was late.", stage="export")
    made = {kind: run_files.make(studio, run_id, kind, by=OPERATOR) for kind in LOCAL_KINDS}
    text = {kind: path.read_text(encoding="utf-8") for kind, path in made.items()}
    assert [path.name.removeprefix(f"{run_id}_") for path in made.values()] == [
        "report.html", "report.json", "images.csv", "ledger.csv", "egress.html", "settings.toml", "log.txt",
    ]  # fmt: skip
    assert text["html"].startswith("<!doctype html>") and json.loads(text["json"]) == {"seed": 1337}
    lines = list(csv.DictReader(io.StringIO(text["images"])))
    assert [(line["name"], line["dice"], line["hd95_px"]) for line in lines] == [
        ("00000", "0.5", ""),
        ("00001", "0.75", ""),
    ]
    assert len(text["ledger"].splitlines()) == 5 and "warning export It was late." in text["log"]
    assert load_config(made["settings"]).content_hash() == studio.store.get(run_id).config_hash


def test_the_model_is_the_files_of_its_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    studio = Studio(Settings(home=tmp_path / "home"))
    run_id = finished_run(studio.store)
    with zipfile.ZipFile(run_files.make(studio, run_id, "bundle", by=OPERATOR)) as zipped:
        assert {name: zipped.read(name) for name in zipped.namelist()} == {
            path.name: path.read_bytes() for path in (studio.store.run_dir(run_id) / "bundle").iterdir()
        }
    monkeypatch.setattr(run_files, "SHARE", 1e-9)
    with pytest.raises(UserError, match=f"engine export {run_id}"):
        run_files.make(studio, run_id, "bundle", by=OPERATOR)


@pytest.mark.parametrize(("kind", "code"), [
    ("json", "app.file_not_there"), ("bundle", "app.file_not_there"), ("images", "report.no_images"),
    ("../x", "app.no_such_file"), ("", "app.no_such_file"),
])  # fmt: skip
def test_what_is_not_there_is_said(tmp_path: Path, kind: str, code: str) -> None:
    studio = Studio(Settings(home=tmp_path / "home"))
    run_id = compared(studio.store, "run", {})
    (studio.store.run_dir(run_id) / "evaluation/images.json").write_text('[3, "x"]')
    with pytest.raises(UserError) as caught:
        run_files.make(studio, run_id, kind, by=OPERATOR)
    assert caught.value.code == code


def test_where_others_can_look_no_file_names_a_folder_of_the_server(tmp_path: Path) -> None:
    studio = Studio(Settings(home=tmp_path / "home", access="read-only"))
    data = {"source": "folder", "root": str(tmp_path / "private" / "polyps")}
    run_id = compared(studio.store, "run", {("test", "z"): [0.5, 0.75]}, settings={"data": data})
    write(studio.store, run_id, "run_report.json", {"folder": str(studio.store.home / "runs")})
    studio.store.write_log(run_id, "warning", f"{studio.store.home}/runs is full.")
    for kind in LOCAL_KINDS:
        assert str(tmp_path) not in run_files.make(studio, run_id, kind, by=OPERATOR).read_text(encoding="utf-8"), kind
