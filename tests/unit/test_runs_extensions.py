"""Extending a run: its results stay readable, and whole, until those of the longer run take their place."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from runs_world import ROUNDS, STAGES, config, finished_run, results, work

from engine.errors import UserError
from engine.runs import lifecycle
from engine.runs.report import write_report
from engine.runs.store import RunStore
from engine.runs.worker import Worker

LONGER = 7


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunStore:
    monkeypatch.setenv("DSFEDMED_MAX_RUNNING", "0")
    monkeypatch.setattr(sys, "executable", "/bin/true")
    return RunStore(tmp_path / "home")


def begin(store: RunStore, run_id: str, *, rounds: int = LONGER) -> int:
    """Extend and claim the run, as a worker would have it; return the attempt."""
    lifecycle.extend(store, run_id, rounds=rounds, by="Ada")
    record = store.claim(max_running=9, run_id=run_id)
    assert record is not None
    return record.attempt


def test_the_old_results_stay_while_the_longer_run_works(store: RunStore) -> None:
    run_id = finished_run(store)
    report = write_report(store, run_id)
    before, reported = results(store, run_id), report.read_text()
    begin(store, run_id)
    for count in range(1, len(STAGES) + 1):
        work(store, run_id, rounds=LONGER, stages=STAGES[count - 1 : count])
        assert results(store, run_id) == before and report.read_text() == reported
        assert [known.run_id for known in store.list(complete=True)] == [run_id]
        view = store.view(run_id)
        assert [stage.status for stage in view.stages].count("finished") == count
        assert [stage.status for stage in view.kept] == ["finished"] * 3
        assert view.extension is not None and view.extension.config.federation.rounds == LONGER
        assert view.run.config.federation.rounds == ROUNDS and view.run.status == "running"
    (curve,) = store.metrics(run_id)
    assert curve.steps == tuple(range(1, LONGER + 1)), "the curve of a stage that works is shown as it grows"
    assert len(store.list()) == 1 and store.events(run_id)[-1].text.startswith("Extended from 4 to 7 rounds by Ada")


def test_an_extension_begins_at_the_share_that_is_trained(store: RunStore) -> None:
    """Whatever a stage counts: here hundredths of a round, of each of three sites."""
    run_id = finished_run(store)
    store.update_stage(run_id, "federated_training", step=300 * ROUNDS, total=300 * ROUNDS)
    attempt = begin(store, run_id)
    stage = store.view(run_id).stages[0]
    assert (stage.step, stage.total) == (300 * ROUNDS, 300 * LONGER) and stage.fraction == ROUNDS / LONGER
    assert store.end_run(run_id, "cancelled", owner=attempt)
    begin(store, run_id, rounds=10)
    stage = store.view(run_id).stages[0]
    assert (stage.step, stage.total) == (300 * ROUNDS, 3000), "from the earlier extension, not from the results"


def test_the_longer_run_s_results_take_their_place(store: RunStore) -> None:
    run_id = finished_run(store)
    attempt = begin(store, run_id)
    work(store, run_id, rounds=LONGER)
    Worker(store, run_id, attempt=attempt)._end("finished")
    fresh = store.create_run(config(rounds=LONGER), queued=True).run_id
    store.claim(max_running=9, run_id=fresh)
    work(store, fresh, rounds=LONGER)
    assert results(store, run_id) == results(store, fresh)
    view = store.view(run_id)
    assert (view.run.status, view.extension, view.note) == ("finished", None, None)
    folder = store.run_dir(run_id)
    assert '"status": "finished"' in (folder / "run_report.json").read_text()
    assert f'"rounds": {LONGER}' in (folder / "run_report.json").read_text()
    assert (folder / "worker.log").read_text() == "a log"
    assert not list((store.home / "runs" / ".next").iterdir())


@pytest.mark.parametrize("how", ["cancelled", "failed", "interrupted"])
def test_an_extension_that_stops_leaves_the_results_and_says_so(store: RunStore, how: str) -> None:
    run_id = finished_run(store)
    before = results(store, run_id)
    attempt = begin(store, run_id)
    work(store, run_id, rounds=LONGER, stages=("federated_training", "evaluation"))
    store.set_stage_status(store.work_id(run_id), "export", "running")
    if how == "interrupted":
        store.update_run(run_id, host="elsewhere", heartbeat_at=1.0)
        lifecycle.reap(store)
    else:
        reason = UserError("x.y", what="It broke.", why="w", fix="f") if how == "failed" else None
        Worker(store, run_id, attempt=attempt)._end(how, error=reason)  # type: ignore[arg-type]
    assert results(store, run_id) == before
    view = store.view(run_id)
    assert view.run.status == how and view.run.resumable
    assert view.note is not None and "results are those of before" in view.note
    assert view.stages[2].status == ("cancelled" if how == "cancelled" else "failed")
    assert store.metrics(run_id)[0].steps == tuple(range(1, ROUNDS + 1)), "its curves are those of its results again"
    child = lifecycle.fork(store, run_id, stage="export", config=view.run.config)
    assert store.evaluation(child) == before["evaluation"]
    lifecycle.resume(store, run_id, by="Bo")
    assert [stage.status for stage in store.view(run_id).stages] == ["finished", "finished", "pending"]
    assert results(store, run_id) == before and store.events(run_id)[-1].text == "Resumed by Bo."


def test_an_extension_can_be_given_up(store: RunStore) -> None:
    run_id = finished_run(store)
    before = results(store, run_id)
    with pytest.raises(UserError) as caught:
        lifecycle.drop_extension(store, run_id)
    assert caught.value.code == "run.not_extended"
    attempt = begin(store, run_id)
    with pytest.raises(UserError) as caught:
        lifecycle.drop_extension(store, run_id)
    assert caught.value.code == "run.active"
    work(store, run_id, rounds=5, stages=("federated_training",))
    assert store.end_run(run_id, "cancelled", owner=attempt)
    lifecycle.drop_extension(store, run_id, by="Cy")
    assert store.get(run_id).status == "finished" and results(store, run_id) == before
    RunStore(store.home).close()
    assert not list((store.home / "runs" / ".next").iterdir())


@pytest.mark.parametrize(("rounds", "trained"), [(9, 6), (LONGER, 6), (5, ROUNDS)])
def test_a_stopped_extension_goes_on_with_more_rounds_and_starts_anew_with_fewer(
    store: RunStore, rounds: int, trained: int
) -> None:
    run_id = finished_run(store)
    attempt = begin(store, run_id)
    work(store, run_id, rounds=6, stages=("federated_training",))
    store.end_run(run_id, "cancelled", owner=attempt)
    begin(store, run_id, rounds=rounds)
    work_id = store.work_id(run_id)
    checkpoint = store.run_dir(work_id) / "checkpoints" / "federated_training.safetensors"
    assert f"{trained} rounds".encode() in checkpoint.read_bytes()
    assert store.metrics(work_id)[0].steps == tuple(range(1, trained + 1))
    extension = store.extension(run_id)
    assert extension is not None and extension.config.federation.rounds == rounds


@pytest.mark.parametrize("rounds", [1, ROUNDS])
def test_fewer_rounds_are_refused(store: RunStore, rounds: int) -> None:
    run_id = finished_run(store)
    with pytest.raises(UserError) as caught:
        lifecycle.extend(store, run_id, rounds=rounds)
    assert caught.value.code == "run.extend_rounds"


def test_a_thousand_million_rounds_are_refused_and_change_nothing(store: RunStore) -> None:
    run_id = finished_run(store)
    before = results(store, run_id)
    with pytest.raises(UserError, match=r"federation\.rounds.*10000") as caught:
        lifecycle.extend(store, run_id, rounds=10**9)
    assert caught.value.code == "config.invalid"
    assert results(store, run_id) == before and store.get(run_id).status == "finished"


def test_a_fork_of_results_that_are_just_replaced_is_refused(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = finished_run(store)
    attempt = begin(store, run_id)
    work(store, run_id, rounds=LONGER)
    parent = store.get(run_id).config

    def taken_over_meanwhile(*_arguments: object, **_named: object) -> None:
        Worker(store, run_id, attempt=attempt)._end("finished")

    monkeypatch.setattr(lifecycle.outputs, "take_over", taken_over_meanwhile)
    with pytest.raises(UserError) as caught:
        lifecycle.fork(store, run_id, stage="evaluation", config=parent)
    assert caught.value.code == "run.fork_changed"
    assert [record.run_id for record in store.list()] == [run_id]


def test_who_asked_is_kept(store: RunStore) -> None:
    run_id = lifecycle.submit(store, config(), by="Ada")
    assert store.get(run_id).started_by == "Ada"
    lifecycle.cancel(store, run_id, by="Bo")
    assert store.events(run_id)[-1].text == "Cancelled by Bo."
    assert store.get(lifecycle.submit(store, config())).started_by is None
    parent = finished_run(store)
    child = lifecycle.fork(store, parent, stage="export", config=config(), by="Cy")
    assert store.get(child).started_by == "Cy"
