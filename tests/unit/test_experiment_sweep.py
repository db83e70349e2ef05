"""The sweep over a store whose workers do their work at once, in this process: what runs, and what does not."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.config import RunConfig
from engine.errors import UserError
from engine.experiments.sweep import Outcome, finished_runs, sweep
from engine.runs import lifecycle, processes
from engine.runs.records import RunRecord
from engine.runs.store import RunStore
from tests.unit import runs_world

BAD_SAMPLES = 13
"""``evaluation.bootstrap_samples`` of a run whose evaluation fails."""


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunStore]:
    def work(store: RunStore, record: RunRecord) -> None:
        """What a worker would do, to the end, in place of starting one."""
        lifecycle.register_worker(store, record.run_id, attempt=record.attempt, pid=os.getpid())
        left = [stage.name for stage in store.stages(record.run_id) if stage.status != "finished"]
        config = record.config
        fails = config.evaluation.bootstrap_samples == BAD_SAMPLES and not (tmp_path / "mended").exists()
        stages = ("federated_training",) if fails else runs_world.STAGES
        done = tuple(stage for stage in stages if stage in left)
        runs_world.work(store, record.run_id, rounds=config.federation.rounds, stages=done)
        with (tmp_path / "worked.jsonl").open("a") as file:
            file.write(json.dumps([record.run_id, *done]) + "\n")
        error = UserError("x.bad", what="It is bad.", why="So.", fix="Mend it.") if fails else None
        store.end_run(record.run_id, "failed" if fails else "finished", owner=record.attempt, error=error)

    monkeypatch.setattr(processes, "_spawn", work)
    monkeypatch.setenv("DSFEDMED_HOME", str(tmp_path / "home"))
    store = RunStore(tmp_path / "home")
    yield store
    store.close()


def run(store: RunStore, configs: list[RunConfig], *, at_once: int = 1) -> tuple[list[Outcome], list[str]]:
    told: list[str] = []
    wanted = {config.content_hash(): config for config in map(lifecycle.with_absolute_paths, configs)}
    return list(sweep(store, wanted, at_once=at_once, tell=told.append).values()), told


def worked(store: RunStore) -> list[list[str]]:
    """The stages that each worker had to do, in order."""
    path = store.home.parent / "worked.jsonl"
    return [json.loads(line)[1:] for line in path.read_text().splitlines()] if path.exists() else []


def test_what_runs_begin_with_in_common_is_computed_once(store: RunStore) -> None:
    configs = [runs_world.config(samples=samples) for samples in (100, 200, 300)] + [runs_world.config(rounds=9)]
    outcomes, told = run(store, configs, at_once=3)
    assert [outcome.status for outcome in outcomes] == ["finished"] * 4
    whole, rest = list(runs_world.STAGES), ["evaluation", "export"]
    assert sorted(worked(store)) == sorted([whole, rest, rest, whole])
    parents = [store.get(str(outcome.run_id)).parent for outcome in outcomes]
    assert parents[:2] == [None, outcomes[0].run_id] and parents[3] is None
    assert parents[2] in [outcome.run_id for outcome in outcomes[:2]], "from whichever of them"
    folder = store.run_dir(str(outcomes[1].run_id))
    assert (folder / "models" / "student.safetensors").is_file()
    assert [store.get(str(o.run_id)).config.evaluation.bootstrap_samples for o in outcomes[:3]] == [100, 200, 300]
    assert any("from evaluation on" in line for line in told)


def test_what_is_done_is_skipped_whoever_ran_it(store: RunStore) -> None:
    config = runs_world.config()
    by_hand = lifecycle.submit(store, config.model_copy(update={"name": "by hand"}))
    outcomes, told = run(store, [config, runs_world.config(rounds=2)])
    assert outcomes[0].run_id == by_hand and len(store.list()) == 2
    assert told[0] == "1 of 2 runs were there already."
    again, _ = run(store, [config, runs_world.config(rounds=2)])
    assert again == outcomes and len(worked(store)) == 2
    assert set(finished_runs(store).values()) == {outcome.run_id for outcome in outcomes}


def test_a_run_whose_folder_is_gone_is_not_done(store: RunStore) -> None:
    import shutil

    (first,), _ = run(store, [runs_world.config()])
    shutil.rmtree(store.run_dir(str(first.run_id)))
    (second,), _ = run(store, [runs_world.config()])
    assert second.status == "finished" and second.run_id != first.run_id


def test_a_failure_is_told_and_the_sweep_goes_on(store: RunStore) -> None:
    configs = [runs_world.config(samples=BAD_SAMPLES), runs_world.config(samples=100), runs_world.config(rounds=9)]
    outcomes, told = run(store, configs)
    assert [outcome.status for outcome in outcomes] == ["failed", "finished", "finished"]
    assert outcomes[0].reason == "It is bad. Mend it." and any("It is bad" in line for line in told)
    assert worked(store)[1] == ["evaluation", "export"], "what the failed run had finished is taken over"
    (store.home.parent / "mended").touch()
    mended, told = run(store, configs)
    assert [outcome.status for outcome in mended] == ["finished"] * 3 and mended[0].run_id == outcomes[0].run_id
    assert worked(store)[3:] == [["evaluation", "export"]] and any("goes on" in line for line in told)


def test_what_cannot_be_planned_is_a_failure_of_its_own(store: RunStore, tmp_path: Path) -> None:
    good = runs_world.config()
    data = good.data.model_copy(update={"source": "folder", "root": tmp_path / "nowhere"})
    outcomes, _ = run(store, [good.model_copy(update={"data": data}), good])
    assert [outcome.status for outcome in outcomes] == ["failed", "finished"]
    assert outcomes[0].run_id is None and "nowhere" in outcomes[0].reason


def test_a_run_whose_worker_was_killed_goes_on(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    work, kills = processes._spawn, [2]

    def killed(store: RunStore, record: RunRecord) -> None:
        if not kills[0]:
            work(store, record)
            return
        kills[0] -= 1
        lifecycle.register_worker(store, record.run_id, attempt=record.attempt, pid=2**22 + 1)

    monkeypatch.setattr(processes, "_spawn", killed)
    (outcome,), _ = run(store, [runs_world.config()])
    assert outcome.status == "finished" and store.get(str(outcome.run_id)).attempt == 3
