"""How often a stage's state is saved."""

from __future__ import annotations

import pytest

from bench.reporting import ConsoleReporter
from engine.runs import pace
from engine.runs.checkpoint import CheckpointStore
from engine.types import RunCancelled


class Stopped(ConsoleReporter):
    def progress(self, step, total, *, message=""):
        raise RunCancelled


def _pace(tmp_path, reporter, *, state):
    store = CheckpointStore(tmp_path, "hash", warn=print)
    return store, pace.Pace(reporter, checkpoints=store, name="stage", total=3, state=state)


def test_a_stop_saves_before_it_passes_on(tmp_path):
    store, steady = _pace(tmp_path, Stopped("test"), state=lambda: {"step": 7})
    with pytest.raises(RunCancelled):
        steady.step(1)
    assert store.load("stage") == {"step": 7}


def test_nothing_is_saved_before_it_is_time(tmp_path):
    store, steady = _pace(tmp_path, ConsoleReporter("test"), state=lambda: {"step": 1})
    steady.step(1)
    assert store.load("stage") is None


def test_states_that_take_long_to_save_are_saved_less_often(tmp_path, monkeypatch):
    clock = iter(float(second) for second in range(0, 1000, 10))
    monkeypatch.setattr(pace.time, "monotonic", lambda: next(clock))
    _, steady = _pace(tmp_path, ConsoleReporter("test"), state=lambda: {"step": 1})
    steady.save()
    assert steady._interval_s == 10 / pace.SAVING_SHARE
