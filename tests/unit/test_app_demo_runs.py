"""Runs of a demonstration's visitors: one at a time for each, and not too many that have ended."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from app.access import PROGRAM, Visitor
from app.settings import Settings
from app.studio import Studio
from engine.config import load_config

ANNA, BERT = Visitor("visitor:anna", "a visitor", "demo"), Visitor("visitor:bert", "a visitor", "demo")


def test_runs_that_visitors_start_and_stop_do_not_heap_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSFEDMED_MAX_RUNNING", "0")
    studio = Studio(Settings(home=tmp_path / "home", access="demo", demo_runs=2))
    values = load_config("phantom_cpu_smoke").model_dump(mode="json")
    kept, own = studio.launch(values, by=PROGRAM), []
    studio.store.set_status(kept, "cancelled")
    for at in range(4):
        own.append(studio.launch(values, by=ANNA))
        studio.store.update_run(own[-1], created_at=time.time() + at)
        studio.cancel(own[-1], by=ANNA)
    waiting = studio.launch(values, by=BERT)
    studio.permissions.forget_old_demos()
    assert {run.run_id for run in studio.store.list()} == {kept, waiting, *own[-2:]}
