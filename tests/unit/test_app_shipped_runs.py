"""A home without runs begins with those that come with the program, once; a damaged one is told of."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest
from runs_world import config, finished_run

from app import shipped_runs
from app.settings import Settings
from engine.errors import UserError
from engine.models.assets import list_assets
from engine.runs import lifecycle
from engine.runs.archive_export import export_run
from engine.runs.store import RunStore

MOST_BYTES = 19_000_000
"""Of all shipped runs: the repository is cloned with them."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = RunStore(tmp_path / "made")
    (tmp_path / "runs").mkdir()
    export_run(made, finished_run(made), tmp_path / "runs" / "a.zip", with_models=False)
    return tmp_path / "runs"


def test_an_empty_home_begins_with_them_and_a_deleted_one_stays_away(folder: Path, tmp_path: Path) -> None:
    store = RunStore(tmp_path / "home")
    assert shipped_runs.ids(store.home) == frozenset()
    (run_id,) = shipped_runs.take_in(store, folder)
    assert [record.run_id for record in store.list()] == [run_id] and shipped_runs.ids(store.home) == {run_id}
    assert shipped_runs.take_in(store, folder) == ()
    lifecycle.delete(store, run_id)
    assert shipped_runs.take_in(store, folder) == () and not store.list()


def test_a_home_with_runs_and_one_without_such_a_folder_get_none(folder: Path, tmp_path: Path) -> None:
    store = RunStore(tmp_path / "home")
    own = store.create_run(config(), queued=True).run_id
    assert shipped_runs.take_in(store, folder) == () and [record.run_id for record in store.list()] == [own]
    empty = RunStore(tmp_path / "empty")
    assert shipped_runs.take_in(empty, tmp_path / "none") == () and not empty.list()


def test_a_damaged_one_is_told_of_and_nothing_of_it_stays(folder: Path, tmp_path: Path) -> None:
    (folder / "a.zip").write_bytes((folder / "a.zip").read_bytes()[:200])
    store = RunStore(tmp_path / "home")
    with pytest.raises(UserError):
        shipped_runs.take_in(store, folder)
    assert not store.list() and not (store.home / shipped_runs.TAKEN_FILE).exists()


def test_those_in_the_repository_are_small_and_can_be_read(tmp_path: Path) -> None:
    folder = Settings(home=tmp_path).runs_dir
    archives = list(folder.glob("*.zip"))
    assert archives and sum(path.stat().st_size for path in archives) <= MOST_BYTES
    listed = {Path(asset.file).name: asset for asset in list_assets()}
    for path in archives:
        assert listed[path.name].bytes == path.stat().st_size
        assert listed[path.name].sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    store = RunStore(tmp_path / "home")
    taken = shipped_runs.take_in(store, folder)
    assert len(taken) == len(archives)
    for run_id in taken:
        record = store.get(run_id)
        assert record.status == "finished" and record.started_by is None
        assert store.samples(run_id).items and store.evaluation(run_id) and store.traffic(run_id)
    for path in archives:
        with zipfile.ZipFile(path) as zipped:
            texts = [zipped.read(name).decode() for name in zipped.namelist() if name.endswith(".json")]
        assert not [place for place in ("/home/", "/root/", "/tmp/", "/work/") for text in texts if place in text]
