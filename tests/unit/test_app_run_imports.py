"""A run's zip taken in on the page: by operators, within bytes, with its progress, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
from runs_world import finished_run, results, write

from app import run_imports, take_in_text
from app.access import Visitor
from app.settings import Settings
from app.studio import Studio
from engine.config import parse_config
from engine.errors import UserError
from engine.runs.archive_export import export_run
from engine.runs.store import RunStore

OPERATOR = Visitor("user:a", "ann", "operator")


@pytest.fixture
def archive(tmp_path: Path) -> tuple[Path, str]:
    store = RunStore(tmp_path / "other")
    run_id = finished_run(store)
    write(store.run_dir(run_id) / "bundle" / "large.bin", "x" * 3_000_000, scope="")
    export_run(store, run_id, tmp_path / "given.zip")
    return tmp_path / "given.zip", run_id


def taken(studio: Studio, path: Path, by: Visitor = OPERATOR) -> list[tuple[tuple[int, int], str | None]]:
    return list(run_imports.steps(studio, str(path), by=by))


def test_an_operator_takes_a_run_in_and_sees_how_far_it_is(archive: tuple[Path, str], tmp_path: Path) -> None:
    path, run_id = archive
    studio = Studio(Settings(home=tmp_path / "home", access="sign-in", users_file=tmp_path / "users.toml"))
    told = taken(studio, path)
    (done, total), found = told[-1]
    assert found == run_id and done == total > 3_000_000 and all(one is None for _, one in told[:-1])
    assert studio.store.events(run_id)[-1].text == f"{take_in_text.SAID} by ann."
    assert results(studio.store, run_id)["rounds"] == 4
    with pytest.raises(UserError, match=run_id):
        taken(studio, path)


@pytest.mark.parametrize(
    ("access", "by", "code"),
    [
        ("read-only", Visitor("", "", "viewer"), "app.read_only"),
        ("demo", Visitor("visitor:a", "a visitor", "demo"), "app.import_who"),
        ("sign-in", Visitor("user:b", "bob", "viewer"), "app.viewer"),
    ],
)
def test_others_are_refused_in_words(
    archive: tuple[Path, str], tmp_path: Path, access: str, by: Visitor, code: str
) -> None:
    studio = Studio(Settings(home=tmp_path / "home", access=access, users_file=tmp_path / "users.toml"))
    with pytest.raises(UserError) as refused:
        taken(studio, archive[0], by)
    assert refused.value.code == code and studio.store.list() == ()


def test_what_is_too_large_or_no_run_is_refused_and_leaves_nothing(archive: tuple[Path, str], tmp_path: Path) -> None:
    studio = Studio(Settings(home=tmp_path / "home", max_dataset_mb=2))
    with pytest.raises(UserError, match="room for 2 MB") as refused:
        taken(studio, archive[0])
    assert refused.value.code == "run_archive.too_large" and "import-run" in refused.value.fix
    (tmp_path / "no.zip").write_bytes(b"PK nothing")
    with pytest.raises(UserError, match=r"no\.zip is no zip"):
        taken(studio, tmp_path / "no.zip")
    assert studio.store.list() == () and list((studio.store.home / "runs").glob("*")) == []


def test_a_browser_that_leaves_ends_it(archive: tuple[Path, str], tmp_path: Path) -> None:
    studio = Studio(Settings(home=tmp_path / "home"))
    steps = run_imports.steps(studio, str(archive[0]), by=OPERATOR)
    steps.close()
    assert studio.store.list() == ()


def test_no_run_brings_a_folder_that_nobody_may_name_here(tmp_path: Path) -> None:
    config = parse_config({"method": "fedtinysam", "data": {"source": "folder", "root": "/etc"}})
    local = Studio(Settings(home=tmp_path / "local"))
    run_imports._check_places(local, config)
    open_to_others = Studio(Settings(home=tmp_path / "home", access="demo"))
    with pytest.raises(UserError) as refused:
        run_imports._check_places(open_to_others, config)
    assert refused.value.code == "app.path_refused"
