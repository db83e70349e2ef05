"""A stage whose work goes on beside another one: its time, what sites are shown to do, and the table of times."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.config import RunConfig
from engine.experiments.measures import MEASURES
from engine.methods import catalogue
from engine.runs.events import StoreReporter
from engine.runs.sites import site_views
from engine.runs.store import RunStore
from engine.types import RunCancelled, SiteActivity


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path)


def started(store: RunStore) -> str:
    run_id = store.create_run(RunConfig(), queued=True).run_id
    store.claim(max_running=1)
    return run_id


def test_processor_time_is_what_workers_took_while_the_run_waited(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [5.0]
    monkeypatch.setattr("engine.runs.events.time.process_time", lambda: clock[0])
    run_id = started(store)

    def cpu_s() -> float:
        return next(s.cpu_s for s in store.stages(run_id) if s.name == "mutual_distillation")

    reporter = StoreReporter(store, run_id, "mutual_distillation", attempt=1)
    clock[0] = 25.0
    reporter.flush()
    assert cpu_s() == 20.0, "what the worker took before this stage is not counted"
    clock[0] = 0.5  # another worker's clock
    later = StoreReporter(store, run_id, "mutual_distillation", attempt=1)
    clock[0] = 3.0
    later.flush()
    assert cpu_s() == 22.5
    store.set_stage_status(run_id, "mutual_distillation", "finished", wall_s=90.0, cpu_s=22.5)
    assert MEASURES["distillation_cpu_s"].of_run(store, run_id) == 22.5
    assert MEASURES["distillation_s"].of_run(store, run_id) == 90.0
    store.set_stage_status(run_id, "mutual_distillation", "finished", cpu_s=0.0)
    assert MEASURES["distillation_cpu_s"].of_run(store, run_id) is None, "a run of a version that took no such time"


def test_time_beside_another_stage_is_told_apart_from_time_that_the_run_waits(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr("engine.runs.events.time.monotonic", lambda: clock[0])
    run_id = started(store)

    def stage() -> tuple[float, float]:
        (found,) = [s for s in store.stages(run_id) if s.name == "generator_training"]
        return found.wall_s, found.beside_s

    reporter = StoreReporter(store, run_id, "generator_training", attempt=1, beside=True)
    clock[0] = 30.0
    reporter.metric("loss", 1.0, step=1)
    clock[0] = 40.0
    reporter.flush()
    assert stage() == (0.0, 30.0), "until it was heard last"
    clock[0] = 100.0
    reporter.take_over()
    clock[0] = 107.0
    reporter.flush()
    assert stage() == (7.0, 30.0)
    later = StoreReporter(store, run_id, "generator_training", attempt=1, beside=True)
    clock[0] = 112.0
    later.metric("loss", 1.0, step=2)
    later.flush()
    assert stage() == (7.0, 35.0), "of several attempts it is the sum"
    with pytest.raises(RunCancelled):
        store.request_cancel(run_id)
        clock[0] = 200.0
        later.check_cancelled()


def test_a_site_is_shown_with_what_the_run_waits_for_and_what_it_does_beside(store: RunStore) -> None:
    run_id = started(store)
    early = StoreReporter(store, run_id, "generator_training", attempt=1, beside=True)
    rounds = StoreReporter(store, run_id, "federated_training", attempt=1)
    for stage in ("federated_training", "generator_training"):
        store.set_stage_status(run_id, stage, "running")
    generator = SiteActivity("north", 4, 2, 0, task="train.generator", state="working", step=3, total=150)
    early.site(generator)
    early.site(SiteActivity("west", 4, 2, 0, task="train.generator", state="asked"))
    early.flush()
    training = SiteActivity("north", 4, 2, 0, task="train.student", state="working", round=2, step=1, total=9)
    rounds.site(training)
    rounds.flush()
    views = {view.now.site: view for view in site_views(store, run_id, active=True)}
    assert (views["north"].stage, views["north"].now, views["north"].beside) == (
        "federated_training",
        training,
        generator,
    )
    assert views["west"].stage == "generator_training" and views["west"].now == views["west"].beside
    store.set_stage_status(run_id, "federated_training", "finished")
    (north,) = [view for view in site_views(store, run_id, active=True) if view.now.site == "north"]
    assert (north.stage, north.now, north.beside) == ("generator_training", generator, None), "now the run waits for it"
    assert all(view.beside is None for view in site_views(store, run_id, active=False))


def test_asynchronous_minutes_are_those_of_the_work_wherever_the_run_waited(store: RunStore) -> None:
    run_id = started(store)
    for stage, wall_s, beside_s in (("federated_training", 600.0, 0.0), ("generator_training", 60.0, 540.0)):
        store.set_stage_status(run_id, stage, "finished", wall_s=wall_s, beside_s=beside_s)
    minutes = [MEASURES[name].of_run for name in ("sync_min", "async_min")]
    assert [of_run(store, run_id) for of_run in minutes if of_run is not None] == [10.0, 10.0]
    assert sum(stage.wall_s for stage in store.stages(run_id)) == 660.0, "what the run took is no sum of both"


def test_only_generators_begin_early_and_only_where_it_is_said() -> None:
    for asynchronous in (False, True):
        values = RunConfig(generator={"asynchronous": asynchronous}).model_dump()
        early = {
            stage.name
            for method in catalogue.methods().values()
            for stage in method.stages
            if stage.begins_early(values)
        }
        assert early == ({"generator_training"} if asynchronous else set())
