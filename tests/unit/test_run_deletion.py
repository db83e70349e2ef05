"""Deleting a run: by whom it may be, what is kept of it, and what is said where a list or plot is cut."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from app import markup
from app.access import LOCAL, Visitor
from app.settings import Settings
from app.studio import Studio
from engine.config import parse_config
from engine.errors import UserError
from engine.runs import folders, lifecycle
from engine.runs.events import StoreReporter
from engine.runs.records import LogLine
from engine.types import SyntheticSample


@pytest.fixture
def studio(tmp_path: Path) -> Studio:
    return Studio(Settings(home=tmp_path))


def test_who_deleted_a_run_is_on_record_when_it_is_gone(studio: Studio) -> None:
    store = studio.store
    run = store.create_run(parse_config({"name": "old"}), by="anna")
    store.set_status(run.run_id, "cancelled")
    lifecycle.delete(store, run.run_id, by="dr. who")
    with pytest.raises(UserError):
        store.get(run.run_id)
    assert not store.run_dir(run.run_id).exists()
    (line,) = (store.home / lifecycle.DELETED_FILE).read_text(encoding="utf-8").splitlines()
    noted = json.loads(line)
    assert (noted["run_id"], noted["name"], noted["by"], noted["started_by"]) == (run.run_id, "old", "dr. who", "anna")


def test_a_run_at_work_is_not_deleted_and_nor_is_one_by_somebody_who_may_only_look(studio: Studio) -> None:
    run = studio.store.create_run(parse_config({}))
    studio.store.set_status(run.run_id, "running")
    with pytest.raises(UserError) as caught:
        studio.delete(run.run_id, by=LOCAL)
    assert caught.value.code == "run.active"
    studio.store.set_status(run.run_id, "finished")
    with pytest.raises(UserError) as caught:
        studio.delete(run.run_id, by=Visitor("user:eve", "eve", "viewer"))
    assert caught.value.code == "app.viewer"
    assert studio.store.get(run.run_id) and not (studio.store.home / lifecycle.DELETED_FILE).exists()
    studio.delete(run.run_id, by=LOCAL)
    assert not studio.runs()


def test_of_two_who_delete_a_run_at_once_one_does_and_the_other_is_told(studio: Studio) -> None:
    run = studio.store.create_run(parse_config({}))
    studio.store.set_status(run.run_id, "cancelled")
    held = folders.mark(studio.store.run_dir(run.run_id))  # as far as the first has come
    with pytest.raises(UserError) as caught:
        studio.delete(run.run_id, by=LOCAL)
    assert caught.value.code == "run.in_use" and studio.runs()
    os.close(held)
    studio.delete(run.run_id, by=LOCAL)
    assert not studio.runs()


def test_a_run_that_is_resumed_while_it_is_deleted_keeps_its_files(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, run = studio.store, studio.store.create_run(parse_config({}))
    store.set_status(run.run_id, "cancelled")
    mark = folders.mark

    def resumed(folder: Path) -> int:
        store.set_status(run.run_id, "queued")
        return mark(folder)

    monkeypatch.setattr(folders, "mark", resumed)
    with pytest.raises(UserError) as caught:
        studio.delete(run.run_id, by=LOCAL)
    assert caught.value.code == "run.active" and store.get(run.run_id).status == "queued"
    assert store.run_dir(run.run_id).is_dir() and not (store.run_dir(run.run_id) / folders.MARK).exists()


def sample(site: str, index: int) -> SyntheticSample:
    return SyntheticSample(f"{site}/{index}", site, index, 1, "m", "real", Path("i.png"), Path("m.png"), 0.5)


def test_the_log_says_that_there_is_more() -> None:
    lines = [LogLine(1, 0.0, None, "info", "x")]
    assert "earlier ones are not shown" in markup.log(lines, cut=True) and "earlier" not in markup.log(lines)


def test_sites_of_samples_are_all_there_are(studio: Studio) -> None:
    run = studio.store.create_run(parse_config({}))
    reporter = StoreReporter(studio.store, run.run_id, "generation", attempt=1)
    reporter.samples([sample(site, index) for site in "cab" for index in range(2)])
    reporter.flush()
    assert studio.store.sample_sites(run.run_id) == ("a", "b", "c")
