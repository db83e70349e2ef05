"""Who takes a run away from the page, and where its zip lies."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from runs_world import finished_run

from app.access import Visitor
from app.settings import Settings
from app.studio import Studio
from app.tabs import take_away
from engine.errors import UserError


def test_only_who_may_change_a_run_takes_it_from_the_page(tmp_path: Path) -> None:
    studio = Studio(Settings(home=tmp_path / "home"))
    run_id = finished_run(studio.store)
    operator, viewer = Visitor("user:a", "a", "operator"), Visitor("user:b", "b", "viewer")
    path = take_away.zipped(studio, run_id, by=operator)
    assert path.name == f"{run_id}.zip" and zipfile.is_zipfile(path)
    assert path.is_relative_to(studio.scratch.path) and path.parent.parent == studio.scratch.path
    owner, stranger = Visitor("visitor:a", "a visitor", "demo"), Visitor("visitor:b", "a visitor", "demo")
    studio.store.update_run(run_id, started_by=owner.key)
    assert take_away.zipped(studio, run_id, by=owner) != path
    for visitor in (viewer, stranger):
        with pytest.raises(UserError):
            take_away.zipped(studio, run_id, by=visitor)
    assert len(list(studio.scratch.path.rglob("*.zip"))) == 2
